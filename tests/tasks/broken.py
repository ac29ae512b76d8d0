"""Tasks that each break one law in a way that `toylab.tasks.mutants` has not, and the laws that must catch them."""

import dataclasses
import time

import numpy as np

from tests.tasks.broken_enumerations import ENUMERATIONS
from toylab.tasks import (
    IGNORE,
    SPLITS,
    AssociativeRecall,
    ContextualCounting,
    ModularSum,
    Parity,
    Reasoning,
    TaskConcept,
    laws,
    split_of,
    stream,
    task_laws,
)
from toylab.tasks.mutants import Mutant, mutants_of


class BrokenStep(Parity):
    def step(self, states, inputs):
        return (states + inputs + 1) % 2


class Changed(Parity):
    """A task whose batches are changed after the fact."""

    def batch(self, inputs, lengths):
        batch = super().batch(inputs, lengths)
        return dataclasses.replace(batch, **self.changes(batch))


class PaddingScored(Changed):
    def changes(self, batch):
        padding = np.arange(batch.tokens.shape[1]) >= batch.sizes[:, None]
        return {"targets": np.where(padding, self.end_of_sequence, batch.targets)}


class WrittenWrongly(Changed):
    def changes(self, batch):
        tokens = batch.tokens.copy()
        tokens[np.arange(len(batch)), batch.sizes - 1] ^= 1
        return {"tokens": tokens}


class LinksFromThePadding(Changed):
    def changes(self, batch):
        return {"links": {name: edges + np.array([0, 1, 0]) for name, edges in batch.links.items()}}


class CountsTooNarrow(ContextualCounting):
    """A task that cuts the label of its regions short."""

    def changed(self, batch):
        return {"count": batch.labels["count"][:, 1:]}

    def batch(self, strings, sizes):
        batch = super().batch(strings, sizes)
        return dataclasses.replace(batch, labels={**batch.labels, **self.changed(batch)})


class CountsOfFewerRows(CountsTooNarrow):
    def changed(self, batch):
        return {"count": batch.labels["count"][1:]}


class CountsInOneLine(CountsTooNarrow):
    def changed(self, batch):
        return {"count": batch.labels["count"].ravel()}


class RegionsTooNarrow(CountsTooNarrow):
    def changed(self, batch):
        return {"region": batch.labels["region"][:, 1:]}


class SumInEightBits(ModularSum):
    """Right for small p; 99 + 99 does not fit."""

    def step(self, states, inputs):
        return (states.astype(np.int8) + inputs.astype(np.int8)).astype(np.int64) % self.p


class AnswersOfTheOtherRegion(ContextualCounting):
    """The counts of the first two regions are exchanged."""

    def batch(self, strings, sizes):
        batch = super().batch(strings, sizes)
        row, place = np.arange(len(batch)), np.argmax(batch.targets != IGNORE, axis=1)
        tokens, targets = batch.tokens.copy(), batch.targets.copy()
        targets[row, place], targets[row, place + 1] = batch.targets[row, place + 1], batch.targets[row, place]
        tokens[row, place + 1], tokens[row, place + 2] = batch.tokens[row, place + 2], batch.tokens[row, place + 1]
        return dataclasses.replace(batch, tokens=tokens, targets=targets)


class EmptyRegionsCountedAsOne(ContextualCounting):
    def _answers(self, *row):
        written, lengths = super()._answers(*row)
        return np.where(written == self._count_token(0), self._count_token(1), written), lengths


class LabelsOfTheOtherRegion(ContextualCounting):
    def batch(self, strings, sizes):
        batch = super().batch(strings, sizes)
        return dataclasses.replace(batch, labels={**batch.labels, "count": batch.labels["count"][:, ::-1]})


class OperatorsInTheOtherOrder(TaskConcept):
    def transform(self, prompts):
        swapped = prompts.copy()
        swapped[:, [1, 2]] = prompts[:, [2, 1]]
        return super().transform(swapped)


