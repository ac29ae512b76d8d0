"""Mutants: a sound task with one fault each, to show that the laws, or tests of your own, can fail.

    from toylab.tasks import Parity, check_task
    from toylab.tasks.mutants import ShiftedMask
    check_task(ShiftedMask(task=Parity()))  # raises BrokenLawsError

`mutants_of(task)` lists all mutants that a task can have. Each names the laws that must catch it in `caught_by`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from toylab.console import ToylabError
from toylab.tasks import laws, task_laws
from toylab.tasks.base import IGNORE, Batch, Split, Task, stream


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A task that is `task` but for one fault; this class has none."""

    task: Task
    caught_by: ClassVar[tuple[Callable, ...]] = ()
    """The laws that the fault breaks."""

    def __post_init__(self) -> None:
        if isinstance(self.task, type):
            raise ToylabError(
                f"task={self.task.__name__}: is a class; give an instance, such as {self.task.__name__}()"
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.task.vocabulary

    @property
    def context(self) -> int:
        return self.task.context

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        batch = self.task.sample(rng, rows, split)
        return replace(batch, **self.changes(batch))

    def solve(self, prompt: Sequence[int]) -> list[int]:
        return self.task.solve(prompt)

    def changes(self, batch: Batch) -> dict[str, Any]:
        """Fields of a batch that differ from those of the sound task."""
        return {}

    def applies(self, batch: Batch) -> bool:
        """Whether the task can have this fault, judged on a batch of it."""
        return True

    def __getattr__(self, name: str) -> Any:
        """Optional members, such as `split_key`, are those of the task."""
        if name == "task" or name.startswith("__"):  # while the mutant is unpickled, it has no task
            raise AttributeError(name)
        return getattr(self.task, name)


def mutants_of(task: Task) -> list[Mutant]:
    """One mutant of a task for each fault that it can have: no links, for example, cannot point to the future."""
    batch = task.sample(stream(0, "mutants"), 20)
    return [mutant for mutant in (kind(task=task) for kind in MUTANTS) if mutant.applies(batch)]


# Targets, tokens and sizes -------------------------------------------------------------------------------------------


class ShiftedMask(Mutant):
    """Targets stand one position early."""

    caught_by = (laws.the_target_of_a_position_is_the_token_after_it,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"targets": np.roll(batch.targets, -1, axis=1)}


class ShortMask(Mutant):
    """The last position of each row is not scored."""

    caught_by = (laws.sizes_say_where_one_padding_token_begins,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"targets": np.where(_ends(batch), IGNORE, batch.targets)}

    def applies(self, batch: Batch) -> bool:
        return not getattr(self, "score_padding", False)


class MaskWithAHole(Mutant):
    """The second of at least three scored positions is not scored."""

    caught_by = (laws.scored_positions_are_one_run,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"targets": np.where(self._hole(batch), IGNORE, batch.targets)}

    def applies(self, batch: Batch) -> bool:
        return bool(self._hole(batch).any()) and not getattr(self, "interleaved", False)

    def _hole(self, batch: Batch) -> np.ndarray:
        number = (batch.targets != IGNORE).cumsum(axis=1)
        return (batch.targets != IGNORE) & (number == 2) & (number.max(axis=1, keepdims=True, initial=0) > 2)


class WrongTarget(Mutant):
    """The last target of each row is another token."""

    caught_by = (laws.the_oracle_continues_every_prompt_with_the_targets,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        wrong = _ends(batch) & (batch.targets != IGNORE)
        return {"targets": np.where(wrong, (batch.targets + 1) % len(self.vocabulary), batch.targets)}


class WrongOracle(Mutant):
    """The first token of each reference solution is off by one."""

    caught_by = (laws.the_oracle_continues_every_prompt_with_the_targets,)

    def solve(self, prompt: Sequence[int]) -> list[int]:
        first, *others = self.task.solve(prompt)
        return [(first + 1) % len(self.vocabulary), *others]


class TokenOutsideTheVocabulary(Mutant):
    """The first token of each row has an id as large as the vocabulary."""

    caught_by = (laws.every_token_and_target_is_in_the_vocabulary,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        tokens = batch.tokens.copy()
        tokens[:, :1] = len(self.vocabulary)
        return {"tokens": tokens}


class SmallIntegers(Mutant):
    """Tokens are 16-bit integers."""

    caught_by = (laws.arrays_have_their_shapes_and_types,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"tokens": batch.tokens.astype(np.int16)}


class WrongLength(Mutant):
    """The size of each row is one too large."""

    caught_by = (laws.sizes_say_where_one_padding_token_begins,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"sizes": batch.sizes + 1}


class RepeatedName(Mutant):
    """Two tokens have one name."""

    caught_by = (laws.token_names_are_unique_and_survive_a_round_trip,)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        first, _, *others = self.task.vocabulary
        return (first, first, *others)


# Links and labels ----------------------------------------------------------------------------------------------------


class WrongLinks(Mutant):
    """A mutant of links; this class has no fault."""

    caught_by = (laws.links_stay_inside_their_row_and_read_no_future,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"links": {name: self.moved(edges) for name, edges in batch.links.items()}}

    def moved(self, edges: np.ndarray) -> np.ndarray:
        """The edges (row, query, key) of one name, with the fault."""
        return edges

    def applies(self, batch: Batch) -> bool:
        return any(len(np.unique(edges[:, 0])) > 1 for edges in batch.links.values())


class LinksToTheFuture(WrongLinks):
    """Each key comes directly after its query."""

    def moved(self, edges: np.ndarray) -> np.ndarray:
        return edges[:, [0, 1, 1]] + np.array([0, 0, 1])

    def applies(self, batch: Batch) -> bool:
        return super().applies(batch) and getattr(self, "causal", True)


class LinksOfTheNextRow(WrongLinks):
    """Each edge has the number of the next row."""

    def moved(self, edges: np.ndarray) -> np.ndarray:
        return edges + np.array([1, 0, 0])


class UnsortedLinks(WrongLinks):
    """Edges begin with those of the last row."""

    def moved(self, edges: np.ndarray) -> np.ndarray:
        return edges[::-1]


class RepeatedLinks(WrongLinks):
    """Each edge is given twice."""

    def moved(self, edges: np.ndarray) -> np.ndarray:
        return np.repeat(edges, 2, axis=0)


class LabelsOfFewerRows(Mutant):
    """Labels lack the first row."""

    caught_by = (laws.labels_have_one_entry_a_row_or_a_position,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"labels": {name: values[1:] for name, values in batch.labels.items()}}

    def applies(self, batch: Batch) -> bool:
        return bool(batch.labels)


class WrongLabels(Mutant):
    """Each label is one too large."""

    caught_by = (laws.labels_say_what_the_prompt_says,)

    def changes(self, batch: Batch) -> dict[str, Any]:
        return {"labels": {name: values + 1 for name, values in batch.labels.items()}}

    def applies(self, batch: Batch) -> bool:
        return bool(batch.labels) and hasattr(self, "label_oracle")


# Splits, seeds and rows ----------------------------------------------------------------------------------------------


class LeakedSplit(Mutant):
    """Held-out rows are rows of the training split."""

    caught_by = (laws.no_prompt_is_in_two_splits,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        return self.task.sample(rng, rows, "train")


class IgnoredSeed(Mutant):
    """Rows are sampled with a generator of the task's own."""

    caught_by = (laws.the_seed_and_the_settings_decide_every_bit,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        return self.task.sample(np.random.default_rng(), rows, split)


class OneSeed(Mutant):
    """All seeds give the same rows."""

    caught_by = (task_laws.streams_share_no_run_of_rows,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        return self.task.sample(stream(0), rows, split)


class ProcessSeed(Mutant):
    """Rows depend on the process."""

    caught_by = (task_laws.another_process_ends_and_draws_the_same_rows,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        return self.task.sample(stream(int(rng.integers(2**31)), os.getpid()), rows, split)


class RepeatedRows(Mutant):
    """The second half of each batch repeats the first."""

    caught_by = (task_laws.streams_share_no_run_of_rows,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        half = self.task.sample(rng, rows - rows // 2, split)
        return laws.concatenate_batches([half, half.rows(0, rows // 2)])


class LonelyRows(Mutant):
    """A row that is sampled alone is that of many whose token ids have the smallest sum."""

    caught_by = (task_laws.rows_do_not_depend_on_how_many_are_drawn,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        if rows != 1:
            return self.task.sample(rng, rows, split)
        batch = self.task.sample(rng, 64, split)
        inside = np.arange(batch.tokens.shape[1]) < batch.sizes[:, None]
        row = int((batch.tokens * inside).sum(axis=1).argmin())
        return batch.rows(row, row + 1)


class MissingRow(Mutant):
    """Batches of at least two rows lack the last one."""

    caught_by = (laws.a_sample_has_as_many_rows_as_asked_for,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        return self.task.sample(rng, rows, split).rows(0, max(rows - 1, 1))


class SlowSample(Mutant):
    """Sampling takes twice the CPU time that is allowed."""

    caught_by = (task_laws.rows_come_fast_enough,)

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        start, batch = time.process_time(), self.task.sample(rng, rows, split)
        while time.process_time() - start < 2 * batch.sizes.sum() / task_laws.LEAST_TOKENS_PER_SECOND:
            pass
        return batch


# The class -----------------------------------------------------------------------------------------------------------


class ChangeableFields(Mutant):
    """Fields can be set after the task was made."""

    caught_by = (task_laws.a_task_is_immutable_and_its_fields_are_its_identity,)
    __setattr__ = object.__setattr__


class Unpicklable(Mutant):
    """The task cannot be sent to another process."""

    caught_by = (task_laws.a_pickled_task_is_the_same_task,)

    def __reduce__(self) -> Any:
        raise TypeError("this task cannot be pickled")


MUTANTS: tuple[type[Mutant], ...] = (
    ShiftedMask,
    ShortMask,
    MaskWithAHole,
    WrongTarget,
    WrongOracle,
    TokenOutsideTheVocabulary,
    SmallIntegers,
    WrongLength,
    RepeatedName,
    LinksToTheFuture,
    LinksOfTheNextRow,
    UnsortedLinks,
    RepeatedLinks,
    LabelsOfFewerRows,
    WrongLabels,
    LeakedSplit,
    IgnoredSeed,
    OneSeed,
    ProcessSeed,
    RepeatedRows,
    LonelyRows,
    MissingRow,
    SlowSample,
    ChangeableFields,
    Unpicklable,
)


def _ends(batch: Batch) -> np.ndarray:
    """The last position of each row that is not padding, as a mask (row, position)."""
    return np.arange(batch.tokens.shape[1]) == batch.sizes[:, None] - 1
