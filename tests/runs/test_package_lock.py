"""Laws of the locks that the package ships: they follow the code, and a run of the same claims names their commit."""

import subprocess
from pathlib import Path

import pytest

from toylab.files import read_record, write_record
from toylab.runs import lock as locks
from toylab.runs import registry
from toylab.runs.lock import LOCK_FILE, check_run, differences, lock_of, published_lock, read_lock, write_lock
from toylab.runs.store import claim_folder


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
