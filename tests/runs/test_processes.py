"""Laws of several processes: they find what one finds, and what cannot reach them is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs.helpers import Counted, Tiny, called, contents, start, strip
from toylab.console import ToylabError
from toylab.model.checkpoint import load_model
from toylab.runs.jobs import JobsFailedError
from toylab.runs.study import Job


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


def test_a_failure_in_another_process_is_recorded_as_well(notes, out):
    (notes / "fail-one-0").touch()
    with pytest.raises(JobsFailedError, match=r"1 of 4 jobs failed"):
        start(Counted(), notes, out, workers=2)
    assert "job one was told to fail" in (Job("one", 0).folder(out) / "error.txt").read_text()
    assert len(list(out.rglob("done"))) == 3


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
    assert "a worker cannot load the study (AttributeError: " in told
    assert "killed" not in told


def test_a_study_that_cannot_be_sent_is_refused_and_runs_in_this_process(notes, out):
    class Local(Counted):
        pass

    with pytest.raises(ToylabError, match=r"cannot be sent to another process \(.*Local.*\); define"):
        start(Local(), notes, out, workers=2)
    assert called(notes) == []
    assert len(start(Local(), notes, out)) == 4
