"""Addition modulo p with a fixed share of the table for training: the task of grokking.

The p^2 rows are a table, of which a share decided by content is for training and the rest is held out. A model first
memorises its part of the table and, with weight decay, generalises many steps later.

Source: Power et al. 2022, "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets" (arXiv
2201.02177); the Fourier circuit is that of Nanda et al. 2023, "Progress measures for grokking via mechanistic
interpretability" (arXiv 2301.05217).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import IGNORE, SPLITS, Batch, Split, cached_property, check_draw, content_hash, split_index
from toylab.tasks.enumeration import mixed_digits


@dataclass(frozen=True, kw_only=True)
class ModularAddition:
    """Add two numbers modulo p; only a fixed share of the table is for training (grokking).

    position   0  1  2
    token      7 50  =
    target     .  .  4
    """

    p: int = 53
    """The modulus."""
    train_share: float | int = 0.5
    """Share of the table for training; one half of the rest each is for validation and for tests."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("for example 53", p=self.p, least=2)
        check_range("it is a share of the table, for example 0.5", train_share=self.train_share, above=0, below=1)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return (*map(str, range(self.p)), "=")

    @property
    def context(self) -> int:
        return 3

    @property
    def shares(self) -> dict[Split, float]:
        """Share of the unordered pairs in each split."""
        ends = _ends(self.p, self.train_share)
        return {split: (high - low) / ends[-1] for split, low, high in zip(SPLITS, ends, ends[1:], strict=False)}

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample rows of one split with replacement; `table` has each row once.

        Raises:
            ToylabError: if the split is empty, as it may be for p of 2 and 3.
        """
        check_draw(rows, split)
        pairs = _pairs(self.p, self.train_share, split)
        if not len(pairs):
            raise ToylabError(f"split={split!r}: holds no pair of p={self.p}; give a larger p or another train_share")
        return self.batch(pairs[rng.integers(len(pairs), size=rows)])

    def table(self, split: Split) -> Batch:
        """Every row of one split, once."""
        split_index(split)
        return self.batch(_pairs(self.p, self.train_share, split))

    @property
    def sampled_lengths(self) -> range:
        return range(2, 3)

    def count(self, length: int) -> int:
        """Number of ordered pairs, for a length of two numbers; the task has no others."""
        return self.p**2 if length == 2 else 0

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The rows with these numbers in lexicographic order; see `toylab.tasks.enumeration`."""
        pairs = mixed_digits(numbers, [self.p, self.p] if self.count(length) else [0, 1])
        return replace(self.batch(pairs), labels={"split": _splits(self.p, self.train_share)[tuple(pairs.T)]})

    def batch(self, pairs: Int[np.ndarray, "batch 2"]) -> Batch:
        """Build the batch of given pairs of summands."""
        rows = len(pairs)
        targets = np.full((rows, 3), IGNORE)
        targets[:, 2] = pairs.sum(axis=1) % self.p
        row = np.repeat(np.arange(rows), 2)
        operands = np.stack([row, np.full_like(row, 2), np.tile([0, 1], rows)], axis=1)
        return Batch(
            tokens=np.concatenate([pairs, np.full((rows, 1), self.p)], axis=1),
            targets=targets,
            sizes=np.full(rows, 3),
            links={"operands": operands},
        )

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution: count on from the first number, wrapping to 0 after p - 1.

        Raises:
            ToylabError: for a prompt that is not two numbers and "=".
        """
        if len(prompt) != 3 or prompt[2] != self.p or not all(0 <= number < self.p for number in prompt[:2]):
            raise ToylabError(f"prompt={list(prompt)}: must be two numbers below {self.p}, then {self.p}, which is '='")
        number = prompt[0]
        for _ in range(prompt[1]):
            number = 0 if number == self.p - 1 else number + 1
        return [number]

    def split_key(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """The unordered pair: with (b, a) in training, (a, b) would test no more than that order is ignored."""
        return tuple(sorted(prompt[:2]))


def _ends(p: int, train_share: float | int) -> tuple[int, int, int, int]:
    """Ranks at which the splits begin and end, among the unordered pairs."""
    total = p * (p + 1) // 2
    train = round(train_share * total)
    return 0, train, train + (total - train) // 2, total


@lru_cache(maxsize=64)
def _pairs(p: int, train_share: float | int, split: Split) -> Int[np.ndarray, "pair 2"]:
    """All ordered pairs of one split: unordered pairs are ranked by a hash of their content, so shares are exact."""
    first, second = np.triu_indices(p)
    unordered = np.stack([first, second], axis=1)
    ranked = unordered[np.argsort(content_hash(unordered), kind="stable")]
    start, stop = _ends(p, train_share)[split_index(split) :][:2]
    pairs = np.unique(np.concatenate([ranked[start:stop], ranked[start:stop, ::-1]]), axis=0)
    pairs.setflags(write=False)  # cached: shared by all callers
    return pairs


@lru_cache(maxsize=64)
def _splits(p: int, train_share: float | int) -> Int[np.ndarray, "number number"]:
    """The split of every ordered pair, as an index into `SPLITS`."""
    table = np.empty((p, p), dtype=np.int64)
    for index, split in enumerate(SPLITS):
        table[tuple(_pairs(p, train_share, split).T)] = index
    table.setflags(write=False)
    return table
