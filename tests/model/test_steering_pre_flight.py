"""Laws of looking ahead: what a vector can do at all, worked out by hand and never exceeded."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.model.small_steerings import (
    CONFIG,
    CONTEXT,
    LAYERS,
    VOCAB,
    WIDTH,
    build,
    few,
    numbers,
    rows,
    seeds,
    some,
)
from toylab.model.config import ModelConfig
from toylab.model.steering import (
    PreFlight,
    folded_unembedding,
    pre_flight,
)
from toylab.model.transformer import Transformer
from toylab.probes import watch


def last_stream(model: Transformer, tokens: Tensor) -> Tensor:
    """What the final norm reads at the last position."""
    with watch(model, f"blocks.{LAYERS - 1}.resid_post") as seen:
        model(tokens)
    return seen[f"blocks.{LAYERS - 1}.resid_post"][:, -1]


@some
@given(seeds, st.sampled_from(["pre", "none"]), st.booleans())
def test_folded_rows_read_from_the_normalised_stream_what_the_model_reads(seed, norm, biases):
    model, h = build(seed, norm=norm, biases=biases), numbers(seed, 5, WIDTH)
    normed = (
        h
        if norm == "none"
        else (h - h.mean(dim=1, keepdim=True)) / (h.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    )
    logits = model.unembedding(model.ln_final(h))
    found = normed @ folded_unembedding(model).T
    constant = (logits - found)[0]
    torch.testing.assert_close(found + constant, logits, rtol=0, atol=1e-10)
    assert bool(constant.abs().max() > 1e-9) == (norm == "pre" and biases)


def standing_still(h: Tensor, this: Tensor, other: Tensor) -> Transformer:
    """A model whose stream is h from the first token to the end, and whose tokens 0 and 1 have these rows."""
    model = Transformer(ModelConfig(layers=1, heads=1, width=len(h), hidden=0, positions="none"), 2, 4).double()
    with torch.no_grad():
        for weights in model.blocks[0].attn.output.parameters():
            weights.zero_()
        model.embedding.weight.copy_(h.expand(2, -1))
        model.unembedding.weight.copy_(torch.stack([this, other]))
    return model


def log_odds(model: Transformer, h: Tensor) -> Tensor:
    logits = model.unembedding(model.ln_final(h))
    return logits[..., 0] - logits[..., 1]


def test_what_is_known_before_the_start_is_worked_out_by_hand():
    this, other = torch.tensor([1.0, 1, 0, 0]).double(), torch.tensor([0.0, 1, 1, 0]).double()
    model = standing_still(torch.tensor([2.0, -2, 2, -2]).double(), this, other)
    found = pre_flight(model, torch.tensor([[0, 1], [1, 1]]), 0, 1, norm=3)
    assert (found.cosine, found.distance) == pytest.approx((1 / 2, math.sqrt(2)), abs=1e-12)
    assert found.length == pytest.approx(4, abs=1e-12)
    assert found.bound == pytest.approx(2 * math.sqrt(2) * 3 / 5, abs=1e-12)  # the rows differ across the stream
    with torch.no_grad():
        model.ln_final.weight.copy_(torch.tensor([3.0, 0, 4, 1]))
    folded = pre_flight(model, torch.tensor([[0]]), 0, 1, norm=3)
    assert (folded.cosine, folded.distance) == pytest.approx((0, 5), abs=1e-12)


@given(seeds, st.integers(4, 24), st.floats(0.1, 50))
def test_no_vector_across_the_stream_moves_the_choice_beyond_the_bound_and_one_comes_near(seed, width, norm):
    def centred(x: Tensor) -> Tensor:
        return x - x.mean(dim=-1, keepdim=True)

    def across(x: Tensor) -> Tensor:
        return x - (x @ h)[..., None] * h / (h @ h)

    h = centred(numbers(seed, width)) * 3
    apart = across(centred(numbers(seed + 1, width)))
    middle = numbers(seed + 2, width)
    model = standing_still(h, middle + apart, middle - apart)
    bound = pre_flight(model, torch.tensor([[0, 1, 0]]), 0, 1, norm=norm).bound
    tried = across(torch.cat([numbers(seed + 3, 500, width), apart[None], -apart[None]]))
    tried = norm * tried / tried.norm(dim=1, keepdim=True)
    shifts = (log_odds(model, h + tried) - log_odds(model, h)).abs()
    assert (shifts[-2:] <= bound * (1 + 1e-9)).all()
    assert (shifts[-2:] >= bound / math.sqrt(2) * (1 - 1e-2)).all()
    mean_free = centred(tried[:500])
    mean_free = norm * mean_free / mean_free.norm(dim=1, keepdim=True)
    assert ((log_odds(model, h + mean_free) - log_odds(model, h)).abs() <= bound * (1 + 1e-9)).all()


@few
@given(seeds, st.floats(0.5, 30))
def test_vectors_at_random_do_not_move_a_drawn_model_beyond_the_bound(seed, norm):
    model = build(seed, width=32, heads=2)
    prompt = rows(seed, 1)
    h = last_stream(model, prompt)[0]
    bound = pre_flight(model, prompt, 2, 5, norm=norm).bound
    drawn = numbers(seed, 2000, 32)
    drawn = norm * drawn / drawn.norm(dim=1, keepdim=True)
    logits = model.unembedding(model.ln_final(torch.cat([h[None], h + drawn])))
    odds = logits[:, 2] - logits[:, 5]
    assert 0 < (odds[1:] - odds[0]).abs().max() < bound


@some
@given(seeds, st.integers(1, 5), st.integers(1, 8))
def test_the_length_is_the_mean_over_prompts_at_their_last_position(seed, count, width):
    model, prompts = build(seed), rows(seed, count, width)
    found = pre_flight(model, prompts, 0, 3)
    lengths = [math.sqrt(sum(x * x for x in last_stream(model, row[None])[0].tolist())) for row in prompts]
    assert found.length == pytest.approx(sum(lengths) / count, abs=1e-10)
    one, other = (folded_unembedding(model)[token].tolist() for token in (0, 3))
    assert found.distance == pytest.approx(math.dist(one, other), abs=1e-10)
    product = sum(a * b for a, b in zip(one, other, strict=True))
    assert found.cosine == pytest.approx(product / math.hypot(*one) / math.hypot(*other), abs=1e-10)
    back = pre_flight(model, prompts, 3, 0)
    assert (back.cosine, back.bound) == pytest.approx((found.cosine, found.bound), abs=1e-10)


def test_equal_rows_cannot_be_told_apart_and_orthogonal_ones_can():
    row = numbers(0, 8)
    equal = pre_flight(standing_still(numbers(1, 8), row, row), torch.tensor([[0, 1]]), 0, 1)
    assert equal.cosine == pytest.approx(1, abs=1e-12)
    assert (equal.distance, equal.bound) == (0, 0)
    with pytest.raises(ValueError, match=r"^bound=0 nats: .* 3 nats .* 1\.00 .* 0; "):
        equal.check()
    with pytest.raises(ValueError, match=r"unembedding='orthogonal'"):
        equal.check(0.001)
    model = Transformer(replace(CONFIG, unembedding="orthogonal"), VOCAB, CONTEXT)
    orthogonal = pre_flight(model, rows(0), 0, 1)
    assert orthogonal.cosine == pytest.approx(0, abs=1e-6)
    assert orthogonal.distance == pytest.approx(math.sqrt(2), abs=1e-6)
    orthogonal.check()


def test_the_check_is_on_the_bound_and_says_what_is_needed():
    found = PreFlight(cosine=0.875, distance=0.25, length=9.0, bound=2.0)
    found.check(2.0)
    found.check(1)
    with pytest.raises(ValueError, match=r"^bound=2 nats: .* 2\.5 nats .* 0\.88 .* 0\.25; "):
        found.check(2.5)


def test_looking_ahead_changes_nothing():
    model, prompts = build(), rows(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(prompts)
    assert pre_flight(model, prompts, 0, 1) == pre_flight(model, prompts, 0, 1)
    assert torch.equal(model(prompts), logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
