"""Laws of runs: a job is done once and whole, a failure costs nothing but itself, and no setting changes unseen."""

import asyncio
import hashlib
import itertools
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.files import digest, read_json, read_tensors, write_record, write_tensors
from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS, NoPositions
from toylab.model.transformer import Transformer
from toylab.report.page import Picture
from toylab.runs import jobs as engine
from toylab.runs import store as runs
from toylab.runs.jobs import JobsFailedError, JobsRefusedError, execute
from toylab.runs.judge import rebuild
from toylab.runs.store import claim_folder, read_metrics, read_settings
from toylab.runs.study import Job, Study
from toylab.runs.sweep import sweep
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Copy, ModularSum, Parity, Polynomial
from toylab.training.batches import fresh, next_token_loss
from toylab.training.loop import DivergedError, TrainConfig, Training, train
from toylab.verdicts.judgement import Judgement

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

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Judgement]:
        return []

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        return []


@dataclass(frozen=True, kw_only=True)
class Branching(Counted):
    """A study in which two jobs go on from what a third one leaves, and are listed before jobs that need nothing."""

    names: tuple[str, ...] = ("base", "left", "right", "alone")

    def jobs(self) -> list[Job]:
        after = {"left": "base", "right": "base"}
        return [Job(name, seed, after.get(name)) for name in self.names for seed in self.seeds]

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        if job.after is not None:
            assert (folder.parent / job.after / "done").exists()
        return super().run_job(job, folder)


@dataclass(frozen=True, kw_only=True)
class Controlled(Counted):
    """A study whose control is trained on the first of its seeds."""

    control_seeds: int = 1

    def jobs(self) -> list[Job]:
        controls = self.seeds[: self.control_seeds]
        return [Job("main", seed) for seed in self.seeds] + [Job("control", seed, "main") for seed in controls]


@dataclass(frozen=True, kw_only=True)
class Named(Counted):
    """A study whose jobs go on from each other."""

    after: str | None = None

    def jobs(self) -> list[Job]:
        return [Job(name, seed, self.after) for name in self.names for seed in self.seeds]


@dataclass(frozen=True, kw_only=True)
class Tiny(Counted):
    """A study whose jobs train a model for some steps."""

    seeds: tuple[int, ...] = (0, 1, 2)
    names: tuple[str, ...] = ("copy",)

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        task = Copy(lengths=(1, 3))
        model = Transformer.for_task(task, ModelConfig(width=8), job.seed)
        config = TrainConfig(steps=10, rows=4, warmup=2, evaluate_every=5)
        training = train(model, next_token_loss, fresh(task, job.seed, 4), config, checkpoint=folder / "checkpoint")
        runs.write_metrics(folder / "metrics.jsonl", training)
        save_model(folder / "model.safetensors", model)
        (folder / "checkpoint").unlink()
        return {"loss": training.history[-1]["loss"], "threads": torch.get_num_threads()}


@dataclass(frozen=True, kw_only=True)
class Leaving(Branching):
    """The same, and every job leaves a file, which those that go on from it read, and a checkpoint."""

    seeds: tuple[int, ...] = (0,)

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        if job.after is not None:
            (folder.parent / job.after / "left.txt").read_text()
        (folder / "left.txt").write_text(job.name)
        (folder / "checkpoint-1.safetensors").touch()
        return super().run_job(job, folder)


@dataclass(frozen=True, kw_only=True)
class Chosen(Counted):
    """A study whose task is one of several, with settings of many forms, and results of many kinds."""

    task: Copy | ModularSum | Parity | Polynomial = Copy()
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    scale: float = 1.0
    result: Any = 1

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        return {"fine": self.task.p if isinstance(self.task, Copy) else None, "tests": {"zeroed": {"state": MEASURED}}}


MEASURED: Any = 1


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def called(notes: Path) -> list[str]:
    path = notes / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def start(study: Counted, notes: Path, out: Path, workers: int = 1) -> dict[Job, dict[str, Any]]:
    return execute(replace(study, notes=str(notes)), "counted", out, workers, progress=False)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Jobs ----------------------------------------------------------------------------------------------------------------


