"""Laws of the Fourier probe: it agrees with projections written out, and reads what was planted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.planted.fourier import waves
from toylab.probes import fourier_energy, keep_frequencies, read_frequencies
from toylab.probes.fourier import _check_values

moduli = st.integers(3, 40)
seeds = st.integers(0, 10_000)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def basis(p: int) -> list[torch.Tensor]:
    """Orthonormal cosines and sines of each frequency, written out."""
    n = torch.arange(p).double()
    planes = []
    for k in range(1, p // 2 + 1):
        angle = 2 * math.pi * k * n / p
        columns = [angle.cos()] if 2 * k == p else [angle.cos(), angle.sin()]
        planes.append(torch.stack([column / column.norm() for column in columns], dim=1))
    return planes


@given(moduli, st.integers(1, 6), seeds)
def test_energy_is_the_projection_on_each_plane(p, width, seed):
    values = normal(seed, p, width)
    projected = torch.stack([(plane.T @ values).square().sum() for plane in basis(p)])
    assert torch.allclose(fourier_energy(values), projected / projected.sum())


@given(moduli, st.integers(1, 6), seeds)
def test_kept_and_removed_components_add_up_to_the_values(p, width, seed):
    values = normal(seed, p, width)
    chosen = np.random.default_rng(seed).permutation(np.arange(1, p // 2 + 1))[: 1 + p // 6].tolist()
    kept, rest = keep_frequencies(values, chosen), keep_frequencies(values, chosen, remove=True)
    mean = values.mean(dim=0)
    assert torch.allclose(kept + rest - mean, values)
    planes = torch.cat([basis(p)[k - 1] for k in chosen], dim=1)
    assert torch.allclose(kept - mean, planes @ planes.T @ values)


@given(st.sampled_from((31, 53, 97)), st.integers(1, 5), st.integers(16, 40), seeds)
def test_planted_frequencies_are_read_in_any_basis_and_scale(p, count, width, seed):
    rng = np.random.default_rng(seed)
    frequencies = (1 + rng.choice(p // 2, count, replace=False)).tolist()
    rotation = torch.linalg.qr(normal(seed, width, width)).Q
    values = 7 * waves(p, frequencies) @ rotation[: 2 * count] + 3
    reading = read_frequencies(values, count, draws=3)
    assert set(reading.frequencies) == set(frequencies)
    assert reading.share == pytest.approx(1)
    assert reading.seam == pytest.approx(1)
    assert reading.permuted_share < 0.9


@given(seeds, st.integers(0, 30))
def test_a_cyclic_shift_of_the_residues_changes_no_energy(seed, shift):
    values = normal(seed, 31, 4)
    assert torch.allclose(fourier_energy(values), fourier_energy(values.roll(shift, dims=0)))


def test_random_rows_have_a_share_by_chance_and_no_agreement_across_the_seam():
    readings = [read_frequencies(normal(seed, 53, 32)) for seed in range(20)]
    assert all(abs(one.share - one.permuted_share) < 0.05 for one in readings)
    assert abs(sum(one.seam for one in readings) / 20) < 0.15


def test_a_smooth_function_with_a_jump_has_few_frequencies_and_disagrees_across_the_seam():
    line = torch.arange(53).double()[:, None] @ normal(0, 1, 8)
    reading = read_frequencies(line)
    assert reading.frequencies == (1, 2, 3, 4, 5)
    assert reading.share > 0.85
    assert reading.seam < -0.3


def test_whole_numbers_keep_the_fractions_of_their_components():
    values = torch.arange(14).reshape(7, 2) ** 2
    kept, rest = (keep_frequencies(values, torch.tensor([1]), remove=remove) for remove in (False, True))
    assert torch.allclose(kept + rest - values.double().mean(dim=0).float(), values.float(), atol=1e-4)
    assert torch.allclose(kept, keep_frequencies(values.double(), [1]).float(), atol=1e-4)


def test_values_without_a_feature_axis_are_refused_and_complex_ones():
    for values in (torch.randn(7), torch.randn(7, 3, 2), torch.randn(7, 2, dtype=torch.complex64)):
        with pytest.raises(ToylabError, match="values: have shape"):
            _check_values(values)


def test_strongest_frequencies_come_first_and_the_controls_are_repeatable():
    values = waves(53, [3, 20, 7]) * torch.tensor([1.0, 3.0, 2.0]).double().repeat(2)
    assert read_frequencies(values, 3).frequencies == (20, 7, 3)
    assert read_frequencies(values, 3) == read_frequencies(values, 3)
    assert read_frequencies(values, 3).permuted_share != read_frequencies(values, 3, seed=1).permuted_share


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fourier_energy(torch.ones(7, 2)), "the same for all residues"),
        (lambda: fourier_energy(torch.randn(2, 2)), "residues=2"),
        (lambda: fourier_energy(torch.tensor([[1.0], [2.0], [math.nan]])), "values"),
        (lambda: read_frequencies(torch.randn(7, 2), 4), "strongest=4: .*7 residues have 3 frequencies"),
        (lambda: read_frequencies(torch.randn(7, 2), 2, draws=0), "draws=0"),
        (lambda: keep_frequencies(torch.randn(7, 2), [0]), "frequencies="),
        (lambda: keep_frequencies(torch.randn(7, 2), [4]), "frequencies="),
        (lambda: keep_frequencies(torch.randn(7, 2), torch.tensor([1.5])), "frequencies"),
    ],
)
def test_what_has_no_frequencies_is_refused(call, message):
    with pytest.raises(ToylabError, match=message):
        call()
