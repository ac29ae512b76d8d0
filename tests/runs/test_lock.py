"""Laws of the lock: what is judged is fixed before the first job, and whatever differs later is told by name."""

import importlib
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.runs.helpers import Counted, Small, contents, rewritten, start
from toylab import cli
from toylab.console import ToylabError
from toylab.files import read_json, read_record, sha256_of, write_record
from toylab.runs import lock as locks
from toylab.runs import registry
from toylab.runs.grid import grid
from toylab.runs.jobs import JobsFailedError, execute
from toylab.runs.lock import (
    LOCK_FILE,
    check_run,
    differences,
    lock_checksum,
    lock_of,
    published_lock,
    read_lock,
    write_lock,
)
from toylab.runs.store import claim_folder, read_cost
from toylab.runs.study import Job
from toylab.runs.sweep import sweep
from toylab.verdicts.claim import Claim, Control
from toylab.verdicts.criterion import above, at_least

SOURCE = '''
"""A study of one's own."""
from dataclasses import dataclass
from operator import itemgetter

from toylab.runs.study import Job
from toylab.verdicts.claim import Claim
from toylab.verdicts.criterion import at_least


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Draws nothing."""

    seeds: tuple[int, ...] = (0, 1)

    def jobs(self):
        return [Job("main", seed) for seed in self.seeds]

    def run_job(self, job, folder):
        return {"value": job.seed + 0.5}  # a number

    def claims(self):
        value = itemgetter("value")
        return [
            Claim(
                id="large", place="p", statement="It is large.", conditions=("main",), measure="value",
                quantity=value, criterion=at_least(0.4),
            )
        ]
'''


@dataclass(frozen=True, kw_only=True)
class Claimed(Counted):
    """A study with a claim, whose threshold is a setting that no folder tells apart."""

    def claims(self) -> list[Claim]:
        return [CLAIM]


CLAIM = Claim(
    id="large",
    place="p",
    statement="It is large.",
    conditions=("one",),
    measure="value",
    quantity=lambda one: one["value"],
    criterion=at_least(0.4),
    control=Control("nothing", (), lambda: 0.0),
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The file of a study of one's own, and a function that imports it anew."""
    path = tmp_path / "lock_of_mine.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def load():
        sys.modules.pop("lock_of_mine", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return importlib.import_module("lock_of_mine").Mine

    yield path, load
    sys.modules.pop("lock_of_mine", None)


def ran(kind, out: Path) -> Path:
    execute(kind(), registry.study_name(kind), out, 1, progress=False)
    return out


def claims_changed(monkeypatch, **changes) -> None:
    monkeypatch.setattr(Claimed, "claims", lambda self: [replace(CLAIM, **changes)])


# Written before, and named after -------------------------------------------------------------------------------------


def test_a_run_is_locked_before_its_first_job_and_every_result_names_the_lock(notes, out):
    study = Claimed()
    (notes / "fail-one-0").touch()
    with pytest.raises(JobsFailedError):
        start(study, notes, out)
    before = lock_checksum(out)
    assert not (out / "seed-0" / "one" / "done").exists()
    (notes / "fail-one-0").unlink()
    start(study, notes, out)
    assert lock_checksum(out) == before == sha256_of((out / LOCK_FILE).read_bytes())
    assert {read_cost(job.folder(out)).lock for job in study.jobs()} == {before}
    assert check_run(out, Claimed) == []


def test_a_job_finds_the_lock_of_its_run(notes, out, monkeypatch):
    seen = []
    inner = Claimed.run_job
    monkeypatch.setattr(
        Claimed, "run_job", lambda self, job, folder: seen.append(lock_checksum(out)) or inner(self, job, folder)
    )
    start(Claimed(), notes, out)
    assert seen == [lock_checksum(out)] * 4


def test_a_lock_holds_the_claims_as_numbers_and_says_by_whom_and_of_which_seeds(notes, out):
    start(Claimed(seeds=(3, 1)), notes, out)
    held = read_lock(out)
    assert held["claims"]["large"]["from"] == 0.4
    assert held["claims"]["large"]["control"] == "nothing"
    assert (held["seeds"], held["fixed"], held["locked by"], held["commit"]) == ([3, 1], 2, "this run", None)
    assert "test_lock.py" in held["code"]
    assert any(name.startswith("probes/") for name in held["code"])


def test_the_lock_says_whether_a_run_is_one_of_looks(out):
    claim_folder(Claimed(), "counted", out, until_decided=True)
    write_lock(Claimed(), out)
    assert read_lock(out)["fixed"] == 0


def test_seeds_added_later_leave_the_lock_as_it_is_and_name_it(notes, out):
    start(Claimed(), notes, out)
    before = lock_checksum(out)
    start(Claimed(seeds=(0, 1, 2)), notes, out)
    assert lock_checksum(out) == before == read_cost(Job("one", 2).folder(out)).lock
    assert check_run(out, Claimed) == []


def test_every_run_of_a_sweep_is_locked(small, out):
    sweep(grid(small, {"kind": ["plain", "round"]}), out, workers=1, progress=False)
    runs = [path.parent for path in sorted(out.glob("*/settings.json"))]
    assert len(runs) == 2
    for run in runs:
        assert check_run(run, Small) == []
        assert read_cost(Job("other", 0).folder(run)).lock == lock_checksum(run)


# What differs is told ------------------------------------------------------------------------------------------------


def test_an_edited_threshold_is_told_with_both_numbers(notes, out, monkeypatch):
    start(Claimed(), notes, out)
    claims_changed(monkeypatch, criterion=at_least(0.3))
    found = check_run(out, Claimed)
    assert "claim 'large': from was 0.4, is 0.3" in found
    assert all(line.startswith("claim 'large': ") for line in found)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"statement": "It is small."}, "claim was"),
        ({"kind": "own"}, "kind was"),
        ({"statistic": "share"}, "criterion was"),
        ({"criterion": above(0.4)}, "criterion was"),
        ({"control": None}, "control was"),
        ({"conditions": ("two",)}, "conditions was"),
        ({"undecidable": "we looked"}, "cannot be decided was"),
    ],
)
def test_every_part_of_a_claim_that_is_edited_is_told(notes, out, monkeypatch, changes, part):
    start(Claimed(), notes, out)
    claims_changed(monkeypatch, **changes)
    assert any(line.startswith(f"claim 'large': {part}") for line in check_run(out, Claimed))


