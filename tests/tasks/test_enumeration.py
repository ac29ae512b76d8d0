"""Numbering of all rows of a task, against lists written another way and counts worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.broken_enumerations import ENUMERATIONS
from tests.test_all_tasks import TINY
from toylab.console import ToylabError
from toylab.tasks import (
    SPLITS,
    TASKS,
    AssociativeRecall,
    ContextualCounting,
    EnumerableTask,
    Parity,
    Polynomial,
    Reasoning,
    WordProblem,
    stream,
)
from toylab.tasks.laws import BrokenLawError
from toylab.tasks.task_laws import the_enumeration_lists_the_rows_that_are_sampled as law

BY_HAND = [
    (Polynomial(), 6, 10**6),  # inputs 1 to 10
    (Polynomial(zero_input=True), 2, 121),
    (Parity(), 20, 2**20),
    (WordProblem(group="A5"), 3, 216_000),
    (ContextualCounting(length=8, regions=1), 4, 6 * 4 + 0),  # two brackets of four places, two bits
    (ContextualCounting(length=8, regions=(1, 2)), 4, 6 * 4 + 1),  # or four brackets
    (ContextualCounting(length=8, regions=1, p=0), 4, 6),
    (ContextualCounting(length=8, regions=2), 3, 0),
    (Reasoning(p=3, length=2), 2, 27),
    (Reasoning(p=3, length=2, flag=True), 2, 54),
    (Reasoning(p=3, length=2), 3, 0),
    (AssociativeRecall(pairs=2, keys=3, values=2), 2, 3 * 2 * 2 * 2 * 2),  # keys, values, order of the queries
    (AssociativeRecall(pairs=2, keys=3, values=2, queries=1), 2, 3 * 2 * 2 * 2 * 2),
    (AssociativeRecall(pairs=3, keys=3, values=2, queries=1), 3, 6 * 8 * 3),
    (AssociativeRecall(pairs=2, keys=3, values=2), 3, 0),
]


@pytest.mark.parametrize(("task", "length", "count"), BY_HAND)
def test_counts_worked_out_by_hand(task, length, count):
    assert task.count(length) == count


def test_every_task_has_a_numbering_but_these():
    without = {kind.__name__ for kind in TASKS if not isinstance(kind(), EnumerableTask)}
    assert without == {"TaskConcept", "MultiHopRecall", "ModularAddition", "Addition", "Dyck"}


def test_strings_are_those_of_all_words_that_have_matching_brackets():
    task = ContextualCounting(length=7, regions=(1, 2), begin=False)
    for length in range(1, 8):
        words = ["".join(word) for word in itertools.product("01[]", repeat=length)]
        brackets = {word: word.translate(str.maketrans("", "", "01")) for word in words}
        legal = [word for word in words if brackets[word] in ("[]", "[][]")]
        batch = task.enumerate(length, np.arange(task.count(length)))
        assert ["".join("01[]"[token] for token in row) for row in batch.tokens[:, :length]] == legal


@pytest.mark.parametrize("seed", range(3))
def test_recall_lists_every_order_of_distinct_keys(seed):
    task = AssociativeRecall(pairs=2, queries=(None, 1, 2)[seed], keys=3, values=2)
    rows = task.enumerate(2, np.arange(task.count(2))).tokens.tolist()
    expected = [
        [k, 3 + v, other, 3 + w, *[x for query in queries for x in (query, 3 + {k: v, other: w}[query])][:-1]]
        for k, other in itertools.permutations(range(3), 2)
        for v, w in itertools.product(range(2), repeat=2)
        for queries in itertools.permutations((k, other), task.queries or 2)
    ]
    assert rows == sorted(expected)


@given(TINY, st.data())
def test_rows_do_not_depend_on_the_rows_beside_them(task, data):
    if not isinstance(task, EnumerableTask):
        return
    length = data.draw(st.sampled_from(task.sampled_lengths))
    if not (count := task.count(length)):
        return
    numbers = np.array(data.draw(st.lists(st.integers(0, min(count, 2**62) - 1), min_size=1, max_size=4)))
    batch = task.enumerate(length, numbers)
    for row, number in enumerate(numbers):
        alone = task.enumerate(length, np.array([number]))
        size = alone.sizes[0]
        assert batch.tokens[row, :size].tolist() == alone.tokens[0, :size].tolist()
        assert batch.labels["split"][row] == alone.labels["split"][0]


@pytest.mark.parametrize("number", [-1, 36])
def test_numbers_outside_are_refused(number):
    with pytest.raises(ToylabError, match="end at 35"):
        WordProblem().enumerate(2, np.array([0, number]))


REASONS = (
    "not sampled",
    "not in order",
    "does not list",
    "into 'train', and it is sampled from 'validation'",
    "solve says",
)


@pytest.mark.parametrize(
    ("kind", "why"),
    list(zip(ENUMERATIONS, REASONS, strict=True)),
)
def test_the_law_finds_what_is_wrong(kind, why):
    law(Polynomial(p=5, lengths=(2, 4)))
    with pytest.raises(BrokenLawError, match=why):
        law(kind(p=5, lengths=(2, 4)))


def test_labels_say_the_split_of_sampled_rows():
    task = Reasoning(p=3, length=3)
    everything = task.enumerate(3, np.arange(task.count(3)))
    listed = {
        tuple(row): split for row, split in zip(everything.tokens.tolist(), everything.labels["split"], strict=True)
    }
    for split in SPLITS:
        sampled = task.sample(stream(1), 40, split).tokens.tolist()
        assert {SPLITS[listed[tuple(row)]] for row in sampled} == {split}
