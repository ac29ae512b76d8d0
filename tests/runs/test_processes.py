"""Laws of several processes: they find what one finds, and what cannot reach them is told."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs.helpers import Branching, Counted, called, contents, start, train_copy
from toylab.console import ToylabError
from toylab.files import read_json
from toylab.model.checkpoint import load_model
from toylab.model.transformer import Transformer
from toylab.runs.jobs import JobsFailedError, execute
from toylab.runs.processes import peak_megabytes
from toylab.runs.study import Job
from toylab.tasks import Copy
from toylab.training.batches import next_token_loss, training_batches
from toylab.training.loop import TrainConfig, train


@dataclass(frozen=True, kw_only=True)
class Beside(Branching):
    """A study whose jobs go on from each other, train a little, and say where they ran."""

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        found = super().run_job(job, folder)  # which fails where a file says so, or where its base is not done
        return found | {"loss": train_copy(job, folder), "where": place()}


def place() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "asked": os.environ.get("OMP_NUM_THREADS"),
        "process": os.getpid(),
    }


def results(out: Path) -> dict[str, dict[str, Any]]:
    """By job, without what each run takes anew."""
    found = {f"{path.parent.name} {path.parents[1].name}": read_json(path) for path in out.rglob("result.json")}
    return {job: {k: v for k, v in one.items() if k not in ("cost", "where")} for job, one in found.items()}


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> Path:
    """A folder with the same run by one process and by two, in each of which a job fails."""
    base = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        for workers in (1, 2):
            notes = base / f"notes-{workers}"
            notes.mkdir()
            (notes / "fail-alone-1").touch()
            with pytest.raises(JobsFailedError, match=r"1 of 8 jobs failed"):
                start(Beside(), notes, base / str(workers), workers)
    return base


def test_two_workers_leave_the_same_files_as_one(beside):
    assert results(beside / "1") == results(beside / "2")
    assert set(contents(beside / "1")) == set(contents(beside / "2"))
    trained = [path.parent.relative_to(beside / "1") for path in (beside / "1").rglob("model.safetensors")]
    assert len(trained) == 7
    for job in trained:
        here, there = beside / "1" / job, beside / "2" / job
        assert (here / "metrics.jsonl").read_text() == (there / "metrics.jsonl").read_text()
        weights, others = (load_model(folder / "model.safetensors").state_dict() for folder in (here, there))
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_job_in_another_process_waits_for_the_one_it_goes_on_from(beside):
    noted = called(beside / "notes-2")
    assert sorted(noted) == sorted(f"{job.name} {job.seed}" for job in Beside().jobs())
    for seed in (0, 1):
        assert noted.index(f"base {seed}") < min(noted.index(f"{name} {seed}") for name in ("left", "right"))


def test_a_failure_in_another_process_is_recorded_as_well(beside):
    assert "job alone was told to fail" in (Job("alone", 1).folder(beside / "2") / "error.txt").read_text()
    assert len(list((beside / "2").rglob("done"))) == 7


def test_a_worker_has_one_thread_whatever_the_environment_says(beside):
    for path in (beside / "2").rglob("result.json"):
        found = read_json(path)["where"]
        assert found["process"] != os.getpid()
        assert found["asked"] == "2"
        assert found["threads"] == 1


def test_a_single_worker_has_one_thread_as_well(notes, out):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = start(Beside(seeds=(0,)), notes, out)
    finally:
        torch.set_num_threads(before)
    assert {result["where"]["threads"] for result in found.values()} == {1}
    assert {result["where"]["process"] for result in found.values()} == {os.getpid()}


def test_the_peak_of_memory_lies_between_what_is_held_and_what_the_machine_has():
    held = torch.ones(10**8, dtype=torch.uint8)
    assert held.nbytes / 1e6 < peak_megabytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def told_by(script: str, where: Path, *before: str) -> str:
    """What a script of its own says, which runs a study in two processes."""
    (where / "script.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [sys.executable, *before], cwd=where, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


BEGINS = "from pathlib import Path\nfrom tests.runs.helpers import Counted\nfrom toylab.runs.jobs import execute\n"
RUNS = "execute({}(notes='.'), 'counted', Path('out'), 2, progress=False)\n"


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so_and_not_that_its_processes_were_killed(tmp_path):
    last = told_by(BEGINS + RUNS.format("Counted"), tmp_path, "script.py").splitlines()[-1]
    assert "__main__" in last
    assert "killed" not in last
    assert not list(tmp_path.rglob("error.txt"))


@pytest.mark.slow
def test_a_study_that_a_worker_cannot_load_is_named(tmp_path):
    """As one of a notebook, which has no file that the worker could import."""
    script = BEGINS + "class Here(Counted): pass\n" + RUNS.format("Here")
    told = told_by(script, tmp_path, "-c", script)
    assert "a worker cannot import the study (AttributeError: " in told
    assert "killed" not in told


def test_a_study_that_cannot_be_sent_is_refused_and_runs_in_this_process(notes, out):
    class Local(Counted):
        pass

    with pytest.raises(ToylabError, match=r"cannot be pickled \(.*Local.*\); define"):
        start(Local(), notes, out, workers=2)
    assert called(notes) == []
    assert len(start(Local(), notes, out)) == 4


# Time ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Timed(Counted):
    """A study whose jobs wait for each other, then train side by side, and say how long it took."""

    names: tuple[str, ...] = ("only",)
    meeting: str = ""

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        task, config = Copy(), TrainConfig(steps=60, warmup=1)
        model, batches = Transformer.for_task(task), training_batches(task, 0, config.rows)
        batches(0)
        (Path(self.meeting) / str(job.seed)).touch()
        while len(list(Path(self.meeting).iterdir())) < len(self.seeds):
            time.sleep(0.005)
        began, cpu = time.perf_counter(), time.process_time()
        train(model, next_token_loss, batches, config)
        return {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}


@pytest.mark.slow
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