def test_claims_that_come_or_go_are_told(notes, out, monkeypatch):
    start(Claimed(), notes, out)
    claims_changed(monkeypatch, id="other")
    assert check_run(out, Claimed) == ["claim 'large' is no longer there", "claim 'other' is not in the lock"]


def test_an_edited_measuring_file_is_told_and_comments_layout_and_docstrings_are_not(mine, out):
    path, load = mine
    ran(load(), out)
    same = SOURCE.replace("  # a number", "  # half a number").replace(
        '"""Draws nothing."""', '"""Draws\n\n    all."""'
    )
    path.write_text(same.replace('{"value": job.seed + 0.5}', '{\n            "value": (job.seed + 0.5)\n        }'))
    assert check_run(out, load()) == []
    path.write_text(SOURCE.replace("job.seed + 0.5", "job.seed + 0.6"))
    assert check_run(out, load()) == ["lock_of_mine.py differs"]


def test_a_constant_text_that_is_no_docstring_counts():
    def told(source: str):
        return locks._tree_as_json(locks.ast.parse(source))

    assert told("x = 'a'") != told("x = 'b'")
    assert told("def f():\n    return 1") == told("def f():\n    'b'\n    return 1  # c")
    assert told("def f():\n    return None") == told("def f():\n\n    return (None)")
    assert told("def f(x):\n    return x") == told("def f(x: int) -> int:\n    return x")
    assert told("def f(x):\n    return x") != told("def f(x: int = 1) -> int:\n    return x")
    assert told("x: int") != told("x: float")  # a field of settings is converted to its type
    assert told("x = 1") != told("x = True")
    assert told("x = 1") != told("x = 1.0")


IMPORTS = {
    "": {"attention", "checks", "hooks"},  # of the evaluation in training, which every study has
    "from toylab.probes import linear_probe": {"attention", "checks", "hooks", "linear"},
    "from toylab.probes.geometry import auc": {"attention", "checks", "hooks", "geometry", "nullspace"},
    **dict.fromkeys(("import toylab", "import toylab.probes as p", "from toylab import probes"), None),  # all of them
    "from toylab.probes import *": None,
}


