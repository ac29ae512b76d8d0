"""Laws of jobs: each is done once and whole, and a failure costs nothing but itself."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import fewer
from tests.runs.helpers import LEAVING, Branching, Counted, called, contents, start
from tests.training.small_trainings import Number
from toylab.console import ToylabError
from toylab.files import sha256_of
from toylab.runs import jobs, store
from toylab.runs.jobs import JobsFailedError, JobsRefusedError, complete_job, execute, select_jobs
from toylab.runs.processes import ProcessPool
from toylab.runs.store import read_cost, read_measured, train_and_keep
from toylab.runs.study import Job, JobInput, Study
from toylab.runs.sweep import sweep
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.training.loop import Training


@dataclass(frozen=True, kw_only=True)
class Named(Counted):
    """A study whose jobs go on from each other."""

    base: str | None = None

    def jobs(self) -> list[Job]:
        def inputs(seed: int) -> dict[str, JobInput]:
            return {} if self.base is None else {"base": JobInput(Job(self.base, seed))}

        return [Job(name, seed, inputs=inputs(seed)) for name in self.names for seed in self.seeds]


@dataclass(frozen=True, kw_only=True)
class Leaving(Branching):
    """The same, and every job leaves a file that others read, and a checkpoint, which nobody needs."""

    seeds: tuple[int, ...] = (0,)

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        if job.inputs:
            (job.path("base", folder).parent / "left.txt").read_text()
        (folder / "left.txt").write_text(job.name)
        (folder / "checkpoint-1.safetensors").touch()
        return super().run_job(job, folder)


@dataclass(frozen=True, kw_only=True)
class Drawing(Counted):
    """A study whose jobs draw from torch's generator, in a training and after it."""

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        def train(checkpoint: Path) -> tuple[Number, Training]:
            return Number(torch.rand(()).item()), Training()

        model, _ = train_and_keep(folder, train, save=lambda path, model: path.write_text(str(model.weight.item())),
                                  load=lambda path: Number(float(path.read_text())))  # fmt: skip
        result = {"drawn": [model.weight.item(), torch.rand(()).item()]}
        return super().run_job(job, folder) | result


def test_what_a_job_draws_depends_on_its_name_and_seed_alone_and_no_other_draws_change(notes, out, tmp_path):
    def drawn(study: Drawing, folder: Path) -> dict[str, list[float]]:
        return {str(job): read_measured(job.folder(folder))["drawn"] for job in study.jobs()}

    before = torch.get_rng_state()
    start(Drawing(), notes, out)
    found = drawn(Drawing(), out)
    assert len({tuple(pair) for pair in found.values()}) == 4
    other = Drawing(names=("two", "one"), seeds=(1, 0))
    start(other, notes, tmp_path / "other")
    assert drawn(other, tmp_path / "other") == found
    (notes / "fail-one-0").touch()
    with pytest.raises(JobsFailedError):
        start(Drawing(), notes, tmp_path / "again")
    (notes / "fail-one-0").unlink()
    start(Drawing(), notes, tmp_path / "again")  # which loads the model that the failed job trained
    assert drawn(Drawing(), tmp_path / "again") == found
    assert torch.equal(torch.get_rng_state(), before)


@dataclass(frozen=True, kw_only=True)
class Trained(Counted):
    """A study whose trainings took a thousand CPU-seconds, of which this process spent next to none."""

    seeds: tuple[int, ...] = (0,)
    names: tuple[str, ...] = ("one",)

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        def train(checkpoint: Path) -> tuple[Number, Training]:
            return Number(0.5), Training(cpu_seconds=1000.0)

        for name in ("", "-other"):
            train_and_keep(folder, train, name, file=f"number{name}", save=lambda path, model: path.touch(),
                           load=lambda path: Number(0.5))  # fmt: skip
        return super().run_job(job, folder)


