"""Numbering of all rows of a task, against lists written another way and counts worked out by hand."""

import itertools
import math
import re

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
    Addition,
    AssociativeRecall,
    Automaton,
    ContextualCounting,
    Dyck,
    EnumerableTask,
    ModularAddition,
    MultiHopRecall,
    Parity,
    Polynomial,
    PromptsOfKind,
    Reasoning,
    TaskConcept,
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
    (Automaton(symbols=3, table=(0, 1, 0, 1, 1, 0)), 4, 81),
    (MultiHopRecall(hops=1, pairs=2, nodes=3), 2, 3 * 2 * 2),  # two nodes, two orders of the pairs, two queries
    (MultiHopRecall(hops=1, pairs=2, nodes=3), 3, 2 * 6 * 3),
    (MultiHopRecall(), 2, 0),  # two hops lead back to the query
    (MultiHopRecall(nodes=4), 5, 0),
    (ModularAddition(p=7), 2, 49),
    (ModularAddition(p=7), 1, 0),
    (Addition(base=7), 3, 7**6),
    (Dyck(depth=9), 4, 14 * 2**4),  # Catalan number 14
    (Dyck(depth=1, kinds=3), 4, 3**4),
    (Dyck(depth=200, kinds=1), 60, math.comb(120, 60) // 61),  # exact beyond floats
]


@pytest.mark.parametrize(("task", "length", "count"), BY_HAND)
def test_counts_worked_out_by_hand(task, length, count):
    assert task.count(length) == count


def test_every_task_has_a_numbering_but_one_whose_kinds_of_prompts_have_it():
    assert {kind for kind in TASKS if not isinstance(kind(), EnumerableTask)} == {TaskConcept}
    assert isinstance(PromptsOfKind(), EnumerableTask)


def contents(task, length, stop):
    return [tuple(row[:stop]) for row in task.enumerate(length, np.arange(task.count(length))).tokens.tolist()]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_texts_of_brackets_are_all_that_reduce_to_nothing(length):
    task = Dyck(pairs=(1, 4), depth=2)
    legal = []
    for word in itertools.product(range(4), repeat=2 * length):
        text = "".join("([)]"[token] for token in word)
        for _ in range(2):  # removing all innermost pairs lowers the depth by one
            text = re.sub(r"\(\)|\[\]", "", text)
        if not text:
            legal.append((4, *word))
    assert contents(task, length, 2 * length + 1) == legal


@pytest.mark.parametrize("length", [2, 3, 4])
def test_pairs_are_all_that_form_one_cycle_with_each_of_their_nodes_asked(length):
    task = MultiHopRecall(hops=1, pairs=(2, 4), nodes=4)

    def is_cycle(pairs):
        node, following = pairs[0][0], dict(pairs)
        visited = [node := following.get(node) for _ in pairs]
        return len(set(visited)) == length and visited[-1] == pairs[0][0]

    edges = [pair for pair in itertools.product(range(4), repeat=2) if pair[0] != pair[1]]
    cycles = [pairs for pairs in itertools.permutations(edges, length) if is_cycle(pairs)]
    expected = [(*itertools.chain(*pairs), first) for pairs in cycles for first in sorted(dict(pairs))]
    assert contents(task, length, 2 * length + 1) == expected


@pytest.mark.parametrize("train_share", [0.3, 0.5])
def test_the_table_of_a_split_is_the_listed_rows_of_this_split(train_share):
    task = ModularAddition(p=6, train_share=train_share)
    everything = task.enumerate(2, np.arange(36))
    assert everything.tokens[:, :2].tolist() == [[a, b] for a in range(6) for b in range(6)]
    for index, split in enumerate(SPLITS):
        rows = everything.tokens[everything.labels["split"] == index]
        assert rows.tolist() == task.table(split).tokens.tolist()


def test_digits_of_both_summands_count_up():
    assert contents(Addition(base=2), 2, 6) == [
        (a, b, 2, c, d, 3) for a, b, c, d in itertools.product((0, 1), repeat=4)
    ]


@pytest.mark.parametrize("task", [Dyck(pairs=60), MultiHopRecall(pairs=12, nodes=40), Addition(digits=15)])
def test_rows_are_numbered_up_to_the_largest_integers(task):
    (length,) = task.sampled_lengths
    assert task.count(length) > 2**63
    rows = task.enumerate(length, np.array([0, 1, 2**62, 2**63 - 2])).tokens.tolist()
    assert rows == sorted(rows)
    assert len({tuple(row) for row in rows}) == 4


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