@pytest.mark.parametrize("line", IMPORTS)
def test_the_lock_has_the_probes_that_are_imported_directly_or_by_others(mine, line):
    path, load = mine
    path.write_text(SOURCE.replace("from operator", f"{line}\nfrom operator"))
    locked = {Path(name).stem for name in lock_of(load()())["code"] if name.startswith("probes/")}
    every = {path.stem for path in (Path(__file__).parents[2] / "probes").glob("*.py")}
    assert locked == (IMPORTS[line] or every)


def test_an_edited_probe_is_told_if_the_study_imports_it(notes, out, monkeypatch):
    start(Claimed(), notes, out)
    inner = locks._digest_of_code
    for name, told in (("attention.py", ["probes/attention.py differs"]), ("sae.py", [])):
        monkeypatch.setattr(locks, "_digest_of_code", lambda path, name=name: "0" if path.name == name else inner(path))
        assert check_run(out, Claimed) == told


def test_a_lock_that_has_more_shared_files_than_measure_is_no_difference_and_one_without_a_file_is():
    study = Claimed()
    locked = lock_of(study)
    code = locked["code"]
    assert differences({**locked, "code": {**code, "probes/old.py": "0"}}, locked) == []
    assert differences({**locked, "code": {**code, "old.py": "0"}}, locked) == ["old.py differs"]
    for name in code:
        assert differences({**locked, "code": {n: d for n, d in code.items() if n != name}}, locked) == [
            f"{name} differs"
        ]


def test_a_result_measured_under_another_lock_is_named(notes, out, tmp_path):
    start(Claimed(), notes, out)
    start(Claimed(seeds=(0,)), notes, tmp_path / "other")
    shutil.rmtree(out / "seed-0" / "two")
    shutil.copytree(tmp_path / "other" / "seed-0" / "two", out / "seed-0" / "two")
    assert check_run(out, Claimed) == ["1 results were measured under another lock, two among them"]


def test_a_lock_committed_after_the_run_began_is_told(notes, out):
    start(Claimed(), notes, out)
    began = read_json(out / "settings.json")["date"]
    rewritten(out / LOCK_FILE, commit="abc 2000-01-01T00:00:00+02:00")
    assert not any("committed" in line for line in check_run(out, Claimed))
    rewritten(out / LOCK_FILE, commit="abc 2999-01-01T00:00:00+02:00")
    found = check_run(out, Claimed)
    assert f"the lock was committed at 2999-01-01T00:00:00+02:00, after the run began at {began}" in found
    assert "4 results were measured under another lock, one among them" in found


def test_other_first_seeds_or_another_plan_than_the_lock_has_are_told(notes, out):
    start(Claimed(), notes, out)
    held = read_json(out / "settings.json")
    rewritten(out / "settings.json", fixed=0, settings={**held["settings"], "seeds": [1, 0]})
    assert check_run(out, Claimed) == ["seeds was [0, 1], is [1, 0]", "fixed was 2, is 0"]


def test_a_run_of_changed_claims_is_refused_with_the_first_differences_and_left_as_it_was(notes, out, monkeypatch):
    start(Claimed(), notes, out)
    before = contents(out)
    claims_changed(monkeypatch, criterion=at_least(0.3))
    with pytest.raises(
        ToylabError, match=r"was locked with other claims .*criterion was .*give another folder"
    ) as told:
        start(Claimed(seeds=(0, 1, 2)), notes, out)
    assert "from was 0.4, is 0.3" in str(told.value)
    assert contents(out) == before


def test_a_sweep_of_changed_claims_is_refused_and_left_as_it_was(small, out, monkeypatch):
    sweep(grid(small, {"kind": ["plain"]}), out, workers=1, progress=False)
    before = contents(out)
    (claim,) = Small.claims(small)
    monkeypatch.setattr(Small, "claims", lambda self: [replace(claim, criterion=above(0.6))])
    with pytest.raises(ToylabError, match=r"claim 'half': criterion was"):
        sweep(grid(small, {"kind": ["plain", "round"]}), out, workers=1, progress=False)
    assert contents(out) == before


