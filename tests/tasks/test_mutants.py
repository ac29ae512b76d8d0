"""Mutants of every task: the laws that a mutant names catch it, and it differs from its task in nothing else."""

import inspect
import pickle

import pytest

from toylab.console import ToylabError
from toylab.tasks import TASKS, AssociativeRecall, Parity, Task, check, laws, stream, task_laws
from toylab.tasks import mutants as module
from toylab.tasks.mutants import (
    MUTANTS,
    IgnoredSeed,
    LabelsOfFewerRows,
    LinksToTheFuture,
    MaskWithAHole,
    Mutant,
    ShortMask,
    WrongLabels,
    WrongLinks,
    mutants_of,
)

COSTLY = (
    task_laws.another_process_ends_and_draws_the_same_rows,
    task_laws.rows_come_fast_enough,
    task_laws.rows_do_not_depend_on_how_many_are_drawn,
)
"""Laws that take half a second and more: with every task in a slow test, with one in `test_check.py`."""


def cases(costly: bool) -> list:
    return [
        pytest.param(mutant, law, id=f"{kind.__name__}-{type(mutant).__name__}")
        for kind in TASKS
        for mutant in mutants_of(kind())
        for law in mutant.caught_by
        if (law in COSTLY) == costly
    ]


def catches(law, mutant) -> bool:
    """Whether a law speaks on one of ten batches or seeds."""
    for seed in range(10):
        if law in task_laws.TASK_LAWS:
            drawn = ()
        else:
            drawn = (mutant.sample(stream(seed), 20),) if law in laws.BATCH_LAWS else (seed,)
        try:
            law(mutant, *drawn)
        except laws.BrokenLawError:
            return True
        if not drawn:
            return False
    return False


@pytest.mark.parametrize(("mutant", "law"), cases(costly=False))
def test_a_mutant_of_any_task_is_caught_by_the_law_that_it_names(mutant, law):
    assert catches(law, mutant)


@pytest.mark.slow
@pytest.mark.parametrize(("mutant", "law"), cases(costly=True))
def test_a_mutant_of_any_task_is_caught_by_the_costly_law_that_it_names(mutant, law):
    assert catches(law, mutant)


def test_every_mutant_is_listed_and_names_a_law_and_tells_its_fault():
    listed = {kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Mutant)}
    assert listed - {Mutant, WrongLinks} == set(MUTANTS)
    for kind in MUTANTS:
        assert set(kind.caught_by) <= set(check.LAWS)
        assert kind.__doc__ != Mutant.__doc__


def test_every_law_but_three_has_a_mutant():
    without = {law.__name__ for law in check.LAWS} - {law.__name__ for kind in MUTANTS for law in kind.caught_by}
    assert without == {"a_task_keeps_the_protocol", "splits_hold_their_shares", "slices_of_a_batch_are_the_whole"}


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_without_a_fault_a_mutant_is_its_task(kind):
    task, mutant = kind(), Mutant(task=kind())
    assert isinstance(mutant, Task)
    assert laws.equal_batches(mutant.sample(stream(3), 7, "test"), task.sample(stream(3), 7, "test"))
    prompt = laws.prompts_of(task.sample(stream(3), 1))[0]
    assert mutant.solve(prompt) == task.solve(prompt)
    for name in ("score_padding", "causal", "items", "interleaved"):
        assert getattr(mutant, name, None) == getattr(task, name, None)
    for name in ("split_key", "label_oracle"):
        assert hasattr(mutant, name) == hasattr(task, name)
        assert not hasattr(task, name) or getattr(mutant, name)(prompt) == getattr(task, name)(prompt)
    assert pickle.loads(pickle.dumps(mutant)) == mutant != Mutant(task=Parity(lengths=2))
    with pytest.raises(AttributeError, match="nowhere"):
        _ = mutant.nowhere


@pytest.mark.parametrize(
    ("task", "absent"),
    [
        (Parity(lengths=(4, 7), score_padding=True), {ShortMask}),
        (AssociativeRecall(), {MaskWithAHole}),
        (Parity(lengths=(4, 7)), set()),
    ],
    ids=str,
)
def test_a_task_has_no_mutant_of_what_it_lacks(task, absent):
    assert set(MUTANTS) - {type(mutant) for mutant in mutants_of(task)} == absent


class Bare(Mutant):
    """Neither links nor labels."""

    def changes(self, batch):
        return {"links": {}, "labels": {}}


def test_a_task_without_links_and_labels_has_no_mutants_of_them():
    kinds = {type(mutant) for mutant in mutants_of(Bare(task=Parity()))}
    assert not {kind for kind in kinds if issubclass(kind, WrongLinks | LabelsOfFewerRows | WrongLabels)}


def test_links_of_a_task_that_is_not_causal_may_point_to_the_future():
    class Bidirectional(Mutant):
        causal = False

    kinds = {type(mutant) for mutant in mutants_of(Bidirectional(task=Parity()))}
    assert LinksToTheFuture not in kinds
    assert IgnoredSeed in kinds


def test_a_class_in_place_of_a_task_is_refused():
    with pytest.raises(ToylabError, match=r"task=Parity: is a class; give an instance"):
        Mutant(task=Parity)
