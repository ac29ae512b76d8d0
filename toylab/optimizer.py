"""AdamW on all parameters at once: one vector of weights, one of gradients, a handful of operations a step.

A toy model has thirty small tensors, and a step over them one by one costs more than the arithmetic. Here they are
views into one vector, so clipping is one norm, and an update five operations, whatever the model is made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.names import ToylabError


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), on one vector or on several at once.

    With g the gradient, in step t:

        mean   = beta1 mean   + (1 - beta1) g
        square = beta2 square + (1 - beta2) g^2
        weights = (1 - rate decay) weights - rate (mean / (1 - beta1^t)) / (sqrt(square / (1 - beta2^t)) + eps)

    Args:
        weights: what is trained, in place; each vector has a gradient of its own, clipped on its own.
        decay: how much of the weights is taken away each step, times the rate.
        clip: the largest length of a gradient; longer ones are shortened to it (torch divides by length + 1e-6).
    """

    def __init__(
        self,
        weights: Float[Tensor, "*seed parameter"],
        betas: tuple[float, float] = (0.9, 0.999),
        decay: float | int = 0.0,
        clip: float | int = math.inf,
        eps: float = 1e-8,
    ) -> None:
        self.weights, self.betas, self.decay, self.clip, self.eps = weights, betas, decay, clip, eps
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = 0

    @torch.no_grad()
    def step(self, gradient: Float[Tensor, "*seed parameter"], rate: float) -> float:
        """One update; returns the length of the (longest) gradient. One that is not finite changes nothing."""
        norms = gradient.norm(dim=-1, keepdim=True)
        norm = norms.max().item()
        if not math.isfinite(norm):
            return norm
        if norm > self.clip:
            gradient = gradient * (self.clip / norms).clamp(max=1.0)
        self.steps += 1
        first, second = self.betas
        self.mean.lerp_(gradient, 1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = self.square.sqrt().mul_((1 - second**self.steps) ** -0.5).add_(self.eps)
        if self.decay:
            self.weights.mul_(1 - rate * self.decay)
        self.weights.addcdiv_(self.mean, spread, value=-rate / (1 - first**self.steps))
        return norm


@contextmanager
def as_one(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor]]:
    """Lay parameters into one vector for the length of a `with` block: yields that vector, and one of their gradients.

    Parameters keep their identity and their values; `backward` adds to the second vector, which is 0 at first. After
    the block each has memory of its own again, and no gradient.

    Raises:
        ValueError: where there is nothing to train, or parameters differ in type or device.
    """
    held = list(parameters)
    kinds = {(p.dtype, p.device) for p in held}
    if len(kinds) != 1:
        raise ToylabError(
            f"parameters: {'nothing has requires_grad=True' if not held else f'they are of several kinds, {kinds}'}; "
            "one vector needs some, all of one type and on one device"
        )
    ends = [0]
    for p in held:
        ends.append(ends[-1] + -(-p.numel() // _ALIGNED) * _ALIGNED)
    weights, gradients = held[0].new_zeros(ends[-1]), held[0].new_zeros(ends[-1])
    try:
        for p, start in zip(held, ends, strict=False):
            place = slice(start, start + p.numel())
            weights[place] = p.detach().flatten()
            p.data, p.grad = weights[place].view_as(p), gradients[place].view_as(p)
        yield weights, gradients
    finally:
        for p in held:
            p.data, p.grad = p.data.clone(), None


_ALIGNED = 16
"""Numbers between the starts of two parameters: matrix products are faster where rows start on a cache line."""
