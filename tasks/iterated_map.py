"""Base class of the iterated maps s_t = F(s_{t-1}, x_t): row layout, sampling, splits and links."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings, convert_value
from toylab.tasks.base import (
    IGNORE,
    NO_POSITION,
    SPLIT_SHARES,
    Batch,
    DeferredLinks,
    Split,
    cached_property,
    check_draw,
    check_span,
    fill_split,
    span_ends,
    split_index,
    split_of,
)
from toylab.tasks.enumeration import checked_length, mixed_digits, with_splits

TASK_TOKENS = ("copy", "parity", "sum", "polynomial", "word")
"""The first token of a row names its task, so tasks with the same alphabet share one vocabulary."""

ENUMERABLE = 2**14
"""Prompt spaces up to this size are enumerated; larger ones are sampled by rejection on the split."""


@dataclass(frozen=True, kw_only=True)
class IteratedMap(ABC):
    """Base of all iterated maps; a subclass defines `values`, the map `step` and the reference solution `trace`."""

    lengths: int | tuple[int, int] = (1, 16)
    """Number of inputs per row: a fixed length, or (minimum, maximum)."""
    chain_of_thought: bool = True
    """Whether the model outputs all states s_1 .. s_L, or only s_L."""
    start: Literal["first-input", "zero"] = "first-input"
    """Initial state: s_1 = x_1 (code of Cabannes et al. 2024) or s_1 = F(0, x_1) (their text)."""
    alphabet: int | None = None
    """Number of value tokens in the vocabulary; set it above `values` to share one model between tasks."""
    score_padding: bool = False
    """Whether the loss includes the EoS padding (as in the published code)."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self)
        check_span("1 16", lengths=self.lengths)
        if self.alphabet is not None and self.alphabet < self.values:
            raise ToylabError(
                f"alphabet={self.alphabet}: {type(self).__name__} has {self.values} values; give at least that"
            )

    # Defined by subclasses ---------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def values(self) -> int:
        """Number of possible states; value 0 is the zero or identity element."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Possible inputs, sampled uniformly."""
        return tuple(range(self.values))

    @abstractmethod
    def step(self, states: Int[np.ndarray, "*shape"], inputs: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """The map F, elementwise."""

    @abstractmethod
    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        """Reference solution: all states, computed without `step`. `start` is s_0, or None for s_1 = x_1."""

    # Derived properties ------------------------------------------------------------------------------------------

    @property
    def min_length(self) -> int:
        return span_ends(self.lengths)[0]

    @property
    def max_length(self) -> int:
        return span_ends(self.lengths)[1]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        spare = range(self.values, self.alphabet or self.values)
        first = TASK_TOKENS if self.name in TASK_TOKENS else (*TASK_TOKENS, self.name)
        values = self.value_names()
        spares = (f"#{n}" if str(n) in values else str(n) for n in spare)  # S3 has an element 102 of its own
        return (*values, *spares, *first, "EoI", "EoS")

    def value_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.values)))

    @property
    def task_token(self) -> int:
        return self.vocabulary.index(self.name)

    @property
    def end_of_input(self) -> int:
        return len(self.vocabulary) - 2

    @property
    def end_of_sequence(self) -> int:
        return len(self.vocabulary) - 1

    def size(self, length: int) -> int:
        """Number of input positions for `length` inputs: the whole sequence without its final EoS."""
        return 2 * length + 2 if self.chain_of_thought else length + 3

    @property
    def context(self) -> int:
        return self.size(self.max_length)

    def first_states(self, inputs: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
        """s_1 from x_1, by the rule `start`."""
        return inputs if self.start == "first-input" else self.step(np.zeros_like(inputs), inputs)

    def run(self, inputs: Int[np.ndarray, "batch length"]) -> Int[np.ndarray, "batch length"]:
        """All states of every row, by iterating `step`."""
        states = np.empty_like(inputs)
        states[:, 0] = self.first_states(inputs[:, 0])
        for t in range(1, inputs.shape[1]):
            states[:, t] = self.step(states[:, t - 1], inputs[:, t])
        return states

    # The Task protocol -------------------------------------------------------------------------------------------

    def sample(
        self,
        rng: np.random.Generator,
        rows: int,
        split: Split = "train",
        *,
        length: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        """Sample rows of one split with balanced lengths: every length once per round, in random order.

        Lengths without a prompt in the split are skipped.

        Args:
            rng: the only source of randomness.
            rows: number of rows.
            split: splits share no prompts.
            length: sample this length only; it may lie outside `lengths`, to test length generalisation.
            distinct: sample without replacement.

        Raises:
            ToylabError: if the split has no prompt of these lengths or, with `distinct`, fewer than `rows`.
        """
        check_draw(rows, split)
        check_range(f"for example {self.max_length}", length=length, least=1)
        if length is None:
            span = np.array(
                self._nonempty_lengths(split) or [self.max_length]
            )  # without a length, `_distinct_inputs` raises
            rounds = np.tile(span, (-(-rows // len(span)), 1))
            row_lengths = rng.permuted(rounds, axis=1).ravel()[:rows]
        else:
            row_lengths = np.full(rows, length)
        inputs = np.zeros((rows, row_lengths.max(initial=1)), dtype=np.int64)
        if distinct or not all(self.capacity(int(n), split) for n in np.unique(row_lengths)):
            for row_length in np.unique(row_lengths):
                at_length = np.flatnonzero(row_lengths == row_length)
                inputs[at_length, :row_length] = self._distinct_inputs(rng, len(at_length), int(row_length), split)
        else:
            is_input, alphabet = np.arange(inputs.shape[1]) < row_lengths[:, None], np.array(self.inputs)

            def draw(new: Int[np.ndarray, " row"]) -> Int[np.ndarray, "row longest"]:
                return np.where(is_input[new], alphabet[rng.integers(len(alphabet), size=is_input[new].shape)], 0)

            fill_split(inputs, row_lengths, split, draw, sys.maxsize)  # terminates, since no length is without prompts
        return self.batch(inputs, row_lengths)

    def batch(self, inputs: Int[np.ndarray, "batch longest"], lengths: Int[np.ndarray, " batch"]) -> Batch:
        """Build the batch for given inputs, one prompt per row; `inputs[row, lengths[row]:]` is ignored."""
        rows = len(inputs)
        row = np.arange(rows)
        longest = int(lengths.max(initial=1))
        # Scored padding must not depend on the other lengths in the batch, so pad to the task's maximum.
        width = self.size(max(longest, self.max_length) if self.score_padding else longest)
        tokens = np.full((rows, width + 1), self.end_of_sequence)
        tokens[:, 0] = self.task_token
        tokens[row, lengths + 1] = self.end_of_input
        steps = np.arange(longest)
        inside = steps < lengths[:, None]
        states = self.run(np.where(inside, inputs[:, :longest], self.inputs[0]))
        input_row, t = np.nonzero(inside)
        tokens[input_row, 1 + t] = inputs[input_row, t]
        if self.chain_of_thought:
            tokens[input_row, lengths[input_row] + 2 + t] = states[input_row, t]
        else:
            tokens[row, lengths + 2] = states[row, lengths - 1]
        sizes = self.size(0) + (lengths * 2 if self.chain_of_thought else lengths)
        position = np.arange(tokens.shape[1] - 1)
        scored = position > lengths[:, None]
        if not self.score_padding:
            scored &= position < sizes[:, None]
        state = np.full((rows, tokens.shape[1] - 1), NO_POSITION)
        written = (position > lengths[:, None] + 1) & (position < sizes[:, None])
        state[written] = tokens[:, :-1][written]
        return Batch(
            tokens=tokens[:, :-1],
            targets=np.where(scored, tokens[:, 1:], IGNORE),
            sizes=sizes,
            links=DeferredLinks(partial(self._links, lengths)),
            labels={"length": lengths, "state": state},
        )

    # Enumeration -------------------------------------------------------------------------------------------------

    @property
    def sampled_lengths(self) -> range:
        return range(self.min_length, self.max_length + 1)

    def count(self, length: int) -> int:
        """Number of prompts of `length` inputs, also for lengths outside `lengths`."""
        return len(self.inputs) ** checked_length(length)

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The rows with these numbers in lexicographic order of the inputs; see `toylab.tasks.enumeration`."""
        inputs = np.array(self.inputs)[mixed_digits(numbers, [len(self.inputs)] * checked_length(length))]
        return with_splits(self.batch(inputs, np.full(len(inputs), length)), inputs)

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """The correct continuation of `<task> x_1 .. x_L EoI`, including EoS.

        Raises:
            ToylabError: if the prompt does not have this form.
        """
        task, *inputs, end = prompt if len(prompt) > 1 else (None, None)
        if (
            task != self.task_token
            or end != self.end_of_input
            or not set(inputs) <= set(range(self.values))
            or not inputs
        ):
            raise ToylabError(f"prompt={list(prompt)}: must be {self.task_token}, inputs, {self.end_of_input}")
        start = None if self.start == "first-input" else 0
        states = self.trace(inputs, start)
        return [*(states if self.chain_of_thought else states[-1:]), self.end_of_sequence]

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, int]:
        """Expected values of the labels of a prompt."""
        return {"length": len(prompt) - 2}

    def capacity(self, length: int, split: Split) -> int:
        """Number of distinct prompts of one length in a split: exact if enumerable, else the expected number."""
        split_index(split)
        length = convert_value(int, length, "length")  # numpy integers overflow in the power
        space = len(self.inputs) ** length
        if space <= ENUMERABLE:
            return len(_prompts(self.inputs, length, split))
        return space * int(8 * SPLIT_SHARES[split]) // 8  # integer arithmetic: large spaces overflow a float

    def available(self, rows: int, length: int, split: Split) -> int:
        """The smaller of `rows` and the exact number of distinct prompts of one length in a split."""
        length = convert_value(int, length, "length")
        rows = min(convert_value(int, rows, "rows"), len(self.inputs) ** length)
        listed = self._enumerated(rows, length, split)
        return rows if listed is None else min(rows, len(listed))

    # Helpers -----------------------------------------------------------------------------------------------------

    def _distinct_inputs(
        self, rng: np.random.Generator, rows: int, length: int, split: Split
    ) -> Int[np.ndarray, "batch length"]:
        """Sample without replacement. Raises `ToylabError` if the split has too few prompts."""
        space = len(self.inputs) ** length
        listed = self._enumerated(rows if rows <= space else 0, length, split)
        prompt_count = self.capacity(length, split) if listed is None else len(listed)
        if not prompt_count or rows > prompt_count:
            raise ToylabError(
                f"rows={rows}: split={split!r} holds {prompt_count} of the {space} prompts of length {length}; ask for "
                "fewer rows, a longer length or another split"
            )
        if listed is not None:
            return listed[rng.choice(prompt_count, rows, replace=False)]
        accepted = np.empty((0, length), dtype=np.int64)
        alphabet = np.array(self.inputs)
        while len(accepted) < rows:  # terminates: in a space this large, the smallest split holds about 1/8
            candidates = alphabet[
                rng.integers(len(alphabet), size=(int(rows / SPLIT_SHARES[split] * 1.1) + 16, length))
            ]
            accepted = np.concatenate([accepted, candidates[split_of(candidates) == split_index(split)]])
            _, first = np.unique(accepted, axis=0, return_index=True)
            accepted = accepted[np.sort(first)]
        return accepted[:rows]

    def _enumerated(self, distinct_rows: int, length: int, split: Split) -> Int[np.ndarray, "prompt length"] | None:
        """All prompts of one length and split if the space is small or over half of them are needed, else None.

        Rejection sampling would not terminate in reasonable time on the last few distinct prompts.
        """
        if len(self.inputs) ** length <= ENUMERABLE:
            return _prompts(self.inputs, length, split)
        return (
            _large_prompt_lists(self.inputs, length, split)
            if distinct_rows > self.capacity(length, split) // 2
            else None
        )

    def _nonempty_lengths(self, split: Split) -> list[int]:
        """Lengths with at least one prompt in the split."""
        return [length for length in self.sampled_lengths if self.capacity(length, split)]

    def _links(self, lengths: Int[np.ndarray, " batch"]) -> dict[str, Int[np.ndarray, "link 3"]]:
        row, t = np.nonzero(np.arange(1, lengths.max(initial=1) + 1) <= lengths[:, None])
        t = t + 1  # 1-based, as in x_t
        length = lengths[row]
        end = length + 1
        if not self.chain_of_thought:
            return {"inputs": np.stack([row, end, t], axis=1)}
        last = np.arange(len(lengths))
        return {
            "end of input": np.stack([row, end + t, end], axis=1),
            "carry": np.stack([row, end + t - 1, t], axis=1),
            "stop": np.stack([last, 2 * lengths + 1, lengths + 1], axis=1),
        }


@lru_cache(maxsize=256)
def _prompts(inputs: tuple[int, ...], length: int, split: Split) -> Int[np.ndarray, "prompt length"]:
    """All prompts of one length in one split."""
    parts, space = [], len(inputs) ** length
    for start in range(0, space, ENUMERABLE):  # in chunks, so memory holds one split, not the whole space
        numbers = np.arange(start, min(start + ENUMERABLE, space))
        candidates = np.array(inputs)[mixed_digits(numbers, [len(inputs)] * length)]
        parts.append(candidates[split_of(candidates) == split_index(split)])
    prompts = np.concatenate(parts)
    prompts.setflags(write=False)  # cached: shared by all callers
    return prompts


_large_prompt_lists = lru_cache(maxsize=2)(_prompts.__wrapped__)  # large lists: smaller cache
