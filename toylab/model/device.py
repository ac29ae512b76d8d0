"""The device of trainings: the CPU, unless a block of `use_device` names another.

A study names no device. Its models are built on the CPU, where random weights are drawn, trained on the chosen device,
and measured on the CPU. During a training, a model on the device takes tokens from the CPU and returns logits there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import is_dataclass, replace
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from toylab.console import ToylabError

_Value = TypeVar("_Value")
_Forward = TypeVar("_Forward", bound=Callable[..., Any])

_chosen: ContextVar[str | None] = ContextVar("device", default=None)


@contextmanager
def use_device(device: str) -> Iterator[None]:
    """Within the block, `train` trains its model on this device; `cpu` changes nothing.

    Raises:
        ToylabError: for a device that this machine does not have.
    """
    check_device(device)
    token = _chosen.set(None if device == "cpu" else device)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def on_chosen_device(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The trainable parameters of a model, which lies on the chosen device within the block."""
    if (device := _chosen.get()) is None:
        yield [p for p in model.parameters() if p.requires_grad]
        return
    before = device_of(model)
    model.to(device)
    try:
        yield [p for p in model.parameters() if p.requires_grad]
    finally:
        model.to(before)


def device_of(model: nn.Module) -> torch.device:
    """The device of the parameters of a model; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def to_device(value: _Value, device: str | torch.device) -> _Value:
    """A tensor, a dataclass of tensors, or a list of them on another device; anything else unchanged."""
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(device)
    elif isinstance(value, list | tuple):
        moved = type(value)(to_device(part, device) for part in value)
    elif is_dataclass(value) and not isinstance(value, type):
        moved = replace(value, **{name: to_device(part, device) for name, part in vars(value).items()})
    return moved


def takes_any_device(forward: _Forward) -> _Forward:
    """A forward method that takes tokens of any device, and returns logits on the device of the tokens."""

    @wraps(forward)
    def anywhere(self: nn.Module, tokens: Tensor, *arguments: Any, **options: Any) -> Any:
        device = next(self.parameters()).device
        if tokens.device == device:
            return forward(self, tokens, *arguments, **options)
        arguments, options = to_device(arguments, device), {name: to_device(x, device) for name, x in options.items()}
        return forward(self, tokens.to(device), *arguments, **options).to(tokens.device)

    return cast(_Forward, anywhere)


def check_device(device: str) -> None:
    """Raises `ToylabError`, naming the devices of this machine, for one that it does not have."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = textwrap.shorten(str(error), 80)
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise ToylabError(f"device={device}: is not available ({reason}); there are {', '.join(there)}") from None
