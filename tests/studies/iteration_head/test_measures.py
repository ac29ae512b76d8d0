"""Laws of the causal tests: each is the edit that its name says, and each theory holds of the circuit that has it."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from tests.studies.iteration_head.planted import HEAD, TASK, held_out, noisy
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.disguise import add_heads
from toylab.planted.handwritten import iteration_head
from toylab.studies.iteration_head import measures as interventions
from toylab.studies.iteration_head.measures import Emergence, mean_over
from toylab.tasks import ITERATED_MAPS, Batch, IteratedMap, ModularSum, stream
from toylab.training import evaluate
from toylab.training.evaluate import Accuracy

SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def batches() -> dict[int, Batch]:
    return held_out(TASK, range(4, 7), 10)


# Causal tests --------------------------------------------------------------------------------------------------------


def test_each_edit_does_to_the_circuit_what_the_theory_says(batches):
    found = interventions.causal_tests(iteration_head(TASK).double(), batches, HEAD).by_title()
    for name in ("unedited", "zero ablated on inputs", "ideal pattern", "first layer ideal pattern"):
        assert set(vars(found[name]).values()) == {1.0}, name
    for name in ("zero ablated", "zero ablated alone", "uniform", "first layer zero ablated"):
        assert found[name].sequence == 0, name
        assert found[name].token < 0.7, name


def silent(head: int, queries) -> dict:
    """At `z`: this head writes nothing at these queries."""

    def change(z):
        z = z.clone()
        for query in queries:
            z[:, query, head] = 0
        return z

    return change


def reading(head: int, keys_of: dict[int, list[int]]):
    """At `pattern`: this head reads these keys."""

    def change(pattern):
        pattern = pattern.clone()
        for query, keys in keys_of.items():
            pattern[:, head, query] = 0
            for key in keys:
                pattern[:, head, query, key] = 1 / len(keys)
        return pattern

    return change


def of_heads(point: str, heads: dict[int, list[int]], kind, places) -> dict:
    """One edit of each head after the other, at a point of their layers."""

    def of_layer(layer: int):
        edits = [kind(head, places) for head in heads[layer]]
        return lambda x: functools.reduce(lambda y, change: change(y), edits, x)

    return {f"blocks.{layer}.attn.{point}": of_layer(layer) for layer in heads}


@pytest.mark.parametrize(("seed", "backups", "first"), [(0, ((0, 1),), 1), (1, ((1, 0),), 0)])
def test_each_causal_test_is_the_edit_that_its_name_says(batches, seed, backups, first):
    """The circuit is head 1 of both layers, beside one that attends at random."""
    model = noisy(seed, 0.06, heads=2)
    head = replace(HEAD, head=1, end_of_input_at=(0, first), backups=backups)
    heads = {layer: [h for at, h in [(1, 1), *backups] if at == layer] for layer in (0, 1)}

    def by_hand(name: str, batch: Batch) -> dict:
        length, size = int(batch.labels["length"][0]), batch.tokens.shape[1]
        end = length + 1
        answers = range(end, size)
        steps = {end + t - 1: [t] for t in range(1, length + 1)}
        return {
            "unedited": {},
            "zero ablated": of_heads("z", heads, silent, answers),
            "zero ablated alone": {"blocks.1.attn.z": silent(1, answers)},
            "uniform": of_heads("pattern", heads, reading, {q: list(range(q + 1)) for q in answers}),
            "zero ablated on inputs": of_heads("z", heads, silent, range(end)),
            "ideal pattern": of_heads("pattern", heads, reading, {**steps, 2 * length + 1: [end]}),
            "first layer zero ablated": {"blocks.0.attn.z": silent(first, answers)},
            "first layer ideal pattern": {"blocks.0.attn.pattern": reading(first, {q: [end] for q in answers})},
        }[name]

    found = interventions.causal_tests(model, batches, head).by_title()
    assert len(found) == 8
    for name, measured in found.items():
        assert measured == evaluate.accuracy(model, batches, lambda batch, name=name: by_hand(name, batch)), name


def test_a_planted_backup_hides_what_the_head_does_until_it_is_zeroed_too(batches):
    """Two heads read x_t and bring back half of it each; one half is enough."""
    model = add_heads(iteration_head(TASK).double(), 2, 0, stream(0, "heads"))
    read = model.blocks[1].attn
    size = read.query.weight.shape[0] // 2
    with torch.no_grad():
        for linear in (read.query, read.key, read.value):
            linear.weight[size:], linear.bias[size:] = linear.weight[:size], linear.bias[:size]
        read.output.weight /= 2
        read.output.weight[:, size:] = read.output.weight[:, :size]
    alone, both = (
        interventions.causal_tests(model, batches, replace(HEAD, backups=backups)) for backups in ((), ((1, 1),))
    )
    assert alone.unedited.sequence == both.unedited.sequence == 1
    assert alone.zero_ablated == alone.zero_ablated_alone == both.zero_ablated_alone
    assert both.zero_ablated_alone.sequence == 1
    assert both.zero_ablated.sequence == 0


def test_without_an_earlier_head_only_the_iteration_head_is_tested(batches):
    circuit = iteration_head(TASK).double()
    found = interventions.causal_tests(circuit, batches, replace(HEAD, end_of_input_at=None)).by_title()
    assert list(found) == [
        "unedited",
        "zero ablated",
        "zero ablated alone",
        "uniform",
        "zero ablated on inputs",
        "ideal pattern",
    ]
    assert found["ideal pattern"].sequence == 1


def test_the_textbook_head_reads_one_place_at_every_answer(batches):
    for length, batch in batches.items():
        reads = {(row, query): key for row, query, key in interventions.ideal_links(batch).tolist()}
        assert len(reads) == len(interventions.ideal_links(batch)) == (length + 1) * len(batch)
        for (_, query), key in reads.items():
            assert key == query - length  # x_t from EoI + t - 1, and EoI itself after the last state


def test_an_ideal_pattern_repairs_a_circuit_whose_own_search_is_cut(batches):
    """The search for x_t, or that for the end of the input."""
    for layer, repaired in ((1, "ideal_pattern"), (0, "first_layer_ideal_pattern")):
        model = iteration_head(TASK).double()
        with torch.no_grad():
            model.blocks[layer].attn.query.weight.zero_()
            model.blocks[layer].attn.query.bias.zero_()
        found = interventions.causal_tests(model, batches, HEAD)
        assert found.unedited.sequence < 0.1
        assert getattr(found, repaired).sequence == 1


def test_a_head_that_does_nothing_can_be_edited_without_loss(batches):
    model = iteration_head(TASK).double()
    idle = replace(HEAD, layer=0, end_of_input_at=None)
    with torch.no_grad():
        model.blocks[0].attn.output.weight.zero_()
    found = interventions.causal_tests(model, batches, idle).by_title()
    assert len(set(found.values())) == 1


def test_measuring_leaves_the_model_as_it_was(batches):
    model = iteration_head(TASK).double()
    before = [p.clone() for p in model.parameters()]
    interventions.causal_tests(model, batches, HEAD)
    interventions.steered_share(model, TASK, batches, HEAD)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


# Steering ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ITERATED_MAPS)
@pytest.mark.parametrize("start", ["first-input", "zero"])
def test_a_circuit_steered_to_the_next_input_answers_with_it(kind, start):
    task = kind(lengths=(1, 6), start=start)
    held = held_out(task, range(4, 7), 4)
    assert interventions.steered_share(iteration_head(task).double(), task, held, HEAD) == 1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("backups", [(), ((0, 1), (1, 0))])
def test_the_covered_share_is_that_of_steps_in_which_some_head_has_over_half(seed, backups):
    model, head = noisy(seed, 0.1, heads=2), replace(HEAD, head=1, backups=backups)
    batches, shares = held_out(TASK, [4], 3) | held_out(TASK, [6], 5), []
    for length, batch in batches.items():
        patterns, hits = evaluate.attention_patterns(model, batch), []
        for row in range(len(batch)):
            for t in range(1, length + 1):
                attention = [patterns[a][row, b, length + t, t].item() for a, b in ((1, 1), *backups)]
                hits.append(any(x > 0.5 for x in attention))
        shares.append(sum(hits) / len(hits))
    assert interventions.covered_share(model, batches, head) == pytest.approx(sum(shares) / 2)


@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_a_circuit_that_subtracts_is_steered_from_its_first_layer(kind):
    task = kind(lengths=(1, 6))
    held, model = held_out(task, range(4, 7), 4), iteration_head(task).double()
    assert interventions.steered_upstream(model, task, held, -1) == 1
    assert interventions.steered_upstream(model, task, held, 0) == pytest.approx(
        np.mean([(states_as_they_are(task, b) == next_states(task, b))[:, 1:-1].mean() for b in held.values()])
    )
    unordered = Transformer.for_task(task, ModelConfig(positions="none", width=12, heads=1), 0)
    assert interventions.steered_upstream(unordered, task, held, -1) is None


def states_as_they_are(task: IteratedMap, batch: Batch) -> np.ndarray:
    words = batch.tokens[:, 1 : int(batch.labels["length"][0]) + 1].tolist()
    return np.array([task.trace(word, None)[:-1] for word in words])


def next_states(task: IteratedMap, batch: Batch) -> np.ndarray:
    words = batch.tokens[:, 1 : int(batch.labels["length"][0]) + 1].tolist()
    return np.array([[task.trace([*w[:t], w[t + 1]], None)[-1] for t in range(len(w) - 1)] for w in words])


def test_a_model_that_does_not_read_through_the_head_is_not_steered(batches):
    model = iteration_head(TASK).double()
    with torch.no_grad():
        model.blocks[1].attn.value.weight.zero_()
    assert interventions.steered_share(model, TASK, batches, HEAD) < 0.5


@pytest.mark.parametrize("backups", [(), ((0, 1), (1, 0))])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_steered_share_is_the_mean_over_lengths_of_what_a_slow_loop_counts(seed, backups):
    model, head = noisy(seed, 0.06, heads=2), replace(HEAD, head=1, backups=backups)
    batches, shares = held_out(TASK, [4], 3) | held_out(TASK, [6], 5), []
    heads = {layer: [h for at, h in [(1, 1), *backups] if at == layer] for layer in (0, 1)}
    for length, batch in batches.items():
        edits = of_heads("pattern", heads, reading, {length + t: [t + 1] for t in range(1, length)})
        said, right = evaluate.predict_tokens(model, batch, edits), []
        for row, tokens in enumerate(batch.tokens.tolist()):
            word = tokens[1 : length + 1]
            right += [
                said[row, length + t].item() == TASK.trace([*word[: t - 1], word[t]], None)[-1]
                for t in range(1, length)
            ]
        shares.append(sum(right) / len(right))
    assert 0 < sum(shares) / 2 < 1
    assert shares[0] != shares[1]
    assert interventions.steered_share(model, TASK, batches, head) == pytest.approx(sum(shares) / 2)


@given(SEEDS, st.sampled_from(ITERATED_MAPS), st.sampled_from(["first-input", "zero"]), st.integers(2, 9))
def test_states_of_the_next_input_are_those_of_a_word_with_one_input_left_out(seed, kind, start, length):
    task = kind(lengths=length, start=start)
    inputs = stream(seed, "inputs").choice(task.inputs, size=(3, length))
    found = interventions.states_of_next_input(task, task.batch(inputs, np.full(3, length)))
    first = None if start == "first-input" else 0
    assert found.shape == (3, length - 1)
    for row, word in enumerate(inputs.tolist()):
        for t in range(1, length):
            # s_{t-1} is the state of x_1 .. x_{t-1}; then x_t is left out and x_{t+1} read in its place.
            assert found[row, t - 1] == task.trace([*word[: t - 1], word[t]], first)[-1]


# Single numbers ------------------------------------------------------------------------------------------------------


@fewer(0.3)
@given(SEEDS, st.integers(0, 1))
def test_mass_by_symbol_is_what_a_slow_loop_finds(seed, layer):
    task: IteratedMap = ModularSum(p=3, lengths=6)
    model = Transformer.for_task(task, ModelConfig(width=8), seed).double()
    batch = task.sample(stream(seed, "rows"), 9)
    pattern = evaluate.attention_patterns(model, batch)[layer]
    masses = {}
    for row in range(len(batch)):
        for t in range(1, 7):
            masses.setdefault(int(batch.tokens[row, t]), []).append(pattern[row, 1, 7 + t - 1, t].item())
    found = interventions.mass_by_symbol(model, batch, replace(HEAD, layer=layer, head=1))
    assert found == {symbol: pytest.approx(np.mean(held)) for symbol, held in masses.items()}
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("steps", "in_order"),
    [
        ((1, 2, 3), True),
        ((2, 2, 3), True),
        ((2, 3, 3), True),
        ((2, 2, 2), False),
        ((3, 2, 4), False),
        ((1, 3, 2), False),
        ((2, 1, 1), False),
    ],
)
def test_parts_emerge_in_order_where_none_comes_before_its_cause(steps, in_order):
    assert Emergence(**dict(zip(("end_of_input", "carry", "accuracy"), steps, strict=True))).in_order == in_order


def test_the_mean_over_lengths_weighs_each_length_once():
    assert mean_over({4: 1.0, 5: 0.5, 9: 0.0}) == 0.5
    assert mean_over({7: 0.25}) == 0.25


def test_tests_that_were_not_made_have_no_title():
    one = Accuracy(sequence=0.1, token=0.2, state=0.3)
    made = interventions.CausalTests(
        unedited=one,
        zero_ablated=one,
        zero_ablated_alone=one,
        uniform=one,
        zero_ablated_on_inputs=one,
        ideal_pattern=one,
    )
    assert "first layer zero ablated" not in made.by_title()
    assert "first layer zero ablated" in replace(made, first_layer_zero_ablated=one).by_title()
