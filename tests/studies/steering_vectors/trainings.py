"""What stands in the place of training: weights are planted, and what was asked for is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.small_steerings import numbers
from tests.studies.steering_vectors.helpers import SMALL, TASK
from tests.studies.steering_vectors.worlds import LAYERS, WIDTH, drawn, questions, witness
from toylab.model.checkpoint import load_model, save_model
from toylab.model.steering import Steered, save_steering, steer
from toylab.model.transformer import Transformer
from toylab.runs.store import read_metrics
from toylab.runs.study import Job, JobInput
from toylab.studies.steering_vectors import bases, experiments
from toylab.studies.steering_vectors.data import RL_TRAINING
from toylab.studies.steering_vectors.settings import MIXTURE, SKILL, Settings
from toylab.training.loop import TrainConfig, Training

SEED, LAST = 1, LAYERS - 1
STUDY = Settings(
    task=TASK,
    model=replace(SMALL, layers=LAYERS),
    skill=replace(SKILL, rows=5, weight_decay=0.5),
    mixture=replace(MIXTURE, steps=8, rows=6),
    rl=replace(RL_TRAINING, steps=4, rows=7),
    samples=3,
    full_rate=0.03,
    flag_kl=0.25,
    adaptive_steps=11,
    least_shift=0,
    seeds=(SEED, 0),
    rows=140,
)
"""Of which no two numbers that a training could be given are the same."""


@dataclass
class Asked:
    """One training: the first values of what it may train, and all that it was given."""

    model: nn.Module
    loss: Any
    batch_at: Any
    config: TrainConfig
    evaluate: Any
    checkpoint: Path | None


def planted(k: int, size: int = WIDTH) -> Tensor:
    """What the k-th training makes of a vector of zeros."""
    return 0.5 * numbers(50 + k, size).float()


def plant(model: nn.Module, k: int) -> None:
    """What the k-th training does to all that it may train, each part in its own way."""
    with torch.no_grad():
        for i, parameter in enumerate(one for one in model.parameters() if one.requires_grad):
            change = planted(k + 100 * i, parameter.numel()).view_as(parameter)
            parameter += change if isinstance(model, Steered) else 0.2 * change


@contextmanager
def trainings() -> Iterator[list[Asked]]:
    """Yields what was asked for."""
    asked = []

    def train(
        model: nn.Module,
        loss: Any,
        batch_at: Any,
        config: TrainConfig,
        evaluate: Any = None,
        checkpoint: Any = None,
        record: Any = None,
    ) -> Training:
        if record is not None:
            record(model, 0)
        plant(model, len(asked))
        if record is not None:
            record(model, config.steps)
        asked.append(Asked(model, loss, batch_at, config, evaluate, checkpoint))
        return Training(history=[{"step": len(asked) - 1}])

    with pytest.MonkeyPatch.context() as patch:
        for module in (bases, experiments):
            patch.setattr(module, "train", train)
        yield asked


def reinforced(one: Asked, folder: Path, k: int = 0, name: str = "") -> dict[str, Any]:
    """What was asked of a reinforcement that is not as of a vector; its files have a name of their own."""
    sampler = one.batch_at
    assert one.evaluate == sampler.summary
    assert (sampler.model, sampler.seed, sampler.samples) == (one.model, SEED, STUDY.samples)
    assert sampler.prompts == one.config.rows == STUDY.rl.rows
    assert one.checkpoint == folder / f"checkpoint{name}.safetensors"
    assert read_metrics(folder / f"metrics{name}.jsonl") == [{"step": k}]
    found = {
        "config": one.config, "task": sampler.task, "reward": sampler.reward, "purpose": sampler.purpose,
        "kl": one.loss.kl,
    }  # fmt: skip
    usual = {"config": STUDY.rl, "task": TASK, "reward": None, "purpose": "rollouts", "kl": 0}
    return {name: value for name, value in found.items() if value != usual[name]}


def base(seed: int = 0, **shape: Any) -> Transformer:
    return drawn(seed, **shape).float()


def begun(at: Path, seed: int = SEED, **inputs: Transformer | Steered) -> tuple[Job, Path]:
    """A job and its folder, with these files to start from."""
    folder, held = at / f"seed-{seed}" / "job", {}
    folder.mkdir(parents=True)
    for name, model in inputs.items():
        name = name.replace("_", "-")
        held[name] = JobInput(Job(f"made-{name}", seed), "what.safetensors")
        path = held[name].job.folder(at) / "what.safetensors"
        path.parent.mkdir(parents=True)
        (save_model if isinstance(model, Transformer) else save_steering)(path, model)
    return Job("job", seed, inputs=held), folder


def prompts_of(study: Settings = STUDY, flag: bool = False) -> Tensor:
    return questions(SEED, study.rows, replace(study.task, flag=flag))


def few() -> Tensor:
    """The first half."""
    return prompts_of()[:70]


def right_in(model: nn.Module, prompts: Tensor) -> dict[float, float]:
    """What the witness says at each temperature."""
    return {t: witness(model, TASK, prompts, t, SEED).accuracy for t in (0, 0.7, 1)}


def right(model: nn.Module, prompts: Tensor) -> float:
    return right_in(model, prompts)[1]


def answers_in(
    model: nn.Module, prompts: Tensor, opener: str | None = None, temperatures: tuple = (0, 0.7, 1), **task: Any
) -> dict[float, Any]:
    asked = replace(TASK, **task)
    return {t: witness(model, asked, prompts, t, SEED, opener) for t in temperatures}


def trained_on(model: Transformer, k: int, layer: int = LAST) -> Steered:
    """With the vector that the k-th training makes."""
    return steer(model, {layer: planted(k)})


def length(x: Tensor) -> float:
    return sum(one * one for one in x.tolist()) ** 0.5


def cosine(one: Tensor, other: Tensor) -> float:
    return (one @ other).item() / length(one) / length(other)


def left(folder: Path, file: str = "model.safetensors") -> Transformer:
    return load_model(folder / file)