def test_the_studies_of_the_house_and_of_these_tests_follow_the_protocol():
    assert isinstance(IterationHeadStudy(), Study)
    assert isinstance(Counted(), Study)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True), st.integers(1, 3))
def test_every_job_is_done_once_in_its_order_and_its_result_comes_back_from_its_file(tmp_path_factory, seeds, count):
    base = tmp_path_factory.mktemp("runs")
    study = Counted(seeds=tuple(seeds), names=tuple("abc"[:count]), notes=str(base))
    found = execute(study, "counted", base / "out", 1, progress=False)
    assert called(base) == [f"{job.name} {job.seed}" for job in study.jobs()]
    assert list(found) == study.jobs()
    for job, result in found.items():
        assert result["value"] == 10 * job.seed + 1
        assert result["by length"] == {"4": 0.5}  # as JSON holds it, whether just measured or read again
        assert result["cost"]["cpu_seconds"] >= 0
        assert read_json(job.folder(base / "out") / "result.json") == result


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_waits_for_the_one_it_goes_on_from(notes, out, workers):
    found = start(Branching(), notes, out, workers)
    assert set(found) == set(Branching().jobs())
    assert len(called(notes)) == 8


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_goes_on_from_a_failure_fails_with_its_name_and_all_else_is_done(notes, out, workers):
    (notes / "fail-base-1").touch()
    with pytest.raises(JobsFailedError) as error:
        start(Branching(), notes, out, workers)
    assert "left of seed 1: base of seed 1 failed, which this one goes on from" in str(error.value)
    assert "3 of 8 jobs failed" in str(error.value)
    done = set(called(notes)) - {"base 1"}
    assert done == {"base 0", "left 0", "right 0", "alone 0", "alone 1"}
    (notes / "fail-base-1").unlink()
    assert set(start(Branching(), notes, out, workers)) == set(Branching().jobs())
    assert sorted(called(notes)) == ["base 1", "left 1", "right 1"]


def test_what_a_job_comes_after_is_no_part_of_its_name():
    assert Job("left", 0, "base") == Job("left", 0)
    assert len({Job("left", 0, "base"), Job("left", 0)}) == 1


def test_a_finished_job_is_not_repeated(notes, out):
    first = start(Counted(), notes, out)
    before = contents(out)
    assert len(called(notes)) == 4
    assert start(Counted(), notes, out) == first
    assert called(notes) == []
    assert contents(out) == before


def test_a_job_that_was_cut_off_is_done_again(notes, out):
    start(Counted(), notes, out)
    called(notes)
    (Job("two", 1).folder(out) / "done").unlink()
    start(Counted(), notes, out)
    assert called(notes) == ["two 1"]


def test_done_is_written_last(notes, out, monkeypatch):
    write = engine.write_json

    def fail(path: Path, value: object) -> None:
        if path.name == "result.json":
            raise ToylabError("No space left on device")
        write(path, value)

    monkeypatch.setattr(engine, "write_json", fail)
    with pytest.raises(JobsRefusedError, match=r"No space left"):
        start(Counted(), notes, out)
    assert not list(out.rglob("done"))


def test_a_failing_job_is_recorded_and_the_others_finish(notes, out):
    (notes / "fail-one-0").touch()
    with pytest.raises(
        JobsFailedError, match=r"(?s)1 of 4 jobs failed.*the same command.*one of seed 0: ArithmeticError: job one was"
    ):
        start(Counted(), notes, out)
    assert len(called(notes)) == 4
    record = (Job("one", 0).folder(out) / "error.txt").read_text()
    assert "ArithmeticError: job one was told to fail" in record
    assert "Traceback" in record
    assert sorted(path.parent.name for path in out.rglob("done")) == ["one", "two", "two"]
    assert not (Job("one", 0).folder(out) / "done").exists()


