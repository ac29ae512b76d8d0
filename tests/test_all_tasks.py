"""Every task of the house keeps the laws of `tasks.laws`, and each law catches the tasks that break it.

A new task is tested by its line in `tasks.TASKS`. Each mutant at the end breaks a promise; the check must name it.
"""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks import (
    IGNORE,
    SPLITS,
    TASKS,
    AssociativeRecall,
    BrokenLawsError,
    ContextualCounting,
    IteratedMap,
    ModularSum,
    Parity,
    Polynomial,
    Reasoning,
    Task,
    TaskConcept,
    check,
    check_task,
    decode,
    encode,
    laws,
    render,
    split_of,
    stream,
    task_laws,
)
from toylab.tasks.strategies import batches, instances, prompts, seeds

every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
some = settings(max_examples=12)


@every_task
@pytest.mark.parametrize("law", laws.BATCH_LAWS, ids=check.sentence)
@some
@given(st.data())
def test_every_batch_obeys(kind, law, data):
    task = data.draw(instances(kind).filter(laws.open_splits))
    law(task, data.draw(batches(task)))


@every_task
@pytest.mark.parametrize("law", laws.SEED_LAWS, ids=check.sentence)
@some
@given(st.data(), seeds)
def test_every_task_obeys_at_any_seed(kind, law, data, seed):
    law(data.draw(instances(kind).filter(is_open)), seed)


@every_task
@pytest.mark.parametrize("law", task_laws.TASK_LAWS, ids=check.sentence)
def test_every_task_obeys(kind, law):
    law(kind())


CHEAP = [law for law in task_laws.TASK_LAWS if law is not task_laws.another_process_ends_and_draws_the_same_rows]


@every_task
@pytest.mark.parametrize("law", CHEAP, ids=check.sentence)
@settings(max_examples=4)
@given(st.data())
def test_every_task_obeys_with_other_settings(kind, law, data):
    law(data.draw(instances(kind).filter(is_open)))


def is_open(task):
    """Whether its training split holds prompts; if not, sampling says so, which is a law of its own."""
    return "train" in laws.open_splits(task)


@every_task
@some
@given(st.data())
def test_fields_are_the_identity_of_a_task(kind, data):
    task, other = data.draw(instances(kind)), data.draw(instances(kind))
    assert isinstance(task, Task)
    assert (task == other) == (dataclasses.asdict(task) == dataclasses.asdict(other))


TINY = st.one_of(
    st.builds(
        lambda low, more, fewest, extra, p: ContextualCounting(
            length=(low + 2 * extra, low + 2 * extra + more), regions=(fewest, fewest + extra), p=p
        ),
        *(st.integers(4, 7), st.integers(0, 5), st.integers(1, 2), st.integers(0, 1)),
        st.sampled_from((0, 0.01, 0.5, 1)),
    ),
    st.builds(
        lambda fewest, more, keys, values: AssociativeRecall(
            pairs=(fewest, fewest + more), keys=max(keys, fewest + more), values=values
        ),
        *(st.integers(1, 2), st.integers(0, 2), st.integers(2, 4), st.integers(2, 4)),
    ),
    st.builds(
        lambda low, more, p, zero: Polynomial(lengths=(low, low + more), p=p, zero_input=zero),
        *(st.integers(1, 4), st.integers(0, 2), st.sampled_from((2, 3, 5)), st.booleans()),
    ),
    st.builds(lambda length, flag: Reasoning(p=3, length=length, flag=flag), st.integers(2, 3), st.booleans()),
    st.builds(
        lambda nodes, mixed, seed: TaskConcept(letters=6, alternatives=1, nodes=nodes, mixed=mixed, seed=seed),
        *(st.integers(1, 2), st.integers(1, 2), seeds),
    ),
)


@settings(max_examples=40)
@given(TINY, st.sampled_from(SPLITS), seeds)
def test_a_split_is_empty_at_every_seed_or_at_none(task, split, seed):
    found = set()
    for number in range(6):
        try:
            batch = task.sample(stream(seed, number), (1, 40)[number % 2], split)
        except ToylabError as error:
            found.add("empty" if re.search("holds no|too few", str(error)) else str(error))
        else:
            found.add("drawn")
            assert {SPLITS[one] for one in split_of_rows(task, batch)} == {split}
    assert len(found) == 1


def split_of_rows(task, batch):
    """The split of each row, from the part of its prompt that decides it."""
    for prompt in laws.prompts_of(batch):
        key = prompt[:-1] if isinstance(task, AssociativeRecall) else prompt
        if isinstance(task, ContextualCounting):
            key = prompt[task.begin : -1]
        if isinstance(task, IteratedMap):
            key = prompt[1:-1]
        yield split_of(np.array([key])).item()


