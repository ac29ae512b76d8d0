"""Laws of sparse dictionaries: planted directions come back, and what luck would find is not taken for a find."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from toylab.probes import SparseAutoencoder, compare_features, dead_share, explained_variance, fit_autoencoder

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=4)
WIDTH, DIRECTIONS = 16, 10


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def boolean(*rows: str) -> torch.Tensor:
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


def close(found, expected, tolerance: float = 1e-9):
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def orthonormal(seed: int, rows: int, width: int = WIDTH) -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(normal(seed, width, rows).numpy())[0].T.copy())


def sparse(seed: int, cases: int, features: int, k: int) -> torch.Tensor:
    """Codes from 1 to 2 for k features a case, 0 for all others."""
    chosen = uniform(seed, cases, features).topk(k, dim=1).indices
    return torch.zeros(cases, features, dtype=torch.float64).scatter(1, chosen, 1 + uniform(seed + 1, cases, k))


def dictionary(directions: torch.Tensor, k: int, centre=None, stretch=1.0) -> SparseAutoencoder:
    """An autoencoder that knows its directions."""
    model = SparseAutoencoder(directions.shape[1], len(directions), k).double().requires_grad_(False)
    model.encoder.copy_(directions)
    model.decoder.copy_(stretch * directions)
    if centre is not None:
        model.centre.copy_(centre)
    return model


def trained(x: torch.Tensor, seed: int = 0, steps: int = 300) -> SparseAutoencoder:
    return fit_autoencoder(x, features=20, k=2, steps=steps, rows=64, learning_rate=2e-2, seed=seed)


# The dictionary ------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 9), st.integers(1, 12), st.data())
def test_no_more_than_k_codes_are_active_and_none_is_below_zero(seed, width, features, data):
    k = data.draw(st.integers(1, features))
    model = SparseAutoencoder(width, features, k, torch.Generator().manual_seed(seed)).double().requires_grad_(False)
    model.threshold.copy_(normal(seed, features))
    x = 3 * normal(seed + 1, 8, width)
    codes = model.encode(x)
    assert codes.shape == (8, features)
    assert (codes >= 0).all()
    assert ((codes > 0).sum(dim=1) <= k).all()
    answers = (x - model.centre) @ model.encoder.T + model.threshold
    for row, answer in zip(codes.tolist(), answers.tolist(), strict=True):
        best = sorted(range(features), key=lambda i: -answer[i])[:k]
        assert row == [max(answer[i], 0) if i in best else 0 for i in range(features)]


def test_codes_by_hand():
    model = dictionary(double([1, 0], [0, 1], [-1, 0]), k=1, centre=double(1, 1))
    x = double([4, 3], [1, 2.5], [-3, 1], [0.5, 0])
    assert model.encode(x).tolist() == [[3, 0, 0], [0, 1.5, 0], [0, 0, 4], [0, 0, 0.5]]
    assert model(x).tolist() == [[4, 1], [1, 2.5], [-3, 1], [0.5, 1]]
    model.threshold.copy_(double(0, 2, -5))
    assert model.encode(x).tolist() == [[0, 4, 0], [0, 3.5, 0], [0, 2, 0], [0, 1, 0]]


@few
@given(SEEDS, st.integers(1, DIRECTIONS), st.sampled_from([1.0, 0.01, 30.0]))
def test_planted_codes_of_orthonormal_directions_come_back_at_any_length_of_the_decoder(seed, k, stretch):
    directions, centre = orthonormal(seed, DIRECTIONS), normal(seed + 1, WIDTH)
    codes = sparse(seed + 2, 30, DIRECTIONS, k)
    x = codes @ directions + centre
    model = dictionary(directions, k, centre, stretch)
    close(model.encode(x), codes)
    close(model(x), x)
    if k > 1:
        strongest = codes * (codes == codes.max(dim=1, keepdim=True).values)
        close(dictionary(directions, 1, centre)(x), strongest @ directions + centre)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_a_number_of_active_features_that_there_are_not_is_refused(k):
    with pytest.raises(ValueError, match=rf"k={k}: must be at least 1 and at most 5"):
        SparseAutoencoder(3, 5, k)


def test_the_initial_directions_are_of_unit_length_and_those_of_the_generator():
    one, same, other = (SparseAutoencoder(4, 6, 2, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    torch.testing.assert_close(one.decoder.norm(dim=1), torch.ones(6))
    assert torch.equal(one.encoder, one.decoder)
    assert torch.equal(one.decoder, same.decoder)
    assert not torch.equal(one.decoder, other.decoder)


# Training ------------------------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.sampled_from([0.0, 5.0]))
def test_training_finds_the_planted_directions(seed, offset):
    directions = orthonormal(seed, DIRECTIONS)
    x = sparse(seed + 1, 800, DIRECTIONS, 2) @ directions + offset * normal(seed + 2, WIDTH)
    model = trained(x, seed % 100)
    assert explained_variance(model, x) > 0.9
    found = nn.functional.normalize(model.decoder.detach(), dim=1) @ directions.T
    assert (found.max(dim=0).values > 0.9).all()
    # Each direction has a feature that is strong where it was planted.
    fresh = sparse(seed + 3, 200, DIRECTIONS, 2)
    codes = model.encode(fresh @ directions + offset * normal(seed + 2, WIDTH)).detach()
    planted = fresh > 0
    agreement = ((codes[:, found.argmax(dim=0)] > 0.5) == planted).double().mean()
    assert agreement > 0.9


@few
@given(SEEDS, st.sampled_from([1000.0, 1e-3]))
def test_the_scale_of_the_activations_does_not_matter(seed, scale):
    x = sparse(seed, 200, DIRECTIONS, 2) @ orthonormal(seed + 1, DIRECTIONS) + normal(seed + 2, WIDTH)
    one, other = trained(x, steps=40), trained(scale * x, steps=40)
    share = explained_variance(one, x)
    assert share > 0.1
    assert explained_variance(other, scale * x) == pytest.approx(share, abs=1e-6)
    close(other(scale * x).detach(), scale * one(x).detach(), max(scale, 1) * 1e-6)
    close(other.encode(scale * x).detach(), scale * one.encode(x).detach(), max(scale, 1) * 1e-6)
    assert dead_share(other, scale * x) == dead_share(one, x)


def test_the_same_seed_trains_the_same_and_nothing_else_is_drawn_or_changed():
    x = (sparse(0, 200, DIRECTIONS, 2) @ orthonormal(1, DIRECTIONS)).requires_grad_(True)
    kept, state = x.detach().clone(), torch.random.get_rng_state()
    one, same, *others = (trained(x, seed, steps=10).state_dict() for seed in (3, 3, 4, 3 + 2**32))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert x.grad is None
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one["decoder"], other["decoder"]) for other in others)
    assert one["decoder"].dtype == torch.float64
    assert trained(x.detach().float(), steps=1).decoder.dtype == torch.float32


def test_activations_that_are_all_one_are_learned_at_once_and_none_at_all_are_refused():
    x = torch.full((5, 4), 3.7)
    torch.testing.assert_close(trained(x, steps=3)(x).detach(), x)
    with pytest.raises(ValueError, match="at least one case"):
        fit_autoencoder(torch.zeros(0, 4))


# How good it is ------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    def __init__(self, row: torch.Tensor) -> None:
        super().__init__()
        self.row = row

    def forward(self, x):
        return self.row.expand_as(x)


@few
@given(SEEDS)
def test_a_copy_explains_all_and_the_mean_nothing(seed):
    x = normal(seed, 20, WIDTH) + 7
    assert explained_variance(nn.Identity(), x) == 1
    assert explained_variance(Constant(x.mean(dim=0)), x) == pytest.approx(0)
    assert explained_variance(Constant(x.mean(dim=0) + 1), x) < 0
    # Directions of which half are known explain their share of the sum of the covariance.
    directions, (codes, parts) = orthonormal(seed, WIDTH), (sparse(seed, 300, WIDTH, 4), slice(0, WIDTH // 2))
    known = dictionary(directions[parts], WIDTH // 2, directions[WIDTH // 2 :].T @ codes[:, WIDTH // 2 :].mean(dim=0))
    variances = np.var(codes.numpy(), axis=0)
    share = variances[parts].sum() / variances.sum()
    assert explained_variance(known, codes @ directions) == pytest.approx(share)


def test_the_share_explained_by_hand():
    # Around the mean (2, 0) the squares sum to 4 + 4 + 1 + 1 = 10; the zeros of the second axis miss 1 + 1 = 2.
    x = double([0, 0], [4, 0], [2, 1], [2, -1])
    assert explained_variance(dictionary(double([1, 0]), 1), x) == pytest.approx(0.8)


def test_features_that_never_fire_are_dead():
    model = dictionary(double([1, 0], [0, 1], [-1, 0], [0, -1]), k=1)
    assert dead_share(model, double([1, 0], [5, 4])) == pytest.approx(0.75)
    assert dead_share(model, double([1, 0], [4, 5])) == pytest.approx(0.5)
    assert dead_share(model, double([1, 0], [0, 2], [-1, 0], [0, -2])) == 0
    assert dead_share(model, double([0, 0])) == 1, "an answer of 0 is none"


# Features of two groups ----------------------------------------------------------------------------------------------


def test_features_of_two_groups_by_hand():
    fires = boolean("xx.", "x..", "xx.", "xxx", "x.x")
    group = torch.tensor([False, False, False, True, True])
    found = compare_features(fires, group, indicator=torch.tensor([True, False, False, True, True]))
    assert (found.feature, found.inside, found.outside, found.difference) == (2, 1, 0, 1)
    assert found.agreement == pytest.approx(0.8)
    # The second fires in two of three outside and one of two inside.
    found = compare_features(fires[:, :2], group)
    assert (found.feature, found.inside, found.agreement) == (1, 0.5, None)
    assert (found.outside, found.difference) == pytest.approx((2 / 3, -1 / 6))
    always = compare_features(fires[:, :1], group)
    assert (always.inside, always.outside, always.difference, always.chance) == (1, 1, 0, 0)


@few
@given(SEEDS, st.integers(0, 11), st.booleans())
def test_a_planted_feature_is_found_far_above_chance(seed, planted, turned):
    group = uniform(seed, 60) < 0.4
    fires = uniform(seed + 1, 60, 12) < 0.5
    slips = uniform(seed + 2, 60) < 0.05
    fires[:, planted] = group ^ slips ^ turned
    found = compare_features(fires, group, permutations=50)
    assert found.feature == planted
    rows = list(zip(fires[:, planted].tolist(), group.tolist(), strict=True))
    inside, outside = ([fire for fire, member in rows if member == side] for side in (True, False))
    assert (found.inside, found.outside) == pytest.approx((sum(inside) / len(inside), sum(outside) / len(outside)))
    assert found.difference == pytest.approx(found.inside - found.outside)
    assert (found.difference < 0) == turned
    assert abs(found.difference) > 0.7
    assert abs(found.difference) > 1.3 * found.chance


def test_what_has_nothing_to_do_with_the_groups_seldom_beats_chance():
    lucky = 0
    for seed in range(40):
        fires, group = uniform(seed, 50, 12) < 0.3, uniform(seed + 1000, 50) < 0.5
        found = compare_features(fires, group, permutations=40, seed=seed)
        lucky += abs(found.difference) > found.chance
    assert lucky <= 6, "5 % of 40 are 2"


def test_the_chance_is_that_of_all_ways_to_mix_the_groups():
    # Of the 10 choices of two of five, one has none of the three cases that fire (0 - 1), six have one (1/2 - 2/3) and
    # three have two (1 - 1/3): a tenth of the sizes is 1, all others lie below.
    fires, group = boolean("x", "x", "x", ".", "."), torch.tensor([False, True, False, True, False])
    found = compare_features(fires, group, permutations=400)
    assert found.chance == pytest.approx(1)
    assert found.difference == pytest.approx(-1 / 6)
    # Of the 35 choices of three of seven, one has all three that fire (1 - 0), too few to count; four have none (3/4).
    fires, group = boolean(*"xxx...."), torch.arange(7) < 3
    found = compare_features(fires, group, permutations=1000)
    assert (found.difference, found.chance) == pytest.approx((1, 3 / 4))


@few
@given(SEEDS)
def test_chance_grows_with_what_is_searched_and_not_with_copies_of_it(seed):
    fires, group = uniform(seed, 40, 8) < 0.4, torch.arange(40) % 3 == 0
    chances = [compare_features(fires[:, :n], group, permutations=40, seed=seed % 9).chance for n in range(1, 9)]
    assert chances == sorted(chances)
    copies = compare_features(torch.cat([fires, ~fires, fires], dim=1), group, permutations=40, seed=seed % 9)
    assert copies.chance == pytest.approx(chances[-1])
    assert chances[-1] > 0


def test_the_seed_of_the_permutations_counts_to_its_last_bit():
    fires, group = uniform(0, 60, 20) < 0.4, torch.arange(60) % 3 == 0
    seeds = [5, *(5 + 2**power for power in range(32, 40))]
    assert len({compare_features(fires, group, permutations=3, seed=seed).chance for seed in seeds}) > 1


@few
@given(SEEDS)
def test_the_other_group_and_the_other_sign_are_the_same_search(seed):
    fires, group = uniform(seed, 40, 8) < 0.4, uniform(seed + 1, 40) < 0.3
    found, other, silent = (
        compare_features(f, g, permutations=20) for f, g in ((fires, group), (fires, ~group), (~fires, group))
    )
    assert found == compare_features(fires, group, permutations=20)
    assert found.chance == pytest.approx(other.chance)
    assert found.chance == pytest.approx(silent.chance)
    assert (other.inside, other.outside) == pytest.approx((found.outside, found.inside))
    assert (other.difference, silent.difference) == pytest.approx((-found.difference, -found.difference))


@few
@given(SEEDS)
def test_an_indicator_that_is_the_feature_or_its_opposite_agrees_in_all(seed):
    group = torch.arange(30) % 2 == 0
    fires = uniform(seed, 30, 5) < 0.3
    fires[:, 3] = group
    fires[:2, 3] = True
    for indicator in (fires[:, 3], ~fires[:, 3]):
        found = compare_features(fires, group, indicator, permutations=3)
        assert (found.feature, found.agreement) == (3, 1)
    half = fires[:, 3] ^ (torch.arange(30) < 15)
    assert compare_features(fires, group, half, permutations=3).agreement == 0.5
    assert compare_features(fires, group, permutations=3).agreement is None


@pytest.mark.parametrize(("member", "count"), [(True, 4), (False, 0)])
def test_a_group_without_others_cannot_be_told_from_them(member, count):
    with pytest.raises(ValueError, match=rf"group: {count} of 4 cases; both groups need some"):
        compare_features(boolean("x", ".", "x", "."), torch.tensor([member] * 4))


# Where there is no answer --------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.sampled_from([torch.float16, torch.bfloat16]), st.sampled_from([1.0, 200.0]))
def test_activations_of_half_precision_are_learned_in_float32(seed, kind, scale):
    x = (scale * sparse(seed, 200, DIRECTIONS, 2) @ orthonormal(seed + 1, DIRECTIONS)).to(kind)
    model, expected = trained(x, steps=40), trained(x.float(), steps=40)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), expected.parameters(), strict=True))
    assert explained_variance(model, x) == explained_variance(expected, x.float())
    assert dead_share(model, x) == dead_share(expected, x.float())
    with torch.no_grad():  # a model in half precision is judged in float32 too: squares of 200 exceed it
        assert explained_variance(Constant(x.mean(dim=0)), x) == pytest.approx(0, abs=0.02)


def test_activations_that_are_all_the_same_have_no_variance_to_explain():
    for x in (torch.full((3, 4), 0.1), torch.rand(1, 4)):
        with pytest.raises(ValueError, match=f"activations: all {len(x)} are the same"):
            explained_variance(nn.Identity(), x)


@pytest.mark.parametrize("judge", [explained_variance, dead_share])
def test_no_activations_are_not_judged(judge):
    with pytest.raises(ValueError, match="activations: shape"):
        judge(dictionary(double([1, 0]), 1), normal(0, 0, 2))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("rows", {"rows": 0}), ("steps", {"steps": -1}), ("learning_rate", {"learning_rate": 1e20, "steps": 9})],
)
def test_a_training_that_can_end_in_no_number_is_refused(name, settings):
    with pytest.raises(ValueError, match=f"^{name}="):
        fit_autoencoder(normal(0, 20, 4).float(), 6, 2, **settings)


def test_masks_of_other_lengths_and_numbers_and_an_empty_search_are_refused():
    unchecked, fires = inspect.unwrap(compare_features), boolean("x.", ".x", "xx")  # shapes are checked in tests
    group = torch.tensor([1, 0, 0])
    with pytest.raises(ValueError, match="fires=3, group=2: must"):
        unchecked(fires, group[:2])
    with pytest.raises(ValueError, match="fires=3, indicator=1: must"):
        unchecked(fires, group, group[:1])
    for codes in (0.3, math.nan):
        with pytest.raises(ValueError, match=r"fires: holds .* a mask holds"):
            unchecked(torch.full((3, 2), codes), group)
    with pytest.raises(ValueError, match="permutations=0: must be at least 1"):
        compare_features(fires, group, permutations=0)
    with pytest.raises(ValueError, match="fires: shape"):
        compare_features(fires[:, :0], group)
    assert unchecked(fires.double(), group.numpy(), [1, 0, 0]) == compare_features(fires, group == 1, group == 1)
