"""Training of many seeds in one program: stacked parameters and `vmap` over members.

    population = Population([Transformer.for_task(task, config, seed) for seed in range(256)], next_token_loss)
    losses = population.step([batches(step) for batches in each_seeds_batches], rate=4e-3)
    models = population.members()

Every member matches its separate training up to rounding. Use it on a GPU, which a single toy model underutilises. On a
CPU, separate processes are faster: `toylab bench population` measures by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from toylab.console import ToylabError
from toylab.tasks import IGNORE
from toylab.training.loop import DivergedError, TrainConfig, learning_rate
from toylab.training.optimizer import AdamW, no_gradient_error

_FILL = {"targets": IGNORE, "segments": -1}
"""Padding values by field, for batches smaller than the largest of a step; 0 for all other fields."""


class Population:
    """Models of the same architecture trained together, each on its own data.

    Args:
        models: at least one; they are copied.
        loss: from a model and a batch to a scalar, as for `toylab.training.loop.train`.
        config: betas, weight decay and clipping; gradients are clipped per member.

    Raises:
        ToylabError: without models, without trainable parameters, or if these differ between models; for models with
            `ModelConfig.dropout`.
    """

    def __init__(
        self, models: Sequence[nn.Module], loss: Callable[[nn.Module, Any], Tensor], config: TrainConfig | None = None
    ) -> None:
        if not models:
            raise ToylabError("models: a population needs at least one")
        shapes = [{name: (p.shape, p.requires_grad) for name, p in model.named_parameters()} for model in models]
        if any(state != shapes[0] for state in shapes):
            raise ToylabError("models: members must have the same parameters, of the same shapes and requires_grad")
        rates = [getattr(module, "dropout", 0) for model in models for module in model.modules()]
        if dropout := max(rate for rate in rates if isinstance(rate, float | int)):
            raise ToylabError(
                f"dropout={dropout}: members would not draw the numbers of their separate trainings; train each model "
                "with toylab.training.loop.train, or without dropout"
            )
        if not _trainable(models[0]):
            raise ToylabError("models: nothing has requires_grad=True; a population needs parameters to train")
        self.config = config or TrainConfig()
        self._skeleton = deepcopy(models[0])
        if not self._skeleton.training:
            self._skeleton.train()  # as in `train`
        self._models = [deepcopy(model) for model in models]
        self._shapes = {name: p.shape for name, p in models[0].named_parameters() if p.requires_grad}
        self.weights = torch.stack([parameters_to_vector(_trainable(model)).detach() for model in models])
        """(seed, parameter)"""
        constants = [
            {name: p.detach() for name, p in model.named_parameters() if name not in self._shapes}
            | dict(model.named_buffers())
            for model in models
        ]
        self._constants = {name: torch.stack([state[name] for state in constants]) for name in constants[0]}
        self.optimizer = AdamW(self.weights, self.config.betas, self.config.weight_decay, self.config.clip)
        self._loss = loss

    def __len__(self) -> int:
        return len(self.weights)

    def step(self, batches: Sequence[Any], rate: float) -> Float[Tensor, " seed"]:
        """One optimiser step of every member on its own batch (a dataclass of tensors); returns the losses before it.

        Raises:
            ToylabError: if the number of batches is not the number of members; at the first step, for a parameter that
                the loss does not depend on.
            DivergedError: if a loss or gradient is not finite; the weights are then unchanged.
        """
        if len(batches) != len(self):
            raise ToylabError(f"batches: {len(batches)} for {len(self)} members; give one per member")
        if not self.optimizer.steps:
            self._refuse_unreached(batches[0])
        stacked, batch_class = stack_batches(batches), type(batches[0])
        fixed = {name: x for name, x in vars(batches[0]).items() if name not in stacked}

        def call(weights: Tensor, constants: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
            return self._loss(
                _WithParameters(self._skeleton, self._views(weights) | constants), batch_class(**batch, **fixed)
            )

        gradients, losses = vmap(grad_and_value(call))(self.weights, self._constants, stacked)
        if not bool(losses.isfinite().all()):
            raise DivergedError(f"losses={losses.tolist()}: training diverged; try a smaller rate than {rate}")
        norm = self.optimizer.step(gradients, rate)
        if not math.isfinite(norm):
            raise DivergedError(f"norm of a gradient={norm}: training diverged; try a smaller rate than {rate}")
        return losses

    def train(self, batches: Sequence[Callable[[int], Any]], steps: int | None = None) -> Float[Tensor, "step seed"]:
        """Train for the schedule of the config, without early stopping; returns the losses."""
        steps = self.config.steps if steps is None else steps
        return torch.stack(
            [
                self.step([batch_at(step) for batch_at in batches], learning_rate(self.config, step))
                for step in range(steps)
            ]
        )

    def members(self) -> list[nn.Module]:
        """The models with their current weights."""
        for model, weights in zip(self._models, self.weights, strict=True):
            vector_to_parameters(weights.clone(), _trainable(model))
        return self._models

    def _refuse_unreached(self, batch: Any) -> None:
        """Raises `ToylabError` for unused parameters, by autograd: `torch.func` returns zero gradients for them."""
        views = {name: x.clone().requires_grad_() for name, x in self._views(self.weights[0]).items()}
        constants = {name: x[0] for name, x in self._constants.items()}
        loss = self._loss(_WithParameters(self._skeleton, views | constants), batch)
        if not loss.requires_grad:
            raise no_gradient_error()
        gradients = torch.autograd.grad(loss, list(views.values()), allow_unused=True)
        missing = [name for name, gradient in zip(views, gradients, strict=True) if gradient is None]
        if len(missing) == len(views):
            raise no_gradient_error()
        if missing:
            raise ToylabError(
                f"parameter {missing[0]!r}: the loss does not depend on it; use it, or leave it out of training with "
                "requires_grad_(False)"
            )

    def _views(self, weights: Float[Tensor, " parameter"]) -> dict[str, Tensor]:
        parts = weights.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


class _WithParameters(nn.Module):
    """A module with its parameters replaced by the given ones."""

    def __init__(self, module: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()

        @wraps(module.forward)  # keeps the signature of `module.forward`
        def forward(*inputs: Any, **options: Any) -> Tensor:
            return functional_call(module, parameters, inputs, options)

        self.forward = forward


def stack_batches(batches: Sequence[Any]) -> dict[str, Tensor]:
    """Stack the tensors of several batches along a new first axis, padded to the largest with unscored tokens. Tensors
    of one row that are equal in all batches, such as the positions of padded rows, are omitted.

    Raises:
        ToylabError: for batches that are not dataclasses of tensors.
    """
    if not all(is_dataclass(batch) for batch in batches):
        raise ToylabError("batches: must be dataclasses of tensors, such as toylab.training.batches.ScoredBatch")
    stacked = {}
    for name in (field.name for field in fields(batches[0])):
        first, *rest = values = [getattr(batch, name) for batch in batches]
        if not all(isinstance(x, Tensor) for x in values):
            if any(x != first for x in rest):
                raise ToylabError(f"batches: {name} differs and is no tensor; a population works on tensors alone")
        elif len(first) > 1 or not all(torch.equal(x, first) for x in rest):
            sizes = [max(x.shape[k] for x in values) for k in range(first.ndim)]
            stacked[name] = torch.stack([_pad(x, sizes, _FILL.get(name, 0)) for x in values])
    return stacked


def _pad(x: Tensor, sizes: Sequence[int], value: int) -> Tensor:
    padding = [size - current for size, current in zip(sizes, x.shape, strict=True)]
    return F.pad(x, [part for amount in reversed(padding) for part in (0, amount)], value=value) if any(padding) else x
