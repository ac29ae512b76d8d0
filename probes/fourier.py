"""Fourier analysis over the residues modulo p: embeddings, or logits of modular addition.

A function of residues n = 0 .. p-1 has the frequencies k = 1 .. p // 2: cos(2 pi k n / p) and sin(2 pi k n / p).

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability" (arXiv 2301.05217), section
4 (energy by frequency) and 5 (restriction to the key frequencies). The agreement across the seam is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.checks import check_finite
from toylab.settings import check_range, convert_value


@dataclass(frozen=True)
class FourierReading:
    """Concentration of a function of residues on few frequencies.

    Attributes:
        frequencies: the strongest ones, strongest first.
        share: their share of the energy, without the mean.
        permuted_share: the same for permuted residues, each with its own strongest frequencies (mean over draws): the
            share by chance.
        seam: agreement of the autocorrelation at lags h and p - h, -1 to 1: 1 for a period of p, around 0 for
            unrelated rows, below that for smooth functions that jump from p - 1 to 0.
    """

    frequencies: tuple[int, ...]
    share: float
    permuted_share: float
    seam: float


def fourier_energy(values: Float[Tensor, "residue feature"]) -> Float[Tensor, " frequency"]:
    """Share of the energy at each frequency 1 .. p // 2, without the mean.

    Raises:
        ToylabError: for fewer than three residues, values that are not finite, or no variation over residues.
    """
    _check_values(values)
    check_range("frequencies need at least 3", residues=len(values), least=3)
    centred = values.detach().double() - values.detach().double().mean(dim=0)
    if centred.norm() <= 1e-12 * values.detach().double().norm():
        raise ToylabError("values: are the same for all residues, so they have no frequency; give values that differ")
    energy = torch.fft.rfft(centred, dim=0).abs().square().sum(dim=1)[1:]
    if len(values) % 2 == 0:
        energy[-1] /= 2  # the other frequencies occur twice in the full transform
    return energy / energy.sum()


def read_frequencies(
    values: Float[Tensor, "residue feature"], strongest: int = 5, *, draws: int = 20, seed: int = 0
) -> FourierReading:
    """The strongest frequencies, their share of the energy, and the two controls.

    Args:
        values: one row per residue, such as the embeddings of the numbers, or logits with the answer as first axis.
        strongest: number of frequencies.
        draws: permutations of the residues.
        seed: of the permutations.

    Raises:
        ToylabError: as `fourier_energy`, or if there are not as many frequencies.
    """
    energy = fourier_energy(values)
    check_range(
        f"{len(values)} residues have {len(energy)} frequencies", strongest=strongest, least=1, most=len(energy)
    )
    check_range(draws=draws, least=1)
    generator = torch.Generator().manual_seed(seed)
    permutations = (torch.randperm(len(values), generator=generator).to(values.device) for _ in range(draws))
    permuted = [float(fourier_energy(values[p]).topk(strongest).values.sum()) for p in permutations]
    top = energy.topk(strongest)
    return FourierReading(
        frequencies=tuple((top.indices + 1).tolist()),
        share=float(top.values.sum()),
        permuted_share=sum(permuted) / draws,
        seam=_seam_agreement(values),
    )


def keep_frequencies(
    values: Float[Tensor, "residue feature"], frequencies: Sequence[int], *, remove: bool = False
) -> Float[Tensor, "residue feature"]:
    """The mean and the components at the given frequencies, or with `remove` everything but these components.

    The result has the type of the values, and of whole numbers the default one of torch, which holds fractions.

    Raises:
        ToylabError: for a frequency outside 1 .. p // 2.
    """
    _check_values(values)
    frequencies = convert_value(tuple[int, ...], frequencies, "frequencies")
    check_range("frequencies of p residues end at p // 2", frequencies=frequencies, least=1, most=len(values) // 2)
    spectrum = torch.fft.rfft(values.double(), dim=0)
    chosen = torch.zeros(len(spectrum), dtype=torch.bool, device=values.device)
    chosen[list(frequencies)] = True
    kept = ~chosen if remove else chosen
    kept[0] = True  # the mean
    return torch.fft.irfft(spectrum * kept[:, None], n=len(values), dim=0).to(
        values.dtype if values.is_floating_point() else torch.get_default_dtype()
    )


def _check_values(values: Tensor) -> None:
    check_finite(values=values)
    if values.ndim != 2 or values.is_complex():
        raise ToylabError(
            f"values: have shape {tuple(values.shape)} and type {values.dtype}; must be real, (residue, feature)"
        )


def _seam_agreement(values: Float[Tensor, "residue feature"]) -> float:
    """Cosine of the autocorrelations at lags h and p - h, h = 1 .. p // 2, weighted by the h pairs of lag p - h.

    The autocorrelation at lag h is the mean product of rows n and n + h, both below p: no pair crosses the seam.
    """
    centred = values.detach().double() - values.detach().double().mean(dim=0)
    gram, p = centred @ centred.T, len(centred)
    autocorrelation = torch.stack([gram.diagonal(lag).mean() for lag in range(p)])
    autocorrelation += autocorrelation[0] / (p - 1)  # rows that sum to 0 correlate negatively
    lags = torch.arange(1, p // 2 + 1, device=values.device)
    near, far = autocorrelation[lags] * lags.sqrt(), autocorrelation[p - lags] * lags.sqrt()
    return float(torch.nn.functional.cosine_similarity(near, far, dim=0))
