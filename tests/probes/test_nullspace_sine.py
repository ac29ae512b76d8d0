"""Laws of the released measure of the null space: principal angles for columns, an arbitrary basis for rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probes.test_nullspace import INPUTS, OUTPUTS, RANK, SEEDS, close, explained, normal, planted, rotation
from toylab.probes import span_sine

few = settings(max_examples=5)


def tilt(seed: int, angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight of singular values RANK..1, and the same with all its left directions tilted out of their span.

    No direction has a mean over outputs, which the measure takes away.
    """
    start, v, _ = planted(seed)
    u = torch.linalg.qr(torch.cat([torch.ones(OUTPUTS, 1).double(), start], dim=1))[0][:, 1:]
    inside, outside, values = u[:, :RANK], u[:, RANK : 2 * RANK], torch.arange(RANK, 0, -1)
    weights = [
        (left * values) @ v[:, :RANK].T for left in (inside, math.cos(angle) * inside + math.sin(angle) * outside)
    ]
    return weights[0], weights[1]


@few
@given(SEEDS, st.floats(0.01, math.pi / 2))
def test_a_change_into_the_null_space_has_the_sine_of_its_angle(seed, angle):
    before, after = tilt(seed, angle)
    close(span_sine(after, before), math.sin(angle), 1e-6)
    close(span_sine(before, before), 0, 1e-6)
    close(span_sine(tilt(seed, math.pi / 2)[1], before), 1, 1e-6)


@few
@given(SEEDS)
def test_scales_rotations_and_what_all_outputs_share_do_not_matter(seed):
    before, after = tilt(seed, 0.3)
    for k, factor in enumerate((5, -0.1)):
        q, shift = rotation(seed + 4 + k, INPUTS), normal(seed + 6 + k, INPUTS)
        close(span_sine(factor * after @ q + shift, before @ q.T - shift), math.sin(0.3), 1e-6)


@few
@given(SEEDS)
def test_directions_that_hold_less_than_the_energy_count(seed):
    """Squared values are 16, 9, 4 and 1: two directions hold less than 90 %. Then the fourth grows to 36."""
    before, _ = tilt(seed, 0.3)
    u, _, vh = torch.linalg.svd(before, full_matrices=False)
    grown = before + 5 * torch.outer(u[:, 3], vh[3])
    close(span_sine(grown, before), 1 / 2, 1e-6)  # the fourth lies outside the first two, the first within
    close(span_sine(grown, before, 0.5), 1, 1e-6)  # one direction each
    close(span_sine(grown, before, 0.1), 1, 1e-6)  # at least one


@few
@given(SEEDS)
def test_the_sine_of_rows_is_that_of_least_squares_and_moves_with_a_rotation_of_the_outputs(seed):
    before, after = normal(seed, OUTPUTS, INPUTS), normal(seed + 1, OUTPUTS, INPUTS)
    vectors = []
    for weight in (after, before):
        u, s, _ = torch.linalg.svd(weight - weight.mean(dim=0, keepdim=True))
        energies, k = (s**2 / (s**2).sum()).tolist(), 0
        while sum(energies[: k + 1]) < 0.9:
            k += 1
        vectors.append(u[:k].T)
    rest = vectors[0] - explained(vectors[1], vectors[0])
    close(span_sine(after, before, rows=True), rest.norm(dim=0).mean().item(), 1e-6)
    close(span_sine(before, before, rows=True), 0, 1e-6)
    order = [*range(1, OUTPUTS), 0]  # the same outputs under other numbers
    close(span_sine(after[order], before[order]), span_sine(after, before), 1e-6)
    assert abs(span_sine(after[order], before[order], rows=True) - span_sine(after, before, rows=True)) > 1e-6


def test_a_random_change_moves_both_forms_and_a_larger_one_moves_columns_further():
    before, change = normal(0, 64, 16), normal(1, 64, 16)
    small, large = (span_sine(before + size * change, before) for size in (0.05, 0.2))
    assert 0 < small < large / 3 < span_sine(change, before) / 3 < 0.34
    assert span_sine(before + 0.05 * change, before, rows=True) > 3 * small


def test_shapes_that_differ_are_refused():
    with pytest.raises((ValueError, TypeError)):
        span_sine(normal(0, 4, 3), normal(0, 5, 3))
