"""Multi-hop recall: pairs of nodes in random order form a cycle, and the answer is found by following it k steps.

    position  0  1  2  3      2n-1  2n  2n+1 ..
    token     x  y  x  y ...   y     q  (y_1 .. y_k)

Each hop is a step of induction: y_j is the node that follows y_{j-1} in its pair, and y_0 = q. The last hop alone is
scored, or with `chain_of_thought` every hop, which turns each into plain induction. Every node of a row is the first of
one pair and the second of another, so no node is conspicuous. Links: at each second node of a pair, "previous token" to
the first; "hop j" to the second node of the j-th pair, from the position that predicts y_j with a chain, else from q.

Source: Sanford et al. 2024, "Transformers, parallel computation, and logarithmic depth" (arXiv 2402.09268), k-hop
induction heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import IGNORE, Batch, Split, cached_property, check_draw, check_span, decode, span_ends
from toylab.tasks.by_size import sample_contents
from toylab.tasks.enumeration import as_int64, checked_length, nth_choice, with_splits, within


@dataclass(frozen=True, kw_only=True)
class MultiHopRecall:
    """Follow pairs of nodes for several hops: recall whose value is the next key.

    position    0   1   2   3   4   5   6   7   8
    token      n9  n2  n4  n7  n2  n4  n7  n9  n2
    target      .   .   .   .   .   .   .   .  n7
    """

    hops: int = 2
    """Number of hops from the query to the answer."""
    pairs: int | tuple[int, int] = 4
    """Pairs per row, which form one cycle of as many nodes: fixed, or (minimum, maximum)."""
    nodes: int = 12
    """Number of nodes in the vocabulary."""
    chain_of_thought: bool = False
    """Whether every hop is written and scored, or only the last."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_span("4 8", pairs=self.pairs)
        check_range("the cycle of the fewest pairs is longer", hops=self.hops, least=1, below=self.span[0])
        check_range("the nodes of a cycle differ", nodes=self.nodes, least=self.span[1])

    @property
    def span(self) -> tuple[int, int]:
        """The smallest and the largest number of pairs."""
        return span_ends(self.pairs)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Nodes, then PAD."""
        return (*(f"n{node}" for node in range(self.nodes)), "PAD")

    @property
    def written(self) -> int:
        """Number of hops in the answer."""
        return self.hops if self.chain_of_thought else 1

    @property
    def context(self) -> int:
        return 2 * self.span[1] + self.written

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample rows of one split, which the pairs decide and the query does not.

        Raises:
            ToylabError: if the split has no row.
        """
        check_draw(rows, split)
        pairs, numbers = sample_contents(self, rng, rows, split, self.pairs, "pairs")
        return self.batch(pairs, numbers, rng.integers(numbers))

    def batch(
        self,
        pairs: Int[np.ndarray, "batch token"],
        numbers: Int[np.ndarray, " batch"],
        asked: Int[np.ndarray, " batch"],
    ) -> Batch:
        """Build the batch from pairs and the index of the pair whose first node is asked for."""
        row, most = np.arange(len(pairs)), pairs.shape[1] // 2
        inside = np.arange(most) < numbers[:, None]
        firsts, seconds = np.where(inside, pairs[:, ::2], -1), np.where(inside, pairs[:, 1::2], -1)
        sizes, end = 2 * numbers + self.written, 2 * numbers
        tokens = np.full((len(pairs), int(sizes.max(initial=1)) + 1), self.nodes)
        content = np.arange(2 * most) < end[:, None]
        tokens[:, : 2 * most][content] = pairs[content]
        tokens[row, end] = firsts[row, asked]
        links = {}
        pair_row, pair = np.nonzero(inside)
        links["previous token"] = np.stack([pair_row, 2 * pair + 1, 2 * pair], axis=1)
        current, target_at = asked, end
        for hop in range(self.hops):
            links[f"hop {hop + 1}"] = np.stack([row, target_at, 2 * current + 1], axis=1)
            reached = seconds[row, current]
            current = (firsts == reached[:, None]).argmax(axis=1)
            if self.chain_of_thought:
                target_at = target_at + 1
                tokens[row, target_at] = reached
        if not self.chain_of_thought:
            tokens[row, end + 1] = reached
        position = np.arange(tokens.shape[1] - 1)
        scored = (position >= end[:, None]) & (position < sizes[:, None])
        targets = np.where(scored, tokens[:, 1:], IGNORE)
        inputs = np.where(position < sizes[:, None], tokens[:, :-1], self.nodes)
        return Batch(tokens=inputs, targets=targets, sizes=sizes, links=links, labels={"pairs": numbers})

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution from token names: a dictionary, looked up once per hop.

        Raises:
            ToylabError: for a prompt that is not pairs and the first node of one of them.
        """
        *names, node = decode(self, prompt)
        following = dict(zip(names[::2], names[1::2], strict=False))
        path = []
        for _ in range(self.hops):
            if len(names) % 2 or node not in following:
                raise ToylabError(f"prompt={' '.join([*names, node])}: must be pairs that form a cycle, then one node")
            node = following[node]
            path.append(self.vocabulary.index(node))
        return path[-self.written :]

    def split_key(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """The part of a prompt that determines its split: the pairs, without the query."""
        return tuple(prompt[:-1])

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, int]:
        """Expected values of the labels of a prompt."""
        return {"pairs": len(prompt) // 2}

    # Contents of rows -----------------------------------------------------------------------------------------------

    @property
    def sampled_lengths(self) -> range:
        return range(self.span[0], self.span[1] + 1)

    def count(self, length: int) -> int:
        """Number of rows of `length` pairs, in every order and with every query; 0 where hops or nodes allow none."""
        return self.space(length) * length if self.hops < checked_length(length) <= self.nodes else 0

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The rows with these numbers in lexicographic order; see `toylab.tasks.enumeration`.

        The pairs so far form paths of nodes. In how many ways they can be continued depends only on how many pairs and
        different nodes there are.
        """
        numbers, ranks = np.divmod(within(numbers, self.count(length)), length)
        row, node = np.arange(len(numbers)), np.arange(self.nodes)
        pairs = np.empty((len(row), 2 * length), dtype=np.int64)
        start, end = np.tile(node, (2, len(row), 1))  # of the path that ends, or starts, at a node
        is_first, is_second = np.zeros((2, len(row), self.nodes), dtype=np.int64)
        for i in range(length):
            is_new = 1 - (is_first | is_second)
            seen = self.nodes - is_new.sum(axis=1, keepdims=True)
            ways = as_int64([self._seconds(length, i, number) for number in range(self.nodes + 1)])[seen + is_new]
            first, numbers = nth_choice(numbers, np.where(is_first, 0, ways))
            pairs[:, 2 * i], is_first[row, first], is_new[row, first] = first, 1, 0
            seen = self.nodes - is_new.sum(axis=1, keepdims=True)
            ways = as_int64([self._pairs(length, i + 1, number) for number in range(self.nodes + 2)])[seen + is_new]
            closes = node == start[row, first][:, None]
            is_possible = closes if i == length - 1 else ~closes & (is_second == 0)
            second, numbers = nth_choice(numbers, np.where(is_possible, ways, 0))
            pairs[:, 2 * i + 1], is_second[row, second] = second, 1
            first_of_path, last_of_path = start[row, first], end[row, second]
            start[row, last_of_path], end[row, first_of_path] = first_of_path, last_of_path
        asked = pairs[:, ::2].argsort(axis=1)[row, ranks]
        return with_splits(self.batch(pairs, np.full(len(row), length), asked), pairs)

    def _pairs(self, length: int, written: int, seen: int) -> int:
        """Number of ways to write the other pairs after `written` pairs of `seen` nodes: as many paths and new nodes as
        pairs are left form a cycle in (left - 1)! ways, and the pairs have left! orders."""
        left = length - written
        if not left or seen > length:
            return int(seen == length)
        new = math.comb(self.nodes - seen, length - seen)
        return new * math.factorial(left - 1) * math.factorial(left)

    def _seconds(self, length: int, written: int, seen: int) -> int:
        """The same after the first node of another pair, with this node among those seen."""
        if written == length - 1:
            return int(seen == length)  # the pair closes the cycle
        known, new = max(seen - written - 1, 0), self.nodes - seen
        return sum(n * self._pairs(length, written + 1, seen + more) for more, n in enumerate((known, new)))

    def space(self, number: int) -> int:
        return math.perm(self.nodes, number) * math.factorial(number - 1)

    def contents(self, number: int) -> Int[np.ndarray, "content token"]:
        orders = [list(order) for order in itertools.permutations(range(number))]
        cycles = np.array([c for c in itertools.permutations(range(self.nodes), number) if c[0] == min(c)])
        pairs = np.stack([cycles, np.roll(cycles, -1, axis=1)], axis=2)
        return np.concatenate([pairs[:, order].reshape(-1, 2 * number) for order in orders])

    def draw_contents(
        self, rng: np.random.Generator, numbers: Int[np.ndarray, " row"], width: int
    ) -> Int[np.ndarray, "row {width}"]:
        most, row = width // 2, np.arange(len(numbers))[:, None]
        cycle = rng.random((len(numbers), self.nodes)).argsort(axis=1)[:, :most]
        place = np.arange(most)
        following = cycle[row, np.where(place + 1 < numbers[:, None], place + 1, 0) % most]
        order = np.where(place < numbers[:, None], rng.random((len(numbers), most)), 2.0).argsort(axis=1)
        return np.stack([cycle[row, order], following[row, order]], axis=2).reshape(len(numbers), width)