def test_jobs_that_all_refuse_are_a_mistake_in_what_was_asked_and_any_other_failure_is_ours(notes, out):
    for name in ("one-0", "two-1"):
        (notes / f"refuse-{name}").touch()
    with pytest.raises(ValueError, match=r"(?s)2 of 4 jobs failed.*one of seed 0: job one was told to refuse"):
        start(Counted(), notes, out)
    assert len(called(notes)) == 4
    assert "DivergedError" in (Job("one", 0).folder(out) / "error.txt").read_text()
    (notes / "fail-two-1").touch()
    with pytest.raises(JobsFailedError, match=r"2 of 2 jobs failed"):
        start(Counted(), notes, out)


def test_the_same_command_repeats_the_failed_job_alone_and_clears_its_record(notes, out):
    (notes / "fail-one-0").touch()
    with pytest.raises(JobsFailedError):
        start(Counted(), notes, out)
    called(notes)
    (notes / "fail-one-0").unlink()
    assert len(start(Counted(), notes, out)) == 4
    assert called(notes) == ["one 0"]
    assert not list(out.rglob("error.txt"))


def test_all_failures_are_named(notes, out):
    for name in ("one-0", "two-1"):
        (notes / f"fail-{name}").touch()
    with pytest.raises(JobsFailedError, match=r"2 of 4 jobs failed") as error:
        start(Counted(), notes, out)
    assert "one of seed 0" in str(error.value)
    assert "two of seed 1" in str(error.value)


def test_ctrl_c_stops_at_once_and_the_same_call_continues(notes, out):
    (notes / "stop-one-1").touch()
    with pytest.raises(KeyboardInterrupt):
        start(Counted(), notes, out)
    assert called(notes) == ["one 0", "one 1"]
    (notes / "stop-one-1").unlink()
    assert len(start(Counted(), notes, out)) == 4
    assert called(notes) == ["one 1", "two 0", "two 1"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_that_would_end_its_process_is_a_failure_like_another(notes, out, workers):
    """Each with its type in its line, none of them a refusal, and the jobs beside them are done."""
    study = Counted(seeds=tuple(range(len(LEAVING))), names=("one", "two"))
    for seed, kind in enumerate(LEAVING):
        (notes / f"{kind.__name__}-one-{seed}").touch()
    with pytest.raises(JobsFailedError) as error:
        start(study, notes, out, workers)
    for seed, kind in enumerate(LEAVING):
        assert f"one of seed {seed}: {kind.__name__}: 3 (see " in str(error.value)
        assert f"{kind.__name__}" in (Job("one", seed).folder(out) / "error.txt").read_text()
        assert (Job("two", seed).folder(out) / "done").exists()


def test_ctrl_c_in_another_process_stops_as_well(notes, out):
    (notes / "stop-one-0").touch()
    with pytest.raises(KeyboardInterrupt):
        start(Counted(), notes, out, workers=2)
    assert not (Job("one", 0).folder(out) / "error.txt").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "/tmp/job", ".hidden", "a\\b", "a\0b", "a\nb", "x" * 300])
def test_a_name_that_is_no_folder_of_a_job_is_refused_before_anything_is_written(notes, out, name):
    study = Named(names=("one", name), notes=str(notes))
    for run in (lambda: start(study, notes, out), lambda: sweep([study], out, workers=1, progress=False)):
        with pytest.raises(ToylabError, match=r"job .+ of Named: must be a name for a folder"):
            run()
    assert called(notes) == []
    assert not out.exists()


def test_a_job_that_goes_on_from_none_is_refused_before_anything_is_written(notes, out):
    with pytest.raises(
        ToylabError, match=r"job 'one' of seed 0: goes on from 'bsae' of seed 0, which jobs\(\) does not"
    ):
        start(Named(after="bsae"), notes, out)
    assert not out.exists()


def test_what_a_result_calls_cost_is_not_lost_without_a_word(notes, out, monkeypatch):
    monkeypatch.setattr(Counted, "run_job", lambda self, job, folder: {"cost": 3})
    with pytest.raises(JobsRefusedError, match=r"cost: is what toylab adds to the result of a job; give"):
        start(Counted(), notes, out)


