"""Laws of measuring: each number once more in a slow loop, and circuits whose answer is known."""

import itertools
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.examples import fewer
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.layers import BlockList
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.probes import edit, find_iteration_head, link_mass
from toylab.survey import copy_accuracy, survey
from toylab.tasks import IGNORE, ITERATED_MAPS, Parity, Polynomial, split_of
from toylab.training import evaluate

SEEDS = st.integers(0, 2**32)
TASK = Polynomial(p=5, lengths=(1, 6))


@pytest.fixture(scope="module")
def circuit() -> Transformer:
    return iteration_head(TASK).double()


@pytest.fixture(scope="module")
def batches() -> dict:
    return evaluate.by_length(TASK, 0, range(4, 7), 10)


def noisy(seed: int, noise: float) -> Transformer:
    """The circuit with noise on all weights: right here, wrong there."""
    model, source = iteration_head(TASK).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return model


# Accuracy ------------------------------------------------------------------------------------------------------------


@fewer(0.25)
@given(SEEDS, st.sampled_from([0.0, 0.04, 0.05, 0.06, 0.3]))
def test_accuracy_is_what_a_slow_loop_counts(batches, seed, noise):
    model = noisy(seed, noise)
    sequences, tokens, states = [], [], []
    for batch in batches.values():
        right_rows, right, scored, states_right, written = 0, 0, 0, 0, 0
        for row in range(len(batch)):
            size = int(batch.sizes[row])
            guesses = model(torch.from_numpy(batch.tokens[row : row + 1, :size]))[0].argmax(dim=-1).tolist()
            pairs = [(g, t) for g, t in zip(guesses, batch.targets[row, :size].tolist(), strict=True) if t != IGNORE]
            right += sum(g == t for g, t in pairs)
            scored += len(pairs)
            right_rows += all(g == t for g, t in pairs)
            states_right += sum(g == t for g, t in pairs if t != TASK.end_of_sequence)
            written += sum(t != TASK.end_of_sequence for _, t in pairs)
        sequences.append(right_rows / len(batch))
        tokens.append(right / scored)
        states.append(states_right / written)
    found = evaluate.accuracy(model, batches)
    assert found.sequence == pytest.approx(np.mean(sequences))
    assert found.token == pytest.approx(np.mean(tokens))
    assert found.state == pytest.approx(np.mean(states))


@fewer(0.3)
@given(SEEDS, st.sampled_from([0.0, 0.03, 0.04, 0.05, 0.06]))
def test_sequences_right_given_the_truth_are_those_right_in_free_writing(batches, seed, noise):
    model = noisy(seed, noise)
    free = evaluate.free_running_accuracy(model, TASK, batches)
    assert list(free) == list(batches)
    assert np.mean(list(free.values())) == pytest.approx(evaluate.accuracy(model, batches).sequence)


def test_the_noisy_circuits_of_these_tests_are_right_here_and_wrong_there(batches):
    shares = [evaluate.accuracy(noisy(seed, 0.05), batches).sequence for seed in range(4)]
    assert any(0 < share < 1 for share in shares)


@pytest.mark.parametrize("kind", ITERATED_MAPS)
@pytest.mark.parametrize("chain", [True, False])
def test_free_writing_is_compared_with_the_oracle(kind, chain):
    task = kind(lengths=(2, 5), chain_of_thought=chain)
    held = evaluate.by_length(task, 0, range(4, 6), 6)

    class Oracle(nn.Module):
        """Writes what the task says, except on the first prompt of a batch."""

        def forward(self, tokens, cache=None):
            before = getattr(cache, "tokens", tokens[:, :0])
            cache.tokens = torch.cat([before, tokens], dim=1)
            logits = torch.zeros(*tokens.shape, len(task.vocabulary))
            for row, written in enumerate(cache.tokens.tolist()):
                length = written.index(task.end_of_input) - 1
                answer = task.solve(written[: length + 2])[len(written) - length - 2]
                logits[row, -1, answer if row else (answer + 1) % len(task.vocabulary)] = 1
            return logits

    shares = evaluate.free_running_accuracy(Oracle(), task, held)
    assert shares == {length: pytest.approx(1 - 1 / len(batch)) for length, batch in held.items()}


def test_measuring_changes_nothing(circuit, batches):
    before = [p.clone() for p in circuit.parameters()]
    evaluate.evaluation_metrics(circuit, batches)
    evaluate.free_running_accuracy(circuit, TASK, batches)
    evaluate.search_iteration_head(circuit, batches)
    assert all(torch.equal(p, q) for p, q in zip(circuit.parameters(), before, strict=True))
    assert all(p.grad is None for p in circuit.parameters())
    assert not any(module._forward_hooks for module in circuit.modules())


# What is held out ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**20), st.integers(1, 40), st.sampled_from(["test", "validation"]))
def test_held_out_prompts_are_different_ones_of_their_split(seed, rows, split):
    task = Parity(lengths=(1, 8))
    held = evaluate.by_length(task, seed, range(1, 9), rows, split)
    for length in range(1, 9):
        capacity = task.capacity(length, split)
        assert (length in held) == (capacity > 0)
        if capacity:
            inputs = held[length].tokens[:, 1 : length + 1]
            assert len(inputs) == min(rows, capacity) == len({tuple(row) for row in inputs.tolist()})
            assert set(split_of(inputs).tolist()) == {("train", "validation", "test").index(split)}
    again = evaluate.by_length(task, seed, range(1, 9), rows, split)
    assert all((again[length].tokens == batch.tokens).all() for length, batch in held.items())


