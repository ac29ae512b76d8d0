"""Laws of the settings and results of somebody else's study: what is wrong is named, numbers come back plain."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.helpers import Counted, start
from toylab.console import ToylabError
from toylab.runs.jobs import JobsRefusedError
from toylab.runs.judge import settings_from_json
from toylab.runs.store import claim_folder, read_settings
from toylab.runs.study import Job, JobInput, by_condition, with_dependencies
from toylab.tasks import Copy, ModularSum, Parity, Polynomial


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


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"seeds": ()}, r"^seeds=\(\): give at least one"),
        ({"seeds": (0, 0)}, r"^seeds=\(0, 0\): .*all different"),
        ({"seeds": [1, 2, 1]}, r"^seeds=\(1, 2, 1\): .*all different"),
        ({"seeds": (-1,)}, r"^seeds=\(-1,\): must be at least 0"),
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
    assert settings_from_json(Chosen(), read_settings(out / "settings.json")["settings"]) == study
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


@given(st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=2), min_size=1, max_size=9), st.sets(st.integers(0, 8)))
def test_the_dependencies_of_jobs_are_all_that_a_path_leads_to(drawn, asked):
    jobs = []
    for number, needs in enumerate(drawn):
        before = {n % number for n in needs} if number else set()
        jobs.append(Job(str(number), 0, inputs={str(n): JobInput(jobs[n]) for n in before}))

    def reached(job: Job) -> set[Job]:
        return {job}.union(*map(reached, job.needs))

    chosen = [jobs[n] for n in asked if n < len(jobs)]
    assert with_dependencies(chosen, jobs) == set().union(*map(reached, chosen))


def test_jobs_of_one_condition_are_gathered_under_it_by_seed():
    results = {Job("a", 0, condition="both"): 1, Job("b", 1, condition="both"): 2, Job("c", 0): 3}
    assert by_condition(results) == {"both": {0: 1, 1: 2}, "c": {0: 3}}
