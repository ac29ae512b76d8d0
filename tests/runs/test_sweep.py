"""Laws of sweeps: every point once, whatever the executor; nothing finished is lost."""

import json
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.runs.helpers import ALL, FOUR, Counted, Own, Small, jobs_called, measured, tell
from toylab.files import folder_lock, read_json
from toylab.runs import sweep as sweeps
from toylab.runs.grid import grid
from toylab.runs.jobs import JobsFailedError, JobsRefusedError
from toylab.runs.store import refuse_others
from toylab.runs.study import Job
from toylab.runs.sweep import sweep
from toylab.runs.table import load_runs
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Copy, ModularSum, Parity
from toylab.verdicts.claim import Claim


def test_every_job_of_every_point_is_done_once_and_a_second_call_repeats_nothing(small, out):
    points = grid(small, FOUR)
    rows = sweep(points, out, workers=1, progress=False)
    assert jobs_called(small) == ALL
    assert len(rows) == 12
    assert {row["status"] for row in rows} == {"done"}
    assert {path.name for path in out.iterdir()} == {
        "sweep.json", ".lock", *(f"size.width={width},kind={kind}" for kind in FOUR["kind"] for width in (6, 12))
    }  # fmt: skip
    assert sweep(iter(points), out, workers=1, progress=False) == rows
    assert jobs_called(small) == []


EXECUTORS = {
    "two processes": lambda: {"workers": 2},
    "threads": lambda: {"executor": ThreadPoolExecutor(3)},
    "a pool of somebody else": lambda: {"executor": ProcessPoolExecutor(2)},
}


@pytest.mark.parametrize("name", [pytest.param("two processes", marks=pytest.mark.slow), *list(EXECUTORS)[1:]])
def test_no_executor_and_no_order_changes_what_is_found(small, tmp_path, name):
    points, how = grid(small, FOUR | {"seed": range(3)}), EXECUTORS[name]()
    alone_ = measured(sweep(points, tmp_path / "alone", workers=1, progress=False))
    found = measured(sweep(reversed(points), tmp_path / name, progress=False, **how))
    assert {json.dumps({**row, "run": ""}) for row in found} == {json.dumps({**row, "run": ""}) for row in alone_}
    for one in (tmp_path / "alone").glob("*/claims.json"):
        assert (tmp_path / name / one.parent.name / "claims.json").read_bytes() == one.read_bytes()
    if "executor" in how:
        how["executor"].shutdown()


def test_points_and_seeds_may_be_added_and_keep_the_folders_they_have(small, out):
    sweep(grid(small, {"kind": ["plain"]}), out, workers=1, progress=False)
    assert (out / "run").is_dir()
    jobs_called(small)
    sweep(grid(small, {"kind": ["plain", "round"], "seed": [0, 1]}), out, workers=1, progress=False)
    assert jobs_called(small) == sorted(
        f"{name}-{seed}-{kind}-12"
        for name in ("base", "leaf", "other")
        for kind, seed in (("plain", 1), ("round", 0), ("round", 1))
    )
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"run", "kind=round"}
    fixed = {path.parent.name: read_json(path)["fixed"] for path in out.glob("*/settings.json")}
    assert fixed == {"run": 1, "kind=round": 2}
    claim = read_json(out / "run" / "claims.json")["claims"][0]
    assert claim["details"]["by seed"].keys() == {"0", "1"}


def test_tasks_of_different_classes_are_different_points_and_come_back(out):
    points = [Own(task=task) for task in (Copy(p=2), ModularSum(p=2), Parity(), Copy(p=3))]
    rows = sweep(points, out, workers=1, jobs=["other"], progress=False)
    assert sorted((row["result.task"], row["settings.task.p"]) for row in rows) == [
        ("Copy", 2), ("Copy", 3), ("ModularSum", 2), ("Parity", None)
    ]  # fmt: skip
    assert all(row["result.task"] == row["settings.task.class"] for row in rows)
    assert len({row["run"] for row in rows}) == 4
    before = (out / "sweep.json").read_bytes()
    assert measured(sweeps.resume_sweep(out, study=Own, workers=1, progress=False)) == measured(rows)
    assert (out / "sweep.json").read_bytes() == before