@every_task
def test_a_split_that_is_none_and_a_negative_number_of_rows_are_refused(kind):
    sample = inspect.unwrap(getattr(kind, "prompts", kind.sample))  # types are checked before it could
    with pytest.raises(ToylabError, match="there is no split 'valid'; did you mean validation"):
        sample(kind(), stream(0), 3, "valid")
    with pytest.raises(ToylabError, match="rows=-1: must be at least 0"):
        sample(kind(), stream(0), -1)


@every_task
@some
@given(st.data())
def test_a_prompt_drawn_is_one_that_the_oracle_answers(kind, data):
    task = kind()
    prompt = data.draw(prompts(task))
    answer = task.solve(prompt)
    assert 0 < len(answer) < task.context


@every_task
def test_the_row_in_the_docstring_is_one_that_the_task_makes(kind):
    shown = {line.split()[0]: line.split()[1:] for line in kind.__doc__.splitlines() if re.search(r"\S {2,}\S", line)}
    task = kind()
    first = shown["target"].index(next(cell for cell in shown["target"] if cell != "."))
    prompt = encode(task, shown["token"][: first + 1])
    assert shown["position"] == [str(i) for i in range(len(shown["token"]))]
    assert shown["token"][: first + 1] == decode(task, prompt)
    if getattr(task, "interleaved", False):
        for position, cell in enumerate(shown["target"]):
            if cell != ".":
                assert decode(task, task.solve(encode(task, shown["token"][: position + 1]))) == [cell]
                assert cell in shown["token"][position + 1 : position + 2] or position == len(shown["token"]) - 1
        return
    assert shown["target"] == ["."] * first + decode(task, task.solve(prompt))
    assert shown["token"][first + 1 :] == shown["target"][first:-1]
    if isinstance(task, IteratedMap):
        inputs = np.array([prompt[1:-1]])
        table = render(task, task.batch(inputs, np.array([inputs.shape[1]])), 0)
        assert [line.split()[1:] for line in table.splitlines()[:3]] == list(shown.values())


# The mutants: each breaks one promise, and the laws named beside it must say so --------------------------------------


class BrokenStep(Parity):
    def step(self, states, inputs):
        return (states + inputs + 1) % 2


class Changed(Parity):
    """A task whose batches are changed after the fact."""

    def batch(self, inputs, lengths):
        batch = super().batch(inputs, lengths)
        return dataclasses.replace(batch, **self.changes(batch))


class MaskOneEarly(Changed):
    def changes(self, batch):
        return {"targets": np.roll(batch.targets, -1, axis=1)}


class MaskOneShort(Changed):
    def changes(self, batch):
        ends = np.arange(batch.tokens.shape[1]) == batch.sizes[:, None] - 1
        return {"targets": np.where(ends, IGNORE, batch.targets)}


class MaskWithAHole(Changed):
    def changes(self, batch):
        targets = batch.targets.copy()
        targets[np.arange(len(batch)), batch.sizes - 2] = IGNORE
        return {"targets": targets}


class PaddingScored(Changed):
    def changes(self, batch):
        padding = np.arange(batch.tokens.shape[1]) >= batch.sizes[:, None]
        return {"targets": np.where(padding, self.end_of_sequence, batch.targets)}


class WrittenWrongly(Changed):
    def changes(self, batch):
        tokens = batch.tokens.copy()
        tokens[np.arange(len(batch)), batch.sizes - 1] ^= 1
        return {"tokens": tokens}


class TokenTooLarge(Changed):
    def changes(self, batch):
        return {"tokens": np.where(batch.tokens == self.end_of_sequence, len(self.vocabulary), batch.tokens)}


class SizesOneLong(Changed):
    def changes(self, batch):
        return {"sizes": batch.sizes + 1}


def moved_links(batch, by):
    return {"links": {name: edges + by for name, edges in batch.links.items()}}


class FutureLinks(Changed):
    def changes(self, batch):
        carry = batch.links["carry"].copy()
        carry[:, 2] = carry[:, 1] + 1
        return {"links": {"carry": carry}}


class LinksFromThePadding(Changed):
    def changes(self, batch):
        return moved_links(batch, np.array([0, 1, 0]))


class LinksOfTheNextRow(Changed):
    def changes(self, batch):
        return moved_links(batch, np.array([1, 0, 0]))


