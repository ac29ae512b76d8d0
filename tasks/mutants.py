"""Mutants: a sound task with one fault, to show that the laws, or tests of your own, can fail.

    from toylab.tasks import Parity, check_task
    from toylab.tasks.mutants import Mutant
    check_task(Mutant(task=Parity(), fault="shifted mask"))  # raises BrokenLawsError

`mutants_of(task)` lists all mutants that a task can have, and `FAULTS` all faults, each with the law that catches it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from toylab.console import ToylabError
from toylab.settings import check_option
from toylab.tasks import laws, task_laws
from toylab.tasks.base import IGNORE, Batch, Split, Task, stream


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A task that is `task` but for one fault, a key of `FAULTS`."""

    task: Task
    fault: str

    def __post_init__(self) -> None:
        if isinstance(self.task, type):
            raise ToylabError(f"task={self.task.__name__}: is a class; give an instance, {self.task.__name__}()")
        check_option("fault", self.fault, FAULTS)

    @property
    def caught_by(self) -> Callable:
        """The law that the fault breaks."""
        return FAULTS[self.fault].caught_by

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return FAULTS[self.fault].vocabulary(self.task.vocabulary)

    @property
    def context(self) -> int:
        return self.task.context

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        batch = FAULTS[self.fault].sample(self.task, rng, rows, split)
        return replace(batch, **FAULTS[self.fault].changes(self.task, batch))

    def solve(self, prompt: Sequence[int]) -> list[int]:
        return FAULTS[self.fault].solve(self.task, list(self.task.solve(prompt)))

    def __getattr__(self, name: str) -> Any:
        """Optional members, such as `split_key`, are those of the task."""
        if name == "task" or name.startswith("__"):  # while a mutant is unpickled, it has no task
            raise AttributeError(name)
        return getattr(self.task, name)


def mutants_of(task: Task) -> list[Mutant]:
    """A mutant of a task for each fault that it can have: without links, for example, none can point to the future."""
    batch = task.sample(stream(0, "mutants"), 20)
    return [Mutant(task=task, fault=name) for name, fault in FAULTS.items() if fault.applies(task, batch)]


class Fault(NamedTuple):
    """One fault: the law that catches it, and which part of a task it changes and how.

    Attributes:
        changes: from a task and a batch to the changed fields of the batch.
        sample: in place of the sampler; takes the task as its first argument.
        solve: from a task and the correct answer to a wrong one.
        vocabulary: from token names to token names.
        applies: whether a task can have the fault, judged on a batch.
    """

    caught_by: Callable
    changes: Callable[[Any, Batch], dict[str, Any]] = lambda task, batch: {}
    sample: Callable[..., Batch] = lambda task, rng, rows, split: task.sample(rng, rows, split)
    solve: Callable[[Any, list[int]], list[int]] = lambda task, answer: answer
    vocabulary: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda names: names
    applies: Callable[[Any, Batch], bool] = lambda task, batch: True


def _ends(batch: Batch) -> np.ndarray:
    """The last position of each row that is not padding, as a mask (row, position)."""
    return np.arange(batch.tokens.shape[1]) == batch.sizes[:, None] - 1


def _second_of_many(batch: Batch) -> np.ndarray:
    """The second scored position of each row with at least three, as a mask (row, position)."""
    scored = batch.targets != IGNORE
    number = scored.cumsum(axis=1)
    return scored & (number == 2) & (number.max(axis=1, keepdims=True, initial=0) > 2)


def _wrong_target(task: Any, batch: Batch) -> dict[str, Any]:
    wrong = _ends(batch) & (batch.targets != IGNORE)
    return {"targets": np.where(wrong, (batch.targets + 1) % len(task.vocabulary), batch.targets)}


