"""Studies made for the tests of runs and sweeps, and what their jobs noted down."""

import asyncio
import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toylab.console import ToylabError
from toylab.files import read_json, write_record
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.runs.jobs import execute
from toylab.runs.store import train_and_keep
from toylab.runs.study import Job, JobInput
from toylab.tasks import Copy, ModularSum, Parity
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import DivergedError, TrainConfig, Training, train
from toylab.verdicts.claim import Claim, Conditions
from toylab.verdicts.criterion import above

if TYPE_CHECKING:  # drawing takes a worker half a second to load, and these studies draw nothing
    from toylab.report.page import Picture

LEAVING = (SystemExit, GeneratorExit, asyncio.CancelledError, FileNotFoundError, KeyError, ValueError)
"""Errors that are no refusal, and some that would end a process."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A study whose jobs note that they were called, and fail where a file tells them to."""

    seeds: tuple[int, ...] = (0, 1)
    names: tuple[str, ...] = ("one", "two")
    notes: str = ""
    size: int = 3

    def jobs(self) -> list[Job]:
        return [Job(name, seed) for name in self.names for seed in self.seeds]

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        notes = Path(self.notes)
        with (notes / "calls").open("a") as file:
            file.write(f"{job.name} {job.seed}\n")
        if (notes / f"fail-{job.name}-{job.seed}").exists():
            raise ArithmeticError(f"job {job.name} was told to fail")
        if (notes / f"refuse-{job.name}-{job.seed}").exists():
            raise DivergedError(f"job {job.name} was told to refuse")
        if (notes / f"stop-{job.name}-{job.seed}").exists():
            raise KeyboardInterrupt
        for kind in LEAVING:
            if (notes / f"{kind.__name__}-{job.name}-{job.seed}").exists():
                raise kind(3)
        return {"value": 10 * job.seed + len(job.name), "by length": {4: 0.5}}

    def claims(self) -> list[Claim]:
        return []

    def pictures(self, results: Conditions, out: Path) -> "list[Picture]":
        return []


@dataclass(frozen=True, kw_only=True)
class Branching(Counted):
    """A study in which two jobs go on from what a third one leaves, and are listed before jobs that need nothing."""

    names: tuple[str, ...] = ("base", "left", "right", "alone")

    def jobs(self) -> list[Job]:
        return [
            Job(name, seed, inputs={"base": JobInput(Job("base", seed), "done")} if name in ("left", "right") else {})
            for name in self.names
            for seed in self.seeds
        ]

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        if job.inputs:
            assert job.path("base", folder).exists()
        return super().run_job(job, folder)


def train_copy(job: Job, folder: Path) -> float:
    """The last loss of a model that is trained for some steps, and kept."""
    task = Copy(lengths=(1, 3))
    config = TrainConfig(steps=10, rows=4, warmup=2, evaluate_every=5)

    def learn(checkpoint: Path) -> tuple[Transformer, Training]:
        model = Transformer.for_task(task, ModelConfig(width=8), job.seed)
        return model, train(model, next_token_loss, training_batches(task, job.seed, 4), config, checkpoint=checkpoint)

    return train_and_keep(folder, learn)[1][-1]["loss"]


@dataclass(frozen=True)
class Size:
    """A part of the settings below."""

    width: int = 12
    heads: int = 3

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ToylabError(f"width={self.width}: must be divisible by heads={self.heads}")


class OddError(Exception):
    """An exception that does not survive the way between two processes."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@dataclass(frozen=True, kw_only=True)
class Small:
    """A study whose jobs note that they were called, and do what a file tells them to."""

    size: Size = field(default_factory=Size)
    kind: Literal["plain", "round"] = "plain"
    lengths: tuple[int, int] = (1, 3)
    rate: float | int = 0.5
    seeds: tuple[int, ...] = (0,)
    notes: str = ""

    def jobs(self) -> list[Job]:
        return [
            Job(name, seed, inputs={"base": JobInput(Job("base", seed), "done")} if name == "leaf" else {})
            for seed in self.seeds
            for name in ("base", "leaf", "other")
        ]

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        notes = Path(self.notes)
        mark = f"{job.name}-{job.seed}-{self.kind}-{self.size.width}"
        with (notes / "calls").open("a") as file:
            file.write(f"{mark}\n")
        if (notes / f"fail-{mark}").exists():
            raise OddError(1, 2)
        if (notes / f"refuse-{mark}").exists():
            raise ToylabError("this one does not like it")
        if (notes / f"die-{mark}").exists():
            os._exit(9)
        if (notes / f"die-once-{mark}").exists():
            (notes / f"die-once-{mark}").unlink()
            os._exit(9)
        if (notes / f"wait-{mark}").exists():
            (notes / f"waiting-{mark}").touch()
            while (notes / f"wait-{mark}").exists():
                time.sleep(0.01)
        drawn = np.random.default_rng([job.seed, self.size.width, len(self.kind)]).random()
        return {"value": drawn, "solved": drawn > 0.5, "deep": {"er": job.seed}, "list": [1, 2]}

    def claims(self) -> list[Claim]:
        return [
            Claim(
                id="half",
                place="-",
                statement="It is large.",
                conditions=("other",),
                measure="value",
                quantity=lambda other: other["value"],
                criterion=above(0.5),
            )
        ]

    def pictures(self, results: Conditions, out: Path) -> "list[Picture]":
        return []


@dataclass(frozen=True, kw_only=True)
class Own(Small):
    """A study with a choice of tasks, of which two have the same fields."""

    task: Copy | ModularSum | Parity = Copy()
    weights: dict[str, float] = field(default_factory=dict)

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        return {"value": float(self.task.values), "task": type(self.task).__name__}


def called(notes: Path) -> list[str]:
    path = notes / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def jobs_called(study: Small) -> list[str]:
    """In no order: several processes call them as they come."""
    return sorted(called(Path(study.notes)))


def start(study: Counted, notes: Path, out: Path, workers: int = 1) -> dict[Job, dict[str, Any]]:
    return execute(replace(study, notes=str(notes)), "counted", out, workers, progress=False)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def strip(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "cost"}


def tell(study: Small, what: str) -> Path:
    path = Path(study.notes) / what
    path.touch()
    return path


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what each run takes anew."""
    return [{name: value for name, value in row.items() if ".cost." not in name} for row in rows]


def rewritten(path: Path, **changes: Any) -> None:
    """A record that was changed, with a checksum that fits: it has no key."""
    held = {name: value for name, value in read_json(path).items() if name not in ("checksum", "format")}
    write_record(path, held | changes)


FOUR = {"kind": ["plain", "round"], "size.width": [6, 12]}
ALL = sorted(
    f"{name}-0-{kind}-{width}" for name in ("base", "leaf", "other") for kind in FOUR["kind"] for width in (6, 12)
)
