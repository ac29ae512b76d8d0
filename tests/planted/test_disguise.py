"""Laws of the grafts: a disguise changes no logit, a blend goes from all to nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.disguise import add_heads, add_layer, add_noise, rotate_basis, rotate_encoder_basis
from toylab.planted.handwritten import contextual_counter, induction_head, iteration_head
from toylab.probes import link_mass
from toylab.tasks import AssociativeRecall, ContextualCounting, Parity
from toylab.training import evaluate

TASK = AssociativeRecall(pairs=3, keys=6, values=5)
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
few = fewer(0.2)


def tokens(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(TASK.sample(rng, 8).tokens)


def same(model: Transformer, other: Transformer, x: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(model(x), other(x), rtol=1e-9, atol=1e-9)


@few
@given(rngs, st.integers(1, 4), st.data())
def test_heads_beside_it_change_nothing_and_attend_elsewhere(rng, heads, data):
    at, model = data.draw(st.integers(0, heads - 1)), induction_head(TASK).double()
    grown = add_heads(model, heads, at, rng).double()
    assert same(model, grown, tokens(rng))
    batch = TASK.sample(rng, 8)
    mass = link_mass(evaluate.attention_patterns(grown, batch)[1], batch.links["induction"])
    assert mass[at] > 0.999
    assert all(mass[h] < 0.9 for h in range(heads) if h != at)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_disguise_keeps_the_type_of_a_model(dtype):
    model, rng = induction_head(TASK).to(dtype), np.random.default_rng(0)
    for grown in (
        add_heads(model, 2, 0, rng),
        add_layer(model, 1, rng),
        rotate_basis(model, rng),
        add_noise(model, 0.5, rng),
    ):
        assert {parameter.dtype for parameter in grown.parameters()} == {dtype}


@few
@given(rngs, st.integers(0, 2))
def test_an_idle_layer_changes_nothing_wherever_it_stands(rng, before):
    model = induction_head(TASK).double()
    grown = add_layer(model, before, rng)
    assert same(model, grown, tokens(rng))
    assert len(grown.blocks) == 3
    for block in range(3):  # all but the idle one are needed
        cut = add_layer(model, before, np.random.default_rng(0))
        cut.blocks[block].attn.output.weight.data.zero_()
        assert same(model, cut, tokens(rng)) == (block == before)


@few
@given(rngs)
def test_another_basis_changes_no_logit_and_every_coordinate(rng):
    model = iteration_head(Parity(lengths=(1, 4))).double()
    batch = Parity(lengths=(1, 4)).sample(rng, 8)
    turned = rotate_basis(model, rng)
    assert same(model, turned, torch.from_numpy(batch.tokens))
    assert (turned.embedding.weight.abs() > 0).float().mean() > 0.99
    assert (model.embedding.weight.abs() > 0).float().mean() < 0.1


@few
@given(rngs, st.sampled_from(["begin", "bracket"]))
def test_another_basis_passes_through_the_norms_of_the_counter(rng, bias):
    task = ContextualCounting(length=20, regions=3)
    x = torch.from_numpy(task.sample(rng, 6).tokens[:, :21])
    model = contextual_counter(3, 21, bias=bias)
    with torch.no_grad():
        before, after = model(x), rotate_encoder_basis(model, rng)(x)
    assert torch.allclose(before, after, atol=1e-6 * before.abs().max())


@pytest.mark.parametrize("norm", ["pre", "post", "entry", "none"])
@pytest.mark.parametrize("positions", ["none", "learned", "rotary", "alibi"])
def test_any_fresh_model_can_be_turned(norm, positions):
    config = ModelConfig(norm=norm, positions=positions)
    model = Transformer(config, 7, 9).double()
    for module in model.modules():  # norms of equal weights and no biases are what a basis cannot be read from
        if isinstance(module, torch.nn.LayerNorm):
            module.bias.data.zero_()
    x = torch.randint(7, (4, 9), generator=torch.Generator().manual_seed(0))
    assert same(model, rotate_basis(model, np.random.default_rng(0)), x)


def test_what_cannot_be_grafted_is_refused():
    rng = np.random.default_rng(0)
    two = Transformer(ModelConfig(positions="learned"), 7, 9)
    with pytest.raises(ValueError, match="heads=2"):
        add_heads(two, 3, 0, rng)
    with pytest.raises(ValueError, match="at=3"):
        add_heads(induction_head(TASK), 3, 3, rng)
    with pytest.raises(ValueError, match="norm=post"):
        add_layer(Transformer(ModelConfig(norm="post"), 7, 9), 0, rng)
    two.blocks[0].ln1.weight.data[0] = 2
    with pytest.raises(ValueError, match="mark a basis"):
        rotate_basis(two, rng)
    with pytest.raises(ValueError, match=r"noise=1\.5"):
        add_noise(two, 1.5, rng)


@few
@given(rngs, st.floats(0, 1))
def test_a_blend_trades_weights_for_numbers_of_the_same_size(rng, noise):
    model = induction_head(TASK)
    mixed = add_noise(model, noise, rng)
    for name, weight in model.state_dict().items():
        size, rest = weight.norm(), mixed.state_dict()[name] - (1 - noise) * weight
        assert rest.norm() == pytest.approx(float(noise * size), rel=0.35, abs=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(add_noise(model, 0, rng).parameters(), model.parameters(), strict=True)
    )


def test_a_blend_leaves_the_model_itself_alone():
    model = induction_head(TASK)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for graft in (
        lambda r: add_noise(model, 0.5, r),
        lambda r: rotate_basis(model, r),
        lambda r: add_layer(model, 1, r),
    ):
        graft(np.random.default_rng(0))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_tied_unembedding_turns_with_its_embedding():
    model = Transformer(replace(ModelConfig(norm="none", positions="learned"), unembedding="tied"), 7, 9).double()
    x = torch.arange(7)[None]
    turned = rotate_basis(model, np.random.default_rng(1))
    assert same(model, turned, x)
    assert turned.unembedding.weight is turned.embedding.weight
