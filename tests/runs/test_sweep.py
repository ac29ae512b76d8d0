"""Laws of sweeps: every point once, whatever the executor; nothing finished is lost; the table says what was found."""

import csv
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toylab import cli
from toylab.console import ToylabError
from toylab.files import alone, read_json, write_json, write_record
from toylab.report import figures
from toylab.report.page import Picture
from toylab.runs import sweep as sweeps
from toylab.runs.grid import grid, read_axes
from toylab.runs.jobs import JobsFailedError, JobsRefusedError
from toylab.runs.registry import load_class
from toylab.runs.store import refuse_others
from toylab.runs.study import Job, by_arm
from toylab.runs.sweep import resume, sweep
from toylab.runs.table import Mean, column, load_runs, summarise, where
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Copy, ModularSum, Parity
from toylab.verdicts.intervals import bootstrap, wilson
from toylab.verdicts.judgement import Judgement, over_seeds


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
            Job(name, seed, {"leaf": "base"}.get(name)) for seed in self.seeds for name in ("base", "leaf", "other")
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

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Judgement]:
        values = {job.seed: result["value"] for job, result in results.items() if job.name == "other"}
        return [over_seeds("half", values, lambda v: v > 0.5, paper="-", statement="It is large.", bar="> .5")]

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        return []


@dataclass(frozen=True, kw_only=True)
class Own(Small):
    """A study with a choice of tasks, of which two have the same fields."""

    task: Copy | ModularSum | Parity = Copy()
    weights: dict[str, float] = field(default_factory=dict)

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        return {"value": float(self.task.values), "task": type(self.task).__name__}