def _repeat_rows(task: Any, rng: np.random.Generator, rows: int, split: Split) -> Batch:
    half = task.sample(rng, rows - rows // 2, split)
    return laws.concatenate_batches([half, half.rows(0, rows // 2)])


def _smallest_of_many(task: Any, rng: np.random.Generator, rows: int, split: Split) -> Batch:
    """A single row is that of 64 whose token ids have the smallest sum."""
    if rows != 1:
        return task.sample(rng, rows, split)
    batch = task.sample(rng, 64, split)
    inside = np.arange(batch.tokens.shape[1]) < batch.sizes[:, None]
    row = int((batch.tokens * inside).sum(axis=1).argmin())
    return batch.rows(row, row + 1)


def _sample_slowly(task: Any, rng: np.random.Generator, rows: int, split: Split) -> Batch:
    """Takes twice the CPU time that is allowed."""
    start, batch = time.process_time(), task.sample(rng, rows, split)
    while time.process_time() - start < 2 * batch.sizes.sum() / task_laws.LEAST_TOKENS_PER_SECOND:
        pass
    return batch


def _links_fault(move: Callable[[np.ndarray], np.ndarray], causal: bool = False) -> Fault:
    """A fault of edges (row, query, key); `causal` ones are none in a task whose links may point to later positions."""
    return Fault(
        laws.links_stay_inside_their_row_and_read_no_future,
        changes=lambda task, batch: {"links": {name: move(edges) for name, edges in batch.links.items()}},
        applies=lambda task, batch: (
            any(len(np.unique(edges[:, 0])) > 1 for edges in batch.links.values())
            and (not causal or getattr(task, "causal", True))
        ),
    )


FAULTS = {
    "shifted mask": Fault(
        laws.the_target_of_a_position_is_the_token_after_it,
        changes=lambda task, batch: {"targets": np.roll(batch.targets, -1, axis=1)},
    ),
    "short mask": Fault(
        laws.sizes_say_where_one_padding_token_begins,
        changes=lambda task, batch: {"targets": np.where(_ends(batch), IGNORE, batch.targets)},
        applies=lambda task, batch: not getattr(task, "score_padding", False),
    ),
    "mask with a hole": Fault(
        laws.scored_positions_are_one_run,
        changes=lambda task, batch: {"targets": np.where(_second_of_many(batch), IGNORE, batch.targets)},
        applies=lambda task, batch: not getattr(task, "interleaved", False) and bool(_second_of_many(batch).any()),
    ),
    "wrong target": Fault(laws.the_oracle_continues_every_prompt_with_the_targets, changes=_wrong_target),
    "wrong oracle": Fault(
        laws.the_oracle_continues_every_prompt_with_the_targets,
        solve=lambda task, answer: [(answer[0] + 1) % len(task.vocabulary), *answer[1:]],
    ),
    "token outside the vocabulary": Fault(
        laws.every_token_and_target_is_in_the_vocabulary,
        changes=lambda task, batch: {
            "tokens": np.where(np.arange(batch.tokens.shape[1]) == 0, len(task.vocabulary), batch.tokens)
        },
    ),
    "small integers": Fault(
        laws.arrays_have_their_shapes_and_types,
        changes=lambda task, batch: {"tokens": batch.tokens.astype(np.int16)},
    ),
    "wrong length": Fault(
        laws.sizes_say_where_one_padding_token_begins, changes=lambda task, batch: {"sizes": batch.sizes + 1}
    ),
    "repeated name": Fault(
        laws.token_names_are_unique_and_survive_a_round_trip,
        vocabulary=lambda names: (*names[:1], *names[:1], *names[2:]),
    ),
    "link to the future": _links_fault(lambda edges: edges[:, [0, 1, 1]] + np.array([0, 0, 1]), causal=True),
    "link of the next row": _links_fault(lambda edges: edges + np.array([1, 0, 0])),
    "unsorted links": _links_fault(lambda edges: edges[::-1]),
    "repeated links": _links_fault(lambda edges: np.repeat(edges, 2, axis=0)),
    "labels of fewer rows": Fault(
        laws.labels_have_one_entry_a_row_or_a_position,
        changes=lambda task, batch: {"labels": {name: values[1:] for name, values in batch.labels.items()}},
        applies=lambda task, batch: bool(batch.labels),
    ),
    "wrong labels": Fault(
        laws.labels_say_what_the_prompt_says,
        changes=lambda task, batch: {"labels": {name: values + 1 for name, values in batch.labels.items()}},
        applies=lambda task, batch: bool(batch.labels) and hasattr(task, "label_oracle"),
    ),
    "leaked split": Fault(
        laws.no_prompt_is_in_two_splits,
        sample=lambda task, rng, rows, split: task.sample(rng, rows, "train"),
        applies=lambda task, batch: len(laws.nonempty_splits(task)) > 1,
    ),
    "ignored seed": Fault(
        laws.the_seed_and_the_settings_decide_every_bit,
        sample=lambda task, rng, rows, split: task.sample(np.random.default_rng(), rows, split),
    ),
    "one seed": Fault(
        task_laws.streams_share_no_run_of_rows,
        sample=lambda task, rng, rows, split: task.sample(stream(0), rows, split),
    ),
    "seed of the process": Fault(
        task_laws.another_process_ends_and_draws_the_same_rows,
        sample=lambda task, rng, rows, split: task.sample(stream(int(rng.integers(2**31)), os.getpid()), rows, split),
    ),
    "repeated rows": Fault(task_laws.streams_share_no_run_of_rows, sample=_repeat_rows),
    "unlike single rows": Fault(task_laws.rows_do_not_depend_on_how_many_are_drawn, sample=_smallest_of_many),
    "missing row": Fault(
        laws.a_sample_has_as_many_rows_as_asked_for,
        sample=lambda task, rng, rows, split: task.sample(rng, rows, split).rows(0, max(rows - 1, 1)),
    ),
    "slow sampler": Fault(task_laws.rows_come_fast_enough, sample=_sample_slowly),
}
"""All faults by name."""
