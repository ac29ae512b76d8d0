"""Iterated maps: read x_1 .. x_L, then output s_t = F(s_{t-1}, x_t), one token per state or only the last state.

Layout of a row with chain of thought (L inputs, EoI at position e = L + 1):

    position  0       1 .. L      L+1   L+2 .. 2L+1   2L+2
    token     <task>  x_1 .. x_L  EoI   s_1 .. s_L    EoS

The loss covers the L states and the final EoS. s_t is predicted at position e + t - 1 and depends on x_t at position
t: the link "carry". The model can compute t from its own position and the position of EoI: the link "end of input".
After the last state, the same offset points at EoI itself: the link "stop".

Source: Cabannes et al. 2024, "Iteration Head: A Mechanistic Study of Chain-of-Thought" (arXiv 2406.02128), and the
data generator published with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range
from toylab.tasks.base import stream
from toylab.tasks.iterated_map import IteratedMap

# The tasks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _NumbersBelow(IteratedMap):
    """A map of the numbers 0 .. p-1, for any p."""

    p: int = 11
    """The modulus."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("for example 2 or 11", p=self.p, least=2)

    @property
    def values(self) -> int:
        return self.p


@dataclass(frozen=True, kw_only=True)
class Copy(_NumbersBelow):
    """F(s, x) = x: the states copy the inputs.

    position           0     1     2     3     4     5     6     7
    token           copy     1     0     1   EoI     1     0     1
    target             .     .     .     .     1     0     1   EoS
    """

    p: int = 2
    """Alphabet size."""

    name = "copy"

    def step(self, states, inputs):
        return inputs

    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        return list(inputs)


@dataclass(frozen=True, kw_only=True)
class Parity(IteratedMap):
    """F(s, x) = s + x mod 2: the states are the running parity.

    position           0     1     2     3     4     5     6     7
    token         parity     1     0     1   EoI     1     1     0
    target             .     .     .     .     1     1     0   EoS
    """

    name = "parity"

    @property
    def values(self) -> int:
        return 2

    def step(self, states, inputs):
        return (states + inputs) % 2

    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        return [inputs[: t + 1].count(1) & 1 for t in range(len(inputs))]


@dataclass(frozen=True, kw_only=True)
class ModularSum(_NumbersBelow):
    """F(s, x) = s + x mod p: the states are the prefix sums.

    position           0     1     2     3     4     5     6     7
    token            sum     7     0     9   EoI     7     7     5
    target             .     .     .     .     7     7     5   EoS
    """

    name = "sum"

    def step(self, states, inputs):
        return (states + inputs) % self.p

    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        return [sum(inputs[: t + 1]) % self.p for t in range(len(inputs))]


@dataclass(frozen=True, kw_only=True)
class Polynomial(IteratedMap):
    """F(s, x) = a s x + b s + c x + d mod p, by default s x + 1 mod 11; not permutation-invariant in the inputs.

    position           0     1     2     3     4     5     6     7
    token     polynomial     7     2     9   EoI     7     4     4
    target             .     .     .     .     7     4     4   EoS
    """

    p: int = 11
    """The modulus, a prime."""
    coefficients: tuple[int, int, int, int] = (1, 0, 0, 1)
    """a, b, c and d above."""
    zero_input: bool = False
    """Whether 0 is a possible input. Under s x + 1 it erases the previous state, which makes the task easier."""

    name = "polynomial"

    def __post_init__(self) -> None:
        super().__post_init__()
        prime = self.p > 1 and all(self.p % k for k in range(2, int(self.p**0.5) + 1))
        if not prime:
            raise ToylabError(
                f"p={self.p}: must be a prime, so that every nonzero input is invertible; for example 7, 11 or 13"
            )

    @property
    def values(self) -> int:
        return self.p

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(range(0 if self.zero_input else 1, self.p))

    def instance(self, seed: int) -> Polynomial:
        """The task with coefficients drawn among those that use both arguments: a, or b and c, differ from 0."""
        rng = stream(seed, "coefficients")
        while True:
            a, b, c, d = rng.integers(self.p, size=4).tolist()
            if a or (b and c):
                return replace(self, coefficients=(a, b, c, d))

    def step(self, states, inputs):
        a, b, c, d = self.coefficients
        return (a * states * inputs + b * states + c * inputs + d) % self.p

    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        a, b, c, d = self.coefficients
        # Each input is an affine map s -> slope s + offset; the state is their composition applied to the start.
        slope, offset = (0, inputs[0]) if start is None else (a * inputs[0] + b, c * inputs[0] + d)
        states = [(slope * (start or 0) + offset) % self.p]
        for x in inputs[1:]:
            slope, offset = (a * x + b) * slope, (a * x + b) * offset + c * x + d
            states.append((slope * (start or 0) + offset) % self.p)
        return states


@dataclass(frozen=True, kw_only=True)
class WordProblem(IteratedMap):
    """F(s, x) = s x in a permutation group: the states are the prefix products. Not commutative.

    Values are permutations: `120` maps 0 to 1, 1 to 2 and 2 to 0; s x applies s first, then x.

        position           0     1     2     3     4     5     6     7
        token           word   120   021   210   EoI   120   210   012
        target             .     .     .     .   120   210   012   EoS
    """

    group: Literal["S3", "A5"] = "S3"
    """S3 has 6 elements; A5 has 60 and is the smallest non-solvable group."""

    name = "word"

    @property
    def values(self) -> int:
        return len(_elements(self.group))

    def value_names(self) -> tuple[str, ...]:
        return tuple("".join(map(str, element)) for element in _elements(self.group))

    def step(self, states, inputs):
        return _products(self.group)[states, inputs]

    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        elements = _elements(self.group)
        states = []
        for t in range(len(inputs)):
            image = list(range(len(elements[0])))  # image of every point under the word
            for x in inputs[: t + 1]:
                image = [elements[x][point] for point in image]
            states.append(elements.index(tuple(image)))
        return states


@lru_cache
def _elements(group: str) -> tuple[tuple[int, ...], ...]:
    """The elements of a group, identity first."""
    permutations = itertools.permutations(range({"S3": 3, "A5": 5}[group]))
    if group[0] == "S":
        return tuple(permutations)
    return tuple(
        p for p in permutations if sum(p[i] > p[j] for i, j in itertools.combinations(range(len(p)), 2)) % 2 == 0
    )


@lru_cache
def _products(group: str) -> Int[np.ndarray, "element element"]:
    """The multiplication table: entry [s, x] is s x."""
    elements = _elements(group)
    table = np.array([[elements.index(tuple(x[i] for i in s)) for x in elements] for s in elements])
    table.setflags(write=False)
    return table


ITERATED_MAPS: tuple[type[IteratedMap], ...] = (Copy, Parity, ModularSum, Polynomial, WordProblem)
"""All iterated maps of this module."""