@pytest.fixture
def small(tmp_path) -> Small:
    notes = tmp_path / "notes"
    notes.mkdir()
    return Small(notes=str(notes))


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def called(study: Small) -> list[str]:
    path = Path(study.notes) / "calls"
    lines = sorted(path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def tell(study: Small, what: str) -> Path:
    path = Path(study.notes) / what
    path.touch()
    return path


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what each run takes anew."""
    return [{name: value for name, value in row.items() if ".cost." not in name} for row in rows]


FOUR = {"kind": ["plain", "round"], "size.width": [6, 12]}
ALL = sorted(
    f"{name}-0-{kind}-{width}" for name in ("base", "leaf", "other") for kind in FOUR["kind"] for width in (6, 12)
)


# Settings ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([12, 16, 20, 48]), min_size=1, unique=True),
    st.lists(st.sampled_from([1, 2]), min_size=1, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
)
def test_a_grid_holds_every_combination_in_order_and_changes_nothing_else(widths, heads, seeds):
    study = IterationHeadStudy.quick()
    made = grid(study, {"model.width": widths, "model.heads": heads, "seed": seeds})
    expected = [
        replace(study, model=replace(study.model, width=w, heads=h), seeds=(s,))
        for w, h, s in itertools.product(widths, heads, seeds)
    ]
    assert made == expected


def test_only_the_whole_point_is_checked():
    made = grid(Small(), {"size.width": [10, 15], "size.heads": [5]})
    assert [point.size for point in made] == [Size(10, 5), Size(15, 5)]
    with pytest.raises(ValueError, match=r"the grid's point size\.width=10, size\.heads=3: width=10: must be divis"):
        grid(Small(), {"size.width": [12, 10], "size.heads": [3]})


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (["size.width=6,12"], {"size.width": [6, 12]}),
        (["seed=0..3"], {"seed": [0, 1, 2, 3]}),
        (["seed=5,7..9"], {"seed": [5, 7, 8, 9]}),
        (["kind=round,plain", "rate=.5,2"], {"kind": ["round", "plain"], "rate": [0.5, 2]}),
        (["lengths=1+6,2+8"], {"lengths": [(1, 6), (2, 8)]}),
    ],
)
def test_axes_are_read_with_the_types_of_the_settings(axes, expected):
    assert read_axes(Small(), axes) == expected


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (["kind"], r"grid 'kind': must be NAME=VALUES, such as"),
        (["kind=plain", "kind=round"], r"grid kind: is given twice"),
        (["knd=plain"], r"there is no setting 'knd'; did you mean kind\?"),
        (["width=3"], r"there is no setting 'width'; did you mean size\.width\?"),
        (["zzz=3"], r"there is no setting 'zzz'; there are size\.width, size\.heads, kind"),
        (["kind=square"], r"grid kind=square: must be one of plain, round"),
        (["size.width=wide"], r"grid size\.width=wide: must be a whole number"),
        (["size.width=6.5"], r"grid size\.width=6\.5: must be a whole number"),
        (["seed=9..3"], r"grid seed=9\.\.3: the range is empty"),
        (["size=3"], r"there is no setting 'size'"),
        (["size.width="], r"grid size\.width=: must be a whole number"),
        (["lengths=1"], r"grid lengths=1: must be \(a whole number, a whole number\)"),
    ],
)
def test_a_mistake_in_an_axis_is_named_with_what_is_possible(axes, told, capsys):
    with pytest.raises(ValueError, match=told):
        read_axes(Small(), axes)
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Picky(Small):
    """A study whose own check raises what it likes."""

    def __post_init__(self) -> None:
        if self.kind == "round":
            raise ValueError("of the study")


def test_what_a_study_raises_for_its_settings_keeps_its_class():
    with pytest.raises(ValueError, match=r"^of the study$") as error:
        grid(Picky(), {"kind": ["plain", "round"]})
    assert not isinstance(error.value, ToylabError)


def test_an_axis_without_values_is_refused():
    with pytest.raises(ValueError, match=r"kind: the grid gives it no value"):
        grid(Small(), {"kind": []})


@pytest.mark.parametrize("study", [IterationHeadStudy.quick(), ContextualCountingStudy.quick()])
def test_every_setting_of_a_study_can_be_an_axis(study):
    for name, value in sweeps.flat(study).items():
        assert grid(study, {name: [value]}) == [study]


def test_values_of_numpy_and_torch_are_the_points_of_plain_ones(small):
    plain = grid(small, {"kind": ["plain", "round"], "rate": [0.5], "lengths": [(1, 6)], "seed": [0, 1]})
    kinds = np.array(["plain", "round"])
    for axes in (
        {"rate": np.float32([0.5]), "lengths": np.array([[1, 6]]), "seed": np.arange(2)},
        {"rate": torch.tensor([0.5]), "lengths": [[np.int8(1), 6]], "seed": torch.arange(2)},
    ):
        made = grid(small, {"kind": kinds} | axes)
        assert made == plain
        assert list(map(hash, made)) == list(map(hash, plain))
    for wrong in ({"kind": ["plian"]}, {"rate": [math.nan]}, {"seed": [-1]}, {"seed": [True]}, {"size.heads": [1.5]}):
        with pytest.raises(ValueError, match=f"the grid's point .*{next(iter(wrong)).split('.')[0]}"):
            grid(small, wrong)


def test_entries_of_a_dictionary_are_axes():
    study = Own(weights={"a": 1.0, "b": 2.0})
    assert [one.weights for one in grid(study, {"weights.b": [3.0, 4]})] == [{"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 4}]
    assert read_axes(study, ["weights.a=5"]) == {"weights.a": [5.0]}
    with pytest.raises(ValueError, match=r"there is no setting 'weights\.c'"):
        grid(study, {"weights.c": [1.0]})


# Sweeps --------------------------------------------------------------------------------------------------------------


def test_every_job_of_every_point_is_done_once_and_a_second_call_repeats_nothing(small, out):
    points = grid(small, FOUR)
    rows = sweep(points, out, workers=1, progress=False)
    assert called(small) == ALL
    assert len(rows) == 12
    assert {row["status"] for row in rows} == {"done"}
    assert {path.name for path in out.iterdir()} == {
        "sweep.json", ".lock", *(f"size.width={width},kind={kind}" for kind in FOUR["kind"] for width in (6, 12))
    }  # fmt: skip
    assert sweep(iter(points), out, workers=1, progress=False) == rows
    assert called(small) == []


def executors() -> dict[str, dict[str, Any]]:
    return {
        "two processes": {"workers": 2},
        "threads": {"executor": ThreadPoolExecutor(3)},
        "a pool of somebody else": {"executor": ProcessPoolExecutor(2)},
    }


def test_no_executor_and_no_order_changes_what_is_found(small, tmp_path):
    points = grid(small, FOUR | {"seed": range(3)})
    alone_ = measured(sweep(points, tmp_path / "alone", workers=1, progress=False))
    for name, how in executors().items():
        found = measured(sweep(reversed(points), tmp_path / name, progress=False, **how))
        assert {json.dumps({**row, "run": ""}) for row in found} == {json.dumps({**row, "run": ""}) for row in alone_}
        for one in (tmp_path / "alone").glob("*/claims.json"):
            assert (tmp_path / name / one.parent.name / "claims.json").read_bytes() == one.read_bytes()
        if isinstance(how.get("executor"), ThreadPoolExecutor | ProcessPoolExecutor):
            how["executor"].shutdown()


def test_points_and_seeds_may_be_added_and_keep_the_folders_they_have(small, out):
    sweep(grid(small, {"kind": ["plain"]}), out, workers=1, progress=False)
    assert (out / "run").is_dir()
    called(small)
    sweep(grid(small, {"kind": ["plain", "round"], "seed": [0, 1]}), out, workers=1, progress=False)
    assert called(small) == sorted(
        f"{name}-{seed}-{kind}-12"
        for name in ("base", "leaf", "other")
        for kind, seed in (("plain", 1), ("round", 0), ("round", 1))
    )
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"run", "kind=round"}
    assert len(read_json(out / "run" / "claims.json")["claims"][0]["seeds"]) == 2


def test_tasks_of_different_classes_are_different_points_and_come_back(out):
    points = [Own(task=task) for task in (Copy(p=2), ModularSum(p=2), Parity(), Copy(p=3))]
    rows = sweep(points, out, workers=1, jobs=["other"], progress=False)
    assert sorted((row["result.task"], row["settings.task.p"]) for row in rows) == [
        ("Copy", 2), ("Copy", 3), ("ModularSum", 2), ("Parity", None)
    ]  # fmt: skip
    assert all(row["result.task"] == row["settings.task.class"] for row in rows)
    assert len({row["run"] for row in rows}) == 4
    before = (out / "sweep.json").read_bytes()
    assert measured(sweeps.resume(out, study=Own, workers=1, progress=False)) == measured(rows)
    assert (out / "sweep.json").read_bytes() == before


def test_jobs_can_be_chosen_and_bring_what_they_go_on_from(small, out):
    rows = sweep(grid(small, FOUR), out, workers=1, jobs=["leaf"], progress=False)
    assert {row["job"] for row in rows} == {"base", "leaf"}
    with pytest.raises(ValueError, match=r"there is no job 'lef'; did you mean leaf\?"):
        sweep(grid(small, FOUR), out, workers=1, jobs=["lef"], progress=False)


def test_points_of_two_studies_or_none_are_refused(small, out):
    with pytest.raises(ValueError, match=r"points: are settings of 2 studies"):
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
    assert (
        f"3 of 12 jobs failed, the others are kept; to run those again: toylab sweep {__name__}:Small --continue {out}"
        in str(error.value)
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
    called(small)
    failing.unlink()
    with pytest.raises(JobsRefusedError, match=r"1 of 3 jobs failed"):
        sweep(grid(small, FOUR), out, workers=workers, progress=False)
    refusing.unlink()
    rows = sweep(grid(small, FOUR), out, workers=workers, progress=False)
    assert {row["status"] for row in rows} == {"done"}
    assert called(small) == sorted(["base-0-plain-6", "leaf-0-plain-6", *["other-0-round-12"] * 2])
    assert not list(out.rglob("error.txt"))


def test_a_job_whose_process_is_lost_is_run_again_and_those_beside_it_too(small, out):
    tell(small, "die-once-other-0-plain-6")
    rows = sweep(grid(small, FOUR), out, workers=2, progress=False)
    assert {row["status"] for row in rows} == {"done"}
    assert set(called(small)) == set(ALL)


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
        first = beside.submit(sweep, grid(small, FOUR), out, workers=2, progress=False)
        while not (Path(small.notes) / "waiting-other-0-plain-6").exists():
            time.sleep(0.01)
        with pytest.raises(ValueError, match=r"another process is writing there; wait until it has ended, or give"):
            sweep(grid(small, FOUR), out, workers=2, progress=False)
        waiting.unlink()
        assert len(first.result()) == 12
    assert len(sweep(grid(small, FOUR), out, workers=2, progress=False)) == 12
    assert called(small) == ALL


def test_the_lock_ends_with_its_process_however_that_ends(out):
    hold = (
        f"import sys, time\nfrom toylab.files import alone\nfrom pathlib import Path\nwith alone(Path({str(out)!r})):\n"
    )
    hold += "    print('held', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process is writing there"), alone(out):
            pass
        process.kill()
    with alone(out):
        pass


def test_a_worker_that_does_not_see_the_folder_says_so(small, tmp_path):
    from toylab.runs.jobs import do

    failure = do(small, Job("base", 0), tmp_path / "elsewhere")
    assert failure.refused
    assert "is not seen by this worker; give a folder with --out that all machines share" in failure.message


@dataclass(frozen=True)
class Whole(Small):
    """A study that cannot conclude where a job is missing."""

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Judgement]:
        arms = by_arm(results)
        assert arms["base"].keys() == arms["leaf"].keys()
        return super().conclude(results)


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
    monkeypatch.setattr(Small, "conclude", lambda self, results: results["no such job"])
    with pytest.raises(KeyError):
        sweep([small], out, workers=1, progress=False)


# Folders of somebody else's ------------------------------------------------------------------------------------------


def rewritten(path: Path, **changes: Any) -> None:
    """A record that was changed, with a checksum that fits: it has no key."""
    held = {name: value for name, value in read_json(path).items() if name not in ("checksum", "format")}
    write_record(path, held | changes)


OWN = '''
from dataclasses import dataclass
from pathlib import Path
from tests.runs.test_sweep import Small

Path("imported").touch()


@dataclass(frozen=True, kw_only=True)
class Own(Small):
    """Somebody's study."""


@dataclass(frozen=True, kw_only=True)
class Another(Small):
    """Another one."""
'''


@pytest.fixture
def received(tmp_path, monkeypatch) -> Path:
    """A folder with a sweep of a study that is not ours, beside the module that it names; nothing is imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "notes").mkdir()
    (tmp_path / "theirs.py").write_text(OWN)
    arguments = ["sweep", "theirs:Own", "--notes", str(tmp_path / "notes"), "--workers", "1", "--out", "out"]
    assert cli.run([*arguments, "--grid", "kind=plain,round"]) == 0
    sys.modules.pop("theirs")
    (tmp_path / "imported").unlink()
    yield tmp_path / "out"
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize("command", ["report out/kind=plain", "report out", "sweep --continue out"])
def test_a_folder_does_not_choose_the_code_that_runs(received, capsys, command):
    assert cli.run([*command.split(), *(["--workers", "1"] if "sweep" in command else [])]) == 2
    told = capsys.readouterr().err
    assert "'theirs:Own', which is no study of ours" in told
    assert ("toylab sweep theirs:Own --continue out" if "sweep" in command else " --study theirs:Own") in told
    assert not Path("imported").exists()


def test_what_only_reads_a_folder_imports_nothing(received):
    for command in (["table", "out"], ["claims", "out/kind=plain"]):
        assert cli.run(command) == 0
    assert not Path("imported").exists()


def test_the_study_of_a_folder_runs_where_the_user_names_it(received, capsys):
    (received / "kind=plain" / "seed-0" / "other" / "done").unlink()
    assert cli.run(["sweep", "theirs:Own", "--continue", "out", "--workers", "1"]) == 0
    assert (received / "kind=plain" / "seed-0" / "other" / "done").exists()
    assert cli.run(["report", "out/kind=plain", "--study", "theirs:Own"]) == 0
    assert cli.run(["report", "out", "--study", "theirs:Own"]) == 0
    assert Path("imported").exists()
    assert (received / "scoreboard.html").exists()
    capsys.readouterr()
    for command in (
        ["report", "out/kind=plain", "--study", "theirs:Another"],
        ["report", "out/kind=plain", "--study", "iteration-head"],
        ["sweep", "theirs:Another", "--continue", "out"],
    ):
        assert cli.run(command) == 2
        assert "holds a run of 'theirs:Own'; give the class of that study" in capsys.readouterr().err


def test_a_sweep_of_a_script_goes_on_from_its_module(received, capsys):
    for path in (received / "sweep.json", *received.glob("*/settings.json")):
        rewritten(path, study="__main__:Own")
    assert cli.run(["sweep", "--continue", "out"]) == 2
    assert "toylab sweep MODULE:Own --continue out, where MODULE is the script without .py" in capsys.readouterr().err
    rows = resume(received, study=load_class("study", "theirs:Own"), workers=1, progress=False)
    assert {row["study"] for row in rows} == {"__main__:Own"}


@pytest.mark.parametrize("name", ["../../outside", "..", "", "/tmp/toylab-outside", "a/b", ".hidden"])
def test_a_run_of_a_sweep_is_a_folder_in_it(small, tmp_path, name):
    out = tmp_path / "deep" / "er" / "out"
    sweep([small], out, workers=1, progress=False)
    (settings,) = read_json(out / "sweep.json")["runs"].values()
    rewritten(out / "sweep.json", runs={name: settings})
    before = set(tmp_path.rglob("*"))
    for call in (lambda: resume(out, study=Small, workers=1, progress=False), lambda: sweep([small], out, workers=1)):
        with pytest.raises(ToylabError, match=r"sweep\.json: names a run .+, which is no name of a folder in it"):
            call()
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/tmp/toylab-outside").exists()


@pytest.mark.parametrize("name", ["run", "sweep.json", "run/settings.json", "run/claims.json"])
def test_a_sweep_writes_nothing_through_a_link_that_leads_out(small, out, tmp_path, name):
    sweep([small], out, workers=1, progress=False)
    (out / name).rename(tmp_path / "moved")
    (out / name).symlink_to(tmp_path / "moved")

    def kept() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("moved/**/*") if path.is_file()}

    before = kept()
    with pytest.raises(ToylabError, match=r"a link leads out of .+; delete the link"):
        sweep(grid(small, {"seed": [0, 1]}), out, workers=1, progress=False)
    assert kept() == before


def test_a_record_of_no_sweep_is_refused_by_name(small, out):
    sweep([small], out, workers=1, progress=False)
    for changes in ({"study": None}, {"runs": []}, {"runs": {"run": {"seeds": 3}}}, {"jobs": "main"}, {"jobs": [3]}):
        rewritten(out / "sweep.json", **{"study": "x:Y", "runs": {}, "jobs": None} | changes)
        with pytest.raises(ToylabError, match=r"sweep\.json: is not a sweep; give another folder"):
            resume(out, study=Small)


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(small, out) -> list[dict[str, Any]]:
    return sweep(grid(small, FOUR | {"seed": range(5)}), out, workers=1, progress=False)


def test_the_table_holds_settings_and_results_of_every_job(small, out, table):
    assert len(table) == 4 * 5 * 3
    for row in table:
        job = out / row["run"] / f"seed-{row['seed']}" / row["job"]
        result = read_json(job / "result.json")
        assert row["result.value"] == result["value"]
        assert row["result.deep.er"] == row["seed"]
        assert row["settings.kind"] in row["run"]
        assert (row["settings.size.heads"], row["settings.lengths"]) == (3, [1, 3])
        assert not any(isinstance(value, dict) for value in row.values())
    assert len({tuple(row) for row in table}) == 1, "all rows have the same columns"


def test_a_single_run_and_a_folder_of_runs_are_tables_too(out, table):
    one = load_runs(out / "size.width=6,kind=plain")
    assert one == [row for row in table if row["run"] == "size.width=6,kind=plain"]


@pytest.mark.parametrize("name", ["seed-0.bak", "seed-x", "seed-", "seed-00", "seed-0/.ipynb_checkpoints"])
def test_a_copy_beside_the_seeds_is_no_part_of_the_table(out, table, name):
    shutil.copytree(out / "size.width=6,kind=plain" / "seed-0", out / "size.width=6,kind=plain" / name)
    assert load_runs(out) == table


def test_the_claims_of_all_runs_are_a_table(out, table):
    rows = load_runs(out, "claims")
    assert [row["run"] for row in rows] == sorted({row["run"] for row in table})
    for row in rows:
        values = [one["result.value"] for one in table if one["run"] == row["run"] and one["job"] == "other"]
        assert row["measured"] == pytest.approx(np.mean(values), abs=1e-4)
        assert (row["claim"], row["seeds"]) == ("half", 5)
        assert row["verdict"] == ("holds" if np.mean(values) > 0.5 else "fails")


@pytest.mark.parametrize(
    ("asked", "full"),
    [
        ("kind", "settings.kind"),
        ("value", "result.value"),
        ("deep.er", "result.deep.er"),
        ("er", "result.deep.er"),
        ("seed", "seed"),
        ("run", "run"),
    ],
)
def test_a_column_is_known_by_the_end_of_its_name(table, asked, full):
    assert column(table, asked) == full


def test_a_whole_name_goes_before_the_end_of_a_longer_one():
    rows = [{"result.accuracy.6": 1, "result.transfer.accuracy.6": 2}]
    assert column(rows, "accuracy.6") == "result.accuracy.6"
    with pytest.raises(ValueError, match=r"column '6': may be result\.accuracy\.6 or result\.transfer\.accuracy\.6"):
        column(rows, "6")


def test_an_unknown_or_ambiguous_column_is_named_with_the_nearest():
    rows = [{"settings.a.width": 1, "settings.b.width": 2, "result.value": 3}]
    with pytest.raises(ValueError, match=r"column 'width': may be settings\.a\.width or settings\.b\.width"):
        column(rows, "width")
    with pytest.raises(ValueError, match=r"there is no column 'val'; did you mean result\.value\?"):
        column(rows, "val")


def test_means_are_those_of_numpy_with_the_right_interval(table):
    found = summarise(table, ["kind", "width"], ["value", "value>=.5", "solved"])
    assert [(line["settings.kind"], line["settings.size.width"]) for line in found] == [
        ("plain", 6), ("plain", 12), ("round", 6), ("round", 12)
    ]  # fmt: skip
    for line in found:
        values = [
            row["result.value"]
            for row in table
            if (row["settings.kind"], row["settings.size.width"])
            == (line["settings.kind"], line["settings.size.width"])
        ]
        mean, share = line["result.value"], line["result.value>=.5"]
        assert mean.count == share.count == 15
        assert mean.mean == pytest.approx(np.mean(values))
        assert (mean.low, mean.high) == bootstrap(values)
        passed = sum(value >= 0.5 for value in values)
        assert (share.mean, share.low, share.high) == (passed / 15, *wilson(passed, 15))
        assert line["result.solved"] == share


@given(st.floats(-1e6, 1e6) | st.booleans())
def test_one_row_has_a_mean_and_no_interval(value):
    (line,) = summarise([{"kind": "plain", "value": value}], ["kind"], ["value"])
    assert line["value"] == Mean(float(value), None, None, 1)
    assert "[" not in str(line["value"])


def test_rows_are_chosen_by_value(table):
    assert {row["job"] for row in where(table, ["job=leaf", "kind=plain"])} == {"leaf"}
    assert len(where(table, ["job=leaf", "kind=plain"])) == 10
    with pytest.raises(ValueError, match=r"where 'job=leef': no row has it; job is base, leaf, other"):
        where(table, ["job=leef"])
    with pytest.raises(ValueError, match=r"where 'job': must be NAME=VALUE"):
        where(table, ["job"])


def test_what_is_no_number_has_no_mean(table):
    with pytest.raises(ValueError, match=r"column result\.list: holds \[1, 2\], and a mean needs numbers"):
        summarise(table, ["kind"], ["list"])


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run; give the folder of a sweep or of a run"):
        load_runs(tmp_path)


def printed(capsys: Any, *arguments: object) -> str:
    assert cli.run([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_same_table_in_three_forms(capsys, out, table):
    wanted = ["--columns", "kind", "seed", "value", "--where", "job=other"]
    rows = where(table, ["job=other"])
    as_json = json.loads(printed(capsys, "table", out, *wanted, "--json"))
    assert as_json == [{n: row[n] for n in ("settings.kind", "seed", "result.value")} for row in rows]
    as_csv = list(csv.DictReader(io.StringIO(printed(capsys, "table", out, *wanted, "--csv"))))
    assert [float(line["result.value"]) for line in as_csv] == [row["result.value"] for row in rows]
    lines = printed(capsys, "table", out, *wanted).splitlines()
    assert lines[0].split() == ["kind", "seed", "value"]
    assert lines[1].split() == ["plain", "0", f"{rows[0]['result.value']:.4g}"]
    assert len(lines) == 21
    assert "result.solved" in printed(capsys, "table", out, "--names").split()
    usual = printed(capsys, "table", out).splitlines()[0].split()
    assert usual == ["run", "job", "seed", "status", "size.width", "kind", "value", "solved", "cost.cpu_seconds"]


def test_the_command_prints_means(capsys, out, table):
    found = json.loads(printed(capsys, "table", out, "--by", "kind", "--columns", "value>=.5", "--json"))
    expected = summarise(table, ["kind"], ["value>=.5"])
    for line, mean in zip(found, expected, strict=True):
        assert asdict(mean["result.value>=.5"]) == {
            "mean": line["result.value>=.5"], **{k: line[f"result.value>=.5.{k}"] for k in ("low", "high", "count")}
        }  # fmt: skip
    assert str(expected[0]["result.value>=.5"]) in printed(
        capsys, "table", out, "--by", "kind", "--columns", "value>=.5"
    )


def test_a_reader_that_has_seen_enough_is_no_error(out, table):
    program = f"import sys; from toylab import cli; sys.exit(cli.run(['table', {str(out)!r}, '--json']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(("x", "by"), [("width", "kind"), ("kind", "width"), ("kind", None)])
@pytest.mark.parametrize("form", [".svg", ".png"])
def test_the_command_draws_means_with_their_intervals(capsys, tmp_path, out, table, x, by, form):
    path = tmp_path / f"plot{form}"
    arguments = ["--x", x, "--y", "value", *(["--by", by] if by else [])]
    told = printed(capsys, "plot", out, *arguments, "--out", path)
    assert told.strip() == str(path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if form == ".png" else b"value, mean of" in content


def test_one_row_is_drawn_as_a_point(capsys, tmp_path, out, table):
    path = tmp_path / "plot.svg"
    chosen = ["--where", "job=leaf", "seed=0", "width=6"]
    printed(capsys, "plot", out, "--x", "kind", "--y", "value", *chosen, "--out", path)
    assert b"value, mean of 1" in path.read_bytes()


ADDRESSES = [
    "tpc://localhost:8786", "localhost", "tcp://localhost", "tcp://localhost:port", "tcp://:8786", "tcp://localhost:0",
    "tcp://localhost:99999", "http://localhost:8786", "tcp://a b:1", "", "tcp://[::1",
]  # fmt: skip
"""Of no scheduler."""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweep"], "which study?"),
        (["sweep", "iteration-heads"], "did you mean iteration-head?"),
        (["sweep", "iteration-head"], "grid: nothing is varied; add --grid NAME=VALUES"),
        (["sweep", "iteration-head", "--grid", "positions=none"], "did you mean model.positions?"),
        (["sweep", "iteration-head", "--grid", "model.width=30"], "width=30"),
        (["sweep", "iteration-head", "--grid", "seed=0", "--jobs", "man"], "did you mean main?"),
        (["sweep", "iteration-head", "--grid", "seed=0", "--workers", "0"], "workers=0: must be at least 1"),
        (["sweep", "--continue", "nowhere"], "there is no such file"),
        (["sweep", "iteration-head", "--continue", "nowhere"], "continue: takes the study and its settings from"),
        pytest.param(
            ["sweep", "iteration-head", "--grid", "seed=0", "--scheduler", "tcp://127.0.0.1:1"],
            "no Dask scheduler answ",
            marks=pytest.mark.slow,
        ),
        *(
            (["sweep", "iteration-head", "--grid", "seed=0", "--scheduler", address], "must be tcp://HOST:PORT, as")
            for address in ADDRESSES
        ),
        (["table", "nowhere"], "holds no run"),
        (["plot", "nowhere", "--x", "a", "--y", "b"], "holds no run"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_written(capsys, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_intervals_are_drawn_where_they_are():
    ax = figures.intervals({"a": {1: (0.5, 0.25, 0.75)}, "b": {2: (1.0, 0.5, 1.0)}}, xlabel="x", ylabel="y")
    strokes = [segment for c in ax.collections for segment in c.get_segments()]
    assert sorted((s[0][0], s[0][1], s[1][1]) for s in strokes) == [(1, 0.25, 0.75), (2, 0.5, 1.0)]


def test_a_sweep_can_be_continued_without_its_settings(capsys, tmp_path, monkeypatch):
    """With a study of the house, since only those are looked for by name."""
    tiny = [
        "--train.steps",
        "2",
        "--train.rows",
        "4",
        "--control-steps",
        "2",
        "--task.lengths",
        "1",
        "6",
        "--rows",
        "4",
    ]
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", "iteration-head", "--preset", "quick", *tiny, "--jobs", "one-layer", "--workers", "1"]
    assert cli.run([*arguments, "--grid", "model.positions=none,learned"]) == 0
    out = tmp_path / "runs" / "iteration-head-sweep"
    before = load_runs(out)
    assert [(row["run"], row["job"]) for row in before] == [
        ("model.positions=learned", "one-layer"), ("model.positions=none", "one-layer")
    ]  # fmt: skip
    (out / "model.positions=none" / "seed-0" / "one-layer" / "result.json").unlink()
    assert cli.run(["sweep", "--continue", "runs/iteration-head-sweep", "--workers", "1"]) == 0
    assert measured(load_runs(out)) == measured(before)
    changed = read_json(out / "sweep.json") | {"jobs": ["main"]}
    write_json(out / "sweep.json", changed)
    assert cli.run(["sweep", "--continue", "runs/iteration-head-sweep"]) == 2
    assert "sweep.json: is damaged (its content does not match its checksum)" in capsys.readouterr().err