def test_no_job_takes_negative_time_where_the_clock_is_set_back(notes, out, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    assert all(result["cost"]["wall_seconds"] >= 0 for result in start(Counted(), notes, out).values())


@pytest.mark.parametrize("workers", [0, -2])
def test_a_run_needs_a_worker(notes, out, workers):
    with pytest.raises(ValueError, match=rf"^workers={workers}: must be at least 1"):
        start(Counted(), notes, out, workers)
    assert not out.exists()


# Several processes ---------------------------------------------------------------------------------------------------


def test_two_workers_leave_the_same_files_as_one(notes, tmp_path):
    alone, beside = (start(Tiny(), notes, tmp_path / str(workers), workers) for workers in (1, 2))
    assert [strip(result) for result in alone.values()] == [strip(result) for result in beside.values()]
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert set(one) == set(two)
    for job in alone:
        here, there = (job.folder(tmp_path / workers) for workers in "12")
        assert (here / "metrics.jsonl").read_text() == (there / "metrics.jsonl").read_text()
        weights, others = (load_model(folder / "model.safetensors").state_dict() for folder in (here, there))
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def strip(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "cost"}


def test_a_failure_in_another_process_is_recorded_as_well(notes, out):
    (notes / "fail-one-0").touch()
    with pytest.raises(JobsFailedError, match=r"1 of 4 jobs failed"):
        start(Counted(), notes, out, workers=2)
    assert "job one was told to fail" in (Job("one", 0).folder(out) / "error.txt").read_text()
    assert len(list(out.rglob("done"))) == 3


# Settings and results of somebody else's study ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"seeds": ()}, r"^seeds=\(\): give at least one"),
        ({"seeds": (0, 0)}, r"^seeds=\(0, 0\): .*all different"),
        ({"seeds": [1, 2, 1]}, r"^seeds=\(1, 2, 1\): .*all different"),
        ({"seeds": (-1,)}, r"^seeds=\(-1,\): .*not negative"),
        ({"seeds": (True,)}, r"^seeds\[0\]=True: must be a whole number"),
        ({"scale": math.nan}, r"^scale=nan: must be a finite number"),
        ({"scale": np.float32(math.inf)}, r"^scale=inf: must be a finite number"),
        ({"scale": "1"}, r"^scale='1': must be a number"),
        ({"pairs": ((1, math.nan),)}, r"^pairs\[0\]\[1\]=nan: must be a finite number"),
        ({"result": [math.nan]}, r"^settings\.result\[0\]=nan: JSON has no such number"),
        ({"result": Path()}, r"^settings\.result: is a PosixPath, which JSON has no form for"),
    ],
)
def test_a_wrong_setting_of_a_study_without_a_check_is_refused_by_name_before_anything_runs(notes, out, wrong, named):
    with pytest.raises(ToylabError, match=named):
        start(Chosen(**wrong), notes, out)
    assert not out.exists()


def test_seeds_may_be_a_list_and_numbers_those_of_numpy(notes, out, tmp_path):
    plain = Chosen(seeds=(0, 1), scale=2.0, size=4)
    start(plain, notes, out)
    other = Chosen(seeds=list(np.arange(2)), scale=np.float32(2), size=np.int64(4), pairs=[[1, np.int8(2)]])
    start(other, notes, tmp_path / "other")
    assert (
        read_settings(out / "settings.json")["settings"] == read_settings(tmp_path / "other/settings.json")["settings"]
    )
    start(other, notes, out)  # the same settings: it goes on


TASKS = [Copy(), ModularSum(p=2), Copy(p=3), ModularSum(p=3), Parity(lengths=3), Polynomial(p=7)]


