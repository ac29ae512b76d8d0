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

from toylab.console import ToylabError


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
def flat_parameters(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor]]:
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
    places, size = _places(held)
    weights, gradients = held[0].new_zeros(size), held[0].new_zeros(size)
    try:
        for p, place in zip(held, places, strict=True):
            weights[place] = p.detach().flatten()
            p.data, p.grad = weights[place].view_as(p), gradients[place].view_as(p)
        yield weights, gradients
    finally:
        for p in held:
            p.data, p.grad = p.data.clone(), None


class ParameterVector:
    """Keeps the parameters of a model in the vectors of `flat_parameters`, whatever is done to them between two steps.

    `model.zero_grad()`, `model.double()` or `p.data = ...` give a parameter or its gradient memory of its own: the
    optimizer would then train a vector that the model does not read. Looking costs some 0.4 % of a step.

    Args:
        model: of whose parameters those with `requires_grad` were laid into the vectors.
    """

    def __init__(self, model: nn.Module, weights: Float[Tensor, " place"], gradients: Float[Tensor, " place"]) -> None:
        self.model, self.gradients = model, gradients
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.places = dict(zip(self.parameters, _places(self.parameters.values())[0], strict=True))
        self._weights = [weights[self.places[name]].view_as(p) for name, p in self.parameters.items()]
        self._gradients = [gradients[self.places[name]].view_as(p) for name, p in self.parameters.items()]
        self._attached = [p.grad for p in self.parameters.values()]

    def check(self) -> None:
        """Raises `ToylabError` naming the first parameter that was replaced, added, frozen or unfrozen by now."""
        now = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        for name in {**self.parameters, **now}:
            if self.parameters.get(name) is not now.get(name):
                raise ToylabError(
                    f"parameter {name!r}: was replaced, or its requires_grad changed, during training; what is trained "
                    "is fixed at the start: change it before, or change a copy (copy.deepcopy(model))"
                )

    def attach(self) -> None:
        """Lay parameters and gradients into the vectors again; new values of a parameter are kept.

        Raises:
            ToylabError: for a parameter that has another type, shape or device by now.
        """
        for k, (name, p) in enumerate(self.parameters.items()):
            if not p.is_set_to(self._weights[k]):
                _put_back(name, p, self._weights[k])
            if p.grad is None or not p.grad.is_set_to(self._gradients[k]):
                p.grad = self._attached[k] = self._gradients[k].detach()

    def backward(self, loss: Float[Tensor, ""], first: bool = False) -> list[str]:
        """The gradients of a loss, in their vector.

        Returns:
            The names of parameters that the loss does not depend on, if it is asked `first`; else nothing.

        Raises:
            ToylabError: for a loss that depends on none of them, or a hook that takes a gradient away.
        """
        self.attach()
        self.gradients.zero_()
        if first:  # autograd gives no gradient, not one of zeros, to what it does not reach
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
    """What to say of a loss that no training can change."""
    return ToylabError(
        "loss: does not depend on any parameter that is trained; compute it from the model, with gradients switched on "
        "and without detach() or .item() on the way"
    )


def _put_back(name: str, p: nn.Parameter, place: Tensor) -> None:
    if (p.dtype, p.device, p.shape) != (place.dtype, place.device, place.shape):
        raise ToylabError(
            f"parameter {name!r}: was {place.dtype} of shape {tuple(place.shape)} on {place.device} at the start, and "
            f"became {p.dtype} of {tuple(p.shape)} on {p.device} during training; change a copy (copy.deepcopy(model))"
        )
    place.copy_(p.detach())
    p.data = place.detach()


def _places(parameters: Iterable[nn.Parameter]) -> tuple[list[slice], int]:
    """Where each parameter lies in one vector, and the length of that."""
    places, end = [], 0
    for p in parameters:
        places.append(slice(end, end + p.numel()))
        end += -(-p.numel() // _ALIGNED) * _ALIGNED
    return places, end


_ALIGNED = 16
"""Numbers between the starts of two parameters: matrix products are faster where rows start on a cache line."""
