"""Laws that every task of the house satisfies, and the broken tasks that each law must catch.

A new task is tested by its line in `tasks.TASKS`. Each law is a function that asserts; the tests call it on settings
drawn at random, and the mutants at the end show that it can fail.
"""

import dataclasses
import pickle
import re
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks import (
    IGNORE,
    SPLITS,
    TASKS,
    Batch,
    ContextualCounting,
    IteratedMap,
    Parity,
    Reasoning,
    Task,
    TaskConcept,
    decode,
    encode,
    render,
    stream,
)

every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
some = settings(max_examples=12)
seeds = st.integers(0, 2**31)

# Fields beyond those of IteratedMap, with values worth trying; a task has some of them.
OWN_FIELDS = {
    "p": st.sampled_from((3, 5, 11)),
    "group": st.sampled_from(("S3", "A5")),
    "zero_input": st.booleans(),
    "coefficients": st.tuples(*[st.integers(-3, 12)] * 4),
}


def drawn_task(data, kind):
    """A task of this kind, with lengths, layout and difficulty drawn."""
    if issubclass(kind, ContextualCounting):
        return drawn_counting(data, kind)
    if issubclass(kind, TaskConcept):
        return drawn_concept(data, kind)
    if issubclass(kind, Reasoning):
        return drawn_reasoning(data, kind)
    if not issubclass(kind, IteratedMap):
        return kind()
    # All is drawn before anything is built: the run-time type checks draw from `random`, which upsets hypothesis.
    low = data.draw(st.integers(1, 6))
    fields = {
        "lengths": data.draw(st.one_of(st.just(low), st.integers(low, low + 6).map(lambda high: (low, high)))),
        "chain_of_thought": data.draw(st.booleans()),
        "start": data.draw(st.sampled_from(("first-input", "zero"))),
        "score_padding": data.draw(st.booleans()),
    }
    fields |= {f.name: data.draw(OWN_FIELDS[f.name]) for f in dataclasses.fields(kind) if f.name in OWN_FIELDS}
    spare = data.draw(st.one_of(st.none(), st.integers(0, 4)))
    task = kind(**fields)
    return task if spare is None else dataclasses.replace(task, alphabet=task.values + spare)


def drawn_counting(data, kind):
    """A counting task with eight bits at least, so that every split holds prompts."""
    fewest, more_regions = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
    shortest, longer = 2 * (fewest + more_regions) + 8 + data.draw(st.integers(0, 8)), data.draw(st.integers(0, 8))
    return kind(
        length=data.draw(st.sampled_from((shortest, (shortest, shortest + longer)))),
        regions=(fewest, fewest + more_regions)
        if more_regions
        else data.draw(st.sampled_from((fewest, (fewest,) * 2))),
        p=data.draw(st.sampled_from((0.2, 0.5, 0.8))),
        begin=data.draw(st.booleans()),
        answer=data.draw(st.sampled_from(("counts", "regions", "running"))),
    )


def drawn_concept(data, kind):
    """A task of two concepts, of few letters or many, and with few operators or many."""
    grammars = ((6, 2, 1, False), (6, 2, 2, True), (12, 2, 2, False), (12, 3, 1, True), (8, 3, 2, True))
    letters, levels, alternatives, sharing = data.draw(st.sampled_from(grammars))
    unsafe = data.draw(st.integers(1, 3))
    return kind(
        letters=letters,
        levels=levels,
        alternatives=alternatives,
        sharing=sharing,
        nodes=data.draw(st.integers(1, 3)),
        safe=data.draw(st.integers(1, 3)),
        unsafe=unsafe,
        mixed=data.draw(st.integers(1, 3)),
        duplicates=data.draw(st.integers(0, unsafe)),
        soft_slots=data.draw(st.integers(0, 3)),
        seed=data.draw(seeds),
    )


def drawn_reasoning(data, kind):
    """A task of chains with so many prompts that every split holds some."""
    return kind(
        p=data.draw(st.integers(3, 8)),
        length=data.draw(st.integers(3, 7)),
        flag=data.draw(st.booleans()),
        seed=data.draw(seeds),
    )


def splits_with_prompts(task):
    """The splits that hold a prompt of each length; the others raise, which is a law of its own."""
    if not isinstance(task, IteratedMap):
        return list(SPLITS)
    lengths = range(task.shortest, task.longest + 1)
    return [split for split in SPLITS if all(task.capacity(length, split) for length in lengths)]