@pytest.mark.parametrize("task", TASKS)
def test_a_choice_of_classes_comes_back_from_the_folder_of_a_run(out, task):
    study = Chosen(task=task, pairs=((1, 2), (3, 4)))
    claim_folder(study, "chosen", out)
    assert rebuild(Chosen(), read_settings(out / "settings.json")["settings"]) == study
    for other in TASKS:
        if other != task:
            with pytest.raises(ToylabError, match=r"holds a run with task\."):
                claim_folder(replace(study, task=other), "chosen", out)


@pytest.mark.parametrize("value", [math.nan, -math.inf, np.float64(math.nan), torch.tensor([0.0, math.nan])])
def test_a_result_that_is_no_number_is_refused_by_the_name_of_its_key(notes, out, monkeypatch, value):
    monkeypatch.setitem(globals(), "MEASURED", value)
    with pytest.raises(
        JobsRefusedError, match=r"result\.tests\.zeroed\.state(\[1\])?=-?(nan|inf): JSON has no such number"
    ):
        start(Chosen(seeds=(0,), names=("one",)), notes, out)
    assert not list(out.rglob("done"))


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (torch.eye(1), [[1.0]]),
    ],
)
def test_results_of_numpy_and_torch_are_kept_as_plain_numbers(notes, out, monkeypatch, value, held):
    monkeypatch.setitem(globals(), "MEASURED", value)
    (found,) = start(Chosen(seeds=(0,), names=("one",)), notes, out).values()
    assert found["tests"]["zeroed"]["state"] == held


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


BEGINS = "from pathlib import Path\nfrom tests.runs.test_store import Counted, execute\n"
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
    assert "a worker cannot load the study (AttributeError: " in told
    assert "killed" not in told


def test_a_study_that_cannot_be_sent_is_refused_and_runs_in_this_process(notes, out):
    class Local(Counted):
        pass

    with pytest.raises(ToylabError, match=r"cannot be sent to another process \(.*Local.*\); define"):
        start(Local(), notes, out, workers=2)
    assert called(notes) == []
    assert len(start(Local(), notes, out)) == 4


# The folder of a run -------------------------------------------------------------------------------------------------

QUICK = IterationHeadStudy.quick()
CHANGES = {
    "train.steps": replace(QUICK, train=replace(QUICK.train, steps=QUICK.train.steps + 1)),
    "task.p": replace(QUICK, task=replace(QUICK.task, p=13)),
    "task.lengths": replace(QUICK, task=replace(QUICK.task, lengths=(1, 9))),
    "model.width": replace(QUICK, model=replace(QUICK.model, width=2 * QUICK.model.width)),
    "rows": replace(QUICK, rows=QUICK.rows + 1),
    "batches": replace(QUICK, batches="padded"),
    "control_seeds": replace(QUICK, control_seeds=QUICK.control_seeds + 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_of_other_settings_is_refused_with_the_setting_and_both_values(out, name):
    claim_folder(QUICK, "iteration-head", out)
    before = contents(out)
    values = []
    for study in (QUICK, CHANGES[name]):
        value = study
        for part in name.split("."):
            value = getattr(value, part)
        values.append(str(list(value) if isinstance(value, tuple) else value))
    with pytest.raises(ValueError, match=r"give another folder with --out") as error:
        claim_folder(CHANGES[name], "iteration-head", out)
    assert f"{out}: holds a run with {name}={values[0]}, and now {name}={values[1]}" in str(error.value)
    assert contents(out) == before


def test_the_same_settings_are_let_in_and_change_no_file(out):
    claim_folder(QUICK, "iteration-head", out)
    before = contents(out)
    claim_folder(IterationHeadStudy.quick(), "iteration-head", out)
    assert contents(out) == before


@pytest.mark.parametrize("first", [(0, 1), (3,), (5, 2)])
@pytest.mark.parametrize("second", [(0, 1, 2), (4,), (3,)])
def test_seeds_may_be_added(notes, out, first, second):
    start(Counted(seeds=first), notes, out)
    called(notes)
    found = start(Counted(seeds=second), notes, out)
    new = [seed for seed in second if seed not in first]
    assert called(notes) == [f"{name} {seed}" for name in ("one", "two") for seed in new]
    assert {job.seed for job in found} == set(second)
    assert read_json(out / "settings.json")["settings"]["seeds"] == [*first, *new]


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), min_size=1, max_size=4))
def test_no_finished_job_leaves_the_verdicts_when_seeds_are_added(tmp_path_factory, calls):
    base = tmp_path_factory.mktemp("runs")
    for seeds in calls:
        execute(Controlled(seeds=tuple(seeds), notes=str(base)), "controlled", base / "out", 1, progress=False)
    seeds = read_json(base / "out" / "settings.json")["settings"]["seeds"]
    assert seeds == list(dict.fromkeys(seed for call in calls for seed in call))
    whole = Controlled(seeds=tuple(seeds), notes=str(base))
    found = runs.results(whole, base / "out")
    assert list(found)[: len(whole.jobs())] == whole.jobs()
    assert {job for job in found if job.name == "control"} == {Job("control", call[0]) for call in calls}
    assert all(job.needs == (Job("main", job.seed),) for job in found if job.name == "control")


