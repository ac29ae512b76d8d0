"""A transformer with handwritten weights that adds modulo p with a few Fourier frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import SHARPNESS
from toylab.settings import check_range
from toylab.tasks import ModularAddition

PHASES = 31
"""Phases per frequency. An odd number: harmonics of relu(cos) that alias to the second one have an order above 58."""


def waves(p: int, frequencies: Sequence[int]) -> Float[Tensor, "{p} wave"]:
    """cos(2 pi k n / p) of each frequency k, then sin(2 pi k n / p), by residue n."""
    angle = 2 * math.pi / p * torch.arange(p)[:, None].double() * torch.tensor(list(frequencies)).double()
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def fourier_adder(task: ModularAddition, frequencies: Sequence[int]) -> Transformer:
    """One layer that adds modulo p, exact on the whole table for an odd p and frequencies that have no divisor with it.

    1. A number n is embedded as cos(w n) and sin(w n), w = 2 pi k / p, for each frequency k.
    2. At "=", the head attends equally to both numbers and adds their embeddings.
    3. Hidden unit j is relu(cos(w a - phi_j) + cos(w b - phi_j)), which is relu(2 cos(w (a - b) / 2) cos(u - phi_j)) at
       u = w (a + b) / 2, and writes cos(2 phi_j) and sin(2 phi_j). The second harmonic of relu(cos) makes the sum over
       phases phi_j proportional to |cos(w (a - b) / 2)| times cos(w (a + b)) and sin(w (a + b)).
    4. The logit of c is the sum of |cos(w (a - b) / 2)| cos(w (a + b - c)), which is largest at c = a + b.

    The weights are float64.

    Source: Nanda et al. 2023 for steps 1, 2 and 4; Zhong et al. 2023, "The Clock and the Pizza" (arXiv 2306.17844), for
    step 3, the "pizza" algorithm.
    """
    check_range("frequencies of p residues end at p // 2", frequencies=tuple(frequencies), least=1, most=task.p // 2)
    waves_of_number = waves(task.p, frequencies)
    count = len(frequencies)
    token, flag, summed, out = range(2 * count), 2 * count, 2 * count + 1, 4 * count + 1
    config = ModelConfig(
        layers=1,
        heads=1,
        width=6 * count + 1,
        hidden=PHASES * count,
        activation="relu",
        norm="none",
        positions="none",
    )
    model = Transformer(config, task.p + 1, task.context).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[: task.p, token] = waves_of_number
        model.embedding.weight[: task.p, flag] = 1
        attention: Any = model.blocks[0].attn
        mlp: Any = model.blocks[0].mlp
        assert mlp is not None
        attention.query.bias[flag] = SHARPNESS * math.sqrt(config.width)
        attention.key.weight[flag, flag] = 1  # numbers, not "="
        attention.value.weight[token, token] = 2  # the mean of two numbers, doubled
        attention.output.weight[torch.arange(summed, out), token] = 1
        phase = 2 * math.pi / PHASES * torch.arange(PHASES).double()
        for k in range(count):
            units = slice(PHASES * k, PHASES * (k + 1))
            mlp.up.weight[units, summed + k], mlp.up.weight[units, summed + count + k] = phase.cos(), phase.sin()
            mlp.down.weight[out + k, units], mlp.down.weight[out + count + k, units] = (
                (2 * phase).cos(),
                (2 * phase).sin(),
            )
        unembedding: Any = model.unembedding
        unembedding.weight[: task.p, out:] = waves_of_number  # the logit of "=" is 0, that of a + b positive
    return model