@pytest.mark.parametrize("failed", [False, True], ids=["resumed", "loaded after a failure"])
def test_a_job_costs_what_earlier_processes_spent_on_its_trainings_too(notes, out, failed):
    if failed:
        (notes / "fail-one-0").touch()
        with pytest.raises(JobsFailedError):
            start(Trained(), notes, out)
        (notes / "fail-one-0").unlink()
    start(Trained(), notes, out)
    cost = read_cost(Job("one", 0).folder(out)).cpu_seconds
    assert 2000 <= cost < 2010
    start(Trained(names=("one", "two")), notes, out / "more")
    assert read_cost(Job("two", 0).folder(out / "more")).cpu_seconds < 2010  # not those of another job


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
        folder = job.folder(base / "out")
        assert read_cost(folder).cpu_seconds >= 0
        assert read_measured(folder) == {**result, "cost": asdict(read_cost(folder))}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_goes_on_from_a_failure_fails_with_its_name_and_all_else_is_done(notes, out, workers):
    (notes / "fail-base-1").touch()
    with pytest.raises(JobsFailedError) as error:
        start(Branching(), notes, out, workers)
    assert "left of seed 1: base of seed 1 failed, and this job depends on it" in str(error.value)
    assert "3 of 8 jobs failed" in str(error.value)
    done = set(called(notes)) - {"base 1"}
    assert done == {"base 0", "left 0", "right 0", "alone 0", "alone 1"}
    (notes / "fail-base-1").unlink()
    assert set(start(Branching(), notes, out, workers)) == set(Branching().jobs())
    assert sorted(called(notes)) == ["base 1", "left 1", "right 1"]
    assert not list(out.rglob("error.txt"))


def test_what_a_job_starts_from_is_no_part_of_its_name(tmp_path):
    left = Job("left", 0, inputs={"base": JobInput(Job("base", 1), "vector.safetensors")})
    assert left == Job("left", 0)
    assert len({left, Job("left", 0)}) == 1
    assert left.needs == (Job("base", 1),)
    assert left.path("base", left.folder(tmp_path)) == tmp_path / "seed-1" / "base" / "vector.safetensors"


def test_a_finished_job_is_not_repeated(notes, out):
    first = start(Counted(), notes, out)
    before = contents(out)
    assert len(called(notes)) == 4
    assert start(Counted(), notes, out) == first
    assert complete_job(replace(Counted(), notes=str(notes)), Job("two", 1), out) is None  # by a worker left over
    assert called(notes) == []
    assert contents(out) == before


def test_a_job_that_was_cut_off_is_done_again(notes, out):
    start(Counted(), notes, out)
    called(notes)
    (Job("two", 1).folder(out) / "done").unlink()
    start(Counted(), notes, out)
    assert called(notes) == ["two 1"]


def test_done_is_written_last(notes, out, monkeypatch):
    write = store.write_json

    def fail(path: Path, value: object) -> None:
        if path.name == "result.json":
            raise ToylabError("No space left on device")
        write(path, value)

    monkeypatch.setattr(store, "write_json", fail)
    with pytest.raises(JobsRefusedError, match=r"No space left"):
        start(Counted(), notes, out)
    assert not list(out.rglob("done"))


def test_a_failing_job_is_recorded_and_the_others_finish(notes, out):
    (notes / "fail-one-0").touch()
    with pytest.raises(
        JobsFailedError,
        match=r"(?s)1 of 4 jobs failed.*rerunning the command.*one of seed 0: ArithmeticError: job one was",
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


@pytest.mark.slow
def test_ctrl_c_in_another_process_stops_as_well(notes, out):
    (notes / "stop-one-0").touch()
    with pytest.raises(KeyboardInterrupt):
        start(Counted(), notes, out, workers=2)
    assert not (Job("one", 0).folder(out) / "error.txt").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "/tmp/job", ".hidden", "a\\b", "a\0b", "a\nb", "x" * 300])
def test_a_name_that_is_no_folder_of_a_job_is_refused_before_anything_is_written(notes, out, name):
    study = Named(names=("one", name), notes=str(notes))
    for run in (lambda: start(study, notes, out), lambda: sweep([study], out, workers=1, progress=False)):
        with pytest.raises(ToylabError, match=r"job .+ of Named: must be a valid folder name"):
            run()
    assert called(notes) == []
    assert not out.exists()


