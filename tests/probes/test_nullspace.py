"""Laws of where a weight change lies: planted parts are found with their share, chance and spread are what they say."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toylab.probes import nullspace as ns

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=5)
OUTPUTS, INPUTS, RANK = 9, 6, 4


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.linalg.qr(normal(seed, size, size).numpy())[0])


def planted(seed: int, outputs: int = OUTPUTS, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output directions, input directions, and a weight that uses the first `rank` of each: singular values rank..1."""
    u, v = rotation(seed, outputs), rotation(seed + 1, INPUTS)
    return u, v, (u[:, :rank] * torch.arange(rank, 0, -1)) @ v[:, :rank].T


def mixture(seed: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A change with this share of its energy in the left null space of a weight, and that weight."""
    u, _, weight = planted(seed)
    null, column = u[:, RANK:] @ normal(seed + 2, OUTPUTS - RANK, INPUTS), u[:, :RANK] @ normal(seed + 3, RANK, INPUTS)
    return math.sqrt(share) * null / null.norm() + math.sqrt(1 - share) * column / column.norm(), weight


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.linalg.svd(matrix, full_matrices=False)


def explained(weight: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """What least squares can make of a change with the columns of a weight."""
    return weight @ torch.from_numpy(np.linalg.lstsq(weight.numpy(), change.numpy(), rcond=1e-9)[0])


def close(found, expected, tolerance: float = 1e-9):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, strict=np.ndim(expected) > 1)


# Laws, each with mistakes that it must catch -------------------------------------------------------------------------


def leading_directions_span_the_weight(leading, seed):
    _, _, weight = planted(seed, INPUTS)
    found = leading(weight)
    close(found.T @ found, torch.eye(RANK, dtype=torch.float64))
    close(found @ (found.T @ weight), weight)


def an_energy_cut_is_the_smallest_that_holds_it(leading, seed):
    weight = normal(seed, OUTPUTS, INPUTS)
    squares = np.linalg.eigvalsh((weight.T @ weight).numpy())[::-1]
    for energy in np.random.default_rng(seed).uniform(0.05, 1, size=20).tolist():
        k = 0
        while squares[:k].sum() < energy * squares.sum():
            k += 1
        assert leading(weight, energy).shape == (OUTPUTS, k)


def a_mixture_has_its_share(outside, seed):
    change, weight = mixture(seed, 0.3)
    assert outside(5 * change, ns.left_singular_directions(weight)) == pytest.approx(0.3, abs=1e-9)


def the_strongest_direction_is_judged_alone(null_share, seed):
    u, v, weight = planted(seed)
    null, column = (torch.outer(u[:, i], v[:, j]) for i, j in ((RANK, 1), (0, 5)))
    for strong, weak, share, top in ((null, column, 0.9, 1), (column, null, 0.1, 0)):
        found = null_share(3 * strong + weak, weight)
        assert (found.share, found.top) == (pytest.approx(share), pytest.approx(top, abs=1e-9))


def chance_and_spread_are_those_of_rotations(null_share, seed):
    weight, change = normal(seed, OUTPUTS, 3), normal(seed + 1, OUTPUTS, 3) * torch.tensor([3, 1, 0.2])
    moved = [rotation(seed + draw, OUTPUTS) @ change for draw in range(300)]
    shares = [((one - explained(weight, one)).norm() / one.norm()).item() ** 2 for one in moved]
    found = null_share(change, weight, draws=300)
    assert 0.7 < found.spread / np.std(shares) < 1.4
    assert found.chance == pytest.approx(np.mean(shares), abs=6 * np.std(shares) / math.sqrt(300))


def inputs_that_a_change_reads_feel_it_alone(effect, seed):
    weight, inputs, p = normal(seed, INPUTS, INPUTS), rotation(seed, INPUTS), rotation(seed + 2, INPUTS)[0]
    there = [math.dist((weight @ a).tolist(), [0] * INPUTS) for a in inputs]
    for strength in (0.5, 7):  # inputs 2 and 3 are unsafe, the others are safe
        reads = 0.6 * inputs[2] + 0.8 * inputs[3]
        expected = [strength * c / norm for c, norm in zip((0, 0, 0.6, 0.8, 0, 0), there, strict=True)]
        close(effect(strength * torch.outer(p, reads), weight, 3 * inputs), expected)


def an_input_that_is_read_has_cosine_one(row_cosines, seed):
    v, p = rotation(seed + 1, INPUTS), rotation(seed + 2, INPUTS)[0]
    found = row_cosines(3 * torch.outer(p, v[:, 0]), torch.stack([-2 * v[:, 0], v[:, 1], v[:, 0] + v[:, 1]]), 1)
    close(found, np.array([[1], [0], [math.sqrt(0.5)]]))


def weakly_read_inputs_count_by_direction(weak_share, seed):
    u, v = rotation(seed, INPUTS), rotation(seed + 1, INPUTS)
    weight = (u * torch.tensor([10, 1, 0.5, 0.1, 0, 0])) @ v.T  # the first direction holds 98.7 %
    tilted = math.cos(0.4) * v[:, 0] + math.sin(0.4) * v[:, 3]
    expected = [(v[:, :1].T, 0), (v[:, 1:].T, 1), (tilted[None], math.sin(0.4) ** 2)]
    for inputs, share in [*expected, (torch.stack([9 * v[:, 0], v[:, 2]]), 0.5)]:
        assert weak_share(inputs, weight) == pytest.approx(share, abs=1e-9)


def gain_is_the_singular_value(gain, seed):
    _, v, weight = planted(seed, INPUTS)
    close(gain(weight, -5 * v.T), [4, 3, 2, 1, 0, 0])


def alignment_is_the_squared_cosine(alignment, seed):
    q = rotation(seed, OUTPUTS)
    tilted = math.cos(0.7) * q[0] + math.sin(0.7) * q[1]
    assert alignment(tilted[None], -4 * q[0]) == pytest.approx(math.cos(0.7) ** 2)
    assert alignment(torch.stack([3 * q[0], q[1]]), q[0]) == pytest.approx(0.9)


def parts_are_what_the_weight_reaches_and_the_rest(split_change, seed):
    (u, _, weight), change = planted(seed, INPUTS), normal(seed + 5, INPUTS, INPUTS)
    column, null = split_change(change, weight)
    close(column, explained(weight, change))
    close(column + null, change)
    close(column.T @ null, torch.zeros_like(change))
    close(u[:, RANK:].T @ column, torch.zeros_like(change[RANK:]))
    assert (
        ns.energy_outside(column, ns.left_singular_directions(weight)),
        ns.energy_outside(null, ns.left_singular_directions(weight)),
    ) == pytest.approx((0, 1))


def the_best_approximation_is_that_of_eckart_and_young(top_rank, seed):
    change = normal(seed, OUTPUTS, INPUTS)
    values, vectors = (torch.from_numpy(part) for part in np.linalg.eigh((change.T @ change).numpy()))
    for rank in range(1, INPUTS + 1):
        found, read = top_rank(change, rank), vectors[:, -rank:]
        close(found, change @ read @ read.T, 1e-7)
        assert np.linalg.matrix_rank(found.numpy(), tol=1e-8) == rank
        lost = (change - found).square().sum().item()
        assert lost == pytest.approx(values[:-rank].sum().item(), abs=1e-8)
        assert ns.top_energy(change, rank) == pytest.approx(1 - lost / change.square().sum().item())


def wrong(field, value):
    """A null share of which one number is made another way."""

    def null_share(change, weight, draws=5):
        found = ns.null_share(change, weight, draws=draws)
        return dataclasses.replace(found, **{field: value(found, draws)})

    return null_share


BROKEN = [
    ("left_singular_directions", lambda w: svd(w)[0][:RANK].T, leading_directions_span_the_weight),
    ("left_singular_directions", lambda w: ns.left_singular_directions(w.T), leading_directions_span_the_weight),
    (
        "left_singular_directions",
        lambda w, e: ns.left_singular_directions(w, e**0.5),
        an_energy_cut_is_the_smallest_that_holds_it,
    ),
    (
        "left_singular_directions",
        lambda w, e: svd(w)[0][:, : 1 + int((svd(w)[1].cumsum(0) < e * svd(w)[1].sum()).sum())],
        an_energy_cut_is_the_smallest_that_holds_it,
    ),
    ("energy_outside", lambda v, d: math.sqrt(ns.energy_outside(v, d)), a_mixture_has_its_share),
    ("energy_outside", lambda v, d: 1 - ns.energy_outside(v, d), a_mixture_has_its_share),
    ("null_share", wrong("top", lambda found, _: found.share), the_strongest_direction_is_judged_alone),
    ("null_share", wrong("chance", lambda found, _: found.k / OUTPUTS), chance_and_spread_are_those_of_rotations),
    ("null_share", wrong("spread", lambda found, n: found.spread / n**0.5), chance_and_spread_are_those_of_rotations),
    ("relative_change", lambda c, w, a: ns.relative_change(c.T, w, a), inputs_that_a_change_reads_feel_it_alone),
    ("relative_change", lambda c, w, a: ns.relative_change(c, w.T, a), inputs_that_a_change_reads_feel_it_alone),
    ("row_cosines", lambda c, a, top: ns.row_cosines(c.T, a, top), an_input_that_is_read_has_cosine_one),
    ("weak_share", lambda a, w: ns.weak_share(a, w.T), weakly_read_inputs_count_by_direction),
    (
        "weak_share",
        lambda a, w: ns.energy_outside(a.T, ns.left_singular_directions(w.T, 0.9)),
        weakly_read_inputs_count_by_direction,
    ),
    ("amplification", lambda w, a: (a @ w.T).norm(dim=1), gain_is_the_singular_value),
    ("energy_along", lambda v, d: math.sqrt(ns.energy_along(v, d)), alignment_is_the_squared_cosine),
    ("split_change", lambda c, w: ns.split_change(c, w.T), parts_are_what_the_weight_reaches_and_the_rest),
    ("top_rank", lambda c, r: svd(c)[0][:, :r] @ svd(c)[2][:r], the_best_approximation_is_that_of_eckart_and_young),
]
LAWS = dict.fromkeys((name, law) for name, _, law in BROKEN)


@pytest.mark.parametrize(("name", "law"), LAWS)
@few
@given(SEEDS)
def test_every_function_obeys_its_laws(name, law, seed):
    law(getattr(ns, name), seed)


@pytest.mark.parametrize(("mutant", "law"), [case[1:] for case in BROKEN])
def test_a_broken_function_is_caught_by_its_law(mutant, law):
    with pytest.raises(AssertionError):
        law(mutant, 0)


# Planted shares ------------------------------------------------------------------------------------------------------


@given(SEEDS, st.floats(0, 1))
@example(0, 0.0)
@example(0, 0.3)
@example(0, 1.0)
def test_a_change_with_a_planted_part_in_the_null_space_has_that_share(seed, share):
    change, weight = mixture(seed, share)
    for kind, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):  # rounding must not raise the rank
        found = ns.null_share(change.to(kind), weight.to(kind), draws=2)
        assert (found.k, found.chance) == (RANK, 1 - RANK / OUTPUTS)
        assert found.share == pytest.approx(share, abs=tolerance)
        assert found.lift == pytest.approx(share / found.chance, abs=3 * tolerance)
        assert share not in (0, 1) or found.top == pytest.approx(share, abs=tolerance)
        assert {part.dtype for part in ns.split_change(change.to(kind), weight.to(kind))} == {kind}
        assert ns.top_rank(change.to(kind), 2).dtype == kind
    # Inputs that make up an orthonormal frame ask for the whole change.
    assert ns.conditional_share(change, weight, rotation(seed + 9, INPUTS)) == pytest.approx(share, abs=1e-9)


@few
@given(SEEDS)
def test_a_random_change_of_a_tall_weight_lies_to_three_quarters_in_the_null_space(seed):
    found = ns.null_share(normal(seed, 256, 64), normal(seed + 1, 256, 64), draws=40)
    assert (found.chance, found.k) == (0.75, 64)
    assert abs(found.share - 0.75) < 6 * found.spread < 0.05
    assert abs(found.top - 0.75) < 0.25  # one direction alone has a standard deviation of .038


@few
@given(SEEDS, st.integers(1, INPUTS))
def test_the_directions_are_those_of_scipy(seed, rank):
    linalg = pytest.importorskip("scipy.linalg")
    weight, change = planted(seed, rank=rank)[2], normal(seed + 2, OUTPUTS, INPUTS)
    assert (
        linalg.subspace_angles(
            ns.left_singular_directions(weight).numpy(), linalg.orth(weight.numpy(), rcond=1e-5)
        ).max()
        < 1e-7
    )
    null = linalg.null_space(weight.T.numpy(), rcond=1e-5)
    expected = (np.linalg.norm(null.T @ change.numpy()) / np.linalg.norm(change.numpy())) ** 2
    assert ns.null_share(change, weight, draws=1).share == pytest.approx(expected, abs=1e-9)


@few
@given(SEEDS, st.sampled_from([1e-6, -1.0, 1e4]), st.sampled_from([1e-3, 50.0]), st.sampled_from([None, 0.8]))
def test_rotations_of_both_sides_and_scales_do_not_matter(seed, one, other, energy):
    weight, change = normal(seed, OUTPUTS, INPUTS), normal(seed + 1, OUTPUTS, INPUTS)
    q, r = rotation(seed + 2, OUTPUTS), rotation(seed + 3, INPUTS)
    plain = ns.null_share(change, weight, energy)
    turned = ns.null_share(one * q @ change @ r, other * q @ weight @ r, energy)
    assert (turned.share, turned.top, turned.k) == pytest.approx((plain.share, plain.top, plain.k), abs=1e-8)
    assert abs(ns.null_share(q @ change, weight, energy).share - plain.share) > 1e-6, "turned alone, it does matter"


def test_an_energy_cut_by_hand():
    weight = torch.diag(torch.tensor([1.0, 3.0, 1.0, 1.0]))  # squares: 9 of 12 along the second output
    for energy, k in ((0.01, 1), (0.75, 1), (0.76, 2), (0.9, 3), (1, 4), (None, 4)):
        assert ns.left_singular_directions(weight, energy).shape == (4, k)
    found = ns.null_share(torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0])), weight, 0.75)
    assert (found.share, found.chance, found.k, found.top) == (pytest.approx(0.8), 0.75, 1, pytest.approx(1))


@given(SEEDS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_only_what_the_inputs_ask_for_counts(seed, x, y):
    u, v, weight = planted(seed)
    change = 2 * torch.outer(u[:, RANK], v[:, 0]) + 5 * torch.outer(u[:, 0], v[:, 1])
    share = (2 * x) ** 2 / ((2 * x) ** 2 + (5 * y) ** 2)
    for a, expected in ((v[:, 0], 1), (v[:, 1], 0), (x * v[:, 0] + y * v[:, 1] + v[:, 2], share)):
        assert ns.conditional_share(change, weight, torch.stack([a, -3 * a])) == pytest.approx(expected, abs=1e-9)


def test_a_weight_that_reaches_every_output_leaves_no_share_and_no_change_has_none():
    found = ns.null_share(normal(0, 3, 8), normal(1, 3, 8))
    assert (found.k, found.chance, found.lift, found.share) == (3, 0, 0, pytest.approx(0, abs=1e-9))
    assert ns.energy_outside(torch.zeros(4, 2), torch.eye(4, dtype=torch.float64)[:, :1]) == 0


def test_the_generator_decides_the_spread_alone():
    change, weight = normal(0, OUTPUTS, INPUTS), normal(1, OUTPUTS, INPUTS)
    one, same, other = (ns.null_share(change, weight, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same != other == dataclasses.replace(one, spread=other.spread)
    assert ns.null_share(change, weight) == ns.null_share(change, weight)


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "value", "rule"),
    [
        (ns.left_singular_directions, energy, f"energy={energy}: must be above 0 and at most 1")
        for energy in (0, -0.5, 1.5, math.nan)
    ]
    + [(ns.top_rank, rank, f"rank={rank}: must be at least 1") for rank in (0, -2)],
)
def test_an_energy_that_is_no_share_and_a_rank_below_one_are_refused(function, value, rule):
    with pytest.raises(ValueError, match=rule):
        function(normal(0, 3, 2), value)


def test_a_change_of_another_shape_is_refused_with_both_shapes():
    unchecked = inspect.unwrap(ns.null_share)  # in tests, shapes are checked before it could
    with pytest.raises(ValueError, match=r"change of shape \(2, 3\), weight of \(3, 2\): must be the same"):
        unchecked(normal(0, 2, 3), normal(0, 3, 2))


def test_what_has_no_length_has_no_share():
    weight, nothing = torch.diag(torch.tensor([10.0, 1, 1])), torch.zeros(2, 3)
    inputs = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    assert ns.weak_share(torch.cat([inputs, nothing]), weight) == ns.weak_share(inputs, weight) == 1
    assert ns.energy_along(nothing, torch.ones(3)) == 0
    assert ns.energy_along(inputs, torch.zeros(3)) == 0
    unchanged = ns.null_share(torch.zeros(3, 3), weight)
    assert (unchanged.share, unchanged.top, unchanged.spread) == (0, 0, 0)
    assert ns.conditional_share(torch.zeros(3, 3), weight, inputs) == ns.top_energy(torch.zeros(3, 3)) == 0
    assert ns.amplification(weight, torch.cat([inputs, nothing])).tolist() == [1, 1, 0, 0]
    assert ns.row_cosines(weight, torch.cat([inputs, nothing]), 1).tolist() == [[0]] * 4
    assert not ns.top_rank(torch.zeros(3, 3), 2).any()


@pytest.mark.parametrize("energy", [None, 0.1, 0.9, 1.0])
def test_a_weight_of_zeros_has_no_directions_and_everything_lies_in_its_null_space(energy):
    weight, change = torch.zeros(OUTPUTS, INPUTS), normal(0, OUTPUTS, INPUTS).float()
    assert ns.left_singular_directions(weight, energy).shape == (OUTPUTS, 0)
    found = ns.null_share(change, weight, energy, draws=2)
    assert (found.k, found.chance, found.share, found.top, found.lift) == (0, 1, 1, 1, 1)
    column, null = ns.split_change(change, weight, energy)
    assert not column.any()
    assert torch.equal(null, change)
    assert ns.weak_share(torch.eye(INPUTS), weight, energy or 0.9) == 1
    assert ns.amplification(weight, torch.eye(INPUTS)).tolist() == [0] * INPUTS


@given(SEEDS, st.integers(1, INPUTS), st.sampled_from([torch.float32, torch.float64]))
def test_directions_end_at_the_rank_of_the_matrix(seed, rank, kind):
    weight = planted(seed, rank=rank)[2].to(kind)
    assert (
        ns.left_singular_directions(weight, 1.0).shape == ns.left_singular_directions(weight).shape == (OUTPUTS, rank)
    )
    inputs = normal(seed + 2, 3, INPUTS)
    found = ns.row_cosines(weight, inputs)
    assert found.shape == (3, rank)
    # The directions span what the matrix reads: its part of each input is the sum of the squares.
    reads = torch.linalg.pinv(weight.double(), rtol=1e-5) @ weight.double()
    close(found.square().sum(dim=1), ((inputs @ reads).norm(dim=1) / inputs.norm(dim=1)) ** 2, 1e-5)
    assert ns.row_cosines(weight, inputs, 1).shape == (3, 1)
    assert ns.row_cosines(torch.zeros(4, INPUTS), inputs).shape == (3, 0)


@few
@given(SEEDS)
def test_a_change_of_what_the_weight_does_not_read_has_no_relative_size(seed):
    _, v, weight = planted(seed, INPUTS)  # directions 4 and 5 are not read
    change = torch.outer(v[:, 0], v[:, 0] + v[:, 4])
    kept = torch.stack([v[:, 0], 2 * v[:, 1], 5 * v[:, 5], torch.zeros(INPUTS, dtype=torch.float64)])
    for kind in (torch.float32, torch.float64):
        close(ns.relative_change(change.to(kind), weight.to(kind), kept.to(kind)), [1 / 4, 0, 0, 0], 1e-6)
        with pytest.raises(ValueError, match=r"inputs: .*row 4"):
            ns.relative_change(change.to(kind), weight.to(kind), torch.cat([kept, v[:, 4:5].T]).to(kind))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("draws", lambda x: ns.null_share(x, x, draws=0)),
        ("top", lambda x: ns.row_cosines(x, x, 0)),
        ("top", lambda x: ns.row_cosines(x, x, -1)),
        ("rank", lambda x: ns.top_energy(x, 0)),
        ("change", lambda x: ns.null_share(x[:0], x[:0])),
        ("after", lambda x: ns.span_sine(x[:0], x[:0])),
        ("energy", lambda x: ns.span_sine(x, x, 1.5)),
        ("inputs", lambda x: ns.conditional_share(x, x, x[:0])),
        ("inputs", lambda x: ns.weak_share(x[:0], x)),
        ("vectors", lambda x: ns.energy_along(x[:0], x[0])),
    ],
)
def test_a_measure_of_nothing_is_refused_by_name(name, call):
    with pytest.raises(ValueError, match=f"^{name}[:=]"):
        call(normal(0, 3, 3))
