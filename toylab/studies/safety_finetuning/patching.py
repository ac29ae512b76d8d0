"""Refusals of jailbreaks whose activations are moved towards those of unsafe prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from toylab.model.controls import random_like
from toylab.model.layers import torch_stream
from toylab.model.transformer import Transformer
from toylab.studies.safety_finetuning.data import written_outcomes
from toylab.studies.safety_finetuning.measures import Sets, answer_activations
from toylab.studies.safety_finetuning.results_change import MovedRefusals
from toylab.tasks import TaskConcept


@torch.no_grad()
def move_to_unsafe(model: Transformer, task: TaskConcept, sets: Sets, seed: int) -> MovedRefusals:
    """Share of NULL in answers to jailbreaks by mixed text, before and after a shift of the last layer's activations.

    The shift is the difference of the means of unsafe and safe text, both with operators M, after the non-linearity of
    the MLP at EOT; it is added at EOT and at every letter of the answer.
    """
    point = f"blocks.{len(model.blocks) - 1}.mlp.post"
    safe, unsafe = (
        answer_activations(model, task, sets[name], point)[point].mean(dim=0)
        for name in ("M, safe text", "M, unsafe text")
    )
    jailbreaks = sets["competing-text"]

    def refusals(shift: Tensor) -> float:
        def move(activations: Tensor) -> Tensor:
            moved = activations.clone()
            moved[:, task.prompt - 1 :] += shift
            return moved

        return round(written_outcomes(model, task, jailbreaks, {point: move}).refuses, 4)

    shift = unsafe - safe
    random = random_like(shift, torch_stream(seed, "random shift"))
    return MovedRefusals(before=refusals(0 * shift), unsafe=refusals(shift), random=refusals(random))
