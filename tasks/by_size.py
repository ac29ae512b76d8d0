"""Sampling of rows whose content has two tokens per item, such as key-value pairs, for a range of numbers of items."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.tasks.base import EXACT_SPLIT_LIMIT, Split, fill_split, span_ends, split_index, split_of


@runtime_checkable
class SizedTask(Protocol):
    """What `sample_contents` needs of a task; it must be hashable."""

    def space(self, number: int) -> int:
        """Number of different contents with this number of items."""
        ...

    def contents(self, number: int) -> Int[np.ndarray, "content token"]:
        """All contents with this number of items; called for small spaces only."""
        ...

    def draw_contents(
        self, rng: np.random.Generator, numbers: Int[np.ndarray, " row"], width: int
    ) -> Int[np.ndarray, "row {width}"]:
        """One uniformly distributed content per row, padded to a width."""
        ...


def sample_contents(
    task: SizedTask, rng: np.random.Generator, rows: int, split: Split, span: int | tuple[int, int], name: str
) -> tuple[Int[np.ndarray, "row token"], Int[np.ndarray, " row"]]:
    """Contents of one split and their numbers of items, which are uniform over the numbers that occur in the split.

    Args:
        span: the number of items, or (minimum, maximum).
        name: the setting with this span, for the error.

    Raises:
        ToylabError: if the split has no content.
    """
    low, high = span_ends(span)
    available = [
        number for number in range(low, high + 1) if not _is_small(task, number) or len(_listed(task, number, split))
    ]
    if not available:
        raise ToylabError(f"split={split!r}: holds no row of {name}={span}; give a larger number, or another split")
    numbers = rng.choice(available, size=rows)
    width = 2 * int(numbers.max(initial=1))
    contents = np.zeros((rows, width), dtype=np.int64)
    small = np.isin(numbers, [number for number in available if _is_small(task, number)])
    for number in np.unique(numbers[small]).tolist():
        at_number, choices = np.flatnonzero(numbers == number), _listed(task, number, split)
        contents[at_number, : 2 * number] = choices[rng.integers(len(choices), size=len(at_number))]
    large = np.flatnonzero(~small)
    drawn = contents[large]
    # terminates: in a space this large, the smallest split holds about 1/8
    fill_split(
        drawn, 2 * numbers[large], split, lambda new: task.draw_contents(rng, numbers[large[new]], width), sys.maxsize
    )
    contents[large] = drawn
    return contents, numbers


def _is_small(task: SizedTask, number: int) -> bool:
    return task.space(number) <= EXACT_SPLIT_LIMIT


@lru_cache(maxsize=128)
def _listed(task: SizedTask, number: int, split: Split) -> Int[np.ndarray, "content token"]:
    """All contents of one split with this number of items."""
    contents = task.contents(number)
    return contents[split_of(contents) == split_index(split)]
