"""Nearness of safe and of unsafe prompts at every recorded step of a fine-tuning, for the page."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from toylab.model.transformer import Transformer
from toylab.studies.safety_finetuning.measures import Sets, held_out_nearness, mlp_activations
from toylab.tasks import TaskConcept
from toylab.training.tensor_history import TensorHistory

NEARNESS_FILE = "nearness.safetensors"
"""File of the history in the folder of a recorded job."""
RECORDED = ("ssft", "control")
"""Conditions with a history, and the order in which the page lists them."""


def nearness_history(folder: Path, task: TaskConcept, sets: Sets) -> TensorHistory:
    """The history of `mean_nearness` in the folder of a job."""
    return TensorHistory(folder / NEARNESS_FILE, lambda model: {"nearness": mean_nearness(model, task, sets)})


def mean_nearness(model: Transformer, task: TaskConcept, sets: Sets) -> Float[Tensor, "layer 2"]:
    """Mean nearness of safe and of unsafe prompts by layer: the means of `LayerClusters.nearness`, not rounded."""
    by_layer = zip(*(mlp_activations(model, task, sets[name]) for name in ("safe", "unsafe")), strict=True)
    return torch.stack([torch.stack([tau.mean() for tau in held_out_nearness(*clouds)[0]]) for clouds in by_layer])
