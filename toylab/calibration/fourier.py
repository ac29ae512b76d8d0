"""Cases for the Fourier detector: handmade embeddings and the handwritten adder, and functions without that period."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toylab.calibration import Detector, DetectorInput, PlantedPositive, SampledControl
from toylab.planted.disguise import add_noise, rotate_basis
from toylab.planted.fourier import fourier_adder, waves
from toylab.probes import read_frequencies
from toylab.tasks import ModularAddition
from toylab.training.evaluate import accuracy_of, predict_tokens

MODULI = (31, 53, 59, 97)


def fourier_score(values: Float[Tensor, "residue feature"]) -> float:
    """The smaller of two numbers, each 1 for pure frequencies: the energy of the five strongest frequencies above that
    of permuted residues, and the agreement of the autocorrelation across the seam."""
    reading = read_frequencies(values, draws=5)
    return min((reading.share - reading.permuted_share) / (1 - reading.permuted_share), reading.seam)


def _modulus(rng: np.random.Generator) -> int:
    return int(rng.choice(MODULI))


def _frequencies(rng: np.random.Generator, p: int, fewest: int = 1, most: int = 5) -> list[int]:
    return (1 + rng.choice(p // 2, int(rng.integers(fewest, most + 1)), replace=False)).tolist()


def _embedding(rng: np.random.Generator, rows: int, period: int, fewest: int = 1, most: int = 5) -> Tensor:
    """Embeddings of `rows` numbers on circles of several sizes, in a random basis."""
    frequencies, width = _frequencies(rng, period, fewest, most), int(rng.choice([16, 32, 64]))
    sizes = torch.from_numpy(rng.uniform(0.5, 1.5, len(frequencies))).repeat(2)
    basis = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, width))))[0][: len(sizes)]
    return (waves(period, frequencies)[:rows] * sizes) @ basis


def _circles(rng: np.random.Generator, noise: float) -> DetectorInput:
    p = _modulus(rng)
    values = _embedding(rng, p, p)
    random = values.square().mean().sqrt() * torch.from_numpy(rng.standard_normal(tuple(values.shape)))
    return DetectorInput((1 - noise) * values + noise * random)


def _adder(read: Callable[..., Tensor]) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        task = ModularAddition(p=_modulus(rng))
        circuit = rotate_basis(fourier_adder(task, _frequencies(rng, task.p)), rng)
        model, batch = add_noise(circuit, noise, rng), task.sample(rng, 256)
        with torch.no_grad():
            values = read(model, torch.from_numpy(batch.tokens))[: task.p]
        return DetectorInput(values, accuracy_of(predict_tokens(model, batch), batch).token)

    return plant


def _function(make: Callable[[np.random.Generator, int], Tensor]) -> SampledControl:
    return lambda rng: DetectorInput(make(rng, _modulus(rng)))


def _normal(rng: np.random.Generator, p: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((p, int(rng.choice([16, 32, 64])))))


def _other_modulus(rng: np.random.Generator, p: int, fewest: int, most: int) -> Tensor:
    """Circles with a period of 3 to 11 more than p; a single one may be close to a frequency modulo p."""
    return _embedding(rng, p, p + int(rng.integers(3, 12)), fewest, most)


_ALL = (
    Detector(
        name="fourier",
        question="does a function of residues consist of few frequencies modulo p?",
        score="the smaller of the energy of five frequencies above chance, and the agreement across the seam",
        score_of=fourier_score,
        threshold=0.6,
        planted_positives={
            "embeddings on circles": _circles,
            "embedding of the adder": _adder(lambda model, tokens: model.embedding.weight),
            "logits of the adder": _adder(lambda model, tokens: model(tokens)[:, -1].T),
        },
        controls={
            "random embeddings": _function(_normal),
            "a smooth walk": _function(lambda rng, p: _normal(rng, p).cumsum(dim=0)),
            "a line": _function(lambda rng, p: torch.arange(p)[:, None] * _normal(rng, 1)),
            "circles of another modulus": _function(lambda rng, p: _other_modulus(rng, p, 3, 5)),
            "circles, residues permuted": _function(lambda rng, p: _embedding(rng, p, p)[rng.permutation(p)]),
        },
        decoys={"one circle of another modulus": _function(lambda rng, p: _other_modulus(rng, p, 1, 1))},
    ),
)

DETECTORS = {detector.name: detector for detector in _ALL}