def test_settings_that_a_folder_spells_alike_are_two_runs(notes, out):
    points = [Counted(notes=str(notes), names=(name,)) for name in ("a b", "a_b", "a+b")]
    rows = sweep(points, out, workers=1, progress=False)
    assert len({row["run"] for row in rows}) == 3
    assert all(row["settings.names"] == [row["job"]] for row in rows)


def test_jobs_can_be_chosen_and_bring_what_they_go_on_from(small, out):
    rows = sweep(grid(small, FOUR), out, workers=1, jobs=["leaf"], progress=False)
    assert {row["job"] for row in rows} == {"base", "leaf"}
    with pytest.raises(ValueError, match=r"there is no job 'lef'; did you mean leaf\?"):
        sweep(grid(small, FOUR), out, workers=1, jobs=["lef"], progress=False)


def test_points_of_two_studies_or_none_are_refused(small, out):
    with pytest.raises(ValueError, match=r"points: belong to 2 studies"):
        sweep([small, IterationHeadStudy.quick()], out, progress=False)
    with pytest.raises(ValueError, match=r"points: a sweep needs at least one"):
        sweep([], out, progress=False)
    assert not out.exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(small, out):
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"is not empty and holds no sweep; give another folder with --out"):
        sweep([small], out, progress=False)
    assert (out / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("left", "refused"),
    [
        (".lock", False),
        (".sweep.json.8163", False),
        (".sweep.json.bak", True),
        (".settings.json.8163", True),
        ("x", True),
    ],
)
def test_what_a_process_killed_in_its_first_write_left_is_no_obstacle(tmp_path, left, refused):
    (tmp_path / left).write_text("half")
    if refused:
        with pytest.raises(ValueError, match="is not empty and holds no sweep"):
            refuse_others(tmp_path, "sweep.json", "sweep")
    else:
        refuse_others(tmp_path, "sweep.json", "sweep")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_failure_is_recorded_the_rest_goes_on_and_the_same_call_runs_it_again(small, out, workers):
    failing, refusing = tell(small, "fail-base-0-plain-6"), tell(small, "refuse-other-0-round-12")
    with pytest.raises(JobsFailedError) as error:
        sweep(grid(small, FOUR), out, workers=workers, progress=False)
    again = f"toylab sweep {Small.__module__}:Small --continue {out}"
    assert f"3 of 12 jobs failed, results of the others are kept; to repeat the failed jobs: {again}" in str(
        error.value
    )
    told = (
        "does not like it",
        "kind=plain: base of seed 0: OddError: 1 and 2",
        "leaf of seed 0: base of seed 0 failed",
    )
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 3
    for words in told:
        (line,) = [line for line in lines if words in line]
        assert Path(line.rpartition("see ")[2].rstrip(")")).is_file()
    assert "OddError" in (out / "size.width=6,kind=plain/seed-0/base/error.txt").read_text()
    table = load_runs(out)
    assert sorted(row["status"] for row in table) == ["done"] * 9 + ["failed"] * 3
    assert all(row["settings.kind"] == "plain" for row in table if row["status"] == "failed" and row["job"] == "base")
    jobs_called(small)
    failing.unlink()
    with pytest.raises(JobsRefusedError, match=r"1 of 3 jobs failed"):
        sweep(grid(small, FOUR), out, workers=workers, progress=False)
    refusing.unlink()
    rows = sweep(grid(small, FOUR), out, workers=workers, progress=False)
    assert {row["status"] for row in rows} == {"done"}
    assert jobs_called(small) == sorted(["base-0-plain-6", "leaf-0-plain-6", *["other-0-round-12"] * 2])
    assert not list(out.rglob("error.txt"))


