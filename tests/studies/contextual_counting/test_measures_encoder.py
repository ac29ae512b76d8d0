"""Laws of what is measured of a counting model's encoder: its rotary planes, its states, its scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from tests.studies.contextual_counting.planted import balanced, held_out, laid_out
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.planted.handwritten import contextual_counter
from toylab.probes import linear_probe, permutation_sensitivity, watch
from toylab.studies.contextual_counting import measures as circuits
from toylab.studies.contextual_counting.data import StringBatch, count_accuracy, counting_model, string_batch
from toylab.tasks import ContextualCounting, stream
from toylab.tasks.bracketed import CLOSE, ONE, OPEN, ZERO

TASK = ContextualCounting(length=(12, 20), regions=2)
ONE_REGION = ContextualCounting(length=(12, 20), regions=1)
seeds = st.integers(0, 2**31)


def model_of(seed: int = 0, task: ContextualCounting = TASK, **encoder) -> EncoderDecoder:
    """With weights so large that attention is sharp."""
    model = counting_model(task, EncoderDecoderConfig(encoder=replace(ENCODER, width=8, **encoder)), seed).double()
    with torch.no_grad():
        model.encoder.blocks[0].attn.query.weight *= 20
        model.decoder.queries *= 30
    return model


def answered(model: EncoderDecoder, found: StringBatch) -> StringBatch:
    """The strings with the model's own answers for counts, so that it is always right. These are many: its logits are
    centred first."""
    with torch.no_grad():
        model.decoder.head.bias -= model(found.tokens).mean(dim=(0, 1))
    return replace(found, counts=model(found.tokens).argmax(dim=-1))


# Rotary planes -------------------------------------------------------------------------------------------------------


def silenced(model: EncoderDecoder, planes: range) -> EncoderDecoder:
    """Nothing is asked in these planes, pairs of features (i, i + 4)."""
    with torch.no_grad():
        for plane in planes:
            model.encoder.blocks[0].attn.query.weight[[plane, plane + 4]] = 0
    return model


@pytest.mark.parametrize("seed", range(3))
def test_stopping_planes_costs_accuracy_where_they_are_asked_and_none_elsewhere(seed):
    found = string_batch(ONE_REGION, balanced(ONE_REGION, 60, 8, 8))
    for matters, idle, unasked in (("slow", "fast", range(2)), ("fast", "slow", range(2, 4))):
        model = silenced(model_of(seed, ONE_REGION, positions="rotary", position_base=20.0), unasked)
        right = answered(model, found)
        turning = model.encoder.positions.frequencies.clone()
        stopped = circuits.rotary_profile(model, right, turning[1].item()).stopped
        assert getattr(stopped, idle) == [1.0]
        assert getattr(stopped, matters)[0] < 0.8
        assert stopped.all == getattr(stopped, matters)
        assert torch.equal(model.encoder.positions.frequencies, turning)


def test_without_turning_a_rotary_model_is_the_model_without_positions():
    turning, still = (model_of(4, ONE_REGION, positions=positions) for positions in ("rotary", "none"))
    found = answered(still, string_batch(ONE_REGION, balanced(ONE_REGION, 60, 8, 8)))
    turning.load_state_dict(still.state_dict())
    assert circuits.rotary_profile(turning, found, 1 / 32).stopped.all == [1.0]
    assert count_accuracy(turning, found)[0] < 0.8


@fewer(0.5)
@given(seeds)
def test_a_plane_adds_to_what_a_one_prefers_the_products_of_its_two_features(seed):
    model = model_of(seed, positions="rotary")
    profile = circuits.rotary_profile(model, string_batch(TASK, held_out(TASK, 0, 4)), 1 / 32)
    block = model.encoder.blocks[0]
    read = block.ln1(model.encoder.embedding.weight)
    q, k = block.attn.query(read)[ONE].tolist(), block.attn.key(read).tolist()
    parts = []
    for plane in range(4):
        scores = [sum(q[i] * key[i] for i in (plane, plane + 4)) / 8**0.5 for key in k]
        parts.append((scores[OPEN] + scores[CLOSE]) / 2 - (scores[ZERO] + scores[ONE]) / 2)
    assert profile.planes == pytest.approx(parts)
    assert profile.frequencies == model.encoder.positions.frequencies.tolist()
    assert profile.frequencies == sorted(profile.frequencies, reverse=True)


# States --------------------------------------------------------------------------------------------------------------


def test_the_probe_asks_for_the_region_of_every_one_string_by_string():
    model, found = model_of(1), string_batch(TASK, balanced(TASK, 12, 4, 6))
    with watch(model, "encoder.blocks.0.attn_out", "encoder.final") as seen:
        model(found.tokens)
    places = [(r, at) for r, row in enumerate(found.tokens.tolist()) for at, token in enumerate(row) if token == ONE]
    regions = np.array([found.regions[place].item() for place in places])
    groups = np.array([row for row, _ in places])
    probes = circuits.region_probes(model, found, 3)
    for probe, point in (
        (probes.attention_output, "encoder.blocks.0.attn_out"),
        (probes.decoder_input, "encoder.final"),
    ):
        features = torch.stack([seen[point][place] for place in places])
        expected = linear_probe(features, regions, groups, stream(3, "region probe"))
        assert (probe.accuracy, probe.majority, probe.shuffled) == tuple(vars(expected).values())
        assert probe.two_components == pytest.approx(circuits.two_components(features))


def test_where_the_attention_writes_nothing_its_probe_falls_to_the_majority_and_that_of_positions_does_not():
    model = counting_model(TASK, EncoderDecoderConfig(encoder=replace(ENCODER, width=24, positions="learned")), 0)
    with torch.no_grad():
        model.encoder.blocks[0].attn.output.weight.zero_()
    rng = np.random.default_rng(0)
    bits = ["".join(map(str, rng.integers(0, 2, size=9))) for _ in range(40)]
    found = laid_out(TASK, *(f"{b[:3]}[{b[3:5]}]{b[5]}[{b[6:8]}]{b[8]}" for b in bits))
    probes = circuits.region_probes(model, found, 0)
    assert probes.attention_output.accuracy == probes.attention_output.majority < 0.7
    assert probes.attention_output.two_components == 0
    assert probes.decoder_input.accuracy == 1
    assert probes.decoder_input.two_components < 0.9


def test_where_nothing_leaves_the_encoder_the_probe_of_the_attention_still_reads_the_region():
    model = contextual_counter(TASK.most, TASK.classes)
    with torch.no_grad():
        model.encoder.ln_final.weight.zero_()
    probes = circuits.region_probes(model, string_batch(TASK, balanced(TASK, 40, 6, 8)), 0)
    assert probes.attention_output.accuracy == 1
    assert probes.decoder_input.accuracy == probes.decoder_input.majority < 0.7


# Scores and order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_a_logit_that_a_shuffle_only_raises_or_only_lowers_has_a_gap(sign):
    """Both regions are empty, so that the attention on ones inside them can but grow."""

    class Inside(EncoderDecoder):
        """One logit: how many ones stand inside a region."""

        def forward(self, tokens, *, seen=None, token_counts=None):
            inside = ((tokens == OPEN).long() - (tokens == CLOSE).long()).cumsum(dim=1).clamp(min=0)
            return sign * (inside * (tokens == ONE)).sum(dim=1)[:, None, None].double()

    found = laid_out(TASK, *["1111[]11[]1111"] * 20)
    model = Inside(EncoderDecoderConfig(), 5, 1, 1, 20)
    gaps = [permutation_sensitivity(model, found.tokens, stream(seed), kept=0).largest for seed in range(2)]
    assert min(gaps) >= 4
    empty = laid_out(TASK, *["[]" * 2 + "0" * 10] * 2)
    assert permutation_sensitivity(model, empty.tokens, stream(0), kept=0).largest == 0


def test_the_gap_is_the_largest_change_under_a_shuffle_of_each_string_by_itself():
    model, found = model_of(2), string_batch(TASK, balanced(TASK, 5, 6, 6))
    order = stream(7).permuted(np.tile(np.arange(17), (5, 1)), axis=1)
    largest = 0.0
    for row, tokens in enumerate(found.tokens.tolist()):
        mixed = torch.tensor([[tokens[at] for at in order[row]]])
        largest = max(largest, (model(found.tokens[row : row + 1]) - model(mixed)).abs().max().item())
    assert permutation_sensitivity(model, found.tokens, stream(7), kept=0).largest == pytest.approx(largest)


@fewer(0.25)
@given(seeds)
def test_a_score_of_the_table_is_that_of_the_types_as_query_and_key(seed):
    model = model_of(seed)
    block = model.encoder.blocks[0]
    read = [block.ln1(row) for row in model.encoder.embedding.weight]
    for query, scores in enumerate(circuits.encoder_scores(model)):
        for key, score in enumerate(scores):
            product = (block.attn.query(read[query]) * block.attn.key(read[key])).sum().item()
            assert score == pytest.approx(product / 8**0.5)
