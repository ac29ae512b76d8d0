"""Laws of the optimizer: torch's own steps, vectors that do not see each other, parameters that stay what they are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toylab.training.optimizer import AdamW, ParameterVector, flat_parameters

SEEDS = st.integers(0, 2**32)


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2, bias=False)).to(dtype)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=dtype)
    return model


def loss(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return (model(x) - x[:, :2]).square().mean()


@given(
    SEEDS,
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    st.sampled_from([0.0, 0.1, 3]),
    st.sampled_from([0.01, 1.0, math.inf]),
    st.floats(1e-4, 0.1),
)
def test_steps_are_those_of_torchs_adamw_on_clipped_gradients(seed, betas, decay, clip, rate):
    ours, theirs = network(seed), network(seed)
    oracle = torch.optim.AdamW(theirs.parameters(), lr=rate, betas=betas, weight_decay=decay)
    with flat_parameters(ours.parameters()) as (weights, gradient):
        optimizer = AdamW(weights, betas, decay, clip)
        for step in range(5):
            gradient.zero_()
            loss(ours, step).backward()
            norm = optimizer.step(gradient, rate)
            oracle.zero_grad()
            loss(theirs, step).backward()
            expected = nn.utils.get_total_norm([p.grad for p in theirs.parameters()]).item()
            for p in theirs.parameters():
                p.grad *= min(1.0, clip / expected)
            oracle.step()
            assert norm == pytest.approx(expected)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


@given(SEEDS, st.integers(1, 4), st.sampled_from([0.5, math.inf]))
def test_vectors_that_are_stepped_together_do_not_see_each_other(seed, vectors, clip):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(vectors, 6, generator=generator, dtype=torch.float64)
    gradients = torch.randn(3, vectors, 6, generator=generator, dtype=torch.float64)
    together = AdamW(start.clone(), decay=0.1, clip=clip)
    for gradient in gradients:
        together.step(gradient, 0.1)
    for row in range(vectors):
        alone = AdamW(start[row].clone(), decay=0.1, clip=clip)
        for gradient in gradients:
            alone.step(gradient[row], 0.1)
        torch.testing.assert_close(together.weights[row], alone.weights, rtol=1e-12, atol=1e-12)


def test_the_first_step_goes_the_rate_against_the_sign_of_the_gradient():
    optimizer = AdamW(torch.tensor([1.0, 2.0, 3.0]))
    assert optimizer.step(torch.tensor([3.0, -0.004, 4.0]), 0.5) == pytest.approx(5.0, rel=1e-4)
    torch.testing.assert_close(optimizer.weights, torch.tensor([0.5, 2.5, 2.5]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    optimizer = AdamW(torch.ones(2), decay=0.5)
    assert not math.isfinite(optimizer.step(torch.tensor([1.0, bad]), 0.1))
    assert torch.equal(optimizer.weights, torch.ones(2))
    assert not optimizer.mean.any()
    assert not optimizer.square.any()
    assert optimizer.steps == 0


@given(SEEDS)
def test_parameters_laid_into_one_vector_keep_their_values_and_their_gradients(seed):
    model = network(seed)
    held, before = list(model.parameters()), [p.detach().clone() for p in model.parameters()]
    loss(model, 0).backward()
    alone = [p.grad.clone() for p in held]
    with flat_parameters(model.parameters()) as (weights, gradient):
        assert all(one is other for one, other in zip(held, model.parameters(), strict=True))
        assert all(torch.equal(p, b) for p, b in zip(held, before, strict=True))
        loss(model, 0).backward()
        for p, g in zip(held, alone, strict=True):
            torch.testing.assert_close(p.grad, g)
        assert gradient.norm().item() == pytest.approx(torch.cat([g.flatten() for g in alone]).norm().item())
        weights.mul_(2)
        assert all(torch.equal(p, 2 * b) for p, b in zip(held, before, strict=True))
    weights.zero_()
    assert all(torch.equal(p, 2 * b) for p, b in zip(held, before, strict=True))
    assert all(p.grad is None for p in held)


@given(SEEDS, st.sets(st.integers(0, 4)), st.booleans())
def test_the_vector_holds_every_gradient_by_either_way(seed, cleared, first):
    """Whatever lay in the gradients before, and whether they were there at all."""
    model, alone = network(seed), network(seed)
    loss(alone, 1).backward()
    with flat_parameters(model.parameters()) as (weights, gradient):
        held = ParameterVector(model, weights, gradient)
        held.backward(loss(model, 0))
        for k, p in enumerate(model.parameters()):
            if k in cleared:
                p.grad = None
        assert held.backward(loss(model, 1), first) == []
        for name, p in alone.named_parameters():
            assert torch.equal(gradient[held.places[name]], p.grad.flatten())
        assert gradient.count_nonzero() == sum(p.grad.count_nonzero() for p in alone.parameters())


@given(SEEDS)
def test_parameters_that_a_loss_does_not_depend_on_are_named_if_asked_for(seed):
    model = network(seed)
    with flat_parameters(model.parameters()) as (weights, gradient):
        held = ParameterVector(model, weights, gradient)
        assert held.backward(model[0](torch.ones(1, 3, dtype=torch.float64)).sum(), first=True) == [
            "1.weight", "1.bias", "3.weight",
        ]  # fmt: skip
        assert gradient[held.places["0.weight"]].all()
        assert held.backward(model[0](torch.ones(1, 3, dtype=torch.float64)).sum()) == []


def test_parameters_have_their_own_memory_again_after_an_error():
    model = network(0)
    before = [p.detach().clone() for p in model.parameters()]

    def broken():
        with flat_parameters(model.parameters()) as (weights, _):
            weights.add_(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert all(torch.equal(p, b + 1) for p, b in zip(model.parameters(), before, strict=True))
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == len(before)


def test_one_vector_cannot_hold_nothing_or_numbers_of_two_types():
    with pytest.raises(ValueError, match="parameters: nothing has requires_grad"), flat_parameters([]):
        pass
    mixed = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    with pytest.raises(ValueError, match="parameters: they are of several kinds"), flat_parameters(mixed):
        pass
