"""Data of the safety study: model, pre-training batches, preference pairs for fine-tuning, and free-running outcomes.

Connects `toylab.tasks.TaskConcept` to `toylab.model.transformer`, `toylab.training.losses` and the training loop.
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
from toylab.model.modes import evaluation_mode
from toylab.model.transformer import Transformer
from toylab.probes import Edit, edit
from toylab.tasks import Batch, Kind, TaskConcept, stream
from toylab.training.batches import BLOCK_STEPS, tokens_for, training_batches
from toylab.training.losses import PreferencePairs

MODEL = ModelConfig(heads=4, width=64, positions="learned", embedding_std=0.125, position_std=0.125)
"""Two layers of width 64: the model of the safety study."""


def concept_model(
    task: TaskConcept, config: ModelConfig = MODEL, seed: int = 0, *, shared: float | int = 0.1
) -> Transformer:
    """A model for the task's vocabulary whose learned positions are initialised to align text and answer letters.

    Args:
        shared: scale of a random vector per letter of the text, added to the initial position vectors of the letter and
            of the position that answers it. Training can remove it; 0 disables it.
    """
    model = Transformer.for_task(task, config, seed)
    if config.positions == "learned" and shared:
        code = shared * torch.randn(task.answer, config.width, generator=torch_stream(seed, "shared positions"))
        start = task.prompt - 1
        with torch.no_grad():
            table = model.positions.get_parameter("table")
            table[task.text] += code
            table[start : start + task.answer] += code
    return model


# Pre-training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredText:
    """Rows of the task, and the positions whose predictions are scored."""

    tokens: Int[Tensor, "batch position"]
    targets: Int[Tensor, "batch query"]
    queries: Int[Tensor, "batch query"]
    text: int
    """Number of queries that predict letters of the text; the remaining queries predict the answer."""


def concept_batches(
    task: TaskConcept, seed: int, rows: int, steps: int, *, single: float | int = 0.25
) -> Callable[[int], ScoredText]:
    """The pre-training batch of each step, a pure function of its arguments.

    Args:
        single: initial share of the steps in which every prompt has a single operator besides the identity, because
            compositions are learned many times faster once their parts are known. Rounded up to 64 steps.
    """

    def draw(rng: np.random.Generator, count: int, first_step: int) -> Batch:
        return task.sample(rng, count, single=1.0 if first_step < single * steps else 0.5)

    return training_batches(task, seed, rows, lambda batch: score_text(task, batch), draw, "pretraining")


def score_text(task: TaskConcept, batch: Batch) -> ScoredText:
    """A batch scored on its text, from the second letter on, and on its answers."""
    text = np.arange(task.text.start, task.text.stop - 1)
    positions = np.concatenate([text, np.arange(task.prompt - 1, task.context)])
    targets = np.concatenate([batch.tokens[:, text + 1], batch.targets[:, task.prompt - 1 :]], axis=1)
    queries = np.broadcast_to(positions, targets.shape).copy()
    return ScoredText(torch.from_numpy(batch.tokens), torch.from_numpy(targets), torch.from_numpy(queries), len(text))


def language_loss(model: nn.Module, scored: ScoredText) -> Float[Tensor, ""]:
    """Mean cross entropy of the answers plus mean cross entropy of the text, each in nats per token.

    The loss on the text is needed although only answers are evaluated: without it the concept is represented poorly,
    and the order of the jailbreaks changes.
    """
    logits = model(scored.tokens, queries=scored.queries)
    text, answer = (part.flatten(0, 1) for part in logits.split([scored.text, logits.shape[1] - scored.text], dim=1))
    of_text, of_answer = scored.targets.split([scored.text, logits.shape[1] - scored.text], dim=1)
    return F.cross_entropy(answer, of_answer.flatten()) + F.cross_entropy(text, of_text.flatten())


# Fine-tuning ---------------------------------------------------------------------------------------------------------


def preference_pairs(task: TaskConcept, batch: Batch) -> PreferencePairs:
    """A batch as prompts with a chosen and a rejected answer each."""
    preferences = task.preferences(batch)
    return PreferencePairs(
        *(
            torch.from_numpy(x)
            for x in (preferences.prompts, preferences.chosen, preferences.rejected, preferences.unsafe)
        )
    )


def fine_tuning_batches(
    task: TaskConcept, seed: int, rows: int, unsafe: float | int, purpose: str = "fine-tuning"
) -> Callable[[int], PreferencePairs]:
    """The fine-tuning batch of each step: entirely unsafe prompts with probability `unsafe`, otherwise entirely safe.

    Batches with different `purpose` are sampled independently.
    """

    @lru_cache(maxsize=4)
    def block(kind: Kind, number: int) -> Batch:
        return task.sample(stream(seed, purpose, kind, number), rows * BLOCK_STEPS, kind=kind)

    def batch_at(step: int) -> PreferencePairs:
        number, within = divmod(step, BLOCK_STEPS)
        kind: Kind = "unsafe" if stream(seed, purpose, number).random(BLOCK_STEPS)[within] < unsafe else "safe"
        return preference_pairs(task, block(kind, number).rows(within * rows, (within + 1) * rows))

    return batch_at


# Free-running outcomes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of greedy free-running decoding, as shares of tokens and of whole answers.

    Attributes:
        complies: share of tokens equal to the requested transform.
        refuses: share of NULL tokens.
        other: share of all other tokens.
        complied, refused: shares of whole answers that equal the transform, or that are all NULL.
    """

    complies: float
    refuses: float
    other: float
    complied: float
    refused: float


def write_texts(
    model: nn.Module, task: TaskConcept, prompts: Int[Tensor, "batch position"], edits: Mapping[str, Edit] | None = None
) -> Int[Tensor, "batch answer"]:
    """Greedy answers of a model. With edits there is no key-value cache, so that edits see whole rows."""
    with evaluation_mode(model), edit(model, edits) if edits else nullcontext():
        return generate(model, prompts, task.answer, cache=not edits)[:, prompts.shape[1] :]


def written_outcomes(
    model: nn.Module, task: TaskConcept, batch: Batch, edits: Mapping[str, Edit] | None = None
) -> Outcomes:
    """Outcomes of a model on the prompts of a batch."""
    answers = write_texts(model, task, tokens_for(model, batch.tokens[:, : task.prompt]), edits)
    return classify(task, answers.cpu(), torch.from_numpy(batch.targets[:, task.prompt - 1 :]))


def classify(
    task: TaskConcept, written: Int[Tensor, "batch answer"], transform: Int[Tensor, "batch answer"]
) -> Outcomes:
    """Outcomes of written answers, given the requested transform."""
    matches, is_null = written == transform, written == task.null
    return Outcomes(
        complies=matches.float().mean().item(),
        refuses=(is_null & ~matches).float().mean().item(),
        other=(~matches & ~is_null).float().mean().item(),
        complied=matches.all(dim=1).float().mean().item(),
        refused=(is_null & ~matches).all(dim=1).float().mean().item(),
    )
