"""Laws of the circuit finder: it names what was written by hand, and its numbers are those of plain counting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from tests.studies.contextual_counting.planted import held_out, laid_out
from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.planted.handwritten import contextual_counter
from toylab.probes import permutation_sensitivity
from toylab.studies.contextual_counting import measures as circuits
from toylab.studies.contextual_counting.data import counting_model, for_model, string_batch
from toylab.studies.contextual_counting.results import SLACK
from toylab.tasks import IGNORE, ContextualCounting, stream
from toylab.tasks.bracketed import BEGIN

TASK = ContextualCounting(length=(16, 32), regions=(1, 3))
seeds = st.integers(0, 2**31)


def model_of(seed: int = 0, **encoder):
    return counting_model(TASK, EncoderDecoderConfig(encoder=replace(ENCODER, width=8, **encoder)), seed)


def one_string(text: str):
    return laid_out(TASK, text)


@pytest.fixture(scope="module", params=["begin", "bracket"])
def golden(request):
    """A hand-written counter with its bias, strings, and what the finder makes of it."""
    model = contextual_counter(TASK.most, TASK.classes, bias=request.param)
    found = for_model(TASK, model, held_out(TASK, 0, 120))
    return model, request.param, found, circuits.find_circuits(model, found)


def test_the_classes_of_a_string_worked_out_by_hand():
    found = one_string("1[01]0[1]1[]")
    named = {name: torch.where(mask[0, 1])[0].tolist() for name, mask in circuits.key_classes(found).items()}
    assert named == {  # of the second label, over BoS and the string
        "counted ones": [8],
        "other regions' ones": [4],
        "outside ones": [1, 10],
        "zeros": [3, 6],
        "own [": [7],
        "own ]": [9],
        "earlier brackets": [2, 5],
        "later brackets": [11, 12],
        "begin": [0],
    }


def test_the_floor_is_that_of_the_commonest_count():
    found = replace(one_string("1[01]0[1]1[]"), counts=torch.tensor([[1, 1, 0, 2, IGNORE, 7]]))
    assert circuits.constant_accuracy(found) == pytest.approx(2 / 5)


def test_the_hand_written_counters_are_named_with_their_bias(golden):
    _, bias, found, named = golden
    floor = circuits.constant_accuracy(found)
    for circuit in named:
        assert circuit.accuracy == 1
        assert circuit.circuit == "counter"
        assert circuit.bias == {"begin": "begin", "bracket": "own ["}[bias]
        assert circuit.share > 0.999
        assert circuit.r2 > 0.9999
        assert 5 < circuit.k < 20
        assert circuit.blocked["the bias"] <= floor + SLACK
        assert circuit.blocked["counted ones"] <= floor + SLACK
        assert circuit.blocked["zeros"] == circuit.blocked["outside ones"] == 1
        for n, mass in circuit.curve.items():
            assert mass == pytest.approx(n / (n + circuit.k), abs=1e-6)


def test_a_model_that_knows_nothing_is_unsolved():
    model = model_of(0)
    found = circuits.find_circuits(model, for_model(TASK, model, held_out(TASK, 0, 60)))
    assert {circuit.circuit for circuit in found} == {"unsolved"}


def test_attention_that_never_changes_explains_nothing_and_stays_a_number():
    model = contextual_counter(TASK.most, TASK.classes)
    with torch.no_grad():
        model.decoder.queries[0, :] = -model.decoder.queries[0, :]  # now it looks away from its ones
    found = circuits.find_circuits(model, for_model(TASK, model, held_out(TASK, 0, 60)))[0]
    assert found.r2 == 0
    assert all(np.isfinite([found.k, found.share, *found.shares.values(), *found.curve.values()]))


def test_what_a_change_does_to_the_weights_worked_out_by_hand():
    before, after = one_string("1[01]00[1]1[]"), one_string("1[01]00[1]1[]000")
    pattern = torch.zeros(1, 3, 14)
    pattern[0, :, [0, 3, 6, 7]] = torch.tensor([0.2, 0.1, 0.1, 0.2])  # BoS, then the three zeros
    # By class: three zeros that weigh .4 become six. By place: none stood behind the last bracket, so it is the same.
    assert circuits.predict_slopes(pattern, before, after) == pytest.approx([0.6 / 1.0] * 3)
    assert circuits.predict_slopes(pattern, before, after, places=True) == pytest.approx([0.6 / 1.0] * 3)
    before, after = one_string("1[01]00[1]1[]0"), one_string("1[01]00[1]1[]0000")
    pattern = torch.zeros(1, 3, 15)
    pattern[0, :, [0, 3, 6, 7, 14]] = torch.tensor([0.2, 0.1, 0.1, 0.2, 0.05])
    # By place: the zero behind the last bracket weighs .05, and so do the three new ones.
    assert circuits.predict_slopes(pattern, before, after) == pytest.approx([0.65 / (0.2 + 0.45 * 7 / 4)] * 3)
    assert circuits.predict_slopes(pattern, before, after, places=True) == pytest.approx([0.65 / (0.65 + 3 * 0.05)] * 3)
    assert circuits.predict_slopes(pattern, before, before, places=True) == pytest.approx([1, 1, 1])


def test_counted_ones_are_no_part_of_what_is_compared_with():
    before, after = one_string("1[01]00[1]1[]0"), one_string("1[01]00[1]1[]0000")
    pattern = torch.zeros(1, 3, 15)
    pattern[0, :, [0, 14]] = torch.tensor([0.2, 0.1])
    plain = circuits.predict_slopes(pattern, before, after)
    pattern[0, 0, 4], pattern[0, 1, 9] = 0.7, 0.7  # the ones of the first region, and of the second
    assert circuits.predict_slopes(pattern, before, after) == pytest.approx(plain)


def test_two_values_reproduce_a_hand_written_counter(golden):
    model, _, found, named = golden
    for one in circuits.value_readout(model, found, named):
        for kind in (one.two_values, one.all_classes):
            assert kind.agreement == 1
            assert kind.kl < 1e-3


@pytest.mark.parametrize("change", [{"residual": True}, {"hidden": 8}, {"heads": 2}, {"self_attention": True}])
def test_two_values_are_refused_where_logits_are_no_sum_of_them(change):
    model = counting_model(TASK, EncoderDecoderConfig(encoder=replace(ENCODER, width=8), **change))
    found = for_model(TASK, model, held_out(TASK, 0, 100))
    with pytest.raises(ValueError, match="equation 3"):
        circuits.value_readout(model, found, [])


@fewer(0.2)
@given(seeds)
def test_only_bidirectional_models_without_positions_do_not_mind_a_shuffle(seed):
    batch = TASK.sample(stream(seed), 8, length=20, regions=2)
    gaps = {}
    for causal, positions in ((False, "none"), (True, "none"), (False, "rotary")):
        model = model_of(seed, causal=causal, positions=positions)
        tokens = for_model(TASK, model, batch).tokens
        gaps[causal, positions] = permutation_sensitivity(
            model.double(), tokens, np.random.default_rng(seed), kept=0
        ).largest
    assert gaps[False, "none"] < 1e-9
    assert gaps[True, "none"] > 1e-6
    assert gaps[False, "rotary"] > 1e-6


@pytest.mark.parametrize(("rank", "low", "high"), [(1, 1, 1), (2, 1, 1), (8, 0.2, 0.4)])
def test_two_components_hold_all_of_a_plane_and_a_part_of_more(rank, low, high):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(4000, rank)) @ np.linalg.qr(rng.normal(size=(8, 8)))[0][:rank])
    assert low - 1e-9 <= circuits.two_components(features + 3) <= high + 1e-9


def test_begin_is_a_class_only_where_there_is_a_begin_token():
    task = replace(TASK, begin=False)
    found = string_batch(task, held_out(task, 0, 3))
    assert not (found.tokens == BEGIN).any()
    assert not circuits.key_classes(found)["begin"].any()