@pytest.mark.slow
def test_a_job_whose_process_is_lost_is_run_again_and_those_beside_it_too(small, out):
    tell(small, "die-once-other-0-plain-6")
    points = grid(small, {"kind": ["plain", "round"], "size.width": [6]})
    rows = sweep(points, out, workers=2, jobs=["other"], progress=False)
    assert {row["status"] for row in rows} == {"done"}
    assert set(jobs_called(small)) == {"other-0-plain-6", "other-0-round-6"}


@pytest.mark.slow
def test_a_job_that_always_loses_its_process_is_the_only_failure(small, out):
    tell(small, "die-other-0-plain-6")
    with pytest.raises(JobsFailedError, match=r"1 of 12 jobs failed(?s:.*)other of seed 0: its process ended abruptly"):
        sweep(grid(small, FOUR), out, workers=2, progress=False)
    assert sorted(row["status"] for row in load_runs(out)) == ["done"] * 11 + ["failed"]


def test_two_sweeps_at_one_folder_do_nothing_twice(small, out):
    """The second is refused while the first one runs, and finds all done after it."""
    waiting = tell(small, "wait-other-0-plain-6")
    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(sweep, grid(small, FOUR), out, workers=1, progress=False)
        while not (Path(small.notes) / "waiting-other-0-plain-6").exists():
            time.sleep(0.01)
        with pytest.raises(ValueError, match=r"another process is writing there; wait until it has ended, or give"):
            sweep(grid(small, FOUR), out, workers=1, progress=False)
        waiting.unlink()
        assert len(first.result()) == 12
    assert len(sweep(grid(small, FOUR), out, workers=1, progress=False)) == 12
    assert jobs_called(small) == ALL


def test_the_lock_ends_with_its_process_however_that_ends(out):
    hold = (
        f"import sys, time\nfrom toylab.files import folder_lock\nfrom pathlib import Path\n"
        f"with folder_lock(Path({str(out)!r})):\n"
    )
    hold += "    print('held', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process is writing there"), folder_lock(out):
            pass
        process.kill()
    with folder_lock(out):
        pass


def test_a_worker_that_does_not_see_the_folder_says_so(small, tmp_path):
    from toylab.runs.jobs import complete_job

    failure = complete_job(small, Job("base", 0), tmp_path / "elsewhere")
    assert failure.refused
    assert "does not exist on this worker; give a folder with --out that all machines share" in failure.message


@dataclass(frozen=True)
class Whole(Small):
    """A study with a detail that needs all of its jobs."""

    def claims(self) -> list[Claim]:
        return [replace(claim, details={"all": lambda results: dict(results)["base"]}) for claim in super().claims()]


@pytest.mark.parametrize("how", ["chosen", "failed"])
def test_a_study_that_cannot_conclude_without_some_jobs_hides_no_failure_and_loses_no_row(small, out, capsys, how):
    whole = Whole(notes=small.notes)
    if how == "chosen":
        assert [row["job"] for row in sweep([whole], out, workers=1, jobs=["other"], progress=False)] == ["other"]
    else:
        tell(small, "fail-base-0-plain-12")
        with pytest.raises(JobsFailedError, match=r"base of seed 0: OddError: 1 and 2"):
            sweep([whole], out, workers=1, progress=False)
        (Path(small.notes) / "fail-base-0-plain-12").unlink()
    told = capsys.readouterr().err
    assert f"toylab: {out / 'run'}: could not be judged while jobs are missing (KeyError: 'base')" in told
    assert len(sweep([whole], out, workers=1, progress=False)) == 3
    assert (out / "run" / "claims.json").exists()


def test_what_a_study_raises_of_all_its_jobs_keeps_its_class(small, out, monkeypatch):
    monkeypatch.setattr(Small, "claims", lambda self: {}["no such job"])
    with pytest.raises(KeyError):
        sweep([small], out, workers=1, progress=False)
