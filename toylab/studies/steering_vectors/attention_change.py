"""How far a steering vector changes the attention patterns of the last layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toylab.model.steering import Steered
from toylab.probes import edit, watch
from toylab.training.losses import Rollouts


@dataclass(frozen=True, kw_only=True)
class AttentionChange:
    """Mean total variation distance of the last layer's attention patterns, over heads and positions from SEP on."""

    steered: float
    """Between the base with and without the vector, on answers of the steered model."""
    other_prompts: float
    """Between the base on each row and on the row before it."""


@torch.no_grad()
def attention_change(steered: Steered, sampled: Rollouts) -> AttentionChange:
    """Compare the last layer's patterns with and without the vector, and between rows, on answers of the steered
    model."""
    tokens = torch.cat([sampled.prompts, sampled.written[:, :-1]], dim=1)
    point = f"blocks.{len(steered.model.blocks) - 1}.attn.pattern"
    with watch(steered.model, point) as cache:
        steered.model(tokens)
        before = cache[point]
        with edit(steered.model, steered.edits()), watch(steered.model, point) as steered_cache:
            steered.model(tokens)
    start, counted = sampled.prompts.shape[1] - 1, sampled.counted

    def distance(
        first: Float[Tensor, "row head query key"], second: Float[Tensor, "row head query key"], rows: Tensor
    ) -> float:
        by_query = (first - second).abs().sum(dim=-1).mean(dim=1) / 2
        return by_query[:, start : start + rows.shape[1]][rows].mean().item()

    return AttentionChange(
        steered=distance(before, steered_cache[point], counted),
        other_prompts=distance(before, before.roll(1, dims=0), counted & counted.roll(1, dims=0)),
    )
