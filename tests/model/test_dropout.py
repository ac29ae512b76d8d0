"""Laws of dropout: none at rate 0 and in evaluation mode, otherwise torch's own on the output of every sublayer."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.model import small_encoder_decoders as pairs
from tests.model.small_transformers import CONTEXT, SEEDS, VOCAB, build, draw_tokens, some
from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.model.strategies import model_configs
from toylab.model.token_counts import count_tokens
from toylab.model.transformer import Transformer
from toylab.probes import points, watch
from toylab.training.batches import next_token_loss
from toylab.training.population import Population

RATES = st.sampled_from([0.1, 0.5, 0.9])


@contextmanager
def seeded(seed: int):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def by_hooks(model: torch.nn.Module, rate: float, seed: int, *inputs: torch.Tensor, **options) -> torch.Tensor:
    """Dropout as hooks on a model in evaluation mode: an oracle without the model's own code."""
    for name, module in model.eval().named_modules():
        if name.rpartition(".")[2] in ("attn_out", "cross_out", "mlp_out"):
            module.register_forward_hook(lambda module, inputs, output: F.dropout(output, rate))
    with seeded(seed):
        return model(*inputs, **options)


@some
@given(model_configs(), RATES, SEEDS, st.booleans())
def test_dropout_in_training_mode_is_that_of_torch_at_the_outputs_of_attention_and_mlp(config, rate, seed, asked):
    model, tokens = build(replace(config, dropout=rate), seed), draw_tokens(seed, 3, 6)
    options = {"queries": torch.tensor([[1, 4]] * 3)} if asked else {}
    with seeded(seed):
        found = model.train()(tokens, **options)
    assert torch.equal(found, by_hooks(model, rate, seed, tokens, **options))


@pairs.few
@given(pairs.configs(), RATES, pairs.SEEDS)
def test_the_decoder_has_the_dropout_of_its_encoder(config, rate, seed):
    model = pairs.build(replace(config, encoder=replace(config.encoder, dropout=rate)), seed)
    tokens = torch.randint(pairs.SYMBOLS, (2, 5), generator=torch.Generator().manual_seed(seed))
    with seeded(seed):
        found = model.train()(tokens)
    assert torch.equal(found, by_hooks(model, rate, seed, tokens))


@some
@given(model_configs(), RATES, SEEDS)
def test_without_dropout_and_in_evaluation_mode_nothing_is_drawn_and_no_bit_changes(config, rate, seed):
    plain, other = build(config, seed), build(replace(config, dropout=rate), seed)
    tokens, before = draw_tokens(seed, 3, 6), torch.get_rng_state()
    expected = plain.eval()(tokens)
    assert torch.equal(plain.train()(tokens), expected)
    assert torch.equal(other.eval()(tokens), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(other.train()(tokens), expected)
    assert points(other) == points(plain)
    assert [*other.state_dict()] == [*plain.state_dict()]


def test_the_hook_point_holds_what_is_added_to_the_stream():
    model = build(ModelConfig(dropout=0.5)).train()
    with watch(model, "blocks.0.*") as seen, seeded(0):
        model(draw_tokens(0, 3, 6))
    assert torch.equal(seen["blocks.0.resid_mid"], seen["blocks.0.resid_pre"] + seen["blocks.0.attn_out"])
    assert torch.equal(seen["blocks.0.resid_post"], seen["blocks.0.resid_mid"] + seen["blocks.0.mlp_out"])
    for name in ("attn_out", "mlp_out"):
        assert 0.4 < (seen[f"blocks.0.{name}"] == 0).double().mean() < 0.6


def test_dropout_is_the_same_with_token_counts():
    """Whose first layer draws for every position, not for every type of token."""
    model = build(ModelConfig(positions="none", dropout=0.5)).train()
    tokens = draw_tokens(0, 3, 6)
    with seeded(0):
        expected = model(tokens)
    with seeded(0):
        torch.testing.assert_close(
            model(tokens, token_counts=count_tokens(tokens, VOCAB, causal=True, dtype=torch.float64)), expected
        )


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_a_rate_outside_its_range_is_refused_by_name(rate):
    with pytest.raises(ToylabError, match=rf"^dropout={rate}: must be at least 0 and below 1; 0 switches it off"):
        ModelConfig(dropout=rate)


def test_a_saved_model_keeps_its_dropout_and_one_saved_before_it_existed_has_none(tmp_path):
    path, config = tmp_path / "model.safetensors", ModelConfig(dropout=0.25)
    encoder = replace(ENCODER, dropout=0.25)
    for model in (
        Transformer(config, VOCAB, CONTEXT),
        EncoderDecoder(EncoderDecoderConfig(encoder=encoder), 5, 3, 7, CONTEXT),
    ):
        save_model(path, model)
        assert load_model(path).config == model.config
        tensors, about = read_tensors(path)
        (about["config"].get("encoder") or about["config"]).pop("dropout")
        write_tensors(path, tensors, about)
        held = load_model(path).config
        assert getattr(held, "encoder", held).dropout == 0


def test_a_population_of_models_with_dropout_is_refused_by_name():
    models = [Transformer(ModelConfig(dropout=rate), VOCAB, CONTEXT) for rate in (0.0, 0.25)]
    Population(models[:1], next_token_loss)
    with pytest.raises(ToylabError, match=r"^dropout=0\.25: members would not draw .*; train each"):
        Population(models, next_token_loss)


@pytest.mark.slow
def test_a_model_with_dropout_becomes_a_hooked_transformer_without():
    pytest.importorskip("transformer_lens", reason="needs the extra [interop]")
    from toylab.model.transformer_lens import from_hooked, to_hooked

    model, tokens = build(ModelConfig(dropout=0.25)), draw_tokens(0, 3, 6)
    hooked = to_hooked(model)
    torch.testing.assert_close(hooked.train()(tokens), model.eval()(tokens), rtol=0, atol=1e-10)
    assert from_hooked(hooked).config.dropout == 0
