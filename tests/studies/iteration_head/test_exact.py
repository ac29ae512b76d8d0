"""Laws of the decisions on all inputs: what the circuit written by hand does, and what a damaged one no longer does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from tests.studies.iteration_head.planted import HEAD, TASK, noisy
from toylab.planted.disguise import add_heads
from toylab.planted.handwritten import iteration_head
from toylab.studies.iteration_head import exact
from toylab.studies.iteration_head.measures import head_edits
from toylab.tasks import Parity, Polynomial, stream
from toylab.training.evaluate import attention_patterns, predict_tokens

LENGTHS = range(1, 5)
INPUTS = 4 + 4**2 + 4**3 + 4**4


@pytest.mark.parametrize(("most", "last"), [(3, 0), (4, 1), (19, 1), (20, 2), (INPUTS - 1, 3), (INPUTS, 4), (10**6, 6)])
def test_lengths_are_taken_as_long_as_all_their_inputs_together_are_few(most, last):
    assert exact.small_lengths(TASK, most) == range(1, last + 1)


def test_lengths_begin_at_the_shortest_of_the_task():
    assert exact.small_lengths(Polynomial(p=5, lengths=(2, 6)), 79) == range(2, 3)
    assert exact.small_inputs(TASK, Parity(lengths=(1, 6), alphabet=5), 20) == {
        "main": "all 20 inputs of length 1 to 2",
        "next": "all 16 inputs of length 2",
        "parity": "all 14 inputs of length 1 to 3",
    }
    assert set(exact.small_inputs(TASK, Parity(lengths=(1, 6), alphabet=5), 1).values()) == {""}


def test_the_circuit_does_on_every_input_what_the_theory_says():
    model = iteration_head(TASK).double()
    decided = exact.edits(exact.answers(model, TASK, LENGTHS, seed=0), model, TASK, LENGTHS, HEAD, seed=0)
    for name in ("answers", "attends", "ideal_pattern", "steered", "zero_ablated_on_inputs"):
        assert getattr(decided, name).share == 1, name
    for name in ("random_weights", "steered_random_weights", "zero_ablated"):
        assert getattr(decided, name).share < 0.1, name
    assert decided.uniform.share < 0.3
    assert decided.answers.inputs == INPUTS
    assert decided.steered.inputs == INPUTS - 4  # of one input, there is no next


def test_without_inputs_nothing_is_decided():
    model = iteration_head(TASK)
    none = exact.answers(model, TASK, range(1, 1), seed=0)
    assert none is None
    assert exact.edits(none, model, TASK, range(1, 1), HEAD, seed=0) is None
    of_one = exact.answers(model, TASK, range(1, 2), seed=0)
    assert exact.edits(of_one, model, TASK, range(1, 2), HEAD, seed=0) == of_one


@fewer(0.2)
@given(seed=st.integers(0, 2**32), noise=st.sampled_from([0.1, 0.3]), backup=st.booleans())
def test_decisions_are_those_of_one_input_after_the_other(seed, noise, backup):
    model = noisy(seed, noise, heads=2)
    head = replace(HEAD, head=1, backups=((1, 0),) if backup else ())
    lengths = range(1, 3)
    decided = exact.edits(exact.answers(model, TASK, lengths, seed), model, TASK, lengths, head, seed)
    edits, heads = head_edits(head), [1, 0] if backup else [1]
    right = attends = steered = kept = 0
    for length in lengths:
        for number in range(4**length):
            batch = TASK.enumerate(length, np.array([number]))
            due, plain = batch.targets[0], predict_tokens(model, batch)[0].numpy()
            scored = due != -100
            right += (plain == due)[scored].all()
            pattern = attention_patterns(model, batch)[1][0, heads]
            attends += all(max(pattern[:, query, key]) > 0.5 for _, query, key in batch.links["carry"])
            ablated = predict_tokens(model, batch, edits["zero_ablated"](batch))[0].numpy()
            kept += (ablated == plain)[scored].all()
            if length > 1:
                inputs, states = batch.tokens[0, 1 : length + 1], batch.tokens[0, length + 2 :]
                moved = predict_tokens(model, batch, edits["one_input_too_far"](batch))[0, length + 1 : 2 * length]
                step = [TASK.first_states(inputs[1:2])[0]]
                step += [TASK.step(states[t - 1 : t], inputs[t + 1 : t + 2])[0] for t in range(1, length - 1)]
                steered += moved.tolist() == step
    assert (decided.answers.holds, decided.attends.holds) == (right, attends)
    assert (decided.zero_ablated.holds, decided.steered.holds) == (kept, steered)


def test_a_backup_that_shares_the_steps_covers_them():
    model = add_heads(iteration_head(TASK).double(), 2, 1, stream(0, "heads"))
    alone = replace(HEAD, head=0)
    share = exact.edits(exact.answers(model, TASK, LENGTHS, 0), model, TASK, LENGTHS, alone, 0).attends.share
    both = replace(alone, backups=((1, 1),))
    assert share < 1
    assert exact.edits(exact.answers(model, TASK, LENGTHS, 0), model, TASK, LENGTHS, both, 0).attends.share == 1


def test_the_smallest_counterexample_is_shown():
    model = iteration_head(TASK)
    with torch.no_grad():
        model.unembedding.weight[1] -= 100  # the state 1 is never answered
    answers = exact.answers(model, TASK, range(1, 3), seed=0).answers
    assert 0 < answers.share < 1
    assert "smallest counterexample" in answers.counterexample