def test_jobs_of_other_names_and_seeds_are_no_results_of_a_study(notes, out):
    start(Controlled(seeds=(0, 1, 2)), notes, out)
    (out / "seed-0" / "main").rename(out / "seed-0" / "main.bak")
    found = runs.results(Controlled(seeds=(1, 0), notes=str(notes)), out)
    assert set(found) == {Job("main", 1), Job("control", 0)}


RECEIVED = {
    "a seed": "seed-0",
    "a job": "seed-0/one",
    "a file of a job": "seed-0/one/model.safetensors",
    "a result": "seed-0/one/result.json",
    "an error": "seed-0/one/error.txt",
    "a lock": "seed-0/one/.lock",
}


@pytest.mark.parametrize("name", RECEIVED.values(), ids=RECEIVED)
def test_nothing_is_written_through_a_link_that_leads_out_of_a_run(notes, out, tmp_path, monkeypatch, name):
    """Nor is what it points to removed."""
    outside = tmp_path / "outside"
    (outside / "one").mkdir(parents=True)
    for file in ("one/model.safetensors", "one/result.json", "precious"):
        (outside / file).write_text("precious")
    claim_folder(replace(Counted(), notes=str(notes)), "counted", out)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).symlink_to(outside if "." not in name else outside / "precious")
    before = contents(outside)

    def leave(self, job, folder):
        save_model(folder / "model.safetensors", Transformer(ModelConfig(width=8), 5, 4))
        return {}

    monkeypatch.setattr(Counted, "run_job", leave)
    with pytest.raises(JobsRefusedError, match=r"a link leads out of .+; delete the link") as error:
        start(Counted(), notes, out)
    assert "one of seed 0" in str(error.value)
    assert contents(outside) == before
    assert (Job("one", 1).folder(out) / "done").exists()


def test_settings_that_are_a_link_out_of_the_folder_are_refused(notes, out, tmp_path):
    claim_folder(replace(Counted(seeds=(3,)), notes=str(notes)), "counted", tmp_path / "other")
    before = contents(tmp_path / "other")
    out.mkdir()
    (out / "settings.json").symlink_to(tmp_path / "other" / "settings.json")
    with pytest.raises(ToylabError, match=r"settings\.json: a link leads out"):
        start(Counted(), notes, out)
    assert contents(tmp_path / "other") == before


