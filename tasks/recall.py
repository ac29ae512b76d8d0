"""Multi-query associative recall (MQAR): key-value pairs, then queries, each followed by the value of its key.

Layout of a row with n pairs and m queries:

    position  0  1  2  3      2n-1  2n   2n+1  2n+2  2n+3
    token     k  v  k  v ...   v    q_1   a_1   q_2   a_2 ...

The loss covers the queries only, whose targets are the values of their keys. An induction circuit takes two steps: a
previous-token head writes at each value the key before it (link "previous token"), and an induction head attends from a
query to the value preceded by the same key (link "induction").

Source: Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models" (arXiv 2312.04927);
the circuit is that of Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv 2209.11895).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import (
    EXACT_SPLIT_LIMIT,
    IGNORE,
    NO_POSITION,
    Batch,
    Split,
    cached_property,
    check_draw,
    check_span,
    decode,
    fill_split,
    span_ends,
    split_index,
    split_of,
)
from toylab.tasks.enumeration import distinct_items, mixed_digits, with_splits

_PATIENCE = 500
"""Rounds of rejection sampling before the rows of a split are enumerated."""


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall:
    """Recall the value of a key given earlier in the row: the task of induction heads.

    position   0  1  2  3  4  5  6  7  8  9 10 11 12 13 14
    token     k3 v9 k7 v0 k1 v9 k4 v2 k1 v9 k3 v9 k4 v2 k7
    target     .  .  .  .  .  .  .  . v9  . v9  . v2  . v0
    """

    pairs: int | tuple[int, int] = 4
    """Pairs per row, with distinct keys: fixed, or (minimum, maximum)."""
    queries: int | None = None
    """Number of queries, each key at most once; all keys if None."""
    keys: int = 16
    """Number of keys in the vocabulary."""
    values: int = 16
    """Number of values in the vocabulary."""

    interleaved = True
    """Queries alternate with answers, so every scored position ends its own prompt."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_span("2 6", pairs=self.pairs)
        if self.keys < max(self.most, 2):
            raise ToylabError(f"keys={self.keys}: {self.most} pairs have different keys; give at least {self.most}")
        check_range("of one value, there is nothing to recall; for example 16", values=self.values, least=2)
        check_range("the fewest pairs of a row have as many keys", queries=self.queries, least=1, most=self.fewest)

    @property
    def fewest(self) -> int:
        return span_ends(self.pairs)[0]

    @property
    def most(self) -> int:
        return span_ends(self.pairs)[1]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Keys, values, then PAD."""
        return (*(f"k{key}" for key in range(self.keys)), *(f"v{value}" for value in range(self.values)), "PAD")

    @property
    def context(self) -> int:
        """Positions of the longest row, without the last value."""
        return 2 * self.most + 2 * (self.queries or self.most) - 1

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample rows of one split, which the sequence of pairs decides and the order of the queries does not.

        The number of pairs in a row is uniform over the numbers for which the split has rows.

        Raises:
            ToylabError: if the split has no row.
        """
        check_draw(rows, split)
        numbers = rng.integers(self.fewest, self.most + 1, size=rows)
        available = [number for number in self.sampled_lengths if _has_rows(split, self.keys, self.values, number)]
        is_unavailable = ~np.isin(numbers, available)
        if is_unavailable.any():
            if not available:
                raise ToylabError(
                    f"split={split!r}: holds no row of pairs={self.pairs}; give more pairs, keys or values, or another "
                    "split"
                )
            numbers[is_unavailable] = rng.choice(available, size=is_unavailable.sum())

        def draw(unfilled: Int[np.ndarray, " row"]) -> Int[np.ndarray, "row token"]:
            # The first keys of a random permutation: distinct and uniform.
            keys = rng.random((len(unfilled), self.keys)).argsort(axis=1)[:, : self.most]
            values = self.keys + rng.integers(self.values, size=keys.shape)
            return np.stack([keys, values], axis=2).reshape(len(unfilled), 2 * self.most)

        pairs = np.full((rows, 2 * self.most), len(self.vocabulary) - 1)
        for row in fill_split(pairs, 2 * numbers, split, draw, _PATIENCE):  # tiny split: enumerate
            pairs[row, : 2 * numbers[row]] = rng.choice(
                _rows_of_split(split, self.keys, self.values, int(numbers[row]))
            )
        order = np.where(np.arange(self.most) < numbers[:, None], rng.random((rows, self.most)), 2.0).argsort(axis=1)
        return self.batch(pairs, numbers, order)

    def batch(
        self,
        pairs: Int[np.ndarray, "batch token"],
        numbers: Int[np.ndarray, " batch"],
        order: Int[np.ndarray, "batch pair"],
    ) -> Batch:
        """Build the batch from pairs and the order of queries; entries beyond `numbers` are ignored."""
        rows = len(pairs)
        query_counts = np.minimum(numbers, self.queries or self.most)
        sizes = 2 * numbers + 2 * query_counts - 1
        width = int(sizes.max(initial=2))
        tokens = np.full((rows, width + 1), len(self.vocabulary) - 1)
        positions = np.arange(2 * self.most)
        row, position = np.nonzero(positions < 2 * numbers[:, None])
        tokens[row, position] = pairs[row, position]
        row, query_index = np.nonzero(np.arange(self.most) < query_counts[:, None])
        query, pair = 2 * numbers[row] + 2 * query_index, order[row, query_index]
        tokens[row, query], tokens[row, query + 1] = pairs[row, 2 * pair], pairs[row, 2 * pair + 1]
        targets = np.full((rows, width), IGNORE)
        targets[row, query] = tokens[row, query + 1]
        pair_of_query = np.full((rows, width), NO_POSITION)
        pair_of_query[row, query] = pair
        tokens = tokens[:, :-1]
        tokens[np.arange(width) >= sizes[:, None]] = len(self.vocabulary) - 1
        pair_row, pair_index = np.nonzero(np.arange(self.most) < numbers[:, None])
        return Batch(
            tokens=tokens,
            targets=targets,
            sizes=sizes,
            links={
                "previous token": np.stack([pair_row, 2 * pair_index + 1, 2 * pair_index], axis=1),
                "induction": np.stack([row, query, 2 * pair + 1], axis=1),
            },
            labels={"pairs": numbers, "pair": pair_of_query},
        )

    # Enumeration ---------------------------------------------------------------------------------------------------

    @property
    def sampled_lengths(self) -> range:
        return range(self.fewest, self.most + 1)

    def count(self, length: int) -> int:
        """Number of rows of `length` pairs, in every order of the queries; 0 above the most pairs of the task."""
        return math.prod(self._bases(length))

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The rows with these numbers in lexicographic order; see `toylab.tasks.enumeration`."""
        digits = mixed_digits(numbers, self._bases(length))
        keys = distinct_items(digits[:, : 2 * length : 2], self.keys)
        pairs = np.zeros((len(digits), 2 * self.most), dtype=np.int64)
        pairs[:, : 2 * length : 2], pairs[:, 1 : 2 * length : 2] = keys, self.keys + digits[:, 1 : 2 * length : 2]
        ranks = distinct_items(digits[:, 2 * length :], length)  # queries sorted by key are in lexicographic order
        order = np.zeros((len(digits), self.most), dtype=np.int64)
        order[:, : ranks.shape[1]] = np.take_along_axis(keys.argsort(axis=1), ranks, axis=1)
        return with_splits(self.batch(pairs, np.full(len(digits), length), order), pairs[:, : 2 * length])

    def _bases(self, length: int) -> list[int]:
        """The number of choices for each key and value, then for each query."""
        if not 1 <= length <= self.most:
            return [0]
        pairs = [base for left in range(self.keys, self.keys - length, -1) for base in (left, self.values)]
        return pairs + [length - query for query in range(min(length, self.queries or length))]

    # Reference -----------------------------------------------------------------------------------------------------

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution: the value of the last token, a query, from token names.

        Raises:
            ToylabError: for a prompt that does not end in a key with a value.
        """
        names = decode(self, prompt)
        value_of_key = dict(zip(names[:-1:2], names[1::2], strict=False))
        if not len(prompt) % 2 or names[-1] not in value_of_key:
            raise ToylabError(f"prompt={' '.join(names)}: must be pairs of a key and a value, then one of these keys")
        return [self.vocabulary.index(value_of_key[names[-1]])]

    def split_key(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """The part of a prompt that determines its split: the pairs, without the query."""
        return tuple(prompt[:-1])

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, int]:
        """Expected values of the labels of a prompt that ends in the first query."""
        return {"pairs": len(prompt) // 2}


@lru_cache(maxsize=1024)
def _has_rows(split: Split, keys: int, values: int, number: int) -> bool:
    """Whether a split has rows with this number of pairs."""
    rows = math.perm(keys, number) * values**number
    return rows > EXACT_SPLIT_LIMIT or len(_rows_of_split(split, keys, values, number)) > 0


@lru_cache(maxsize=64)
def _rows_of_split(split: Split, keys: int, values: int, number: int) -> Int[np.ndarray, "row token"]:
    """All rows of a split with this number of pairs."""
    choices = itertools.permutations(range(keys), number), itertools.product(range(keys, keys + values), repeat=number)
    rows = np.array(list(itertools.product(*choices))).transpose(0, 2, 1).reshape(-1, 2 * number)
    return rows[split_of(rows) == split_index(split)]