class OperatorClassesSwapped(TaskConcept):
    """Safe operators are called unsafe, and the other way round."""

    def of_class(self, letter):
        return super().of_class({"S": "U", "U": "S"}.get(letter, letter))


class ValuesOfTheNextPair(AssociativeRecall):
    """Each query is answered with the value of the pair after the one that it asks for."""

    def batch(self, pairs, numbers, order):
        batch = super().batch(pairs, numbers, order)
        wrong = super().batch(pairs, numbers, (order + 1) % numbers[:, None])
        return dataclasses.replace(batch, targets=wrong.targets)


class HeldOutByTheQuery(AssociativeRecall):
    """The same pairs may be in two splits, if another of them is asked for first."""

    def sample(self, rng, rows, split="train"):
        drawn = super().sample(rng, 40 * rows + 40, "train")
        prompts = drawn.tokens[:, : 2 * self.most + 1]
        held = np.flatnonzero(split_of(prompts) == SPLITS.index(split))[:rows]
        parts = [drawn.rows(int(row), int(row) + 1) for row in held]
        tokens, targets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "targets"))
        return dataclasses.replace(drawn.rows(0, rows), tokens=tokens, targets=targets, links={}, labels={})


class FlagForgotten(Reasoning):
    def flagged(self, prompts):
        return np.zeros(len(prompts), dtype=bool)


class SeedPlusIndex(Parity):
    """Row i is drawn with a seed of its own, one more than that of the row before."""

    def sample(self, rng, rows, split="train", **others):
        first = int(rng.integers(1024))
        every = [
            super(SeedPlusIndex, self).sample(stream(first + i), 1, split, length=self.max_length) for i in range(rows)
        ]
        inputs = np.concatenate(
            [batch.tokens[:, 1 : 1 + self.max_length] for batch in every] or [np.zeros((0, 1), int)]
        )
        return self.batch(inputs, np.full(rows, self.max_length))


class ASplitThatSeesThePadding(Parity):
    """Whether a prompt is held out depends on how long the longest row beside it is."""

    def sample(self, rng, rows, split="train", **others):
        kept = 0
        while kept < rows or not rows:
            lengths = rng.integers(self.min_length, self.max_length + 1, size=rows * 12)
            inputs = rng.integers(2, size=(rows * 12, int(lengths.max(initial=1))))
            inputs[np.arange(inputs.shape[1]) >= lengths[:, None]] = 0
            held = split_of(np.column_stack([lengths, inputs])) == SPLITS.index(split)
            kept = held.sum()
            if kept >= rows:
                return self.batch(inputs[held][:rows], lengths[held][:rows])


class OtherShares(Parity):
    """Half of the prompts are for training, not six in eight."""

    def sample(self, rng, rows, split="train", **others):
        every = np.array([[n >> bit & 1 for bit in range(self.max_length)] for n in range(2**self.max_length)])
        part = np.arange(len(every)) % 4
        held = {"train": part < 2, "validation": part == 2, "test": part == 3}[split]
        return self.batch(every[held][rng.integers(held.sum(), size=rows)], np.full(rows, self.max_length))


class RowsFollowEachOther(Parity):
    """Lengths come in order, so that one row alone is always the shortest."""

    def sample(self, rng, rows, split="train", **others):
        lengths = self.min_length + np.arange(rows) % (self.max_length - self.min_length + 1)
        parts = [super(RowsFollowEachOther, self).sample(rng, 1, split, length=int(one)) for one in lengths]
        inputs = np.zeros((rows, int(lengths.max(initial=1))), dtype=np.int64)
        for row, part in enumerate(parts):
            inputs[row, : lengths[row]] = part.tokens[0, 1 : 1 + lengths[row]]
        return self.batch(inputs, lengths)


class HashOfAString(Parity):
    """Python hashes strings anew in every process."""

    def sample(self, rng, rows, split="train", **others):
        return super().sample(stream(int(rng.integers(2**31)) ^ hash(self.name) % 2**31), rows, split, **others)


