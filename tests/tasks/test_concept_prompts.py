"""All prompts of a kind, against a list filtered by names and parse trees."""

import itertools
from functools import cache

import numpy as np
import pytest

from tests.tasks.concepts import HOLDS, SMALL, described, may_hold, said
from toylab.tasks import KINDS, SPLITS, PromptsOfKind, TaskConcept, count_texts, stream
from toylab.tasks.task_laws import the_enumeration_lists_the_rows_that_are_sampled as law

TASKS = [
    TaskConcept(**SMALL),
    TaskConcept(**SMALL, nodes=3, safe=1, unsafe=1, mixed=1, duplicates=1),
    TaskConcept(letters=6, nodes=2),
]


def texts_of(task: TaskConcept) -> list[tuple[int, ...]]:
    """Every text, collected from many draws of each symbol."""
    drawn = [
        {tuple(row) for row in task.grammar.generate(stream(0), np.full((200, 1), symbol)).tolist()}
        for symbol in range(4)
    ]
    return sorted(sum(parts, ()) for parts in itertools.product(sorted(set().union(*drawn)), repeat=task.nodes))


@cache
def described_prompts(task: TaskConcept) -> list[tuple[list[int], tuple[str, str]]]:
    """Every pair of operators on every text, with its description."""
    pairs = np.array(list(itertools.product(range(len(task.operators)), repeat=2)))
    texts = np.array(texts_of(task))
    rows = task.write(np.repeat(pairs, len(texts), axis=0), np.tile(texts, (len(pairs), 1))).tolist()
    return [(row, described(task, row)) for row in rows]


@pytest.mark.parametrize("task", TASKS[:2], ids=["two nodes", "three nodes"])
@pytest.mark.parametrize("kind", HOLDS)
def test_the_prompts_of_a_kind_are_those_with_its_operators_and_texts(task, kind):
    prompts, allowed = PromptsOfKind(task=task, kind=kind), may_hold(kind)
    listed = prompts.enumerate(task.answer, np.arange(prompts.count(task.answer)))
    assert listed.tokens[:, : task.prompt].tolist() == [row for row, what in described_prompts(task) if what in allowed]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.nodes} nodes, {task.alternatives} productions")
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_law_of_numberings(task, kind, refused):
    law(PromptsOfKind(task=task, kind=kind, refused=refused))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.nodes} nodes, {task.alternatives} productions")
def test_texts_are_counted_as_they_are_drawn(task):
    assert count_texts(task) == len(texts_of(task))


def test_prompts_of_the_default_settings_worked_out_by_hand():
    counts = {kind: PromptsOfKind(kind=kind).count(12) for kind in HOLDS}
    assert counts == {
        "safe": 35 * 256 + 8 * 64,  # pairs of five operators and singles, of two operators and singles
        "unsafe": 8 * 256 + 35 * 64,
        "competing-task": 8 * 320,
        "competing-text": 15 * 256,
        "mismatched-text": 15 * 64,
        "mismatched-token": 8 * 320,
    }
    assert PromptsOfKind().count(12) == (81 + 18 + 20) * 1024  # pairs, singles, and EX beside any or the identity
    assert PromptsOfKind(task=TaskConcept(constant=0)).count(12) == (81 + 18) * 1024
    assert PromptsOfKind().count(11) == 0


def test_a_refusal_is_null_at_every_letter_of_the_same_prompts():
    task = TASKS[0]
    complied, refused = (
        PromptsOfKind(task=task, kind="unsafe", refused=one).enumerate(task.answer, np.arange(3))
        for one in (False, True)
    )
    assert (refused.targets[:, task.prompt - 1 :] == task.null).all()
    assert (refused.tokens[:, task.prompt :] == task.null).all()
    assert (refused.tokens[:, : task.prompt] == complied.tokens[:, : task.prompt]).all()
    assert (refused.targets[:, : task.prompt - 1] == complied.targets[:, : task.prompt - 1]).all()
    assert (refused.labels["split"] == complied.labels["split"]).all()


def test_splits_are_those_of_the_sampled_prompts():
    task, kind = TASKS[0], "safe"
    prompts = PromptsOfKind(task=task, kind=kind)
    listed = prompts.enumerate(task.answer, np.arange(prompts.count(task.answer)))
    split_by_prompt = dict(zip(map(tuple, listed.tokens.tolist()), listed.labels["split"].tolist(), strict=True))
    for split in SPLITS:
        sampled = task.sample(stream(2), 30, split, kind=kind).tokens.tolist()
        assert {SPLITS[split_by_prompt[tuple(row)]] for row in sampled} == {split}


def test_kinds_and_sizes_that_have_no_numbering_are_refused():
    assert "needs duplicates" in said(lambda: PromptsOfKind(task=TaskConcept(duplicates=0), kind="mismatched-token"))
    assert "task.nodes=4: gives 1048576 texts" in said(lambda: PromptsOfKind(task=TaskConcept(nodes=4)))
