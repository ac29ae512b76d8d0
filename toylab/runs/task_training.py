"""Trainings of a model on one task over several seeds, as jobs of a run: in parallel, resumable, in one folder.

FOLDER/settings.json                    task, recipe, optimizer and seeds
FOLDER/seed-0/train/metrics.jsonl       training loss and held-out accuracy, one line per evaluation
FOLDER/seed-0/train/model.safetensors   the model; result.json: accuracy, steps, the head of each link
FOLDER/curves.svg                       both curves of all seeds
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Union, cast

import torch

from toylab.console import ToylabError, unknown_name
from toylab.files import exists
from toylab.model.transformer import Transformer
from toylab.runs.registry import TRAINED_ON, load_object, study_of_folder
from toylab.runs.store import read_settings, train_and_keep
from toylab.runs.study import Job
from toylab.settings import convert_value
from toylab.survey import Recipe, Survey, survey, train_with_history
from toylab.tasks import TASKS, Batch, stream
from toylab.training.loop import TrainConfig, Training
from toylab.training.optimizer import OptimizerFactory

JOB = "train"
"""Name of the job of each seed."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained model: its survey on test rows, steps, and accuracy on validation rows at the last evaluation."""

    survey: Survey
    steps: int
    validation_accuracy: float


@dataclass(frozen=True, kw_only=True)
class TaskTraining(Recipe):
    """Settings of the trainings of a model on one task."""

    task: Any
    optimizer: str = "adamw"
    """adamw (one vector of all parameters, the fastest), a class of torch.optim, or package.module:function from
    parameters to an optimizer. A class gets the learning rate and the weight decay of the settings."""
    seeds: tuple[int, ...] = (0,)
    """One model per seed of initial weights and data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named_optimizer(self.optimizer, self.train)

    def jobs(self) -> list[Job]:
        """One job per seed."""
        return [Job(JOB, seed, result_type=TrainedModel) for seed in self.seeds]

    def run_job(self, job: Job, folder: Path) -> TrainedModel:
        """Train and survey one model."""

        def learn(checkpoint: Path) -> tuple[Transformer, Training]:
            optimizer, config = named_optimizer(self.optimizer, self.train)
            return train_with_history(
                self.task,
                seed=job.seed,
                recipe=replace(self, train=config),
                optimizer=optimizer,
                checkpoint=checkpoint,
                progress=type(self.task).__name__ if len(self.seeds) == 1 else None,
            )

        model, history = train_and_keep(folder, learn)
        return TrainedModel(
            survey=survey(model, survey_rows(self.task, job.seed)),
            steps=int(history[-1]["step"]),
            validation_accuracy=float(history[-1]["accuracy"]),
        )

    def claims(self) -> list[Any]:
        """None."""
        return []


def training_name(task: str) -> str:
    """The name in the record of a folder of trainings."""
    return f"{TRAINED_ON}{task}"


def survey_rows(task: Any, seed: int) -> Batch:
    """The test rows of the survey of a seed."""
    return task.sample(stream(seed, "survey"), 256, "test")


def named_optimizer(name: str, config: TrainConfig) -> tuple[OptimizerFactory | None, TrainConfig]:
    """The optimizer of a name, None for the default one, and the config of the training loop beside it.

    Raises:
        ToylabError: for an unknown name, or weight decay of an optimizer without it.
    """
    if name == "adamw":
        return None, config
    if ":" in name:
        make = load_object("optimizer", name)
        if not callable(make):
            raise ToylabError(f"optimizer={name}: is a {type(make).__name__}; name a class or a function")
        if config.weight_decay:
            raise ToylabError(
                f"train.weight_decay={config.weight_decay}: {name} sets its own; give --train.weight-decay 0"
            )
        return cast(OptimizerFactory, make), config
    known = {
        n: c
        for n, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and c is not torch.optim.Optimizer
    }
    if name not in known:
        raise unknown_name("optimizer", name, ["adamw", *known])
    if config.weight_decay and "weight_decay" not in inspect.signature(known[name]).parameters:
        raise ToylabError(f"train.weight_decay={config.weight_decay}: {name} has none; give --train.weight-decay 0")
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    return partial(known[name], lr=config.learning_rate, **decay), replace(config, weight_decay=0.0)


@dataclass(frozen=True)
class StoredModel:
    """A stored model: its name in tables, its file, its task, and the seed of its test rows."""

    name: str
    path: Path
    task: Any
    seed: int


def stored_models(path: Path | str, task_class: type | None = None) -> list[StoredModel]:
    """The models of a folder of trainings, by seed, or the model of one job of a training or of a study.

    Args:
        path: FOLDER, or FOLDER/seed-N/JOB.
        task_class: class of a user's own task, which must be passed since a folder may not choose the code to run.

    Raises:
        ToylabError: for a folder without models, or with a model whose task is unknown.
    """
    path = Path(path)
    run = _run_of(path)
    if run is None:
        raise ToylabError(
            f"{path}: holds no trained model; give a folder of `toylab train`, a job such as RUN/seed-0/main, or a "
            "model file with --task"
        )
    about = read_settings(run / "settings.json")
    jobs = [path] if run != path else [run / f"seed-{seed}" / JOB for seed in about["settings"]["seeds"]]
    files = [job / "model.safetensors" for job in jobs if exists(job / "model.safetensors")]
    if not files:
        others = sorted(run.glob("seed-*/*/model.safetensors"))
        keep = (
            "run it, or if it is done, train its models again with toylab.runs.store.train_and_keep, which stores them"
        )
        remedy = f"give the folder of one, such as {others[0].parent}" if others else keep
        raise ToylabError(f"{path}: holds no model; {remedy}")
    task_of = _training_task if is_training(path) else _job_task
    return [
        StoredModel(
            file.parent.parent.name.replace("-", " "),
            file,
            task_of(about, file.parent, task_class),
            seed_of(file.parent),
        )
        for file in files
    ]


def is_training(path: Path) -> bool:
    """Whether a folder, or the run of a job, holds trainings of a task."""
    run = _run_of(path)
    return run is not None and read_settings(run / "settings.json")["study"].startswith(TRAINED_ON)


def _run_of(path: Path) -> Path | None:
    return next((run for run in (path, path.absolute().parent.parent) if exists(run / "settings.json")), None)


def seed_of(job: Path) -> int:
    """The seed of a job, from the name of its folder; 0 elsewhere."""
    match = re.fullmatch(r"seed-(\d+)", job.parent.name)
    return int(match[1]) if match else 0


def _training_task(about: Mapping[str, Any], job: Path, task_class: type | None) -> Any:
    name = about["study"].removeprefix(TRAINED_ON)
    if ":" in name and task_class is None:
        raise ToylabError(
            f"{job}: holds a model of {name!r}, and a folder may not choose the code to run; if you trust that task, "
            f"give --task {name}"
        )
    classes = (task_class,) if task_class else TASKS
    try:
        return convert_value(Union[classes], about["settings"]["task"], "task")  # noqa: UP007
    except ToylabError as error:
        raise ToylabError(f"{job}: holds a model of {name!r}; give --task {name} ({error})") from None


def _job_task(about: Mapping[str, Any], job: Path, task_class: type | None) -> Any:
    """The task of a condition, or else of its study."""
    run = job.parent.parent
    command = "toylab survey {folder}/seed-N/JOB --task TASK, the task of {study},"
    study_class = study_of_folder(about["study"], run, None, command).STUDY
    study = convert_value(study_class, about["settings"], "settings")
    what = next((j.what for j in study.jobs() if j.folder(run).resolve() == job.resolve()), None)
    task = getattr(what, "task", None) or getattr(study, "task", None)
    if task is None:
        raise ToylabError(f"{job}: its study has no task; name the task with --task")
    return task