class WaitsForEver(Parity):
    def sample(self, rng, rows, split="train", **others):
        while split == "test":
            time.sleep(0.01)
        return super().sample(rng, rows, split, **others)


class Unlike(Parity):
    """No two are equal, not even a task and its copy."""

    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__


@dataclasses.dataclass
class Changeable:
    """A task whose fields can be changed after the fact."""

    p: int = 2
    vocabulary = Parity().vocabulary
    context = Parity().context
    sample = staticmethod(Parity().sample)
    solve = staticmethod(Parity().solve)


def unpicklable():
    class Hidden(Parity):
        pass

    return Hidden(lengths=(4, 7))


def broken(kind, **fields):
    return kind(**({"lengths": (4, 7)} | fields))


COUNTING = {"length": 14, "regions": 2}
ORACLE = laws.the_oracle_continues_every_prompt_with_the_targets
SIZES = laws.sizes_say_where_one_padding_token_begins
LINKS = laws.links_stay_inside_their_row_and_read_no_future

MUTANTS = [
    *[(mutant, [mutant.caught_by]) for mutant in mutants_of(Parity(lengths=(4, 7)))],
    (Mutant(task=Parity(lengths=(4, 7)), fault="link of the next row"), [laws.slices_of_a_batch_are_the_whole]),
    (broken(BrokenStep), [ORACLE]),
    (broken(SumInEightBits, p=100), [ORACLE]),
    (broken(PaddingScored), [ORACLE, SIZES]),
    (broken(WrittenWrongly), [laws.the_target_of_a_position_is_the_token_after_it]),
    (broken(LinksFromThePadding), [LINKS]),
    *[
        (kind(length=14, regions=(1, 3)), [laws.labels_have_one_entry_a_row_or_a_position])
        for kind in (CountsTooNarrow, CountsOfFewerRows, CountsInOneLine, RegionsTooNarrow)
    ],
    (AnswersOfTheOtherRegion(**COUNTING), [ORACLE]),
    (EmptyRegionsCountedAsOne(**COUNTING), [ORACLE]),
    (LabelsOfTheOtherRegion(**COUNTING), [laws.labels_say_what_the_prompt_says]),
    (ValuesOfTheNextPair(), [ORACLE]),
    (HeldOutByTheQuery(keys=4, values=2, pairs=3), [laws.no_prompt_is_in_two_splits]),
    (OperatorsInTheOtherOrder(), [ORACLE]),
    (OperatorClassesSwapped(), [laws.labels_say_what_the_prompt_says]),
    (FlagForgotten(flag=True), [ORACLE, laws.labels_say_what_the_prompt_says]),
    (broken(ASplitThatSeesThePadding), [laws.no_prompt_is_in_two_splits]),
    (broken(OtherShares, lengths=8), [task_laws.splits_hold_their_shares]),
    (broken(SeedPlusIndex, lengths=12), [task_laws.streams_share_no_run_of_rows]),
    (broken(RowsFollowEachOther), [task_laws.rows_do_not_depend_on_how_many_are_drawn]),
    (broken(HashOfAString), [task_laws.another_process_ends_and_draws_the_same_rows]),
    (broken(WaitsForEver), [task_laws.another_process_ends_and_draws_the_same_rows]),
    (broken(Unlike), [task_laws.a_task_is_immutable_and_its_fields_are_its_identity]),
    (Changeable(), [task_laws.a_task_is_immutable_and_its_fields_are_its_identity]),
    (unpicklable(), [task_laws.a_pickled_task_is_the_same_task]),
    *[
        (kind(p=5, lengths=(2, 4)), [task_laws.the_enumeration_lists_the_rows_that_are_sampled])
        for kind in ENUMERATIONS
    ],
    (object(), [task_laws.a_task_keeps_the_protocol]),
]
