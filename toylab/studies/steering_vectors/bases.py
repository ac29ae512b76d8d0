"""Base models of the steering study: pre-training in two phases, and measurements before steering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from toylab.model.checkpoint import load_model
from toylab.model.steering import pre_flight
from toylab.model.transformer import Transformer
from toylab.runs.store import train_and_keep
from toylab.runs.study import Job
from toylab.studies.steering_vectors.data import (
    READOUT_SEED,
    by_temperature,
    chain_accuracy,
    freeze_readout,
    measure_answers,
    reasoning_batches,
    reasoning_model,
    reasoning_prompts,
)
from toylab.studies.steering_vectors.results import BaseResult
from toylab.studies.steering_vectors.settings import SEPARABLE_SEED, Settings
from toylab.tasks import Reasoning, Styles
from toylab.training.batches import next_token_loss
from toylab.training.loop import Training, train


def pretrain_base(study: Settings, job: Job, folder: Path, variant: str = "") -> BaseResult:
    """Pre-train a model in two phases; measure its accuracy with each opener, and the bound of the pre-flight check.

    Args:
        variant: "learned" for a trained unembedding and a first phase of chains alone, "apart" for an unembedding that
            no other model has, "flag" for the flagged task.
    """
    seed = job.seed
    task = replace(study.task, flag=True) if variant == "flag" else study.task
    config, phase, flagged = study.model, study.skill, 0.5 if variant == "flag" else None
    if variant == "learned":  # fails under strong weight decay
        config = replace(config, unembedding="learned")
        phase = replace(phase, weight_decay=phase.weight_decay / 10)
    # If the openers have the same contexts, a learned unembedding gives them almost the same row.
    first_styles = Styles.clean(1.0 if variant == "learned" else 0.9, flagged)
    purpose = f"{variant} " if variant else ""

    def learn(checkpoint: Path) -> tuple[Transformer, Training]:
        model = reasoning_model(
            task, config, seed, readout=SEPARABLE_SEED + seed if variant == "apart" else READOUT_SEED
        )
        batches = reasoning_batches(task, seed, phase.rows, first_styles, f"{purpose}skill")
        metric = chain_accuracy(task, seed)
        return model, train(model, next_token_loss, batches, phase, evaluate=metric, checkpoint=checkpoint)

    model, _ = train_and_keep(folder, learn, "-skill", file=None if variant else "skill.safetensors", load=load_base)
    prompts = evaluation_prompts(study, seed, task)
    chain = measure_answers(model, task, first_half(study, prompts), 0, seed, opener="THINK")
    styles = replace(study.styles, think=0.5) if variant == "flag" else study.styles
    model = train_mixture(study, model, task, seed, folder, styles, f"{purpose}mixture")
    return BaseResult(
        chain=round(chain.accuracy, 4),
        answers=by_temperature(model, task, prompts, seed=seed),
        prefix=by_temperature(model, task, prompts, seed=seed, opener="THINK"),
        direct=by_temperature(model, task, first_half(study, prompts), (1,), seed, "DIRECT"),
        pre_flight=pre_flight(model, prompts, task.token("THINK"), task.token("DIRECT")),
        prefix_direct=by_temperature(model, task, prompts, (0, 1), seed, "DIRECT") if variant == "flag" else None,
    )


def train_mixture(
    study: Settings, model: Transformer, task: Reasoning, seed: int, folder: Path, styles: Styles, purpose: str
) -> Transformer:
    """The model after the second phase (mixture of styles), loaded from the folder or trained and saved there."""

    def learn(checkpoint: Path) -> tuple[Transformer, Training]:
        batches = reasoning_batches(task, seed, study.mixture.rows, styles, purpose)
        return model, train(model, next_token_loss, batches, study.mixture, checkpoint=checkpoint)

    return train_and_keep(folder, learn, load=load_base)[0]


def load_base(path: Path | str) -> Transformer:
    """Load a model of the study; its unembedding stays fixed in further training."""
    return freeze_readout(load_model(path))


def evaluation_prompts(study: Settings, seed: int, task: Reasoning | None = None) -> Tensor:
    """The held-out prompts of a seed."""
    task = task or study.task
    return reasoning_prompts(task, seed, study.rows)


def first_half(study: Settings, prompts: Tensor) -> Tensor:
    """The first half of the prompts, for measurements that are paired or averaged."""
    return prompts[: max(64, len(prompts) // 2)]
