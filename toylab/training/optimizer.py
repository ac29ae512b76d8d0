"""AdamW on a flat parameter vector (clipping is one norm, an update five operations), and optimizers of torch.

A toy model has about thirty small tensors; a loop over them costs more than the arithmetic. Here parameters and
gradients are views into two vectors.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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

    relative_rate = 1

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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"mean": self.mean, "square": self.square}, {}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any], steps: int) -> None:
        self.mean.copy_(tensors["mean"])
        self.square.copy_(tensors["square"])
        self.steps = steps


OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
"""A class of torch.optim, or a function from parameters to one optimizer, or to several that divide them."""


class TorchOptimizer:
    """Optimizers of torch, which update the parameters in place, in their own shapes.

    Args:
        make: the optimizer, or several, of all parameters.
        vector: parameters whose gradients are views into the vector that `step` receives.
        clip: maximum norm of the gradient of all parameters.
        peak: the rate of `step` at which every param group has its own learning rate.

    Raises:
        ToylabError: unless `make` gives optimizers that step without a closure, with each parameter in one param group.
    """

    def __init__(self, make: OptimizerFactory, vector: ParameterVector, clip: float | int, peak: float) -> None:
        made = make(list(vector.parameters.values())) if callable(make) else None
        self.optimizers: list[torch.optim.Optimizer] = []
        for one in made if isinstance(made, Sequence) and made else [made]:
            if not isinstance(one, torch.optim.Optimizer) or _needs_closure(one):
                raise ToylabError(
                    f"optimizer={getattr(make, '__name__', make)}: must be a class or a function from parameters to a "
                    "torch.optim.Optimizer whose step needs no closure, such as partial(torch.optim.SGD, lr=0.1)"
                )
            self.optimizers.append(one)
        self.vector, self.clip, self.peak = vector, clip, peak
        self.groups = [group for one in self.optimizers for group in one.param_groups]
        self.rates = [group["lr"] for group in self.groups]
        self.relative_rate = float(self.rates[0]) / peak
        count = Counter(id(p) for group in self.groups for p in group["params"])
        for name, p in vector.parameters.items():
            if count[id(p)] != 1:
                raise ToylabError(
                    f"parameter {name!r}: is in {count[id(p)]} param groups of the optimizer; give it to one, or leave "
                    "it out of training with requires_grad_(False)"
                )

    def __str__(self) -> str:
        return ", ".join(" ".join(repr(one).split()) for one in self.optimizers)

    def step(self, gradient: Float[Tensor, " place"], rate: float) -> float:
        """One update; returns the gradient norm. A non-finite norm skips the update."""
        norm = gradient.norm().item()
        if not math.isfinite(norm):
            return norm
        if norm > self.clip:
            gradient.mul_(self.clip / norm)
        self.vector.attach()  # the first `backward` leaves gradients that are no views
        for group, own_rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = own_rate * (rate / self.peak)
        for one in self.optimizers:
            one.step()
        return norm

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, and by holder the numbers and the devices of the tensors."""
        tensors, about = {}, {}
        for name, holder in self._holders().items():
            for key, value in holder.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"], value = value, value.device.type
                elif name.startswith("state") and not isinstance(value, int | float | None):
                    raise ToylabError(f"optimizer: its {key!r} is a {type(value).__name__}; train without checkpoint=")
                if isinstance(value, int | float | str):
                    about.setdefault(name, {})[key] = value
        return tensors, about

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any], steps: int) -> None:
        """Continue from `state`; the optimizer's own `load_state_dict` would change dtypes."""
        device = self.vector.gradients.device
        for name, holder in self._holders().items():
            for key, value in about.get(name, {}).items():
                tensor = tensors.get(f"{name}.{key}")
                holder[key] = value if tensor is None else tensor.to("cpu" if value == "cpu" else device)

    def _holders(self) -> dict[str, dict[str, Any]]:
        """Param groups, which may hold running numbers, and the state of each parameter."""
        states = [one.state[p] for one in self.optimizers for group in one.param_groups for p in group["params"]]
        groups = {f"group.{k}": group for k, group in enumerate(self.groups)}
        return groups | {f"state.{k}": state for k, state in enumerate(states)}


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


AnyOptimizer = AdamW | TorchOptimizer


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
