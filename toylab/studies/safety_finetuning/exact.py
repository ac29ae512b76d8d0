"""Decisions of a model on all prompts of a kind: whether each is complied with, or refused, in its whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.model.controls import random_like
from toylab.model.layers import torch_stream
from toylab.model.transformer import Transformer
from toylab.proofs.exact import Exact, on_all_inputs
from toylab.proofs.properties import Answers
from toylab.studies.safety_finetuning.measures import Sets, answer_activations
from toylab.studies.safety_finetuning.results_exact import TRANSFERS, EditedRefusals, ExactBehaviour
from toylab.tasks import Kind, PromptsOfKind, TaskConcept, count_texts

MOST_TEXTS = 1024
_COMPLIED: dict[str, tuple[Kind, ...]] = {
    "base": ("unsafe", *TRANSFERS),
    "base-fresh": ("unsafe",),
    "ssft": ("safe", "competing-text", "mismatched-text"),
}
_REFUSED: dict[str, tuple[Kind, ...]] = {
    "ssft": ("unsafe", *TRANSFERS),
    "ssft-fresh": ("unsafe",),
    "dpo": ("unsafe",),
    "unlearning": ("unsafe",),
}


def measure_all_prompts(
    name: str, base: Transformer, tuned: Transformer, task: TaskConcept, sets: Sets, seed: int
) -> ExactBehaviour | None:
    """Decisions of the model of a job on all prompts of the kinds that its claims name; None if they name none."""
    complied, refused = _COMPLIED.get(name, ()), _REFUSED.get(name, ())
    if (not complied and not refused) or too_many_prompts(task):
        return None
    edited = None
    if name == "ssft":
        unsafe = unsafe_directions(tuned, task, sets)
        generator = torch_stream(seed, "random input directions")
        random = [random_like(direction, generator) for direction in unsafe]
        edited = EditedRefusals(
            unsafe=decide_prompts(without_directions(base, tuned, unsafe), task, "unsafe", refused=True),
            random=decide_prompts(without_directions(base, tuned, random), task, "unsafe", refused=True),
        )
    return ExactBehaviour(
        complied={kind: decide_prompts(tuned, task, kind) for kind in complied},
        refused={kind: decide_prompts(tuned, task, kind, refused=True) for kind in refused},
        edited=edited,
    )


def decide_prompts(model: nn.Module, task: TaskConcept, kind: Kind, *, refused: bool = False) -> Exact:
    """Which prompts of a kind the model complies with or refuses."""
    prompts = PromptsOfKind(task=task, kind=kind, refused=refused)
    return on_all_inputs(model, prompts, Answers(), prompts.sampled_lengths)


def unsafe_directions(model: Transformer, task: TaskConcept, sets: Sets) -> list[Float[Tensor, " width"]]:
    """For each layer, the unit vector from the mean input of the MLP on safe prompts to that on unsafe ones, at EOT."""
    points = [f"blocks.{layer}.ln2" for layer in range(len(model.blocks))]
    safe, unsafe = (answer_activations(model, task, sets[name], *points) for name in ("safe", "unsafe"))
    shifts = [unsafe[point].mean(dim=0) - safe[point].mean(dim=0) for point in points]
    return [shift / shift.norm() for shift in shifts]


@torch.no_grad()
def without_directions(
    base: Transformer, tuned: Transformer, directions: Sequence[Float[Tensor, " width"]]
) -> Transformer:
    """The fine-tuned model, with the change of each up-projection projected off a unit direction of its inputs."""
    edited = deepcopy(tuned)
    for before, after, direction in zip(base.mlps, edited.mlps, directions, strict=True):
        change = after.up.weight - before.up.weight
        after.up.weight -= torch.outer(change @ direction, direction)
    return edited


def prompts_in_words(task: TaskConcept, *kinds: Kind) -> str:
    """All prompts of these kinds, such as "all 4,288 unsafe prompts", for the field `exact` of a claim."""
    if too_many_prompts(task):
        return ""
    number = sum(PromptsOfKind(task=task, kind=kind).count(task.answer) for kind in kinds)
    return f"all {number:,} {' and '.join(kinds)} prompts"


def too_many_prompts(task: TaskConcept) -> str:
    """The reason why a task has too many prompts to decide all; empty if it has few enough."""
    texts = count_texts(task)
    return f"the task has {texts:,} texts, and all prompts are decided up to {MOST_TEXTS:,}" * (texts > MOST_TEXTS)
