"""Control models for probes: shuffled weights, and random changes with the norm of a fine-tune.

All functions return copies. A claim whose control also meets the criterion is uninformative; see
`toylab.verdicts.claim.Control`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.model.layers import torch_stream

Trained = TypeVar("Trained", bound=nn.Module)


@torch.no_grad()
def with_shuffled_weights(model: Trained, seed: int) -> Trained:
    """A copy with the entries of every trainable parameter randomly permuted."""
    generator = torch_stream(seed, "shuffled weights")
    copy = deepcopy(model)
    for weight in copy.parameters():
        if weight.requires_grad:
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return copy


@torch.no_grad()
def with_random_change(base: Trained, tuned: nn.Module, seed: int) -> Trained:
    """A copy of the base with a random change of the same norm as the fine-tune, per parameter.

    Independent of the initial weights of a model with the same seed, since its random stream is another one.
    """
    generator = torch_stream(seed, "random change")
    copy = deepcopy(base)
    for weight, start, end in zip(copy.parameters(), base.parameters(), tuned.parameters(), strict=True):
        weight.add_(random_like(end - start, generator))
    return copy


def random_like(change: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """A random tensor with the shape and norm of a change, such as a steering vector."""
    noise = torch.randn(change.shape, generator=generator).to(change)
    return noise * (change.norm() / noise.norm())