def test_a_folder_of_another_study_is_refused(out):
    claim_folder(QUICK, "iteration-head", out)
    with pytest.raises(ValueError, match=r"holds a run of 'iteration-head'; give another folder with --out"):
        claim_folder(QUICK, "another", out)


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(out):
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"is not empty and holds no run; give another folder with --out"):
        claim_folder(QUICK, "iteration-head", out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_taken(out):
    out.mkdir()
    claim_folder(QUICK, "iteration-head", out)
    assert read_json(out / "settings.json")["study"] == "iteration-head"


def test_the_settings_say_from_what_they_were_made(out):
    claim_folder(QUICK, "iteration-head", out)
    held = read_json(out / "settings.json")
    assert held["versions"]["torch"] == torch.__version__
    assert set(held) == {"study", "settings", "versions", "machine", "revision", "date", "format", "checksum"}


@pytest.mark.parametrize("content", ["[]", '{"study": "counted"}', '{"settings": 3}', '"text"'])
def test_settings_of_no_run_are_refused_by_name(notes, out, content):
    out.mkdir()
    (out / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json: is not a record that toylab wrote; give another folder"):
        start(Counted(), notes, out)


@pytest.mark.parametrize("content", [{}, {"study": "counted"}, {"study": "counted", "settings": 3}])
def test_a_record_of_something_else_is_refused_by_name(notes, out, content):
    write_record(out / "settings.json", content)
    with pytest.raises(ValueError, match=r"settings\.json: is not the settings of a run; give another folder"):
        start(Counted(), notes, out)


@pytest.mark.parametrize("seeds", [{}, {"seeds": 0}])
def test_settings_with_seeds_that_are_none_are_refused_by_name(notes, out, seeds):
    start(Counted(), notes, out)
    held = read_json(out / "settings.json")
    del held["settings"]["seeds"]
    write_record(out / "settings.json", {**held, "settings": {**held["settings"], **seeds}})
    with pytest.raises(ValueError, match=r"settings\.json"):
        start(Counted(), notes, out)


@pytest.mark.parametrize("file", ["settings.json", "seed-0/one/result.json"])
@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_file_that_cannot_be_read_is_named_and_what_the_message_says_helps(notes, out, file, damage):
    whole = start(Counted(), notes, out)
    content = (out / file).read_text()
    if damage == "cut short":
        (out / file).write_text(content[: len(content) // 2])
    else:
        (out / file).unlink()
    try:
        found = start(Counted(), notes, out)
    except ValueError as error:
        message = str(error)
        assert file in message or (file == "settings.json" and "holds no run" in message)
        assert ";" in message, "there is no remedy in it"
        if "delete this file" in message:
            (out / file).unlink()
            found = start(Counted(), notes, out)
        else:
            assert "another folder" in message
            found = start(Counted(), notes, out.with_name("another"))
    assert {job: strip(result) for job, result in found.items()} == {
        job: strip(result) for job, result in whole.items()
    }


# Models and histories ------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["learned", "tied", "frozen", "orthogonal"]),
    st.sampled_from(["none", "learned", "sinusoidal", "rotary", "alibi"]),
    st.sampled_from(["pre", "none"]),
    st.booleans(),
)
def test_a_model_comes_back_from_its_file_as_it_was(tmp_path_factory, seed, unembedding, positions, norm, biases):
    config = ModelConfig(width=16, unembedding=unembedding, positions=positions, norm=norm, biases=biases, hidden=8)
    model, path = Transformer(config, 9, 6, seed), tmp_path_factory.mktemp("runs") / "model.safetensors"
    save_model(path, model)
    again = load_model(path)
    assert (again.config, again.vocab, again.context) == (config, 9, 6)
    assert list(again.state_dict()) == list(model.state_dict())
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad, name
    assert (again.unembedding.weight is again.embedding.weight) == (unembedding == "tied")
    tokens = torch.randint(9, (2, 6))
    assert torch.equal(again(tokens), model(tokens))


def test_a_model_in_double_precision_keeps_all_its_bits(tmp_path):
    model = Transformer(ModelConfig(width=16), 9, 6).double()
    with torch.no_grad():
        model.embedding.weight += 1e-12
    save_model(tmp_path / "model.safetensors", model)
    assert torch.equal(load_model(tmp_path / "model.safetensors").embedding.weight, model.embedding.weight)


def test_loading_a_model_draws_nothing_from_torchs_own_generator(tmp_path):
    save_model(tmp_path / "model.safetensors", Transformer(ModelConfig(), 9, 6))
    before = torch.get_rng_state()
    load_model(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_an_encoding_of_ones_own_raises_keeps_its_class(tmp_path, monkeypatch):
    monkeypatch.setitem(POSITIONS, "own", NoPositions)
    save_model(tmp_path / "model.safetensors", Transformer(ModelConfig(width=8, positions="own"), 9, 6))
    assert load_model(tmp_path / "model.safetensors").config.positions == "own"

    class Own(NoPositions):
        def __init__(self, *arguments):
            raise ValueError("of the encoding")

    monkeypatch.setitem(POSITIONS, "own", Own)
    with pytest.raises(ValueError, match=r"^of the encoding$"):
        load_model(tmp_path / "model.safetensors")


BAD_MODELS = {
    "weights that are no numbers": lambda tensors, about: ({name: t.bool() for name, t in tensors.items()}, about),
    "no weights": lambda tensors, about: ({}, about),
    "of no kind": lambda tensors, about: (tensors, {**about, "kind": ["Transformer"]}),
    "huge": lambda tensors, about: (tensors, {**about, "vocab": 2**70}),
    "no header": lambda tensors, about: ({}, {}),
    "an unknown field": lambda tensors, about: (tensors, {**about, "config": {**about["config"], "colour": "red"}}),
    "an impossible shape": lambda tensors, about: (tensors, {**about, "config": {**about["config"], "heads": 3}}),
    "another shape than its weights": lambda tensors, about: (tensors, {**about, "vocab": 10}),
    "a weight missing": lambda tensors, about: (dict(list(tensors.items())[1:]), about),
    "a weight too many": lambda tensors, about: ({**tensors, "extra": torch.zeros(1)}, about),
    "words for numbers": lambda tensors, about: (tensors, {**about, "vocab": "nine"}),
}


@pytest.mark.parametrize("change", BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, change):
    path = tmp_path / "model.safetensors"
    save_model(path, Transformer(ModelConfig(width=8), 9, 6))
    write_tensors(path, *change(*read_tensors(path)))
    with pytest.raises(ValueError, match=r"model\.safetensors: "):
        load_model(path)


def test_a_history_comes_back_from_its_file(tmp_path):
    history = [{"step": 0, "loss": 2.5, "accuracy": 0.0}, {"step": 10, "loss": 0.1 + 0.2, "accuracy": 1.0}]
    runs.write_metrics(tmp_path / "metrics.jsonl", Training(history=history))
    assert read_metrics(tmp_path / "metrics.jsonl") == history


def test_a_history_with_a_metric_that_is_no_number_is_refused_by_name(tmp_path):
    history = [{"step": 0, "accuracy": np.float64(0.5)}, {"step": 1, "accuracy": math.nan}]
    with pytest.raises(ToylabError, match=r"^metrics\.accuracy=nan: "):
        runs.write_metrics(tmp_path / "metrics.jsonl", Training(history=history))
    runs.write_metrics(tmp_path / "metrics.jsonl", Training(history=history[:1]))
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "accuracy": 0.5}]


@pytest.mark.parametrize("content", ['{"step": 0}\n{"step"', "hello", "\n\n{"])
def test_a_damaged_history_is_refused_by_name_with_a_remedy(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: is damaged.*delete the folder of this job and run again"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_missing_history_is_refused_by_name_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: there is no such file; .+"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_job_whose_file_was_deleted_is_made_again_and_before_those_that_need_it(notes, out):
    start(Leaving(), notes, out)
    called(notes)
    base, left = Job("base", 0).folder(out), Job("left", 0).folder(out)
    (base / "checkpoint-1.safetensors").unlink()
    start(Leaving(), notes, out)
    assert called(notes) == []
    (base / "left.txt").unlink()
    (left / "done").unlink()
    start(Leaving(), notes, out)
    assert called(notes) == ["base 0", "left 0"]
    assert (base / "left.txt").read_text() == "base"
    left = [f"{digest((base / name).read_bytes())}  {name}" for name in ("left.txt", "result.json")]
    assert (base / "done").read_text().splitlines() == left
