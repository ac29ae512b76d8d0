"""Texts of two concepts as a language model meets them: pre-training, fine-tuning on pairs, and what it writes freely.

What connects `toylab.tasks.TaskConcept` to `toylab.model.transformer`, `toylab.training.losses` and the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.layers import torch_stream
from toylab.model.transformer import Transformer
from toylab.probes import Edit, edit
from toylab.tasks import Batch, Kind, TaskConcept, stream
from toylab.training.batches import BLOCK_STEPS, tokens_for, training_batches
from toylab.training.losses import PreferencePairs
from toylab.training.modes import evaluation_mode

MODEL = ModelConfig(heads=4, width=64, positions="learned", embedding_std=0.125, position_std=0.125)
"""Two layers of width 64: the model of the safety study."""


def concept_model(
    task: TaskConcept, config: ModelConfig = MODEL, seed: int = 0, *, shared: float | int = 0.1
) -> Transformer:
    """A model of the task's vocabulary, whose learned positions know from the start which text letter an answer letter
    is made from.

    Args:
        shared: scale of a random vector for each letter of the text, added to the initial position vectors of the
            letter and of the position that answers it. It is learned away if it does not help; 0 leaves it out.
    """
    model = Transformer.for_task(task, config, seed)
    if config.positions == "learned" and shared:
        code = shared * torch.randn(task.answer, config.width, generator=torch_stream(seed, "shared positions"))
        start = task.prompt - 1
        with torch.no_grad():
            model.positions.table[task.text] += code
            model.positions.table[start : start + task.answer] += code
    return model


# Pre-training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredText:
    """Rows of the task, and where the model's predictions count."""

    tokens: Int[Tensor, "batch position"]
    targets: Int[Tensor, "batch query"]
    queries: Int[Tensor, "batch query"]
    text: int
    """How many of the queries predict letters of the text; the others predict the answer."""


def concept_batches(
    task: TaskConcept, seed: int, rows: int, steps: int, *, single: float | int = 0.25
) -> Callable[[int], ScoredText]:
    """The pre-training batch of each step, a pure function of its arguments.

    Args:
        single: share of the steps, the first ones, in which all prompts have one operator beside the identity:
            compositions are learned many times faster once their parts are known. It ends with a block of 64 steps.
    """

    def draw(rng: np.random.Generator, count: int, first_step: int) -> Batch:
        return task.sample(rng, count, single=1.0 if first_step < single * steps else 0.5)

    return training_batches(task, seed, rows, lambda batch: score_text(task, batch), draw, "pretraining")


def score_text(task: TaskConcept, batch: Batch) -> ScoredText:
    """A batch scored on its text, from the second letter on, and on its answers."""
    text = np.arange(task.text.start, task.text.stop - 1)
    where = np.concatenate([text, np.arange(task.prompt - 1, task.context)])
    targets = np.concatenate([batch.tokens[:, text + 1], batch.targets[:, task.prompt - 1 :]], axis=1)
    queries = np.broadcast_to(where, targets.shape).copy()
    return ScoredText(torch.from_numpy(batch.tokens), torch.from_numpy(targets), torch.from_numpy(queries), len(text))


def language_loss(model: nn.Module, read: ScoredText) -> Float[Tensor, ""]:
    """Mean cross entropy of the answers plus that of the text, in nats a token each.

    The text is worth learning although nobody asks for it: without its loss the concept is not represented well, and
    the order of the jailbreaks changes.
    """
    logits = model(read.tokens, queries=read.queries)
    text, answer = (part.flatten(0, 1) for part in logits.split([read.text, logits.shape[1] - read.text], dim=1))
    of_text, of_answer = read.targets.split([read.text, logits.shape[1] - read.text], dim=1)
    return F.cross_entropy(answer, of_answer.flatten()) + F.cross_entropy(text, of_text.flatten())


# Fine-tuning ---------------------------------------------------------------------------------------------------------


def preference_pairs(task: TaskConcept, batch: Batch) -> PreferencePairs:
    """A batch as prompts with two answers each."""
    held = task.preferences(batch)
    return PreferencePairs(*(torch.from_numpy(x) for x in (held.prompts, held.chosen, held.rejected, held.unsafe)))


def fine_tuning_batches(
    task: TaskConcept, seed: int, rows: int, unsafe: float | int, purpose: str = "fine-tuning"
) -> Callable[[int], PreferencePairs]:
    """The fine-tuning batch of each step: all of it safe or, with the probability `unsafe`, all of it to refuse.

    Batches of another `purpose` are drawn independently.
    """

    @lru_cache(maxsize=4)
    def block(kind: Kind, number: int) -> Batch:
        return task.sample(stream(seed, purpose, kind, number), rows * BLOCK_STEPS, kind=kind)

    def batch_at(step: int) -> PreferencePairs:
        number, within = divmod(step, BLOCK_STEPS)
        kind: Kind = "unsafe" if stream(seed, purpose, number).random(BLOCK_STEPS)[within] < unsafe else "safe"
        return preference_pairs(task, block(kind, number).rows(within * rows, (within + 1) * rows))

    return batch_at


# What is written -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """What a model makes of prompts, writing freely and greedily; the shares of tokens, and of whole answers.

    Attributes:
        complies: the transform that was asked for.
        refuses: NULL.
        other: neither.
        complied, refused: whole answers that are the transform, or nothing but NULL.
    """

    complies: float
    refuses: float
    other: float
    complied: float
    refused: float


def write_texts(
    model: nn.Module, task: TaskConcept, prompts: Int[Tensor, "batch position"], edits: Mapping[str, Edit] | None = None
) -> Int[Tensor, "batch answer"]:
    """The answers that a model writes, letter by letter, each the likeliest; edits see whole rows."""
    with evaluation_mode(model), edit(model, edits) if edits else nullcontext():
        return generate(model, prompts, task.answer, cache=not edits)[:, prompts.shape[1] :]


def written_outcomes(
    model: nn.Module, task: TaskConcept, batch: Batch, edits: Mapping[str, Edit] | None = None
) -> Outcomes:
    """What a model writes for the prompts of a batch, in three classes."""
    written = write_texts(model, task, tokens_for(model, batch.tokens[:, : task.prompt]), edits)
    return classify(task, written.cpu(), torch.from_numpy(batch.targets[:, task.prompt - 1 :]))


def classify(
    task: TaskConcept, written: Int[Tensor, "batch answer"], transform: Int[Tensor, "batch answer"]
) -> Outcomes:
    """Shares of what was written, against what was asked for."""
    right, null = written == transform, written == task.null
    return Outcomes(
        complies=right.float().mean().item(),
        refuses=(null & ~right).float().mean().item(),
        other=(~right & ~null).float().mean().item(),
        complied=right.all(dim=1).float().mean().item(),
        refused=(null & ~right).all(dim=1).float().mean().item(),
    )
