"""Laws of uninformed models: as large as the trained one, as far from the base, and otherwise at random."""

from copy import deepcopy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from toylab.model.config import ModelConfig
from toylab.model.controls import random_like, with_random_change, with_shuffled_weights
from toylab.model.transformer import Transformer

seeds = st.integers(0, 2**40)


def drawn(seed: int) -> nn.Module:
    torch.manual_seed(seed % 2**31)
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5, bias=False))
    model[1].weight.requires_grad_(False)
    return model


@given(seeds)
def test_shuffled_weights_are_the_same_numbers_elsewhere(seed):
    model = drawn(seed)
    mixed = with_shuffled_weights(model, seed)
    assert torch.equal(mixed[0].weight.flatten().sort().values, model[0].weight.flatten().sort().values)
    assert (mixed[0].weight != model[0].weight).float().mean() > 0.5
    assert torch.equal(mixed[1].weight, model[1].weight)  # which is no trained one
    assert torch.equal(with_shuffled_weights(model, seed)[0].weight, mixed[0].weight)
    assert not torch.equal(with_shuffled_weights(model, seed + 1)[0].weight, mixed[0].weight)


@given(seeds)
def test_a_random_change_is_as_large_as_that_of_the_fine_tune_in_every_parameter_and_in_no_relation_to_it(seed):
    base, tuned = drawn(seed), drawn(seed + 1)
    kept = deepcopy(base)
    changed = with_random_change(base, tuned, seed)
    for start, end, other, before in zip(*(m.parameters() for m in (base, tuned, changed, kept)), strict=True):
        torch.testing.assert_close((other - start).norm(), (end - start).norm())
        assert torch.equal(start, before)
    cosine = torch.cosine_similarity(*((m[0].weight - base[0].weight).flatten() for m in (changed, tuned)), dim=0)
    assert abs(cosine) < 0.75
    same = with_random_change(base, deepcopy(base), seed)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), base.parameters(), strict=True))


@given(seeds)
def test_a_random_change_is_independent_of_the_initial_weights_of_a_model_with_the_same_seed(seed):
    base = Transformer(ModelConfig(width=32), 16, 24, seed)
    tuned = Transformer(ModelConfig(width=32), 16, 24, seed + 1)
    changed = with_random_change(base, tuned, seed)
    for start, end in zip(base.parameters(), changed.parameters(), strict=True):
        if start.ndim > 1:
            cosine = torch.cosine_similarity(start.flatten(), (end - start).flatten(), dim=0)
            assert abs(cosine) < 6 * start.numel() ** -0.5


@given(seeds, st.floats(1e-3, 1e3))
def test_a_random_direction_has_the_norm_that_is_asked_for(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    vector = scale * torch.randn(9, generator=generator)
    torch.testing.assert_close(random_like(vector, generator).norm(), vector.norm())
