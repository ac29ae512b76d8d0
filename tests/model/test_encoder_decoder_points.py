"""Laws of the points of an encoder-decoder: what can be watched and edited there, and what it changes."""

import pytest
import torch
from hypothesis import given

from tests.examples import fewer
from tests.model.small_encoder_decoders import (
    EDITS,
    QUERIES,
    SEEDS,
    WIDTH,
    build,
    close,
    configs,
    draw_tokens,
    few,
    small,
)
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.probes import edit, points, watch


@pytest.mark.parametrize("also", [(), ("decoder.cross.k",), ("decoder.cross.v", "decoder.cross.scores")])
@pytest.mark.parametrize("point", EDITS)
def test_edits_of_the_decoders_attention_take_effect_by_both_routes(point, also):
    model, tokens = build(small(heads=2)), draw_tokens(0, 2, 6)
    before = model(tokens)
    with edit(model, {f"decoder.cross.{point}": EDITS[point]}), watch(model, *also):
        after = model(tokens)
    with edit(model, {f"decoder.cross.{point}": EDITS[point]}):
        close(after, model(tokens), 1e-11)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["key", "value"])
def test_who_watches_or_edits_the_linear_map_of_keys_or_values_gets_it_too(part):
    # Every submodule that returns one tensor is a point: none may be passed by in silence.
    model, tokens = build(small()), draw_tokens(0, 2, 6)
    name = f"decoder.cross.{part}"
    before = model(tokens)
    with watch(model, name) as seen:
        model(tokens)
    assert seen[name].shape == (2, 6, WIDTH)
    with edit(model, {name: torch.zeros_like}):
        assert (model(tokens) - before).abs().max() > 1e-3


def test_a_pattern_of_the_decoder_is_a_share_out_of_one_for_every_query():
    model, tokens = build(small(heads=2)), draw_tokens(0, 2, 6)
    seen_keys = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    with watch(model, "decoder.cross.pattern") as seen:
        model(tokens, seen=seen_keys)
    pattern = seen["decoder.cross.pattern"]
    assert pattern.shape == (2, 2, QUERIES, 6)
    close(pattern.sum(dim=-1), torch.ones(2, 2, QUERIES).double())
    assert ((pattern > 0) == seen_keys[:, None, None]).all()


# Points --------------------------------------------------------------------------------------------------------------


def test_the_names_of_the_points_are_those_of_the_parts():
    names = points(EncoderDecoder(EncoderDecoderConfig(self_attention=True, hidden=4), 5, 4, 9, 10))
    attention = ("q", "k", "v", "scores", "pattern", "z")
    for part in ("encoder.blocks.0.attn", "decoder.attn", "decoder.cross"):
        assert {f"{part}.{point}" for point in attention} <= set(names)
    for point in ("resid_pre", "attn_out", "resid_mid", "cross_out", "mlp.pre", "mlp.post", "mlp_out", "resid_post"):
        assert f"decoder.{point}" in names
    assert {"encoder.embed", "encoder.final", "encoder.blocks.0.resid_post"} <= set(names)
    assert len(names) == len(set(names))


def test_a_bare_decoder_has_the_points_of_the_full_one_but_those_of_the_parts_it_lacks():
    bare = set(points(EncoderDecoder(EncoderDecoderConfig(), 5, 4, 9, 10)))
    full = set(points(EncoderDecoder(EncoderDecoderConfig(self_attention=True, hidden=4), 5, 4, 9, 10)))
    assert bare < full
    assert all(name.startswith(("decoder.attn.", "decoder.mlp.")) for name in full - bare)


@fewer(0.2)
@given(configs(), SEEDS)
def test_watching_everything_but_keys_and_values_of_the_decoder_changes_no_bit(config, seed):
    model, tokens = build(config, seed), draw_tokens(seed, 2, 5)
    names = points(model)
    cheap = [name for name in names if name not in ("decoder.cross.k", "decoder.cross.v")]
    before = model(tokens)
    with watch(model, *cheap) as seen:
        assert torch.equal(model(tokens), before)
    with watch(model, *names):
        close(model(tokens), before, 1e-11)
    due = set(cheap)  # points of parts that this shape leaves out are never passed
    due -= set() if config.encoder.positions == "learned" else {"encoder.pos_embed"}
    due -= set() if config.encoder.hidden else {f"encoder.blocks.{n}.mlp_out" for n in range(config.encoder.layers)}
    due -= set() if config.hidden else {"decoder.mlp_out"}
    due -= set() if config.self_attention else {"decoder.attn_out"}
    assert set(seen) == due


@few
@given(configs(), SEEDS)
def test_the_decoders_stream_is_the_sum_of_what_was_added_to_it(config, seed):
    model = build(config, seed)
    with watch(model, "decoder.resid_*", "decoder.*_out") as seen:
        logits = model(draw_tokens(seed, 2, 5))
    at = {name.removeprefix("decoder."): tensor for name, tensor in seen.items()}
    assert torch.equal(at["resid_pre"], model.decoder.queries.expand(2, -1, -1))
    close(at["resid_mid"], at["resid_pre"] + at.get("attn_out", 0))
    fetched = at["cross_out"] + (at["resid_mid"] if config.residual else 0)
    close(at["resid_post"], fetched + at.get("mlp_out", 0))
    close(logits, model.decoder.head(config.logit_scale * at["resid_post"]))
