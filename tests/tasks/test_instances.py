"""Laws of instances: a task drawn with a seed differs in what it draws alone, and is the same for the same seed."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given

from toylab.tasks import NO_POSITION, Polynomial, Reasoning, TaskConcept, stream
from toylab.tasks.base import DeferredLinks
from toylab.tasks.strategies import seeds


@given(seeds)
def test_a_drawn_polynomial_depends_on_both_arguments(seed):
    task = Polynomial().instance(seed)
    states, inputs = np.meshgrid(np.arange(task.p), np.arange(task.p), indexing="ij")
    table = task.step(states, inputs)
    assert any(len(set(column)) > 1 for column in table.T.tolist()), "of the state"
    assert any(len(set(row)) > 1 for row in table.tolist()), "of the input"
    assert dataclasses.replace(task, coefficients=Polynomial().coefficients) == Polynomial()
    assert task == Polynomial().instance(seed)


def test_many_polynomials_are_drawn_and_none_leaves_out_a_coefficient():
    drawn = {Polynomial().instance(seed).coefficients for seed in range(200)}
    assert len(drawn) > 190
    assert all({one[k] for one in drawn} == set(range(11)) for k in range(4))


@pytest.mark.parametrize(("task", "piece"), [(TaskConcept(), "bijections"), (Reasoning(), "permutation")])
def test_other_tasks_draw_what_their_seed_draws(task, piece):
    other = task.instance(5)
    assert dataclasses.replace(other, seed=task.seed) == task
    assert (getattr(other, piece) != getattr(task, piece)).any()


def test_links_are_computed_once_when_they_are_read_and_survive_a_pickle():
    calls = []
    links = DeferredLinks(lambda: calls.append(1) or {"a": np.zeros((2, 3), dtype=np.int64)})
    assert not calls
    assert (len(links), list(links), links["a"].shape) == (1, ["a"], (2, 3))
    assert len(calls) == 1
    batch = Polynomial().sample(stream(0), 4)
    again = pickle.loads(pickle.dumps(batch))
    assert {name: edges.tolist() for name, edges in again.links.items()} == {
        name: edges.tolist() for name, edges in batch.links.items()
    }
    assert NO_POSITION not in again.links["carry"]
