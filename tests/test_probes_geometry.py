"""Laws of two clouds and of sharp turns: planted distances come back, and derivatives are those found another way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.geometry import auc, gradient_norms, jacobian_norms, separation, tau, top_share

SEEDS = st.integers(0, 2**31)
WHOLE = st.lists(st.integers(-3, 3), min_size=1, max_size=8)  # so few numbers that many tie
few = settings(max_examples=8)
CASES, FEATURES = 12, 5


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def network(seed: int):
    """A small network with tanh, from features to three outputs."""
    into, out = normal(seed, FEATURES, 7), normal(seed + 1, 7, 3)
    return lambda x: torch.tanh(x @ into) @ out


def close(found, expected, tolerance: float = 1e-9):
    """Compare as arrays; an assertion also where the shapes differ."""
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# Laws, each with a mistake that it must catch ------------------------------------------------------------------------


def tau_is_the_distance_of_the_means_at_each_mean_and_none_between(function, seed):
    safe, unsafe = 3 * normal(seed, FEATURES), 3 * normal(seed + 1, FEATURES)
    distance = math.dist(safe, unsafe)
    found = function(torch.stack([safe, unsafe, (safe + unsafe) / 2, 3 * safe - 2 * unsafe]), safe, unsafe)
    close(found, [distance, -distance, 0, distance])


def separation_is_the_distance_over_the_mean_spread_of_all_cases(function, seed):
    # Two cases at distance 1 of their mean, four at distance 4 of theirs: (2 * 1 + 4 * 4) / 6 = 3, and 12 / 3 = 4.
    origin, axis = normal(seed, 2), double(0.6, 0.8) * (1 + seed % 7)
    safe, unsafe = (torch.stack([origin + c * axis for c in row]) for row in ((-1, 1), (8, 16, 16, 8)))
    assert function(safe, unsafe) == pytest.approx(4)
    assert function(unsafe, safe) == pytest.approx(4)


def the_area_counts_pairs_with_ties_half(function, seed):
    rng = np.random.default_rng(seed)
    high, low = rng.integers(0, 4, 9).tolist(), rng.integers(0, 4, 7).tolist()
    won = sum(1 if h > w else 0.5 if h == w else 0 for h in high for w in low)
    assert function(double(*high), double(*low)) == pytest.approx(won / 63)


def points_on_a_line_have_one_component_wherever_it_lies(function, seed):
    line = normal(seed, FEATURES) + torch.outer(normal(seed + 1, CASES), normal(seed + 2, FEATURES))
    assert function(line) == pytest.approx(1)
    cloud = normal(seed, CASES, FEATURES) + 5
    values = np.linalg.eigvalsh(np.cov(cloud.numpy(), rowvar=False))
    assert function(cloud) == pytest.approx(values[-1] / values.sum())


def the_gradient_of_a_number_is_that_worked_out_by_hand(function, seed):
    points, row = normal(seed, CASES, 2, 3), normal(seed + 1, 2, 3)
    close(function(lambda x: (x * row).sum(dim=(1, 2)) + 4, points), [math.hypot(*row.flatten())] * CASES)
    close(function(lambda x: x.square().sum(dim=(1, 2)) / 2, points), [math.hypot(*p.flatten()) for p in points])


def the_jacobian_of_a_linear_map_has_its_spectral_norm_everywhere(function, seed):
    points, weight = normal(seed, CASES, FEATURES), normal(seed + 1, 3, FEATURES)
    close(function(lambda x: x @ weight.T + 1, points), [np.linalg.norm(weight.numpy(), ord=2)] * CASES)


def squares(x, safe, unsafe):
    return (x - unsafe).square().sum(dim=1) - (x - safe).square().sum(dim=1)


def each_cloud_alike(safe, unsafe):
    within = [(cloud - cloud.mean(dim=0)).norm(dim=1).mean() for cloud in (safe, unsafe)]
    return ((safe.mean(dim=0) - unsafe.mean(dim=0)).norm() / sum(within) * 2).item()


def uncentred(activations):
    s = torch.linalg.svdvals(activations).square()
    return (s[0] / s.sum()).item()


def frobenius(function, points):
    return torch.stack([torch.func.jacrev(lambda x: function(x[None])[0])(point).norm() for point in points])


BROKEN = [
    (tau, lambda x, safe, unsafe: tau(x, unsafe, safe), tau_is_the_distance_of_the_means_at_each_mean_and_none_between),
    (tau, squares, tau_is_the_distance_of_the_means_at_each_mean_and_none_between),
    (separation, each_cloud_alike, separation_is_the_distance_over_the_mean_spread_of_all_cases),
    (auc, lambda high, low: (high[:, None] > low).double().mean(), the_area_counts_pairs_with_ties_half),
    (auc, lambda high, low: (high[:, None] >= low).double().mean(), the_area_counts_pairs_with_ties_half),
    (top_share, uncentred, points_on_a_line_have_one_component_wherever_it_lies),
    (gradient_norms, lambda f, x: gradient_norms(f, x) ** 2, the_gradient_of_a_number_is_that_worked_out_by_hand),
    (jacobian_norms, frobenius, the_jacobian_of_a_linear_map_has_its_spectral_norm_everywhere),
]


@pytest.mark.parametrize(("sound", "law"), dict.fromkeys((s, law) for s, _, law in BROKEN), ids=lambda x: x.__name__)
@few
@given(SEEDS)
def test_every_measure_obeys_its_law(sound, law, seed):
    law(sound, seed)


@pytest.mark.parametrize(("mutant", "law"), [case[1:] for case in BROKEN], ids=lambda x: x.__name__)
def test_a_broken_measure_is_caught_by_its_law(mutant, law):
    with pytest.raises(AssertionError):
        law(mutant, 0)


# Two clouds ----------------------------------------------------------------------------------------------------------


def test_tau_by_hand():
    # 5 from the unsafe mean and 4 from the safe one; then 0 and 3.
    close(tau(double([0, 0], [3, 4]), double(0, 4), double(3, 4)), [1, -3])


@given(SEEDS, st.sampled_from([0.01, 1.0, 300.0]))
def test_tau_turns_its_sign_with_the_means_and_ignores_rotation_and_origin(seed, scale):
    x, safe, unsafe = normal(seed, CASES, FEATURES), normal(seed + 1, FEATURES), normal(seed + 2, FEATURES)
    q, shift = torch.from_numpy(np.linalg.qr(normal(seed + 3, FEATURES, FEATURES))[0]), normal(seed + 4, FEATURES)
    found = tau(x, safe, unsafe)
    close(tau(x, unsafe, safe), -found)
    close(tau(*(scale * (part @ q + shift) for part in (x, safe, unsafe))), scale * found, 1e-8)
    assert (found.abs() <= math.dist(safe, unsafe) + 1e-9).all()


@given(SEEDS)
def test_clouds_far_apart_lie_at_plus_and_minus_their_distance(seed):
    safe, unsafe = normal(seed, FEATURES), normal(seed + 1, FEATURES)
    unsafe = safe + 1000 * (unsafe - safe) / (unsafe - safe).norm()
    clouds = safe + normal(seed + 2, CASES, FEATURES), unsafe + normal(seed + 3, CASES, FEATURES)
    found = [tau(cloud, safe, unsafe) / 1000 for cloud in clouds]
    close(found[0], torch.ones(CASES), 0.02)
    close(found[1], -torch.ones(CASES), 0.02)
    assert auc(*found) == 1
    assert separation(*clouds) > 100


@given(SEEDS, st.sampled_from([1e-6, 0.1, -1e5]))
def test_separation_and_the_first_component_have_no_scale_and_no_origin(seed, scale):
    safe, unsafe, shift = normal(seed, CASES, FEATURES), 1 + normal(seed + 1, 7, FEATURES), normal(seed + 2, FEATURES)
    moved = [scale * (cloud + shift) for cloud in (safe, unsafe)]
    assert separation(*moved) == pytest.approx(separation(safe, unsafe), rel=1e-9)
    assert top_share(moved[0]) == pytest.approx(top_share(safe), rel=1e-9)
    assert separation(safe, safe.flip(0)) == pytest.approx(0, abs=1e-12)


def test_the_corners_of_a_rectangle_have_the_share_of_its_longer_side():
    assert top_share(double([0, 0], [3, 0], [0, 1], [3, 1])) == pytest.approx(0.9)


@given(WHOLE, WHOLE)
def test_the_area_is_that_of_a_rank_sum_and_of_scipy(high, low):
    stats = pytest.importorskip("scipy.stats")
    found = auc(double(*high), double(*low))
    values, counts = np.unique(high + low, return_counts=True)
    ranks = dict(zip(values.tolist(), np.cumsum(counts) - (counts - 1) / 2, strict=True))
    least = len(high) * (len(high) + 1) / 2
    assert found == pytest.approx((sum(ranks[h] for h in high) - least) / (len(high) * len(low)))
    expected = stats.mannwhitneyu(high, low, method="asymptotic").statistic if len(values) > 1 else found * 0 + 0.5
    assert found == pytest.approx(expected / (len(high) * len(low)) if len(values) > 1 else expected)
    assert auc(double(*low), double(*high)) == pytest.approx(1 - found)
    assert auc(double(*high).exp(), double(*low).exp()) == found, "only the order counts"


@pytest.mark.parametrize(("high", "low"), [(0, 2), (3, 0), (0, 0)])
def test_an_empty_group_has_no_area(high, low):
    with pytest.raises(ValueError, match=f"high={high}, low={low} cases: each group needs at least one"):
        auc(torch.zeros(high), torch.zeros(low))


# Sharp turns ---------------------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.sampled_from([0.01, 2.0, 100.0]))
def test_coordinates_that_are_stretched_flatten_every_slope_alike(seed, c):
    points, f = normal(seed, CASES, FEATURES), network(seed + 1)
    for norms, function in ((jacobian_norms, f), (gradient_norms, lambda x: f(x).square().sum(dim=1))):
        stretched = norms(lambda x, function=function: function(x / c), c * points)
        close(stretched * c, norms(function, points), 1e-8)


@few
@given(SEEDS)
def test_the_jacobian_of_a_network_is_that_of_another_way_to_differentiate(seed):
    points, f = normal(seed, CASES, FEATURES), network(seed + 1)
    found = jacobian_norms(f, points)
    whole = [torch.func.jacrev(lambda x: f(x[None])[0])(point) for point in points]
    close(found, [np.linalg.norm(one.numpy(), ord=2) for one in whole])
    # And that of finite differences, column by column, also for one number.
    steps = 1e-5 * torch.eye(FEATURES, dtype=torch.float64)
    slopes = torch.stack([(f(points + step) - f(points - step)) / 2e-5 for step in steps], dim=2)
    close(found, torch.linalg.matrix_norm(slopes, ord=2), 1e-6)
    for i in range(3):
        one = gradient_norms(lambda x, i=i: f(x)[:, i], points)
        close(one, slopes[:, i].norm(dim=1), 1e-6)
        close(one, jacobian_norms(lambda x, i=i: f(x)[:, i : i + 1], points))
        assert (one <= found + 1e-12).all(), "no single output turns more sharply than the whole vector"


def test_points_of_many_axes_are_left_as_they_were_and_each_is_on_its_own():
    points = normal(0, CASES, 2, FEATURES).requires_grad_(True)
    kept, into = points.detach().clone(), network(1)
    norms = jacobian_norms(lambda x: into(x.sum(dim=1)), points)
    assert torch.equal(points, kept)
    assert points.grad is None
    close(norms[3:5], jacobian_norms(lambda x: into(x.sum(dim=1)), points[3:5]))
    close(norms, math.sqrt(2) * jacobian_norms(into, points.detach().sum(dim=1)))
