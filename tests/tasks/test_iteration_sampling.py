"""Laws of sampling iterated maps: lengths, splits, capacities, and spaces too small or too large."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.iterated import KINDS, at_most, inputs_of, kinds, rows_of, some
from toylab.tasks import (
    IGNORE,
    SPLITS,
    Copy,
    Parity,
    Polynomial,
    WordProblem,
    split_of,
)


@some
@given(kinds, st.integers(4, 6), st.integers(0, 4), st.integers(1, 40), st.integers(0, 2**20))
def test_each_round_of_rows_holds_every_length_once(kind, low, more, rows, seed):
    task = kind(lengths=(low, low + more))
    drawn = rows_of(task, rows, seed).labels["length"].tolist()
    span = more + 1
    for start in range(0, rows, span):
        one = drawn[start : start + span]
        assert len(set(one)) == len(one)
        assert set(one) <= set(range(low, low + span))


def test_the_order_of_lengths_in_a_round_is_random():
    drawn = rows_of(Parity(lengths=(4, 6)), 300).labels["length"].reshape(-1, 3)
    assert len({tuple(one) for one in drawn.tolist()}) == math.factorial(3)


@some
@given(kinds, st.sampled_from(SPLITS), st.integers(4, 18), st.integers(0, 2**20))
def test_every_row_is_of_the_split_that_was_asked_for(kind, split, length, seed):
    task = kind(lengths=length)
    batch = rows_of(task, 8, seed, split=split)
    inputs = np.array(inputs_of(batch))
    assert inputs.shape == (8, length)
    assert set(split_of(inputs).tolist()) == {SPLITS.index(split)}


@pytest.mark.parametrize("length", [14, 15])
def test_listed_and_drawn_spaces_are_sampled_alike(length):
    # Up to 2^14 prompts are listed, beyond that they are drawn until the split fits.
    batch = rows_of(Parity(lengths=length), 1500, split="test", distinct=True)
    inputs = np.array(inputs_of(batch))
    assert len(np.unique(inputs, axis=0)) == 1500
    assert np.all(split_of(inputs) == SPLITS.index("test"))
    assert np.all(np.abs(inputs.mean(axis=0) - 0.5) < 0.06)


@some
@given(kinds, st.integers(4, 5), st.sampled_from(SPLITS), st.integers(0, 2**20))
def test_distinct_gives_different_prompts_and_as_many_as_there_are(kind, length, split, seed):
    task = kind(lengths=length)
    rows = min(task.capacity(length, split), 40)
    inputs = inputs_of(rows_of(task, rows, seed, split=split, distinct=True))
    assert len(set(map(tuple, inputs))) == rows


@pytest.mark.parametrize(
    "task", [Parity(), Copy(p=3), WordProblem(), Polynomial(p=3), Polynomial(p=5, zero_input=True)]
)
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_the_splits_together_hold_every_prompt_once(task, length):
    found = []
    for split in SPLITS:
        rows = task.capacity(length, split)
        if rows:
            found += map(tuple, inputs_of(rows_of(task, rows, split=split, length=length, distinct=True)))
    assert sorted(found) == sorted(itertools.product(task.inputs, repeat=length))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_capacity_of_a_small_space_is_its_count(kind, length):
    task = kind()
    if len(task.inputs) ** length > 2**11:
        length = 2
    every = list(itertools.product(task.inputs, repeat=length))
    counted = collections.Counter(SPLITS[split_of(np.array([prompt])).item()] for prompt in every)
    assert {split: task.capacity(length, split) for split in SPLITS} == {split: counted[split] for split in SPLITS}


def test_capacity_of_a_large_space_is_near_its_count():
    task = Parity()
    every = np.array(list(itertools.product((0, 1), repeat=16)))
    counts = np.bincount(split_of(every)) / [task.capacity(16, split) for split in SPLITS]
    assert np.all(np.abs(counts - 1) < 0.04)


@pytest.mark.parametrize(("task", "length"), [(Parity(), 15), (Copy(p=3), 9), (Polynomial(p=7), 6)])
@pytest.mark.parametrize("split", SPLITS)
def test_as_many_different_prompts_can_be_had_as_a_split_holds(task, length, split):
    """Also of a space that is not listed for smaller samples."""
    every = np.array(list(itertools.product(task.inputs, repeat=length)))
    held = {tuple(row) for row in every[split_of(every) == SPLITS.index(split)].tolist()}
    assert len(every) > 2**14
    for rows in (len(held) // 2 - 1, len(held), len(held) + 1, len(every), 10**9):
        assert task.available(rows, length, split) == min(rows, len(held))
    drawn = [inputs_of(rows_of(task, len(held), seed, split=split, length=length, distinct=True)) for seed in (0, 1)]
    assert [set(map(tuple, rows)) for rows in drawn] == [held, held]
    assert drawn[0] != drawn[1]
    some = inputs_of(rows_of(task, len(held) * 3 // 4, split=split, length=length, distinct=True))
    assert len(set(map(tuple, some)) & held) == len(some) == len(held) * 3 // 4
    with pytest.raises(ValueError, match=f"split='{split}' holds {len(held)} of the {len(every)} prompts"):
        rows_of(task, len(held) + 1, split=split, length=length, distinct=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_too_small_raises_at_once_with_both_numbers(kind):
    # The first generator written for this lab looped for ever at parity, length 4.
    task = kind()
    raised = 0
    with at_most(20):
        for length, split, distinct in itertools.product([1, 2, 3, 4], SPLITS, [False, True]):
            space, held = len(task.inputs) ** length, task.capacity(length, split)
            if space > 2**18:
                continue
            exact = task.available(space, length, split)
            most = exact if distinct else math.inf if held else 0
            for rows in (1, 5, exact, exact + 1, space + 1):
                if rows > most:
                    told = rf"rows={rows}: split='{split}' holds \d+ of the {space} "
                    with pytest.raises(ValueError, match=told):
                        rows_of(task, rows, split=split, length=length, distinct=distinct)
                    raised += 1
                elif rows <= 200:
                    assert len(rows_of(task, rows, split=split, length=length, distinct=distinct)) == rows
    assert raised


@some
@given(kinds, st.integers(4, 12), st.booleans())
def test_a_length_outside_the_range_can_be_drawn_to_test_extrapolation(kind, length, thought):
    task = kind(lengths=(1, 3), chain_of_thought=thought)
    batch = rows_of(task, 6, length=length)
    assert batch.labels["length"].tolist() == [length] * 6
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert task.solve(tokens[: length + 2]) == [target for target in targets if target != IGNORE]


@pytest.mark.parametrize("thought", [True, False])
@pytest.mark.parametrize("length", [0, -2])
def test_a_row_of_no_inputs_cannot_be_drawn(thought, length):
    task = Parity(chain_of_thought=thought)
    with pytest.raises(ValueError, match=f"length={length}"):
        rows_of(task, 3, length=length)


@pytest.mark.parametrize("task", [Parity(lengths=1100), Polynomial(lengths=400)])
def test_a_space_too_large_for_a_float_can_be_drawn_from(task):
    with at_most(10):
        batch = rows_of(task, 3, distinct=True)
    assert batch.labels["length"].tolist() == [task.max_length] * 3


def test_inputs_are_uniform_over_those_of_the_task():
    for task in (Polynomial(lengths=8), Polynomial(lengths=8, zero_input=True), WordProblem(lengths=8)):
        drawn = np.array(inputs_of(rows_of(task, 2000)))
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == list(task.inputs)
        assert np.all(np.abs(counts / drawn.size * len(values) - 1) < 0.12)
    assert 0 not in Polynomial().inputs
    assert 0 in Polynomial(zero_input=True).inputs