@pytest.mark.parametrize("content", [{}, {"claims": [], "code": {}}, {"claims": {"a": 1}, "code": {}}])
def test_a_file_that_is_no_lock_is_refused_by_name(notes, out, content):
    start(Claimed(), notes, out)
    write_record(out / LOCK_FILE, content)
    with pytest.raises(ToylabError, match=r"claims\.lock: is not the lock of a run; give another folder"):
        check_run(out, Claimed)


def test_the_command_says_what_differs_and_else_by_whom_it_was_locked(mine, out, capsys):
    path, load = mine
    ran(load(), out)
    asked = ["claims", str(out), "--check", "--study", "lock_of_mine:Mine"]
    assert cli.run(asked) == 0
    assert capsys.readouterr().out == "Run, lock and code agree: 1 claims, locked by this run.\n"
    path.write_text(SOURCE.replace("at_least(0.4)", "at_least(0.3)"))
    load()
    assert cli.run(asked) == 2
    told = capsys.readouterr().err
    assert "differs from its claims lock" in told
    assert "from was 0.4, is 0.3" in told
    assert "lock_of_mine.py differs" in told


# Those of the package ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.study_names())
def test_the_package_has_the_lock_of_each_study_as_the_code_is(name):
    kind = registry.load_study(name).STUDY
    path = published_lock(kind)
    assert path is not None, "make lock writes them"
    assert differences(read_record(path), lock_of(kind.default())) == [], "make lock writes them anew"


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A folder in place of that of a study of ours, with its lock."""
    kind = registry.load_study("iteration-head").STUDY
    path = tmp_path / "package" / LOCK_FILE
    write_record(path, lock_of(kind.default()))
    monkeypatch.setattr(locks, "published_lock", lambda study: path)
    return path


def locked(study, out: Path) -> dict:
    claim_folder(study, "iteration-head", out)
    write_lock(study, out)
    return read_lock(out)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_run_of_the_claims_of_the_package_is_locked_by_it_with_the_commit_of_its_lock(package, tmp_path):
    study = registry.load_study("iteration-head").STUDY.default()
    git(package.parent, "init")
    git(package.parent, "add", LOCK_FILE)
    git(package.parent, "commit", "-m", "Lock")
    held = locked(study, tmp_path / "one")
    assert (held["locked by"], held["commit"]) == ("the package", git(package.parent, "log", "-1", "--format=%H %cI"))
    assert check_run(tmp_path / "one") == []
    package.write_bytes(package.read_bytes() + b"\n")
    assert locked(study, tmp_path / "two")["commit"] is None


@pytest.mark.parametrize("absent", [FileNotFoundError, subprocess.TimeoutExpired("git", 1), None])
def test_without_git_a_run_is_locked_all_the_same(package, tmp_path, monkeypatch, absent):
    def fail(*_, **__):
        raise absent

    if absent is not None:
        monkeypatch.setattr(locks.subprocess, "run", fail)
    held = locked(registry.load_study("iteration-head").STUDY.default(), tmp_path / "one")
    assert (held["locked by"], held["commit"]) == ("the package", None)


def test_a_run_of_other_claims_than_the_package_has_is_locked_by_itself(package, tmp_path):
    held = read_record(package)
    held["claims"].popitem()
    write_record(package, {name: value for name, value in held.items() if name not in ("checksum", "format")})
    held = locked(registry.load_study("iteration-head").STUDY.default(), tmp_path / "one")
    assert (held["locked by"], held["commit"]) == ("this run", None)


def test_a_study_that_is_in_no_file_is_locked_by_its_claims(notes, out, monkeypatch):
    def nowhere(kind):
        raise OSError("source code not available")

    monkeypatch.setattr(locks.inspect, "getsourcefile", nowhere)
    start(Claimed(), notes, out)
    assert read_lock(out)["claims"].keys() == {"large"}
    assert published_lock(Claimed) is None


def test_a_condition_that_is_optional_is_locked_like_the_others():
    def locked(**more):
        claim = Claim(
            id="a", place="p", statement="s", conditions=("main",), measure="m", quantity=lambda *one: 0.0,
            criterion=above(0), uncontrolled="it is exact", **more,
        )  # fmt: skip
        return locks._claim_record(claim)["conditions"]

    assert locked() == ["main"]
    assert locked(optional=("other",)) == ["main", "other"]