def test_held_out_takes_all_that_a_split_holds_and_refuses_to_take_none():
    """A split of some 4,096 prompts gives 3,000 different ones, and all of them if more are asked for."""
    every = np.array(list(itertools.product((0, 1), repeat=15)))
    held = int((split_of(every) == 2).sum())
    for rows in (3000, held + 1):
        inputs = evaluate.by_length(Parity(), 0, [15], rows)[15].tokens[:, 1:16]
        assert len(inputs) == len(np.unique(inputs, axis=0)) == min(rows, held)
        assert set(split_of(inputs).tolist()) == {2}
    with pytest.raises(ValueError, match="rows=0: must be at least 1"):
        evaluate.by_length(Parity(), 0, [15], 0)


# Heads ---------------------------------------------------------------------------------------------------------------


def test_patterns_come_a_layer_each_and_are_those_of_the_model(circuit, batches):
    batch = batches[5]
    found = evaluate.attention_patterns(circuit, batch)
    assert len(found) == 2
    seen = {}
    keep = {f"blocks.{n}.attn.pattern": lambda p, n=n: seen.setdefault(n, p.clone()) for n in range(2)}
    with edit(circuit, keep), torch.no_grad():
        circuit(torch.from_numpy(batch.tokens))
    assert all(torch.equal(found[n], seen[n]) for n in range(2))


@fewer(0.2)
@given(SEEDS, st.integers(1, 3), st.integers(1, 2))
def test_progress_repeats_what_the_detector_and_the_accuracy_say(batches, seed, layers, heads):
    model = Transformer.for_task(TASK, ModelConfig(layers=layers, heads=heads, width=8), seed).double()
    found, accuracy = evaluate.evaluation_metrics(model, batches), evaluate.accuracy(model, batches)
    assert (found["accuracy"], found["token_accuracy"]) == (accuracy.sequence, accuracy.token)
    patterns = {length: evaluate.attention_patterns(model, batch) for length, batch in batches.items()}
    head = find_iteration_head(patterns, {length: batch.links for length, batch in batches.items()})
    assert found["carry"] == head.carry
    assert head == evaluate.search_iteration_head(model, batches)
    best = []
    for layer in range(layers - 1):  # of all layers but the last, the best head of each length
        by_length = []
        for length, batch in batches.items():
            pattern, links = patterns[length][layer], batch.links["end of input"].tolist()
            by_length.append(max(np.mean([pattern[r, h, q, k].item() for r, q, k in links]) for h in range(heads)))
        best.append(np.mean(by_length))
    assert found["end_of_input"] == pytest.approx(max(best, default=0.0))


def test_progress_counts_an_end_of_input_head_in_a_layer_before_the_last_alone(circuit, batches):
    turned = deepcopy(circuit)
    turned.blocks = BlockList(reversed(turned.blocks))
    last = evaluate.attention_patterns(turned, batches[5])[-1]
    assert link_mass(last, batches[5].links["end of input"]) == pytest.approx(1)
    assert evaluate.evaluation_metrics(circuit, batches)["end_of_input"] == pytest.approx(1)
    assert evaluate.evaluation_metrics(turned, batches)["end_of_input"] < 0.25


def test_progress_of_one_length_or_without_written_states_speaks_of_accuracy_alone(circuit, batches):
    assert set(evaluate.evaluation_metrics(circuit, {4: batches[4]})) == {"accuracy", "token_accuracy"}
    task = replace(TASK, chain_of_thought=False)
    model = Transformer.for_task(task)
    assert set(evaluate.evaluation_metrics(model, evaluate.by_length(task, 0, [4, 5], 4))) == {
        "accuracy",
        "token_accuracy",
    }


# Edits ---------------------------------------------------------------------------------------------------------------


def test_an_edit_of_an_answer_is_seen_by_free_writing_as_well(circuit, batches):
    batch = batches[4]
    prompt = torch.from_numpy(batch.tokens[:, :6])
    with edit(circuit, {"blocks.1.attn.z": torch.zeros_like}):
        silenced = generate(circuit, prompt, 5)
    assert not (silenced == generate(circuit, prompt, 5)).all(dim=1).any()


# What is no number ---------------------------------------------------------------------------------------------------


def test_an_accuracy_of_logits_that_are_nan_or_of_nothing_is_refused(circuit, batches):
    def one_nan(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[0, -1, 0] = np.nan
        return logits

    batch = batches[4]
    edits = {"unembedding": one_nan}
    for measure in (
        lambda: evaluate.predict_tokens(circuit, batch, edits),
        lambda: evaluate.accuracy(circuit, {4: batch}, lambda _: edits),
    ):
        with pytest.raises(ToylabError, match="logits: are nan"):
            measure()
    with edit(circuit, edits):
        for measure in (
            lambda: evaluate.evaluation_metrics(circuit, {4: batch}),
            lambda: evaluate.free_running_accuracy(circuit, TASK, {4: batch}),
            lambda: survey(circuit, batch),
            lambda: copy_accuracy(circuit, batch, batch.links["carry"]),
        ):
            with pytest.raises(ToylabError, match="logits: are nan"):
                measure()
    unscored = replace(batch, targets=np.full_like(batch.targets, IGNORE))
    for measure in (lambda: evaluate.accuracy(circuit, {4: unscored}), lambda: survey(circuit, unscored)):
        with pytest.raises(ToylabError, match=r"targets: .*nothing is scored"):
            measure()
    with pytest.raises(ToylabError, match="batches: none"):
        evaluate.accuracy(circuit, {})