def drawn_batch(data, task):
    """A batch of the task, of a split, size and seed drawn."""
    splits = splits_with_prompts(task)
    assume(splits)
    return task.sample(stream(data.draw(seeds)), data.draw(st.integers(1, 20)), data.draw(st.sampled_from(splits)))


def arrays_of(batch):
    plain = {name: getattr(batch, name) for name in ("tokens", "targets", "sizes")}
    return plain | {("link", n): v for n, v in batch.links.items()} | {("label", n): v for n, v in batch.labels.items()}


def equal(one, other):
    """Whether two batches hold the same arrays, their types included."""
    one, other = arrays_of(one), arrays_of(other)
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def prompts_of(batch):
    """What stands in each row up to the first scored position, that one included."""
    return [tuple(row[: np.flatnonzero(scored)[0] + 1]) for row, scored in zip(*as_lists(batch), strict=True)]


def as_lists(batch):
    return batch.tokens.tolist(), batch.targets != IGNORE


# The laws ----------------------------------------------------------------------------------------------------------


def the_oracle_continues_every_prompt_with_the_targets(task, batch):
    for prompt, targets in zip(prompts_of(batch), batch.targets.tolist(), strict=True):
        scored = [target for target in targets if target != IGNORE]
        answer = task.solve(prompt)
        padding = scored[len(answer) :]
        assert scored[: len(answer)] == answer, f"after {decode(task, prompt)}"
        assert set(padding) <= {answer[-1]} if getattr(task, "score_padding", False) else not padding


def the_target_of_a_position_is_the_token_after_it(task, batch):
    padded = getattr(task, "score_padding", False)
    inside = np.arange(1, batch.tokens.shape[1]) < batch.sizes[:, None]  # the end itself need not be read
    scored = (batch.targets[:, :-1] != IGNORE) & (inside | padded)
    assert np.array_equal(batch.targets[:, :-1][scored], batch.tokens[:, 1:][scored])


def scored_positions_are_one_run(task, batch):
    for scored in batch.targets != IGNORE:
        places = np.flatnonzero(scored)
        assert len(places)
        assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))


def every_token_and_target_is_in_the_vocabulary(task, batch):
    size = len(task.vocabulary)
    assert batch.tokens.min() >= 0
    assert batch.tokens.max() < size
    assert set(np.unique(batch.targets).tolist()) <= {IGNORE, *range(size)}


def sizes_say_where_one_padding_token_begins(task, batch):
    positions = batch.tokens.shape[1]
    assert positions <= task.context
    assert batch.sizes.shape == (len(batch),)
    assert 1 <= batch.sizes.min() <= batch.sizes.max() <= positions
    padding = np.arange(positions) >= batch.sizes[:, None]
    assert len(set(batch.tokens[padding].tolist())) <= 1
    for targets, size in zip(batch.targets, batch.sizes, strict=True):
        scored = np.flatnonzero(targets != IGNORE)
        assert scored[0] < size
        assert getattr(task, "score_padding", False) or scored[-1] == size - 1


def links_stay_inside_their_row_and_read_no_future(task, batch):
    for name, edges in batch.links.items():
        assert edges.shape == (len(edges), 3), name
        assert np.issubdtype(edges.dtype, np.integer), name
        row, query, key = edges.T
        assert np.all((row >= 0) & (row < len(batch))), name
        assert np.all((key >= 0) & (key <= query)), f"{name}: a key comes after its query"
        assert np.all(query < batch.sizes[row]), f"{name}: a query stands in the padding"
        assert np.all(np.diff(row) >= 0), f"{name}: edges are not sorted by row"
        assert len(np.unique(edges, axis=0)) == len(edges), f"{name}: an edge is given twice"


def labels_have_one_entry_a_row_or_a_position(task, batch):
    for name, values in batch.labels.items():
        if name == "count" and hasattr(task, "most"):  # one entry a region, for as many as the task or a row has
            assert values.ndim == 2, name
            assert len(values) == len(batch), name
            assert values.shape[1] >= task.most, name
        else:
            assert values.shape in (batch.sizes.shape, batch.tokens.shape), name