def test_a_job_that_goes_on_from_none_is_refused_before_anything_is_written(notes, out):
    with pytest.raises(ToylabError, match=r"job 'one' of seed 0: depends on 'bsae' of seed 0, which jobs\(\) does not"):
        start(Named(base="bsae"), notes, out)
    assert not out.exists()


def test_what_a_result_calls_cost_is_not_lost_without_a_word(notes, out, monkeypatch):
    monkeypatch.setattr(Counted, "run_job", lambda self, job, folder: {"cost": 3})
    with pytest.raises(JobsRefusedError, match=r"cost: is reserved"):
        start(Counted(), notes, out)


def test_a_job_that_waits_costs_time_and_no_work_though_the_clock_is_set_back(notes, out, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(Counted, "run_job", lambda self, job, folder: time.sleep(0.2) or {})
    start(Counted(seeds=(0,), names=("one",)), notes, out)
    cost = read_cost(Job("one", 0).folder(out))
    assert cost.cpu_seconds < 0.1 < 0.2 <= cost.wall_seconds


class Pool(ProcessPool):
    """A pool of processes in this one, which is lost with every job called `lost`."""

    losses = 0

    def submit(self, call: Callable, study: Study, job: Job, out: Path, *rest: Any) -> Future:
        self._started.set()
        future = Future()
        if job.name == "lost":
            self.losses += 1
            assert self.losses <= 2
            future.set_exception(BrokenExecutor())
        else:
            future.set_result(call(study, job, out))
        return future


def test_a_job_that_loses_its_process_twice_has_failed_and_is_the_only_one(notes, out, monkeypatch):
    monkeypatch.setattr(jobs, "ProcessPool", Pool)
    with pytest.raises(JobsFailedError, match=r"1 of 6 jobs failed(?s:.*)lost of seed 0: its process ended abruptly"):
        start(Counted(seeds=(0,), names=("a", "b", "lost", "c", "d", "e")), notes, out, workers=2)
    assert len(list(out.rglob("done"))) == 5


@fewer(0.4)
@given(st.integers(2, 4), st.integers(2, 9))
def test_no_more_jobs_are_under_way_than_there_are_workers(tmp_path_factory, workers, count):
    base, under_way = tmp_path_factory.mktemp("runs"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "ProcessPool", Pool)
        wait = jobs.wait
        patch.setattr(jobs, "wait", lambda given, **_: under_way.append(len(given)) or wait([next(iter(given))]))
        start(Counted(seeds=tuple(range(count)), names=("one",)), base, base / "out", workers)
    assert under_way == [min(workers, count - done) for done in range(count)]


def test_chosen_jobs_and_those_they_need_keep_the_order_of_the_study():
    study = Branching(seeds=tuple(range(8)))
    assert select_jobs(study, ["alone", "left"]) == [job for job in study.jobs() if job.name != "right"]


@pytest.mark.parametrize("workers", [0, -2])
def test_a_run_needs_a_worker(notes, out, workers):
    with pytest.raises(ValueError, match=rf"^workers={workers}: must be at least 1"):
        start(Counted(), notes, out, workers)
    assert not out.exists()


def test_a_job_whose_file_was_deleted_is_made_again_and_before_those_that_need_it(notes, out):
    start(Leaving(), notes, out)
    called(notes)
    base, left = Job("base", 0).folder(out), Job("left", 0).folder(out)
    assert not (base / "checkpoint-1.safetensors").exists()
    start(Leaving(), notes, out)
    assert called(notes) == []
    (base / "left.txt").unlink()
    (left / "done").unlink()
    start(Leaving(), notes, out)
    assert called(notes) == ["base 0", "left 0"]
    assert (base / "left.txt").read_text() == "base"
    left = [f"{sha256_of((base / name).read_bytes())}  {name}" for name in ("left.txt", "result.json")]
    assert (base / "done").read_text().splitlines() == left
