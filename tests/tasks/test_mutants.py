"""Mutants of every task: the laws that a mutant names catch it, and it differs from its task in nothing else."""

import pickle
from dataclasses import dataclass, replace

import pytest

from toylab.console import ToylabError
from toylab.tasks import TASKS, AssociativeRecall, Parity, Task, check, laws, stream, task_laws
from toylab.tasks.mutants import FAULTS, Fault, Mutant, mutants_of

COSTLY = (
    task_laws.another_process_ends_and_draws_the_same_rows,
    task_laws.rows_come_fast_enough,
    task_laws.rows_do_not_depend_on_how_many_are_drawn,
)
"""Laws that take half a second and more: with every task in a slow test, with one in `test_check.py`."""


def cases(costly: bool) -> list:
    return [
        pytest.param(mutant, id=f"{kind.__name__}-{mutant.fault}")
        for kind in TASKS
        for mutant in mutants_of(kind())
        if (mutant.caught_by in COSTLY) == costly
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


@pytest.mark.parametrize("mutant", cases(costly=False))
def test_a_mutant_of_any_task_is_caught_by_the_law_that_it_names(mutant):
    assert catches(mutant.caught_by, mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", cases(costly=True))
def test_a_mutant_of_any_task_is_caught_by_the_costly_law_that_it_names(mutant):
    assert catches(mutant.caught_by, mutant)


def test_every_law_but_some_has_a_fault_and_these_have_broken_tasks_of_their_own():
    without = {law.__name__ for law in check.LAWS} - {fault.caught_by.__name__ for fault in FAULTS.values()}
    assert without == {
        "a_task_keeps_the_protocol",
        "a_task_is_immutable_and_its_fields_are_its_identity",
        "a_pickled_task_is_the_same_task",
        "splits_hold_their_shares",
        "slices_of_a_batch_are_the_whole",
        "the_enumeration_lists_the_rows_that_are_sampled",
    }


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_without_a_fault_a_mutant_is_its_task(kind, monkeypatch):
    monkeypatch.setitem(FAULTS, "none", Fault(laws.no_prompt_is_in_two_splits))
    task, mutant = kind(), Mutant(task=kind(), fault="none")
    assert isinstance(mutant, Task)
    assert laws.equal_batches(mutant.sample(stream(3), 7, "test"), task.sample(stream(3), 7, "test"))
    prompt = laws.prompts_of(task.sample(stream(3), 1))[0]
    assert mutant.solve(prompt) == task.solve(prompt)
    for name in ("score_padding", "causal", "items", "interleaved"):
        assert getattr(mutant, name, None) == getattr(task, name, None)
    for name in ("split_key", "label_oracle"):
        assert hasattr(mutant, name) == hasattr(task, name)
        assert not hasattr(task, name) or getattr(mutant, name)(prompt) == getattr(task, name)(prompt)
    assert pickle.loads(pickle.dumps(mutant)) == mutant != replace(mutant, task=Parity(lengths=2))
    with pytest.raises(AttributeError, match="nowhere"):
        _ = mutant.nowhere


@dataclass(frozen=True, kw_only=True)
class Bare(Parity):
    """Neither links nor labels, and one split."""

    def sample(self, rng, rows, split="train", **others):
        if split != "train":
            raise ToylabError("split: is empty")
        return replace(super().sample(rng, rows, split, **others), links={}, labels={})


class Bidirectional(Parity):
    causal = False


@pytest.mark.parametrize(
    ("task", "absent"),
    [
        (Parity(lengths=(4, 7)), ""),
        (Parity(lengths=(4, 7), score_padding=True), "short mask"),
        (AssociativeRecall(), "mask with a hole"),
        (Bidirectional(), "link to the future"),
        (Bare(), "link to the future, link of the next row, unsorted links, repeated links, labels of fewer rows, "
                 "wrong labels, leaked split"),
    ],
    ids=str,
)  # fmt: skip
def test_a_task_has_no_mutant_of_what_it_lacks(task, absent):
    assert ", ".join(name for name in FAULTS if name not in {mutant.fault for mutant in mutants_of(task)}) == absent


def test_a_class_in_place_of_a_task_and_an_unknown_fault_are_refused():
    with pytest.raises(ToylabError, match=r"task=Parity: is a class; give an instance"):
        Mutant(task=Parity, fault="one seed")
    with pytest.raises(ToylabError, match="there is no fault 'two seeds'; did you mean one seed"):
        Mutant(task=Parity(), fault="two seeds")
