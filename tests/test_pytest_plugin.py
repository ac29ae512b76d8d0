"""The pytest plug-in and `check_cases`: one test per law, the smallest example in a failure, else nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.modules import ROOT
from toylab.tasks import check

TASKS = """
import dataclasses

from toylab import ToylabError
from toylab.tasks import AssociativeRecall
from toylab.tasks.mutants import Mutant

sound = AssociativeRecall(pairs=2, keys=9, values=5)
future = Mutant(task=sound, fault="link to the future")

@dataclasses.dataclass(frozen=True, kw_only=True)
class Without(AssociativeRecall):
    needed: int

class Empty(AssociativeRecall):
    def sample(self, rng, rows, split="train"):
        raise ToylabError("split: is empty")

def nothing():
    pass
"""
SUITE = """
from own import future, sound
from toylab.tasks import check_cases

@check_cases(sound, future, examples=3)
def test_own(case):
    case()
"""
LINKS = "links_stay_inside_their_row_and_read_no_future"


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(TASKS)
    return tmp_path


def run_pytest(*arguments: str) -> tuple[int, str]:
    """Exit code and output of pytest in a process of its own, with the plug-in alone."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "toylab.pytest_plugin", "-p", "no:cacheprovider", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_each_law_of_a_named_task_is_a_test_and_a_failure_shows_the_smallest_example(own):
    chosen = "read_no_future or oracle_continues"
    code, told = run_pytest("-k", chosen, "--toylab-task", "own:sound", "--toylab-task", "own:future")
    assert code == 1
    assert re.search(rf"collected {2 * len(check.LAWS)} items / {2 * len(check.LAWS) - 4} deselected", told)
    assert "1 failed, 3 passed" in told
    assert f"FAILED own:future::{LINKS}" in told
    failure = told[told.index("\nbroken: ") : told.index("short test summary")]
    broken, look_at, task, positions, *table = failure.strip().splitlines()
    assert broken == f"broken: {LINKS.replace('_', ' ')}"
    assert look_at.startswith("  look at links['")
    assert task.strip().startswith("Mutant(task=AssociativeRecall(pairs=2")
    assert positions.split()[0] == "position"
    assert table
    assert "Traceback" not in told
    assert ".py:" not in failure


def test_the_decorator_makes_a_test_of_each_law_whose_failure_has_one_frame(own):
    (own / "test_own.py").write_text(SUITE)
    code, told = run_pytest("-k", LINKS)
    assert code == 1
    assert "1 failed, 1 passed" in told
    assert f"collected {2 * len(check.LAWS)} items" in told
    assert f"test_own[Mutant-{LINKS}]" in told
    assert re.findall(r"^\S+\.py:\d+: .*$", told, flags=re.MULTILINE) == ["test_own.py:7: AssertionError"]
    assert re.search(r"^E +look at links\['", told, flags=re.MULTILINE)


WRONG = {
    "own:sund": "there is no task 'sund'",
    "nowhere:Task": "module 'nowhere' is neither in the working directory nor installed",
    "party": "there is no task 'party'; did you mean parity",
    "own:Without": "task 'own:Without': has no default for needed; name an instance",
    "own:nothing": "has no sample and no solve",
}


def test_a_task_that_is_not_there_is_told_in_one_line(own):
    code, told = run_pytest(*(word for name in WRONG for word in ("--toylab-task", name)))
    assert code == 2
    assert ".py:" not in told
    for name, words in WRONG.items():
        assert words in told
        assert f"ERROR {name}" in told


def test_after_a_failure_that_stops_the_check_the_other_laws_are_skipped(own):
    code, told = run_pytest("-rs", "--toylab-task", "own:Empty")
    assert code == 1
    assert "look at sample: the training split holds no prompt" in told
    assert f"1 failed, 1 passed, {len(check.LAWS) - 2} skipped" in told


NOTHING_LOADED = """
import sys, pytest
code = pytest.main(["--co", "-q", "-p", "toylab.pytest_plugin", "-p", "no:cacheprovider"])
print(int(code), *sorted(name for name in sys.modules if name.split(".")[0] in ("toylab", "torch", "numpy")))
"""


def test_a_start_of_pytest_loads_the_plug_in_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_LOADED], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].split() == ["5", "toylab", "toylab.pytest_plugin"]