class UnsortedLinks(Changed):
    def changes(self, batch):
        return {"links": {name: edges[::-1] for name, edges in batch.links.items()}}


class LinksTwice(Changed):
    def changes(self, batch):
        return {"links": {name: np.repeat(edges, 2, axis=0) for name, edges in batch.links.items()}}


class LabelsTooNarrow(Changed):
    def changes(self, batch):
        return {"labels": {"state": batch.labels["state"][:, 1:]}}


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


class LeakySplit(Parity):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(rng, rows, "train", **others)


class RandomnessOfItsOwn(Parity):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(np.random.default_rng(), rows, split, **others)


class OneNameForTwo(Parity):
    def value_names(self):
        return ("0", "0")


class SumInEightBits(ModularSum):
    """Right for small p; 99 + 99 does not fit."""

    def step(self, states, inputs):
        return (states.astype(np.int8) + inputs.astype(np.int8)).astype(np.int64) % self.p


class TokensInSixteenBits(Changed):
    def changes(self, batch):
        return {"tokens": batch.tokens.astype(np.int16)}


class LengthLabelOff(Changed):
    def changes(self, batch):
        return {"labels": {**batch.labels, "length": batch.labels["length"] + 1}}


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
    def _answers(self, strings, region, ones, sizes):
        written, lengths = super()._answers(strings, region, ones, sizes)
        return np.where(written == self._named(0), self._named(1), written), lengths


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
            super(SeedPlusIndex, self).sample(stream(first + i), 1, split, length=self.longest) for i in range(rows)
        ]
        inputs = np.concatenate([batch.tokens[:, 1 : 1 + self.longest] for batch in every] or [np.zeros((0, 1), int)])
        return self.batch(inputs, np.full(rows, self.longest))


class ASplitThatSeesThePadding(Parity):
    """Whether a prompt is held out depends on how long the longest row beside it is."""

    def sample(self, rng, rows, split="train", **others):
        kept = 0
        while kept < rows or not rows:
            lengths = rng.integers(self.shortest, self.longest + 1, size=rows * 12)
            inputs = rng.integers(2, size=(rows * 12, int(lengths.max(initial=1))))
            inputs[np.arange(inputs.shape[1]) >= lengths[:, None]] = 0
            held = split_of(np.column_stack([lengths, inputs])) == SPLITS.index(split)
            kept = held.sum()
            if kept >= rows:
                return self.batch(inputs[held][:rows], lengths[held][:rows])


class OtherShares(Parity):
    """Half of the prompts are for training, not six in eight."""

    def sample(self, rng, rows, split="train", **others):
        every = np.array([[n >> bit & 1 for bit in range(self.longest)] for n in range(2**self.longest)])
        part = np.arange(len(every)) % 4
        held = {"train": part < 2, "validation": part == 2, "test": part == 3}[split]
        return self.batch(every[held][rng.integers(held.sum(), size=rows)], np.full(rows, self.longest))


class RowsFollowEachOther(Parity):
    """Lengths come in order, so that one row alone is always the shortest."""

    def sample(self, rng, rows, split="train", **others):
        lengths = self.shortest + np.arange(rows) % (self.longest - self.shortest + 1)
        parts = [super(RowsFollowEachOther, self).sample(rng, 1, split, length=int(one)) for one in lengths]
        inputs = np.zeros((rows, int(lengths.max(initial=1))), dtype=np.int64)
        for row, part in enumerate(parts):
            inputs[row, : lengths[row]] = part.tokens[0, 1 : 1 + lengths[row]]
        return self.batch(inputs, lengths)


