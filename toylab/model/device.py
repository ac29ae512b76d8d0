"""The device of trainings and of models read from files: the CPU, unless a block of `use_device` names another.

A study builds its models on the CPU, where their random weights are drawn, and does not name a device itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from toylab.console import ToylabError

_chosen: ContextVar[str | None] = ContextVar("device", default=None)


@contextmanager
def use_device(device: str) -> Iterator[None]:
    """Within the block, `train` moves its model to this device, and `load_model` loads there; `cpu` changes nothing.

    Raises:
        ToylabError: for a device that this machine does not have.
    """
    check_device(device)
    token = _chosen.set(None if device == "cpu" else device)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_device() -> str | None:
    """The device of the innermost `use_device`; None for the CPU, and where models stay on their own device."""
    return _chosen.get()


def check_device(device: str) -> None:
    """Raises `ToylabError`, naming the devices of this machine, for one that it does not have."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise ToylabError(f"device={device}: is not available ({reason}); there are {', '.join(there)}") from None
