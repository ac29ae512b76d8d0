"""Training and evaluation mode of a module, for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The whole model in evaluation mode: no dropout, norms with the statistics they hold."""
    with _restored(model):
        model.eval()
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """The model in training mode. Parts that were put in evaluation mode inside a model in training mode stay so."""
    with _restored(model):
        if not model.training:
            model.train()
        yield


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Each module has its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        if model.training != modes[0][1]:
            model.train(modes[0][1])  # a module may do more than set a flag
        for module, mode in modes:
            module.training = mode
