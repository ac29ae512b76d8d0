"""Context managers for training and evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set all modules to evaluation mode (no dropout, running statistics) and restore their modes afterwards."""
    with _restore_modes(model):
        model.eval()
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to training mode and restore it afterwards; submodules frozen in evaluation mode stay so."""
    with _restore_modes(model):
        if not model.training:
            model.train()
        yield


@contextmanager
def _restore_modes(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        if model.training != modes[0][1]:
            model.train(modes[0][1])  # `train` may be overridden
        for module, mode in modes:
            module.training = mode
