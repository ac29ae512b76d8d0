"""Small transformers, and what is added to their streams."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.steering import (
    Scaled,
    Vector,
)
from toylab.model.transformer import Transformer

VOCAB, CONTEXT, WIDTH, LAYERS = 7, 12, 16, 3
CONFIG = ModelConfig(layers=LAYERS, heads=2, width=WIDTH, hidden=12, positions="learned")
seeds = st.integers(0, 2**31)
layers = st.integers(0, LAYERS - 1)
some = fewer(0.15)
few = fewer(0.1)


def build(seed: int = 0, **shape) -> Transformer:
    """In float64, with norms that are not the identity."""
    model = Transformer(replace(CONFIG, **shape), VOCAB, CONTEXT, seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name:
                parameter += 0.3 * numbers(seed, *parameter.shape)
    return model


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rows(seed: int, count: int = 2, width: int = 8) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(count, width)))


def scaled(seed: int, gate: str = "linear", centre: Tensor | None = None, **given: Tensor) -> Scaled:
    """With nothing left at its first value but for what is given."""
    addition = Scaled(WIDTH, gate, centre).double()
    with torch.no_grad():
        for i, (name, parameter) in enumerate(addition.named_parameters()):
            parameter.copy_(given.get(name, numbers(seed + i, *parameter.shape)))
    return addition


def additions(seed: int) -> dict[str, dict[int, nn.Module]]:
    centre = numbers(seed + 9, WIDTH)
    return {
        "a vector": {1: Vector(WIDTH, numbers(seed, WIDTH))},
        "joint": {layer: Vector(WIDTH, numbers(seed + layer, WIDTH)) for layer in range(LAYERS)},
        "scaled": {2: scaled(seed)},
        "scaled and bounded": {0: scaled(seed, "tanh", centre)},
        "all kinds": {0: scaled(seed, "linear", centre), 1: Vector(WIDTH, numbers(seed, WIDTH)), 2: scaled(1, "tanh")},
    }


KINDS = sorted(additions(0))
