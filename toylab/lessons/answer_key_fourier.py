"""The answer key of lesson 06: checks of the exercises on Fourier analysis, as in `toylab.lessons.answer_key`."""

from __future__ import annotations

import cmath
from collections.abc import Mapping
from typing import Any

import numpy as np

from toylab.lessons.answers import _compare, _rng


def cosine_of_sum(answer: Any) -> None:
    """The cosine of the sum of two angles, from the cosines and sines of both."""

    def oracle(cos_a: float, sin_a: float, cos_b: float, sin_b: float) -> float:
        """Multiply points on the unit circle."""
        return (complex(cos_a, sin_a) * complex(cos_b, sin_b)).real

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        return "the point at the sum of both angles has another cosine"

    angles = [(0.0, 1.0), (np.pi / 2, np.pi / 2), *_rng("circle").uniform(0, 6, size=(4, 2)).tolist()]
    points = [[cmath.exp(1j * angle) for angle in pair] for pair in angles]
    _compare(
        answer,
        [{"cos_a": a.real, "sin_a": a.imag, "cos_b": b.real, "sin_b": b.imag} for a, b in points],
        oracle,
        breaks,
    )


def frequency_share(answer: Any) -> None:
    """The share of the energy of a table (number, feature) at one frequency, without the mean."""

    def oracle(values: np.ndarray, k: int) -> float:
        """Squared absolute values of the fast Fourier transform; frequencies k and -k are one."""
        energy = (np.abs(np.fft.fft(values, axis=0)) ** 2).sum(axis=1)
        return float((energy[k] + energy[-k]) / energy[1:].sum())

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if result > 1 + 1e-9:
            return "a share is at most 1"
        return "the energy of the cosine and the sine over the energy of all frequencies but 0 is different"

    rng, n = _rng("frequency"), np.arange(11)[:, None]
    circle = np.concatenate([np.cos(2 * np.pi * 3 * n / 11), np.sin(2 * np.pi * 3 * n / 11)], axis=1)
    cases = [(circle, 3), (circle + 5.0, 3), (circle, 2), (rng.normal(size=(11, 4)), 1), (rng.normal(size=(7, 3)), 2)]
    _compare(answer, [{"values": values, "k": k} for values, k in cases], oracle, breaks)
