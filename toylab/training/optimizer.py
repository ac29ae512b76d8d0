"""AdamW on a flat parameter vector: clipping is one norm, and an update takes five operations.

A toy model has about thirty small tensors; a loop over them costs more than the arithmetic. Here parameters and
gradients are views into two vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.console import ToylabError


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), on one vector or on several at once.

    Step t = 1, 2, ..., with gradient g and learning rate r:

        mean     = beta1 * mean + (1 - beta1) * g
        square   = beta2 * square + (1 - beta2) * g^2
        update   = (mean / (1 - beta1^t)) / (sqrt(square / (1 - beta2^t)) + eps)
        weights  = (1 - r * decay) * weights - r * update

    `mean` and `square` are the running averages of the gradient and of its square, initially 0.

    Args:
        weights: parameter vector(s), updated in place; each vector is clipped separately.
        decay: weight decay, multiplied by the learning rate.
        clip: maximum gradient norm (torch divides by norm + 1e-6, this by the norm).
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
        """One update; returns the (largest) gradient norm. A non-finite norm skips the update."""
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
        root = self.square.sqrt().mul_((1 - second**self.steps) ** -0.5).add_(self.eps)
        if self.decay:
            self.weights.mul_(1 - rate * self.decay)
        self.weights.addcdiv_(self.mean, root, value=-rate / (1 - first**self.steps))
        return norm


@contextmanager
def flat_parameters(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor]]:
    """Make parameters views into one vector inside a `with` block; yields that vector and the vector of gradients.

    Parameters keep their identity and values; `backward` accumulates into the gradient vector, initially 0. After the
    block, parameters have their own storage and no gradient.

    Raises:
        ToylabError: without parameters, or if they differ in dtype or device.
    """
    trained = list(parameters)
    kinds = {(p.dtype, p.device) for p in trained}
    if len(kinds) != 1:
        raise ToylabError(
            f"parameters: {f'they are of several kinds, {kinds}' if trained else 'nothing has requires_grad=True'}; "
            "give at least one, all of the same dtype and device"
        )
    slices, size = _slices(trained)
    weights, gradients = trained[0].new_zeros(size), trained[0].new_zeros(size)
    try:
        for p, part in zip(trained, slices, strict=True):
            weights[part] = p.detach().flatten()
            p.data, p.grad = weights[part].view_as(p), gradients[part].view_as(p)
        yield weights, gradients
    finally:
        for p in trained:
            p.data, p.grad = p.data.clone(), None


class ParameterVector:
    """Keeps the parameters of a model views into the vectors of `flat_parameters`.

    `model.zero_grad()`, `model.double()` or `p.data = ...` give a parameter or its gradient new storage; the optimizer
    would then update a vector that the model does not use. The check costs about 0.4 % of a step.

    Args:
        model: the model whose parameters with `requires_grad` are in the vectors.
    """

    def __init__(self, model: nn.Module, weights: Float[Tensor, " place"], gradients: Float[Tensor, " place"]) -> None:
        self.model, self.gradients = model, gradients
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.places = dict(zip(self.parameters, _slices(self.parameters.values())[0], strict=True))
        self._weights = [weights[self.places[name]].view_as(p) for name, p in self.parameters.items()]
        self._gradients = [gradients[self.places[name]].view_as(p) for name, p in self.parameters.items()]
        self._attached = [p.grad for p in self.parameters.values()]

    def check(self) -> None:
        """Raises `ToylabError` for the first parameter that was replaced, added, frozen or unfrozen since the start."""
        current = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        for name in {**self.parameters, **current}:
            if self.parameters.get(name) is not current.get(name):
                raise ToylabError(
                    f"parameter {name!r}: was replaced, or its requires_grad changed, during training; what is trained "
                    "is fixed at the start: change it before, or change a copy (copy.deepcopy(model))"
                )

    def attach(self) -> None:
        """Restore parameters and gradients as views into the vectors; new parameter values are copied.

        Raises:
            ToylabError: for a parameter whose dtype, shape or device has changed.
        """
        for k, (name, p) in enumerate(self.parameters.items()):
            if not p.is_set_to(self._weights[k]):
                _reattach(name, p, self._weights[k])
            if p.grad is None or not p.grad.is_set_to(self._gradients[k]):
                p.grad = self._attached[k] = self._gradients[k].detach()

    def backward(self, loss: Float[Tensor, ""], first: bool = False) -> list[str]:
        """Compute the gradients of a loss in the gradient vector.

        Returns:
            With `first`, the names of parameters that the loss does not depend on; otherwise an empty list.

        Raises:
            ToylabError: for a loss that depends on no parameter, or a hook that removes a gradient.
        """
        self.attach()
        self.gradients.zero_()
        if first:  # None marks unused parameters; zeros would not
            for p in self.parameters.values():
                p.grad = None
        if loss.requires_grad:
            loss.backward()
        missing = []
        for k, (name, p) in enumerate(self.parameters.items()):
            if p.grad is None:
                missing.append(name)
            elif p.grad is not self._attached[k]:
                self._gradients[k].copy_(p.grad.to_dense())
        if not loss.requires_grad or len(missing) == len(self.parameters):
            raise no_gradient_error()
        if missing and not first:
            raise ToylabError(f"parameter {missing[0]!r}: a hook took its gradient away; leave it for the optimizer")
        return missing


def no_gradient_error() -> ToylabError:
    """The error for a loss without gradient."""
    return ToylabError(
        "loss: does not depend on any parameter that is trained; compute it from the model, with gradients switched on "
        "and without detach() or .item() on the way"
    )


def _reattach(name: str, p: nn.Parameter, part: Tensor) -> None:
    if (p.dtype, p.device, p.shape) != (part.dtype, part.device, part.shape):
        raise ToylabError(
            f"parameter {name!r}: was {part.dtype} of shape {tuple(part.shape)} on {part.device} at the start, and "
            f"became {p.dtype} of {tuple(p.shape)} on {p.device} during training; change a copy (copy.deepcopy(model))"
        )
    part.copy_(p.detach())
    p.data = part.detach()


def _slices(parameters: Iterable[nn.Parameter]) -> tuple[list[slice], int]:
    """The slice of each parameter in the vector, and the length of the vector."""
    slices, end = [], 0
    for p in parameters:
        slices.append(slice(end, end + p.numel()))
        end += -(-p.numel() // _ALIGNED) * _ALIGNED
    return slices, end


_ALIGNED = 16
"""Parameters start at multiples of this: matrix products are faster on rows aligned to a cache line."""