def slices_of_a_batch_are_the_whole(task, batch):
    middle = len(batch) // 3
    parts = batch.rows(0, middle), batch.rows(middle, len(batch))
    links = {
        name: np.concatenate([part.links[name] + [start, 0, 0] for part, start in zip(parts, (0, middle), strict=True)])
        for name in batch.links
    }
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "targets", "sizes")}
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in batch.labels}
    assert equal(Batch(**arrays, links=links, labels=labels), batch)


BATCH_LAWS = (
    the_oracle_continues_every_prompt_with_the_targets,
    the_target_of_a_position_is_the_token_after_it,
    scored_positions_are_one_run,
    every_token_and_target_is_in_the_vocabulary,
    sizes_say_where_one_padding_token_begins,
    links_stay_inside_their_row_and_read_no_future,
    labels_have_one_entry_a_row_or_a_position,
    slices_of_a_batch_are_the_whole,
)


def token_names_are_unique_and_survive_a_round_trip(task, seed):
    assert len(set(task.vocabulary)) == len(task.vocabulary), "two tokens have one name"
    tokens = np.random.default_rng(seed).integers(len(task.vocabulary), size=12).tolist()
    assert encode(task, decode(task, tokens)) == tokens
    assert decode(task, encode(task, task.vocabulary)) == list(task.vocabulary)


def the_seed_and_the_settings_decide_every_bit(task, seed):
    again = dataclasses.replace(task)
    for split in splits_with_prompts(task):
        assert equal(task.sample(stream(seed), 9, split), again.sample(stream(seed), 9, split))


def no_prompt_is_in_two_splits(task, seed):
    seen = [set(prompts_of(task.sample(stream(seed, split), 60, split))) for split in splits_with_prompts(task)]
    assert len(set().union(*seen)) == sum(map(len, seen))


TASK_LAWS = (
    token_names_are_unique_and_survive_a_round_trip,
    the_seed_and_the_settings_decide_every_bit,
    no_prompt_is_in_two_splits,
)


def sentence(law):
    return law.__name__.replace("_", " ")


@every_task
@pytest.mark.parametrize("law", BATCH_LAWS, ids=sentence)
@some
@given(st.data())
def test_every_batch_obeys(kind, law, data):
    task = drawn_task(data, kind)
    law(task, drawn_batch(data, task))


@every_task
@pytest.mark.parametrize("law", TASK_LAWS, ids=sentence)
@some
@given(st.data(), seeds)
def test_every_task_obeys(kind, law, data, seed):
    law(drawn_task(data, kind), seed)


@every_task
def test_the_batch_of_no_rows_has_no_rows(kind):
    batch = kind().sample(stream(0), 0)
    assert len(batch) == 0
    assert all(len(edges) == 0 for edges in batch.links.values())


@every_task
@some
@given(st.data())
def test_every_task_keeps_the_protocol(kind, data):
    assert isinstance(drawn_task(data, kind), Task)
    assert isinstance(kind(), Task)


@every_task
@some
@given(st.data())
def test_every_task_is_immutable_and_its_fields_are_its_identity(kind, data):
    task, other = drawn_task(data, kind), drawn_task(data, kind)
    for field in dataclasses.fields(task):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(task, field.name, getattr(task, field.name))
    assert (task == other) == (dataclasses.asdict(task) == dataclasses.asdict(other))
    assert dataclasses.replace(task) == task
    assert hash(dataclasses.replace(task)) == hash(task)


@every_task
@some
@given(st.data(), seeds)
def test_a_pickled_task_is_the_same_task(kind, data, seed):
    task = drawn_task(data, kind)
    copy = pickle.loads(pickle.dumps(task))
    assert copy == task
    assert copy.vocabulary == task.vocabulary
    assert copy.context == task.context
    for split in splits_with_prompts(task)[:1]:
        assert equal(copy.sample(stream(seed), 5, split), task.sample(stream(seed), 5, split))


@every_task
@some
@given(st.data(), seeds)
def test_different_seeds_give_different_rows(kind, data, seed):
    task = kind()
    one, other = (task.sample(stream(s, "train"), 32).tokens for s in (seed, seed + 1))
    shared = set(map(tuple, one.tolist())) & set(map(tuple, other.tolist()))
    assert len(shared) < 16  # only the shortest lengths, whose spaces are small, may meet
    assert not np.array_equal(one, other)


