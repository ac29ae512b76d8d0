"""Numbering of all prompts of a task: an optional part of the task protocol, for verdicts on all inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import convert_value
from toylab.tasks.base import Batch, Task, split_of


@runtime_checkable
class EnumerableTask(Task, Protocol):
    """A task with finitely many rows of each length, numbered in lexicographic order of their tokens."""

    @property
    def sampled_lengths(self) -> range:
        """The lengths that `sample` draws by default."""
        ...

    def count(self, length: int) -> int:
        """Number of rows of a length, over all splits; 0 if the task has none."""
        ...

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The rows with these numbers, from 0 to `count(length)` - 1, with a label "split": the index in `SPLITS`.

        Raises:
            ToylabError: for a number outside this range.
        """
        ...


def with_splits(batch: Batch, keys: Int[np.ndarray, "batch position"]) -> Batch:
    """The batch with the label "split", from the part of each prompt that determines its split."""
    return replace(batch, labels={**batch.labels, "split": split_of(keys)})


def mixed_digits(numbers: Int[np.ndarray, " batch"], bases: Sequence[int]) -> Int[np.ndarray, "batch digit"]:
    """Digits of numbers in a mixed radix, the first digit most significant: `numbers` in lexicographic order.

    Raises:
        ToylabError: for a number that is negative or needs more digits.
    """
    numbers = within(numbers, math.prod(bases))
    digits = np.empty((len(numbers), len(bases)), dtype=np.int64)
    for place in reversed(range(len(bases))):
        numbers, digits[:, place] = np.divmod(numbers, bases[place])
    return digits


def nth_choice(
    numbers: Int[np.ndarray, " batch"], ways: Int[np.ndarray, "batch choice"]
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """The choice that each number falls into, where `ways` rows follow each choice, and its number among these rows."""
    chosen, is_past = np.zeros_like(numbers), np.ones(len(numbers), dtype=bool)
    for at_choice in ways.T:  # one by one, since cumulative sums of numbers near 2^63 overflow
        is_past = is_past & (numbers >= at_choice)
        numbers = np.where(is_past, numbers - at_choice, numbers)
        chosen += is_past
    return chosen, numbers


def as_int64(ways: Sequence[Any]) -> Int[np.ndarray, "*shape"]:
    """Numbers of rows as an array, with 2^63 - 1 in place of larger ones, which no number of a row reaches."""
    return np.minimum(np.array(ways, dtype=object), 2**63 - 1).astype(np.int64)


def distinct_items(digits: Int[np.ndarray, "batch digit"], items: int) -> Int[np.ndarray, "batch digit"]:
    """Items without repetition from digits of bases items, items - 1, ...: digit d is the d-th item that is left."""
    chosen, left = np.empty_like(digits), np.tile(np.arange(items), (len(digits), 1))
    for place in range(digits.shape[1]):
        chosen[:, place] = np.take_along_axis(left, digits[:, place : place + 1], axis=1)[:, 0]
        left = left[left != chosen[:, place : place + 1]].reshape(len(digits), -1)
    return chosen


def within(numbers: Int[np.ndarray, " batch"], count: int) -> Int[np.ndarray, " batch"]:
    """The numbers as int64. Raises `ToylabError` for one outside 0 .. count - 1."""
    numbers = np.asarray(numbers, dtype=np.int64)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise ToylabError(f"numbers={numbers.min()} to {numbers.max()}: the rows of this length end at {count - 1}")
    return numbers


def checked_length(length: int) -> int:
    """The length as a Python integer, since powers of numpy's overflow. Raises `ToylabError` below 1."""
    length = convert_value(int, length, "length")
    if length < 1:
        raise ToylabError(f"length={length}: must be at least 1")
    return length