class AFewRowsLess(Parity):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(rng, rows - rows // 10, split, **others)


class HashOfAString(Parity):
    """Python hashes strings anew in every process."""

    def sample(self, rng, rows, split="train", **others):
        return super().sample(stream(int(rng.integers(2**31)) ^ hash(self.name) % 2**31), rows, split, **others)


class WaitsForEver(Parity):
    def sample(self, rng, rows, split="train", **others):
        while split == "test":
            time.sleep(0.01)
        return super().sample(rng, rows, split, **others)


class ARowAtATime(Parity):
    def sample(self, rng, rows, split="train", **others):
        began = time.process_time()
        while time.process_time() - began < rows / 200:
            pass
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
MUTANTS = [
    (broken(BrokenStep), [laws.the_oracle_continues_every_prompt_with_the_targets]),
    (broken(SumInEightBits, p=100), [laws.the_oracle_continues_every_prompt_with_the_targets]),
    (broken(TokensInSixteenBits), [laws.arrays_have_their_shapes_and_types]),
    (broken(MaskOneEarly), [laws.the_target_of_a_position_is_the_token_after_it]),
    (
        broken(MaskOneShort),
        [laws.the_oracle_continues_every_prompt_with_the_targets, laws.sizes_say_where_one_padding_token_begins],
    ),
    (
        broken(MaskWithAHole),
        [laws.the_oracle_continues_every_prompt_with_the_targets, laws.scored_positions_are_one_run],
    ),
    (
        broken(PaddingScored),
        [laws.the_oracle_continues_every_prompt_with_the_targets, laws.sizes_say_where_one_padding_token_begins],
    ),
    (broken(WrittenWrongly), [laws.the_target_of_a_position_is_the_token_after_it]),
    (broken(TokenTooLarge), [laws.every_token_and_target_is_in_the_vocabulary]),
    (broken(SizesOneLong), [laws.sizes_say_where_one_padding_token_begins]),
    (broken(FutureLinks), [laws.links_stay_inside_their_row_and_read_no_future]),
    (broken(LinksFromThePadding), [laws.links_stay_inside_their_row_and_read_no_future]),
    (
        broken(LinksOfTheNextRow),
        [laws.links_stay_inside_their_row_and_read_no_future, laws.slices_of_a_batch_are_the_whole],
    ),
    (broken(UnsortedLinks), [laws.links_stay_inside_their_row_and_read_no_future]),
    (broken(LinksTwice), [laws.links_stay_inside_their_row_and_read_no_future]),
    (broken(LabelsTooNarrow), [laws.labels_have_one_entry_a_row_or_a_position]),
    (broken(LengthLabelOff), [laws.labels_say_what_the_prompt_says]),
    *[
        (kind(length=14, regions=(1, 3)), [laws.labels_have_one_entry_a_row_or_a_position])
        for kind in (CountsTooNarrow, CountsOfFewerRows, CountsInOneLine, RegionsTooNarrow)
    ],
    (AnswersOfTheOtherRegion(**COUNTING), [laws.the_oracle_continues_every_prompt_with_the_targets]),
    (EmptyRegionsCountedAsOne(**COUNTING), [laws.the_oracle_continues_every_prompt_with_the_targets]),
    (LabelsOfTheOtherRegion(**COUNTING), [laws.labels_say_what_the_prompt_says]),
    (ValuesOfTheNextPair(), [laws.the_oracle_continues_every_prompt_with_the_targets]),
    (HeldOutByTheQuery(keys=4, values=2, pairs=3), [laws.no_prompt_is_in_two_splits]),
    (OperatorsInTheOtherOrder(), [laws.the_oracle_continues_every_prompt_with_the_targets]),
    (OperatorClassesSwapped(), [laws.labels_say_what_the_prompt_says]),
    (
        FlagForgotten(flag=True),
        [laws.the_oracle_continues_every_prompt_with_the_targets, laws.labels_say_what_the_prompt_says],
    ),
    (broken(LeakySplit), [laws.no_prompt_is_in_two_splits]),
    (broken(ASplitThatSeesThePadding), [laws.no_prompt_is_in_two_splits]),
    (broken(OtherShares, lengths=8), [task_laws.splits_hold_their_shares]),
    (broken(SeedPlusIndex, lengths=12), [task_laws.streams_share_no_run_of_rows]),
    (broken(RowsFollowEachOther), [task_laws.rows_do_not_depend_on_how_many_are_drawn]),
    (broken(AFewRowsLess), [laws.a_sample_has_as_many_rows_as_asked_for]),
    (broken(RandomnessOfItsOwn), [laws.the_seed_and_the_settings_decide_every_bit]),
    (broken(HashOfAString), [task_laws.another_process_ends_and_draws_the_same_rows]),
    (broken(WaitsForEver), [task_laws.another_process_ends_and_draws_the_same_rows]),
    (broken(ARowAtATime), [task_laws.rows_come_fast_enough]),
    (broken(OneNameForTwo), [laws.token_names_are_unique_and_survive_a_round_trip]),
    (broken(Unlike), [task_laws.a_task_is_immutable_and_its_fields_are_its_identity]),
    (Changeable(), [task_laws.a_task_is_immutable_and_its_fields_are_its_identity]),
    (unpicklable(), [task_laws.a_pickled_task_is_the_same_task]),
    (object(), [task_laws.a_task_keeps_the_protocol]),
]
CASES = [(task, law) for task, named in MUTANTS for law in named]


@pytest.mark.parametrize(("task", "law"), CASES, ids=[f"{type(task).__name__}-{law.__name__}" for task, law in CASES])
def test_a_broken_task_is_caught_by_its_law(task, law, monkeypatch):
    monkeypatch.setattr(task_laws, "PATIENCE", 5.0)
    failure = check.failure_of(law, task, examples=15)
    assert failure is not None, "the mutant was not caught"
    assert failure.law == check.sentence(law)
    assert "Error" not in failure.why, "the law did not speak, the task failed by itself"


@pytest.mark.parametrize("law", check.LAWS, ids=check.sentence)
def test_every_law_has_a_mutant_that_it_catches(law):
    assert law in {one for _, named in MUTANTS for one in named}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaves(Parity):
    """Ends the process that draws from it."""

    def sample(self, rng, rows, split="train"):
        sys.exit(3)


def test_a_task_that_ends_its_process_is_caught_at_once():
    failure = check.failure_of(task_laws.another_process_ends_and_draws_the_same_rows, Leaves())
    assert (failure.look_at, failure.hopeless) == ("sample", True)
    assert "ended the process" in failure.why


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so_and_not_that_its_task_is_broken(tmp_path):
    (tmp_path / "script.py").write_text(
        "from toylab.tasks import Parity, check_task\ncheck_task(Parity(lengths=(4, 5)))\n"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert "look at the script: " in done.stderr
    assert '`if __name__ == "__main__":`' in done.stderr


def test_a_sound_task_passes_the_check():
    check_task(Parity(lengths=(4, 7)))


def test_the_check_tells_the_law_the_field_and_the_smallest_example():
    with pytest.raises(BrokenLawsError) as caught:
        check_task(broken(FutureLinks))
    told = str(caught.value)
    assert "breaks 1 of" in told
    assert "broken: links stay inside their row and read no future\n  look at links['carry']: a key comes after" in told
    table = told[told.index("position") :].splitlines()
    assert table[1].split()[:3] == ["token", "parity", "0"], "the example was not made small"
    assert len(caught.value.failures) == 1


class KeyIsMissing(Parity):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(rng, {"rows": rows}["row"], split, **others)


class BugInOneSplit(Parity):
    """A mistake that is a `ValueError` does not say that a split is empty."""

    def sample(self, rng, rows, split="train", **others):
        if split == "test":
            np.zeros(rows + 1) + np.zeros(rows + 2)
        return super().sample(rng, rows, split, **others)


class NeverForTraining(Parity):
    def sample(self, rng, rows, split="train", **others):
        if split == "train":
            raise ToylabError("split='train': holds nothing")
        return super().sample(rng, rows, split, **others)


@pytest.mark.parametrize(
    ("kind", "look_at", "why"),
    [
        (KeyIsMissing, r"^sample \(.*test_all_tasks.py:", "KeyError: 'row'"),
        (BugInOneSplit, r"^sample \(.*test_all_tasks.py:", "ValueError: operands could not be broadcast"),
        (NeverForTraining, "^sample$", "the training split holds no prompt"),
    ],
)
def test_the_check_tells_one_cause_once(kind, look_at, why):
    found = [failure for _, failure in check.try_laws(kind(lengths=(4, 7)), examples=3) if failure]
    with pytest.raises(BrokenLawsError) as caught:
        check_task(kind(lengths=(4, 7)), examples=3)
    (told,) = caught.value.failures
    assert re.search(look_at, told.look_at)
    assert why in told.why
    assert [failure.again for failure in found] == [False, *[True] * (len(found) - 1)]
    assert len(found) > 5 or kind in (NeverForTraining, BugInOneSplit)


SCRIPT = """
from toylab.tasks import Parity, check_task

class Mine(Parity):
    pass

{call}
print("checked")
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_is_told_to_guard_what_it_does(tmp_path, guarded):
    call = "check_task(Mine(lengths=(4, 7)), examples=2)"
    text = SCRIPT.format(call=f"if __name__ == '__main__': {call}" if guarded else call)
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if guarded:
        assert done.stdout.splitlines()[-1] == "checked", done.stderr
    else:
        assert done.returncode == 1
        last = done.stderr[done.stderr.rindex("BrokenLawsError") :]
        assert "look at the script" in last
        assert "if __name__ ==" in last


def test_an_error_of_the_task_is_an_answer_with_its_place():
    class Failing(Parity):
        def solve(self, prompt):
            raise KeyError("no such thing")

    failure = check.failure_of(laws.the_oracle_continues_every_prompt_with_the_targets, Failing(lengths=3))
    assert failure.look_at.startswith("solve (")
    assert "KeyError: 'no such thing'" in failure.why
