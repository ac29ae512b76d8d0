"""Addition of two numbers of n digits with the least digit first, n of several lengths, with links to the carry.

    position  0 .. n-1      n  n+1 .. 2n     2n+1  2n+2 ..
    token     a_0 .. a_n-1  +  b_0 .. b_n-1  =     (c_0 .. c_n)

With the digits reversed, c_i depends on a_i, b_i (link "digits") and on the carry out of column i - 1. At the query of
c_i, the current token is c_{i-1}, which together with a_{i-1} and b_{i-1} (link "carry") determines the carry: it is 1
if and only if c_{i-1} < a_{i-1} + b_{i-1}, also after a run of nines, so no earlier column needs to be read. c_n is the
last carry, 0 or 1. No circuit is written by hand: its heads compute four positions from n, and its MLP combines five
digits, which takes more code than the tasks whose circuits are written by hand.

Source: Lee et al. 2023, "Teaching Arithmetic to Small Transformers" (arXiv 2307.03381), reversed digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import IGNORE, NO_POSITION, Batch, Split, cached_property, check_draw, check_span, span_ends
from toylab.tasks.by_size import sample_contents
from toylab.tasks.enumeration import checked_length, mixed_digits, with_splits


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Add two numbers of several lengths, written with the least digit first.

    position   0  1  2  3  4  5  6  7
    token      7  9  +  5  0  =  2  0
    target     .  .  .  .  .  2  0  1
    """

    digits: int | tuple[int, int] = (1, 4)
    """Digits of each summand: fixed, or (minimum, maximum)."""
    base: int = 10
    """Base of the number system."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_span("1 4", digits=self.digits)
        check_range("for example 10", base=self.base, least=2, most=36)

    @property
    def span(self) -> tuple[int, int]:
        """The smallest and the largest number of digits."""
        return span_ends(self.digits)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Digits, then "+", "=" and PAD."""
        return (*"0123456789abcdefghijklmnopqrstuvwxyz"[: self.base], "+", "=", "PAD")

    @property
    def context(self) -> int:
        return 3 * self.span[1] + 2

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample rows of one split: a number of digits, then two summands with uniformly distributed digits.

        Raises:
            ToylabError: if the split has no row.
        """
        check_draw(rows, split)
        return self.batch(*sample_contents(self, rng, rows, split, self.digits, "digits"))

    def batch(self, summands: Int[np.ndarray, "batch token"], numbers: Int[np.ndarray, " batch"]) -> Batch:
        """Build the batch of given summands, the digits of the first before those of the second."""
        sizes, row = 3 * numbers + 2, np.arange(len(summands))
        plus, equals, padding = range(self.base, self.base + 3)
        tokens = np.full((len(summands), int(sizes.max(initial=5)) + 1), padding)
        tokens[row, numbers], tokens[row, 2 * numbers + 1] = plus, equals
        carry_in = np.full(tokens.shape, NO_POSITION)
        carry = np.zeros_like(numbers)
        links: dict[str, list[np.ndarray]] = {"digits": [], "carry": []}
        for i in range(int(numbers.max(initial=0)) + 1):
            column, last = row[i < numbers], row[i == numbers]
            n = numbers[column]
            first, second = summands[column, i], summands[column, n + i]
            tokens[column, i], tokens[column, n + 1 + i] = first, second
            carry_in[column, 2 * n + 1 + i] = carry[column]
            total = first + second + carry[column]
            tokens[column, 2 * n + 2 + i] = total % self.base
            tokens[last, 3 * i + 2] = carry_in[last, 3 * i + 1] = carry[last]
            carry[column] = total // self.base
            links["digits"] += [np.stack([column, 2 * n + 1 + i, key], axis=1) for key in (i + 0 * n, n + 1 + i)]
            links["carry"] += [np.stack([column, 2 * n + 2 + i, key], axis=1) for key in (i + 0 * n, n + 1 + i)]
        position = np.arange(tokens.shape[1] - 1)
        inside = position < sizes[:, None]
        scored = inside & (position > 2 * numbers[:, None])
        joined = {name: np.concatenate(edges) for name, edges in links.items()}
        return Batch(
            tokens=np.where(inside, tokens[:, :-1], padding),
            targets=np.where(scored, tokens[:, 1:], IGNORE),
            sizes=sizes,
            links={name: edges[np.argsort(edges[:, 0], kind="stable")] for name, edges in joined.items()},
            labels={"digits": numbers, "carry": carry_in[:, :-1]},
        )

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution: both numbers as integers, and the digits of their sum by division.

        Raises:
            ToylabError: for a prompt that is not two numbers with as many digits.
        """
        n = (len(prompt) - 2) // 2
        first, second = prompt[:n], prompt[n + 1 : -1]
        is_form = n > 0 and len(second) == n and (prompt[n], prompt[-1]) == (self.base, self.base + 1)
        if not is_form or not all(0 <= digit < self.base for digit in (*first, *second)):
            raise ToylabError(f"prompt={list(prompt)}: must be digits, '+', as many digits and '='")
        total = sum(digit * self.base**i for number in (first, second) for i, digit in enumerate(number))
        return [total // self.base**i % self.base for i in range(n + 1)]

    def split_key(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """The part of a prompt that determines its split: the digits."""
        return tuple(token for token in prompt if token < self.base)

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, int]:
        """Expected values of the labels of a prompt."""
        return {"digits": len(prompt) // 2 - 1}

    # Contents of rows -----------------------------------------------------------------------------------------------

    @property
    def sampled_lengths(self) -> range:
        return range(self.span[0], self.span[1] + 1)

    def count(self, length: int) -> int:
        """Number of pairs of summands with `length` digits each, also for lengths outside `digits`."""
        return self.base ** (2 * checked_length(length))

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The rows with these numbers in lexicographic order of the digits; see `toylab.tasks.enumeration`."""
        summands = mixed_digits(numbers, [self.base] * (2 * checked_length(length)))
        return with_splits(self.batch(summands, np.full(len(summands), length)), summands)

    def space(self, number: int) -> int:
        return self.count(number)

    def contents(self, number: int) -> Int[np.ndarray, "content token"]:
        return np.array(list(itertools.product(range(self.base), repeat=2 * number)))

    def draw_contents(
        self, rng: np.random.Generator, numbers: Int[np.ndarray, " row"], width: int
    ) -> Int[np.ndarray, "row {width}"]:
        return rng.integers(self.base, size=(len(numbers), width))
