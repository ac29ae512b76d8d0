"""Laws of rows of iterated maps: the layout and the mask are the paper's, and the links read what is due."""

import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tasks.iterated import f, kinds, one_row, rows_of, some, states_of, values_of
from toylab.tasks import (
    IGNORE,
    ITERATED_MAPS,
    NO_POSITION,
    Copy,
    ModularSum,
    Parity,
    Polynomial,
    WordProblem,
    decode,
    encode,
)


@some
@given(kinds, st.booleans(), st.booleans(), st.integers(0, 2**20))
def test_a_row_is_task_token_inputs_end_of_input_states_end(kind, thought, padding, seed):
    task = kind(lengths=(2, 7), chain_of_thought=thought, score_padding=padding)
    batch = rows_of(task, 12, seed)
    eoi, eos = encode(task, ["EoI", "EoS"])
    for tokens, targets, size, length, state in zip(
        batch.tokens.tolist(),
        batch.targets.tolist(),
        batch.sizes.tolist(),
        batch.labels["length"].tolist(),
        batch.labels["state"].tolist(),
        strict=True,
    ):
        states = length if thought else 1
        assert task.vocabulary[tokens[0]] == task.name
        assert set(tokens[1 : length + 1]) <= set(task.inputs)
        assert tokens[length + 1] == eoi
        assert tokens.count(eoi) == 1
        assert all(0 <= token < task.values for token in tokens[length + 2 : length + 2 + states])
        assert size == length + 2 + states
        assert tokens[size:] == [eos] * (len(tokens) - size)
        scored = [place for place, target in enumerate(targets) if target != IGNORE]
        end = len(tokens) if padding else size
        assert scored == list(range(length + 1, end))
        assert targets[length + 1 : end] == tokens[length + 2 : size] + [eos] * (end - size + 1)
        assert [place for place, label in enumerate(state) if label != NO_POSITION] == list(range(length + 2, size))
        assert state[length + 2 : size] == tokens[length + 2 : size]
    assert task.context == max(task.size(length) for length in range(2, 8))


@pytest.mark.parametrize(("thought", "scored"), [(True, 6), (False, 2)])
def test_the_mask_covers_the_states_and_one_end(thought, scored):
    batch = rows_of(Parity(lengths=5, chain_of_thought=thought), 8)
    assert (batch.targets != IGNORE).sum(axis=1).tolist() == [scored] * 8


@some
@given(kinds, st.booleans(), st.integers(1, 5), st.integers(5, 9))
def test_scored_padding_reaches_to_the_longest_row_of_the_task_in_every_batch(kind, thought, short, longest):
    task = kind(lengths=(1, longest), chain_of_thought=thought, score_padding=True)
    batch = one_row(task, values_of(task, range(short)))
    assert batch.tokens.shape[1] == task.context
    # The published arrays have 2 * longest + 3 tokens, the last of which is only ever a target.
    assert task.context == (2 * longest + 2 if thought else longest + 3)
    assert (batch.targets[0] != IGNORE).sum() == task.context - short - 1


@some
@given(kinds, st.booleans(), st.integers(0, 2**20))
def test_a_row_does_not_depend_on_the_rows_beside_it(kind, thought, seed):
    task = kind(lengths=(1, 6), chain_of_thought=thought)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, size=5)
    inputs = rng.choice(task.inputs, size=(5, 6))
    together = task.batch(np.where(np.arange(6) < lengths[:, None], inputs, 10**6), lengths)
    for row, length in enumerate(lengths.tolist()):
        garbage = np.full((1, 6 - length), 10**6)  # what stands after a row's inputs is not looked at
        alone = task.batch(np.concatenate([inputs[row : row + 1, :length], garbage], axis=1), np.array([length]))
        size = int(alone.sizes[0])
        assert size == together.sizes[row] == alone.tokens.shape[1]
        for name in ("tokens", "targets"):
            assert np.array_equal(getattr(together, name)[row, :size], getattr(alone, name)[0])
        assert np.array_equal(together.labels["state"][row, :size], alone.labels["state"][0])
        for name, edges in together.rows(row, row + 1).links.items():
            assert np.array_equal(edges, alone.links[name])


