"""Tensor history: tensors measured on a model, stored at every evaluation of a training run.

    history = TensorHistory(folder / "norms.safetensors", lambda model: {"norm": model.unembedding.weight.norm()})
    train(model, ..., record=history.add)

A training that is resumed from its checkpoint continues the history in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors


class TensorHistory:
    """Tensors measured on a model at every recorded step, written to a file after each.

    Args:
        path: file of the history; an existing one is continued.
        measure: from the model to tensors by name, the same names and shapes at every step; must not sample.
        about: further metadata of the file, in JSON form.
    """

    def __init__(
        self, path: Path | str, measure: Callable[[Any], Mapping[str, Tensor]], about: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.measure, self.about = Path(path), measure, about or {}
        self.frames: dict[int, dict[str, Tensor]] = {}
        if self.path.exists():
            steps, tensors = read_tensor_history(self.path)
            self.frames = {s: {name: t[n] for name, t in tensors.items()} for n, s in enumerate(steps)}

    @torch.no_grad()
    def add(self, model: nn.Module, step: int) -> None:
        """Record the tensors of a step, replacing an earlier record of the same step."""
        self.frames[step] = {name: tensor.to("cpu", copy=True) for name, tensor in self.measure(model).items()}
        steps = sorted(self.frames)
        tensors = {name: torch.stack([self.frames[s][name] for s in steps]) for name in self.frames[step]}
        write_tensors(self.path, tensors, {"steps": steps, **self.about})


def read_tensor_history(path: Path | str) -> tuple[list[int], dict[str, Tensor]]:
    """Steps of a history, and its tensors by name; their first axis is the step.

    Raises:
        ToylabError: naming the file, if it is missing, damaged or no history.
    """
    tensors, about = read_tensors(path)
    steps = about.get("steps")
    if not isinstance(steps, list) or any(len(tensor) != len(steps) for tensor in tensors.values()):
        raise ToylabError(f"{path}: is no history of a training; delete it, rerun")
    return steps, tensors
