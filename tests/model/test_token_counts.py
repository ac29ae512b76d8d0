"""Laws of attention in linear time: the same numbers as pair by pair, and a refusal wherever they would not be."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.model.layers import KVCache
from toylab.model.token_counts import TokenCounts, count_tokens
from toylab.model.transformer import Transformer
from toylab.probes import watch

VOCAB, CONTEXT = 5, 20
SEEDS = st.integers(0, 2**31)
NORMS = ("pre", "post", "entry", "none")


@st.composite
def configs(draw: st.DrawFn, **fixed) -> ModelConfig:
    """Small shapes of every kind that has no positions."""
    drawn = {
        "layers": draw(st.integers(1, 2)),
        "heads": draw(st.sampled_from([1, 2])),
        "width": 8,
        "hidden": draw(st.sampled_from([0, 5])),
        "norm": draw(st.sampled_from(NORMS)),
        "biases": draw(st.booleans()),
        "causal": draw(st.booleans()),
        "positions": "none",
        "unembedding": draw(st.sampled_from(["none", "learned"])),
    }
    return ModelConfig(**{**drawn, **fixed})


def build(config: ModelConfig, seed: int = 0) -> Transformer:
    """In float64, with norms that are not the identity."""
    model = Transformer(config, VOCAB, CONTEXT, seed).double()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    return model


def draw_tokens(seed: int, rows: int, width: int) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, width), generator=torch.Generator().manual_seed(seed))


def counted(tokens: torch.Tensor, causal: bool) -> TokenCounts:
    return count_tokens(tokens, VOCAB, causal, torch.float64)


# Counting ------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 3), st.integers(1, 9), st.booleans())
def test_a_tally_counts_the_tokens_that_a_position_may_see(seed, rows, width, causal):
    tokens = draw_tokens(seed, rows, width)
    found = counted(tokens, causal)
    for row, string in enumerate(tokens.tolist()):
        for at, token in enumerate(string):
            assert found.types[row, at].tolist() == [float(token == one) for one in range(VOCAB)]
            seen = string[: at + 1] if causal else string
            expected = [math.log(seen.count(one)) if one in seen else -math.inf for one in range(VOCAB)]
            assert found.log_counts[row, at].tolist() == pytest.approx(expected, abs=1e-14)


def test_a_tally_worked_out_by_hand():
    tokens = torch.tensor([[1, 0, 1]])
    assert count_tokens(tokens, 2, causal=True).log_counts.exp()[0].round().tolist() == [[0, 1], [1, 1], [1, 2]]
    assert count_tokens(tokens, 2, causal=False).log_counts.exp()[0].round().tolist() == [[1, 2]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tally_has_the_type_of_the_model_that_will_use_it(dtype):
    found = count_tokens(draw_tokens(0, 2, 4), VOCAB, True, dtype)
    assert found.types.dtype == found.log_counts.dtype == dtype
    assert count_tokens(draw_tokens(0, 2, 4), VOCAB, True).types.dtype == torch.get_default_dtype()


# The same numbers ----------------------------------------------------------------------------------------------------


@given(configs(), SEEDS, st.integers(1, 3), st.integers(1, 12))
def test_counting_types_gives_the_numbers_of_visiting_every_pair(config, seed, rows, width):
    model, tokens = build(config, seed), draw_tokens(seed, rows, width)
    found = model(tokens, token_counts=counted(tokens, config.causal))
    torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-10)


@fewer(0.5)
@given(configs(), SEEDS, st.integers(1, 10))
def test_counting_types_gives_the_gradients_of_visiting_every_pair(config, seed, width):
    model, tokens = build(config, seed), draw_tokens(seed, 2, width)
    weights = torch.randn(model(tokens).shape, generator=torch.Generator().manual_seed(seed)).double()
    into = list(model.named_parameters())
    by_type, by_pair = (
        torch.autograd.grad((weights * model(tokens, token_counts=how)).sum(), [one for _, one in into])
        for how in (counted(tokens, config.causal), None)
    )
    for (name, _), one, other in zip(into, by_type, by_pair, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    assert any(one.abs().max() > 1e-3 for one in by_pair)


@fewer(0.5)
@given(configs(unembedding="none"), SEEDS, st.integers(1, 10))
def test_an_encoder_decoder_answers_the_same_with_a_tally(config, seed, width):
    whole = EncoderDecoderConfig(encoder=config, self_attention=True, hidden=4)
    model, tokens = EncoderDecoder(whole, VOCAB, 3, 7, CONTEXT, seed).double(), draw_tokens(seed, 2, width)
    found = model(tokens, token_counts=counted(tokens, config.causal))
    torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_long_strings_and_steep_scores_do_not_part_the_two_ways(causal):
    config = replace(ENCODER, causal=causal, embedding_std=1, norm="none")
    model, tokens = Transformer(config, VOCAB, CONTEXT).double(), draw_tokens(1, 1, 600)
    with torch.no_grad():
        model.blocks[0].attn.query.weight *= 100
    with watch(model, "blocks.0.attn.scores") as seen:
        by_pair = model(tokens)
    assert seen["blocks.0.attn.scores"].max() > 50
    torch.testing.assert_close(model(tokens, token_counts=counted(tokens, causal)), by_pair, rtol=0, atol=1e-10)


# Where a tally would lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_the_tally_of_the_other_direction_or_of_other_tokens_gives_other_numbers(causal):
    # So the laws above can fail: the tally is what decides.
    model, tokens = build(ModelConfig(layers=1, width=8, positions="none", causal=causal)), draw_tokens(3, 2, 8)
    right = model(tokens)
    for wrong in (counted(tokens, not causal), counted(tokens.flip(1), causal), counted(tokens.flip(0), causal)):
        assert (model(tokens, token_counts=wrong) - right).abs().max() > 1e-3


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "alibi"])
def test_a_model_with_positions_refuses_a_tally(positions):
    model, tokens = Transformer(ModelConfig(width=8, positions=positions), VOCAB, CONTEXT), draw_tokens(0, 2, 4)
    with pytest.raises(ValueError, match=r"^token_counts: .*positions='none'"):
        model(tokens, token_counts=count_tokens(tokens, VOCAB, True))


@pytest.mark.parametrize(
    "also",
    [
        {"segments": torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])},
        {"queries": torch.tensor([[3], [1]])},
        {"positions": torch.tensor([[3, 2, 1, 0]])},
    ],
    ids=lambda also: next(iter(also)),
)
def test_a_tally_is_refused_beside_what_it_knows_nothing_of(also):
    model, tokens = build(ModelConfig(layers=1, width=8, positions="none")), draw_tokens(0, 2, 4)
    # Each changes what is computed, so passing it over would be wrong in silence.
    alone, right = model(tokens), model(tokens, **also)
    assert right.shape != alone.shape or (right - alone).abs().max() > 1e-6
    with pytest.raises(ValueError, match=r"^token_counts: "):
        model(tokens, token_counts=counted(tokens, True), **also)


def test_a_tally_is_refused_beside_a_cache_which_stays_as_it_was():
    model, tokens, cache = build(ModelConfig(layers=1, width=8, positions="none")), draw_tokens(0, 2, 4), KVCache()
    with pytest.raises(ValueError, match=r"^token_counts: "):
        model(tokens, token_counts=counted(tokens, True), cache=cache)
    assert cache.length == 0


def test_an_encoder_decoder_refuses_a_tally_of_padded_rows():
    model = EncoderDecoder(EncoderDecoderConfig(), VOCAB, 3, 7, CONTEXT)
    tokens = draw_tokens(0, 2, 4)
    seen = torch.tensor([[True] * 4, [True, True, False, False]])
    with pytest.raises(ValueError, match=r"^token_counts: "):
        model(tokens, seen=seen, token_counts=count_tokens(tokens, VOCAB, True))