def test_tasks_with_one_alphabet_share_one_vocabulary():
    shared = [Copy(alphabet=11), Parity(alphabet=11), ModularSum(), Polynomial()]
    assert len({task.vocabulary for task in shared}) == 1
    assert len({task.task_token for task in shared}) == len(shared)
    assert len({kind.name for kind in ITERATED_MAPS}) == len(ITERATED_MAPS)
    assert len(WordProblem(alphabet=11).vocabulary) == len(Polynomial().vocabulary)


@some
@given(st.sampled_from([Parity(), WordProblem(), Polynomial(p=3)]), st.integers(0, 250))
@example(WordProblem(), 205)  # S3 calls its values 012 to 210, and spare values are called by their number
def test_every_alphabet_gives_every_token_a_name_of_its_own(task, spare):
    names = dataclasses.replace(task, alphabet=task.values + spare).vocabulary
    assert len(names) == task.values + spare + len(ITERATED_MAPS) + 2
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


class Latest(Parity):
    """A task that somebody adds in a notebook: F(s, x) = 1 where either is."""

    name = "latest"

    def step(self, states, inputs):
        return states | inputs

    def trace(self, inputs, start):
        return [int(any(inputs[: t + 1])) for t in range(len(inputs))]


def test_a_task_with_a_name_of_its_own_has_a_token_of_its_own_and_needs_nothing_else():
    task = Latest(lengths=(1, 6))
    assert task.vocabulary == (*Parity().vocabulary[:-2], "latest", "EoI", "EoS")
    batch = rows_of(task, 12)
    assert decode(task, batch.tokens[:, 0].tolist()) == ["latest"] * 12
    assert states_of(task, [0, 1, 0]) == [0, 1, 1]
    for tokens, targets, length in zip(batch.tokens, batch.targets, batch.labels["length"], strict=True):
        assert task.solve(tokens[: length + 2].tolist()) == targets[targets != IGNORE].tolist()


def test_a_larger_alphabet_changes_no_answer():
    inputs = [1, 0, 1, 1]
    assert states_of(Parity(alphabet=30), inputs) == states_of(Parity(), inputs)


# Links ---------------------------------------------------------------------------------------------------------------


@some
@given(kinds, st.integers(0, 2**20))
def test_links_say_where_each_state_finds_what_it_needs(kind, seed):
    task = kind(lengths=(2, 7))
    batch = rows_of(task, 10, seed)
    tokens, targets, length = batch.tokens, batch.targets, batch.labels["length"]
    said = {name: set(map(tuple, edges.tolist())) for name, edges in batch.links.items()}
    places = [(row, t) for row, n in enumerate(length.tolist()) for t in range(1, n + 1)]
    assert said == {
        "end of input": {(row, length[row] + 1 + t, length[row] + 1) for row, t in places},
        "carry": {(row, length[row] + t, t) for row, t in places},
        "stop": {(row, 2 * n + 1, n + 1) for row, n in enumerate(length.tolist())},
    }
    for row, query, key in said["carry"]:
        assert key < query
        s = tokens[row, query]
        x = tokens[row, key]
        due = int(x) if s == task.end_of_input else f(task, int(s), int(x))
        assert targets[row, query] == due
    for row, query, key in said["end of input"] | said["stop"]:
        assert key < query
        assert tokens[row, key] == task.end_of_input
    for row, query, _ in said["stop"]:
        assert targets[row, query] == task.end_of_sequence


@some
@given(kinds, st.integers(0, 2**20))
def test_without_chain_of_thought_the_answer_reads_every_input_from_the_end_of_input(kind, seed):
    task = kind(lengths=(2, 7), chain_of_thought=False)
    batch = rows_of(task, 10, seed)
    length = batch.labels["length"].tolist()
    assert set(batch.links) == {"inputs"}
    assert set(map(tuple, batch.links["inputs"].tolist())) == {
        (row, n + 1, t) for row, n in enumerate(length) for t in range(1, n + 1)
    }
