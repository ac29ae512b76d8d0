"""Laws of speed: a worker has one thread, so two workers side by side are not slower than one alone."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from toylab.model.transformer import Transformer
from toylab.report.page import Picture
from toylab.runs.jobs import execute
from toylab.runs.study import Job
from toylab.tasks import Copy
from toylab.training.batches import fresh, next_token_loss
from toylab.training.loop import TrainConfig, train
from toylab.verdicts.judgement import Judgement


@dataclass(frozen=True, kw_only=True)
class Threads:
    """A study whose jobs say how many threads they have."""

    seeds: tuple[int, ...] = (0, 1)
    meeting: str = ""

    def jobs(self) -> list[Job]:
        return [Job("only", seed) for seed in self.seeds]

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        return {
            "threads": torch.get_num_threads(),
            "asked": os.environ.get("OMP_NUM_THREADS"),
            "process": os.getpid(),
        }

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Judgement]:
        return []

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        return []


@dataclass(frozen=True, kw_only=True)
class Timed(Threads):
    """A study whose jobs wait for each other, then train side by side, and say how long it took."""

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        task, config = Copy(), TrainConfig(steps=60, warmup=1)
        model, batches = Transformer.for_task(task), fresh(task, 0, config.rows)
        batches(0)
        (Path(self.meeting) / str(job.seed)).touch()
        while len(list(Path(self.meeting).iterdir())) < len(self.seeds):
            time.sleep(0.005)
        began, cpu = time.perf_counter(), time.process_time()
        train(model, next_token_loss, batches, config)
        return {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def test_a_worker_has_one_thread_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for result in execute(Threads(), "threads", tmp_path / "out", 2, progress=False).values():
        assert result["process"] != os.getpid()
        assert result["asked"] == "2"
        assert result["threads"] == 1


def test_a_single_worker_has_one_thread_as_well(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = execute(Threads(seeds=(0,)), "threads", tmp_path / "out", 1, progress=False)
    finally:
        torch.set_num_threads(before)
    assert [result["threads"] for result in found.values()] == [1]


def test_two_workers_side_by_side_are_not_slower_than_one_alone(tmp_path):
    """With more threads than cores the workers wait for each other's sleeping threads: that is 40 times slower."""
    # Where other work fills the machine, the clock on the wall says nothing, and the processor's own clock is asked.
    clock = "cpu" if os.getloadavg()[0] > (os.cpu_count() or 1) / 2 else "wall"
    study, ratios = Timed(), []
    for attempt in range(3):
        seconds = {}
        for seeds in ((0,), (0, 1)):
            out, meeting = tmp_path / f"out-{attempt}-{len(seeds)}", tmp_path / f"meeting-{attempt}-{len(seeds)}"
            meeting.mkdir()
            found = execute(replace(study, seeds=seeds, meeting=str(meeting)), "timed", out, 2, progress=False)
            seconds[len(seeds)] = max(result[clock] for result in found.values())
        ratios.append(seconds[2] / seconds[1])
        if ratios[-1] < 1.5:
            break
    assert min(ratios) < 1.5, f"slower by {ratios}, measured by {clock}"