@every_task
def test_every_public_field_says_its_type(kind):
    hints = get_type_hints(kind)
    assert all(field.name in hints for field in dataclasses.fields(kind))
    assert all(field.kw_only for field in dataclasses.fields(kind))


@every_task
def test_the_row_in_the_docstring_is_one_that_the_task_makes(kind):
    shown = {line.split()[0]: line.split()[1:] for line in kind.__doc__.splitlines() if re.search(r"\S {2,}\S", line)}
    task = kind()
    first = shown["target"].index(next(cell for cell in shown["target"] if cell != "."))
    prompt = encode(task, shown["token"][: first + 1])
    assert shown["position"] == [str(i) for i in range(len(shown["token"]))]
    assert shown["token"][: first + 1] == decode(task, prompt)
    assert shown["target"] == ["."] * first + decode(task, task.solve(prompt))
    assert shown["token"][first + 1 :] == shown["target"][first:-1]
    if isinstance(task, IteratedMap):
        inputs = np.array([prompt[1:-1]])
        table = render(task, task.batch(inputs, np.array([inputs.shape[1]])), 0)
        assert [line.split()[1:] for line in table.splitlines()[:3]] == list(shown.values())


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


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


BATCH_MUTANTS = [
    (BrokenStep, the_oracle_continues_every_prompt_with_the_targets),
    (MaskOneEarly, the_target_of_a_position_is_the_token_after_it),
    (MaskOneShort, the_oracle_continues_every_prompt_with_the_targets),
    (MaskOneShort, sizes_say_where_one_padding_token_begins),
    (MaskWithAHole, the_oracle_continues_every_prompt_with_the_targets),
    (MaskWithAHole, scored_positions_are_one_run),
    (PaddingScored, the_oracle_continues_every_prompt_with_the_targets),
    (PaddingScored, sizes_say_where_one_padding_token_begins),
    (WrittenWrongly, the_target_of_a_position_is_the_token_after_it),
    (TokenTooLarge, every_token_and_target_is_in_the_vocabulary),
    (SizesOneLong, sizes_say_where_one_padding_token_begins),
    (FutureLinks, links_stay_inside_their_row_and_read_no_future),
    (LinksFromThePadding, links_stay_inside_their_row_and_read_no_future),
    (LinksOfTheNextRow, links_stay_inside_their_row_and_read_no_future),
    (UnsortedLinks, links_stay_inside_their_row_and_read_no_future),
    (LinksOfTheNextRow, slices_of_a_batch_are_the_whole),
    (LinksTwice, links_stay_inside_their_row_and_read_no_future),
    (LabelsTooNarrow, labels_have_one_entry_a_row_or_a_position),
]
TASK_MUTANTS = [
    (LeakySplit, no_prompt_is_in_two_splits),
    (RandomnessOfItsOwn, the_seed_and_the_settings_decide_every_bit),
    (OneNameForTwo, token_names_are_unique_and_survive_a_round_trip),
]


@pytest.mark.parametrize(("mutant", "law"), BATCH_MUTANTS, ids=lambda x: x.__name__)
def test_a_broken_batch_is_caught_by_its_law(mutant, law):
    task = mutant(lengths=(4, 7))
    sound = Parity(lengths=(4, 7)).sample(stream(0), 12)
    law(Parity(lengths=(4, 7)), sound)
    broken = task.sample(stream(0), 12)
    with pytest.raises(AssertionError):
        law(task, broken)


@pytest.mark.parametrize("mutant", [CountsTooNarrow, CountsOfFewerRows, CountsInOneLine, RegionsTooNarrow])
def test_a_label_of_the_wrong_shape_is_caught_where_regions_have_labels_too(mutant):
    law = labels_have_one_entry_a_row_or_a_position
    sound, task = (kind(length=14, regions=(1, 3)) for kind in (ContextualCounting, mutant))
    law(sound, sound.sample(stream(0), 12))
    broken = task.sample(stream(0), 12)
    with pytest.raises(AssertionError):
        law(task, broken)


@pytest.mark.parametrize(("mutant", "law"), TASK_MUTANTS, ids=lambda x: x.__name__)
def test_a_broken_task_is_caught_by_its_law(mutant, law):
    law(Parity(lengths=(6, 9)), 0)
    task = mutant(lengths=(6, 9))
    with pytest.raises(AssertionError):
        law(task, 0)
