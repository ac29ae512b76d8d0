"""Laws of two clouds and of sharp turns: planted distances come back, and derivatives are those found another way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.probes.geometry import auc, cosine_to, gradient_norms, jacobian_norms, nearness, separation, top_share
from toylab.probes.nullspace import top_energy

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
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# Laws, each with a mistake that it must catch ------------------------------------------------------------------------


def tau_is_the_distance_of_the_means_at_each_mean_and_none_between(tau, seed):
    safe, unsafe = 3 * normal(seed, FEATURES), 3 * normal(seed + 1, FEATURES)
    distance = math.dist(safe.tolist(), unsafe.tolist())
    points = torch.stack([safe, unsafe, (safe + unsafe) / 2, 3 * safe - 2 * unsafe])
    close(tau(points, safe, unsafe), [distance, -distance, 0, distance])


def separation_is_the_distance_over_the_mean_spread_of_all_cases(separation, seed):
    # Two cases at distance 1 of their mean, four at distance 4 of theirs: (2 * 1 + 4 * 4) / 6 = 3, and 12 / 3 = 4.
    origin, axis = normal(seed, 2), double(0.6, 0.8) * (1 + seed % 7)
    safe, unsafe = (torch.stack([origin + c * axis for c in row]) for row in ((-1, 1), (8, 16, 16, 8)))
    assert (separation(safe, unsafe), separation(unsafe, safe)) == pytest.approx((4, 4))


def the_area_counts_pairs_with_ties_half(auc, seed):
    rng = np.random.default_rng(seed)
    high, low = rng.integers(0, 4, 9).tolist(), rng.integers(0, 4, 7).tolist()
    won = sum(1 if h > w else 0.5 if h == w else 0 for h in high for w in low)
    assert auc(double(*high), double(*low)) == pytest.approx(won / 63)


def points_on_a_line_have_one_component_and_a_cloud_that_of_its_covariance(top_share, seed):
    line = normal(seed, FEATURES) + torch.outer(normal(seed + 1, CASES), normal(seed + 2, FEATURES))
    cloud = normal(seed, CASES, FEATURES) + 5
    values = np.linalg.eigvalsh(np.cov(cloud.numpy(), rowvar=False))
    assert (top_share(line), top_share(cloud)) == pytest.approx((1, values[-1] / values.sum()))


def changes_at_known_angles_have_the_mean_of_their_cosines(cosine_to, seed):
    # At 0, 60, 90 and 180 degrees of the direction, of any length: (1 + 1/2 + 0 - 1) / 4; their sum lies elsewhere.
    q = torch.from_numpy(np.linalg.qr(normal(seed, FEATURES, FEATURES).numpy())[0])
    changes = torch.stack([7 * q[0], q[0] + math.sqrt(3) * q[1], 0.2 * q[2], -3 * q[0]])
    assert cosine_to(changes, 5 * q[0]) == pytest.approx(1 / 8)


def changes_without_a_direction_are_held_against_their_own_mean(cosine_to, seed):
    changes = normal(seed, CASES, FEATURES) + 0.3
    mean = [sum(column) / CASES for column in zip(*changes.tolist(), strict=True)]
    cosines = [np.dot(x, mean) / (math.hypot(*x) * math.hypot(*mean)) for x in changes.tolist()]
    assert cosine_to(changes) == pytest.approx(sum(cosines) / CASES)


def the_gradient_of_a_number_is_that_worked_out_by_hand(norms, seed):
    points, row = normal(seed, CASES, 2, 3), normal(seed + 1, 2, 3)
    lengths = [math.hypot(*x.flatten().tolist()) for x in (row, *points)]
    close(norms(lambda x: (x * row).sum(dim=(1, 2)) + 4, points), lengths[:1] * CASES)
    close(norms(lambda x: x.square().sum(dim=(1, 2)) / 2, points), lengths[1:])


def the_jacobian_of_a_linear_map_has_its_spectral_norm_everywhere(norms, seed):
    points, weight = normal(seed, CASES, FEATURES), normal(seed + 1, 3, FEATURES)
    close(norms(lambda x: x @ weight.T + 1, points), [np.linalg.norm(weight.numpy(), ord=2)] * CASES)


def squared_tau(x, safe, unsafe):
    return (x - unsafe).square().sum(dim=1) - (x - safe).square().sum(dim=1)


def separation_of_clouds_alike(safe, unsafe):
    within = [(cloud - cloud.mean(dim=0)).norm(dim=1).mean() for cloud in (safe, unsafe)]
    return 2 * ((safe.mean(dim=0) - unsafe.mean(dim=0)).norm() / sum(within)).item()


def cosine_of_the_mean(changes, direction=None):
    return cosine_to(changes.mean(dim=0, keepdim=True), direction)


def cosine_to_the_mean_of_unit_changes(changes, direction=None):
    unit = changes / changes.norm(dim=1, keepdim=True)
    return cosine_to(changes, unit.mean(dim=0) if direction is None else direction)


def cosine_without_sign(changes, direction):
    return torch.cosine_similarity(changes, direction[None], dim=1).abs().mean().item()


def frobenius_norms(function, points):
    return sum(gradient_norms(lambda x, i=i: function(x)[:, i], points) ** 2 for i in range(3)).sqrt()


BROKEN = [
    (
        nearness,
        lambda x, safe, unsafe: nearness(x, unsafe, safe),
        tau_is_the_distance_of_the_means_at_each_mean_and_none_between,
    ),
    (nearness, squared_tau, tau_is_the_distance_of_the_means_at_each_mean_and_none_between),
    (separation, separation_of_clouds_alike, separation_is_the_distance_over_the_mean_spread_of_all_cases),
    (auc, lambda high, low: (high[:, None] > low).double().mean().item(), the_area_counts_pairs_with_ties_half),
    (auc, lambda high, low: (high[:, None] >= low).double().mean().item(), the_area_counts_pairs_with_ties_half),
    (top_share, top_energy, points_on_a_line_have_one_component_and_a_cloud_that_of_its_covariance),
    (cosine_to, cosine_of_the_mean, changes_at_known_angles_have_the_mean_of_their_cosines),
    (cosine_to, cosine_without_sign, changes_at_known_angles_have_the_mean_of_their_cosines),
    (cosine_to, cosine_of_the_mean, changes_without_a_direction_are_held_against_their_own_mean),
    (cosine_to, cosine_to_the_mean_of_unit_changes, changes_without_a_direction_are_held_against_their_own_mean),
    (gradient_norms, lambda f, x: gradient_norms(f, x) ** 2, the_gradient_of_a_number_is_that_worked_out_by_hand),
    (jacobian_norms, frobenius_norms, the_jacobian_of_a_linear_map_has_its_spectral_norm_everywhere),
]


@pytest.mark.parametrize(("sound", "law"), dict.fromkeys((sound, law) for sound, _, law in BROKEN))
@few
@given(SEEDS)
def test_every_measure_obeys_its_law(sound, law, seed):
    law(sound, seed)


@pytest.mark.parametrize(("mutant", "law"), [case[1:] for case in BROKEN])
def test_a_broken_measure_is_caught_by_its_law(mutant, law):
    with pytest.raises(AssertionError):
        law(mutant, 0)


# Two clouds ----------------------------------------------------------------------------------------------------------


def test_tau_and_the_first_component_by_hand():
    # The first point lies 5 from the unsafe mean and 4 from the safe one, the second 0 and 3.
    close(nearness(double([0, 0], [3, 4]), double(0, 4), double(3, 4)), [1, -3])
    assert top_share(double([0, 0], [3, 0], [0, 1], [3, 1])) == pytest.approx(0.9)


@few
@given(SEEDS, st.sampled_from([0.01, 1.0, 300.0]))
def test_scale_rotation_and_origin_do_not_matter_and_swapped_means_turn_the_sign(seed, scale):
    (x, other), (safe, unsafe) = normal(seed, 2, CASES, FEATURES), normal(seed + 1, 2, FEATURES)
    q = torch.from_numpy(np.linalg.qr(normal(seed + 4, FEATURES, FEATURES).numpy())[0])
    moved = [scale * (part @ q + q[0] - 3) for part in (x, other + 1, safe, unsafe)]
    found = nearness(x, safe, unsafe)
    close(nearness(x, unsafe, safe), -found)
    close(nearness(moved[0], *moved[2:]), scale * found, 1e-8)
    assert (found.abs() <= math.dist(safe.tolist(), unsafe.tolist()) + 1e-9).all()
    assert separation(*moved[:2]) == pytest.approx(separation(x, other + 1))
    assert separation(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    assert top_share(moved[0]) == pytest.approx(top_share(x))


@few
@given(SEEDS)
def test_clouds_far_apart_lie_at_plus_and_minus_their_distance(seed):
    safe, way = normal(seed, FEATURES), normal(seed + 1, FEATURES)
    unsafe = safe + 1000 * way / way.norm()
    clouds = safe + normal(seed + 2, CASES, FEATURES), unsafe + normal(seed + 3, CASES, FEATURES)
    found = [nearness(cloud, safe, unsafe) for cloud in clouds]
    close(torch.cat(found) / 1000, [1] * CASES + [-1] * CASES, 0.02)
    assert auc(*found) == 1
    assert separation(*clouds) > 100


@given(WHOLE, WHOLE)
def test_the_area_is_that_of_a_rank_sum_and_of_scipy(high, low):
    stats, pairs = pytest.importorskip("scipy.stats"), len(high) * len(low)
    found = auc(double(*high), double(*low))
    values, counts = np.unique(high + low, return_counts=True)
    ranks = dict(zip(values.tolist(), np.cumsum(counts) - (counts - 1) / 2, strict=True))
    assert found == pytest.approx((sum(ranks[h] for h in high) - len(high) * (len(high) + 1) / 2) / pairs)
    assert found == pytest.approx(stats.mannwhitneyu(high, low, method="exact").statistic / pairs)
    assert auc(double(*low), double(*high)) == pytest.approx(1 - found)
    assert auc(double(*high).exp(), double(*low).exp()) == found, "only the order counts"


@pytest.mark.parametrize(("high", "low"), [(0, 2), (3, 0), (0, 0)])
def test_an_empty_group_has_no_area(high, low):
    with pytest.raises(ValueError, match=f"high={high}, low={low} cases: each group needs at least one"):
        auc(torch.zeros(high), torch.zeros(low))


@few
@given(SEEDS, st.sampled_from([0.01, 1.0, 300.0]))
def test_changes_all_alike_have_cosine_one_and_no_length_or_rotation_matters(seed, scale):
    change, direction = normal(seed, FEATURES), normal(seed + 1, FEATURES)
    alike = torch.outer(normal(seed + 2, CASES).exp(), change)
    assert (cosine_to(alike), cosine_to(alike, -change)) == pytest.approx((1, -1))
    changes = normal(seed + 3, CASES, FEATURES) + 0.5
    q = torch.from_numpy(np.linalg.qr(normal(seed + 4, FEATURES, FEATURES).numpy())[0])
    assert cosine_to(scale * changes @ q) == pytest.approx(cosine_to(changes))
    assert cosine_to(scale * changes @ q, direction @ q / scale) == pytest.approx(cosine_to(changes, direction))
    lengths = normal(seed + 5, CASES, 1).exp()
    assert cosine_to(lengths * changes, direction) == pytest.approx(cosine_to(changes, direction))
    assert cosine_to(-changes, direction) == pytest.approx(-cosine_to(changes, direction))
    assert cosine_to(torch.cat([changes, -changes]), direction) == pytest.approx(0, abs=1e-12)


def test_changes_by_hand():
    # The mean of (2, 0) and (0, 2) is (1, 1), at 45 degrees of both; a case that did not change counts as 0.
    assert cosine_to(double([2, 0], [0, 2])) == pytest.approx(math.sqrt(0.5))
    assert cosine_to(double([2, 0], [0, 2]), double(0, 9)) == pytest.approx(0.5)
    assert cosine_to(double([3, 4], [0, 0]), double(1, 0)) == pytest.approx(0.3)


# Sharp turns ---------------------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.sampled_from([0.01, 2.0, 100.0]))
def test_stretched_coordinates_flatten_every_slope_alike(seed, c):
    points, f = normal(seed, CASES, FEATURES), network(seed + 1)
    close(c * jacobian_norms(lambda x: f(x / c), c * points), jacobian_norms(f, points), 1e-8)
    close(c * gradient_norms(lambda x: f(x / c)[:, 0], c * points), gradient_norms(lambda x: f(x)[:, 0], points), 1e-8)


@few
@given(SEEDS)
def test_the_slopes_of_a_network_are_those_of_two_other_ways_to_differentiate(seed):
    points, f = normal(seed, CASES, FEATURES), network(seed + 1)
    found = jacobian_norms(f, points)
    whole = [torch.func.jacrev(lambda x: f(x[None])[0])(point) for point in points]
    close(found, [np.linalg.norm(one.numpy(), ord=2) for one in whole])
    steps = 1e-5 * torch.eye(FEATURES, dtype=torch.float64)
    slopes = torch.stack([(f(points + step) - f(points - step)) / 2e-5 for step in steps], dim=2)
    close(found, np.linalg.norm(slopes.numpy(), ord=2, axis=(1, 2)), 1e-6)
    for i in range(3):
        one = gradient_norms(lambda x, i=i: f(x)[:, i], points)
        close(one, slopes[:, i].norm(dim=1), 1e-6)
        close(one, jacobian_norms(lambda x, i=i: f(x)[:, i : i + 1], points))
        assert (one <= found + 1e-12).all(), "no single output turns more sharply than the whole vector"


def test_points_of_many_axes_are_left_as_they_were_and_each_is_on_its_own():
    points, into = normal(0, CASES, 2, FEATURES).requires_grad_(True), network(1)
    kept = points.detach().clone()
    norms = jacobian_norms(lambda x: into(x.sum(dim=1)), points)
    assert torch.equal(points, kept)
    assert points.grad is None
    close(norms[3:5], jacobian_norms(lambda x: into(x.sum(dim=1)), points[3:5]))
    close(norms, math.sqrt(2) * jacobian_norms(into, kept.sum(dim=1)))


def test_equal_infinities_are_a_tie_and_what_is_no_number_is_refused():
    assert auc(torch.tensor([math.inf]), torch.tensor([math.inf])) == 0.5
    assert auc(torch.tensor([math.inf]), torch.tensor([-math.inf])) == 1
    with pytest.raises(ValueError, match="holds nan"):
        auc(torch.tensor([math.nan, 1.0]), torch.tensor([0.0]))


# Where there is no answer --------------------------------------------------------------------------------------------


def test_the_area_of_large_groups_is_exact_and_needs_no_table_of_all_pairs():
    size = 200_000  # as a table, more memory than there is
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).double()
    assert auc(order + 0.5, order.flip(0)) == (size + 1) / (2 * size)
    assert auc(order, order) == 0.5


@given(WHOLE, WHOLE, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_the_area_is_to_the_last_bit_the_share_of_pairs_won(high, low, kind):
    high, low = torch.tensor([*high, math.inf]).to(kind), torch.tensor([*low, -math.inf, math.inf])
    pairs = [(h > w) + 0.5 * (h == w) for h in high.tolist() for w in low.tolist()]
    assert auc(high, low) == sum(pairs) / len(pairs)


@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
def test_clouds_that_are_points_have_no_spread_to_measure_by(seed, one, other, kind):
    safe, unsafe = (normal(seed + size, FEATURES).to(kind).repeat(size, 1) for size in (one, other))
    with pytest.raises(ValueError, match=f"safe={one}, unsafe={other} cases: .* no spread"):
        separation(safe, unsafe)
    apart = torch.cat([unsafe, unsafe + 1])  # one cloud with a spread is enough
    assert math.isfinite(separation(safe, apart))
    assert top_share(safe) == 0
    assert nearness(apart, safe[0], safe[0]).tolist() == [0] * (2 * other)


@few
@given(SEEDS, st.sampled_from([torch.float32, torch.float64]))
def test_changes_that_cancel_have_no_common_direction_and_short_ones_have_all_theirs(seed, kind):
    x, y = normal(seed, 2, FEATURES).to(kind)
    cancelled = torch.stack([0.1 * x, 0.2 * x, -0.3 * x, y, -y])
    assert cosine_to(cancelled) == cosine_to(torch.zeros(3, FEATURES)) == cosine_to(cancelled, 0 * x) == 0
    changes = normal(seed + 1, CASES, FEATURES).to(kind)
    for scale in (1e-12, 1e-18):
        assert cosine_to(scale * changes, scale * x) == pytest.approx(cosine_to(changes, x), abs=1e-6)
        assert cosine_to(scale * changes) == pytest.approx(cosine_to(changes), abs=1e-6)


@pytest.mark.parametrize("measured", [top_share, cosine_to, lambda x: separation(x, x + 1)])
def test_no_cases_at_all_are_refused(measured):
    with pytest.raises(ValueError, match=r"(activations|changes|safe): shape \(0, 4\) holds nothing"):
        measured(torch.zeros(0, 4))
