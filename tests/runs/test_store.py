"""Laws of the folder of a run: no setting changes unseen, and nothing is written through a link."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.helpers import Counted, called, contents, start, strip
from toylab.console import ToylabError
from toylab.files import read_json, write_record
from toylab.model.checkpoint import save_model
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.runs import store as runs
from toylab.runs import sweep as sweeps
from toylab.runs.jobs import JobsRefusedError, execute
from toylab.runs.judge import restore_settings
from toylab.runs.store import claim_folder, read_metrics, read_settings, stored_plan
from toylab.runs.study import Job, JobInput
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.training.loop import Training
from toylab.verdicts.decision import Plan


@dataclass(frozen=True, kw_only=True)
class Controlled(Counted):
    """A study whose control is trained on the first of its seeds."""

    control_seeds: int = 1

    def jobs(self) -> list[Job]:
        controls = self.seeds[: self.control_seeds]
        starts = [Job("control", seed, inputs={"main": JobInput(Job("main", seed), "done")}) for seed in controls]
        return [*(Job("main", seed) for seed in self.seeds), *starts]


QUICK = IterationHeadStudy.quick()
CHANGES = {
    "train.steps": replace(QUICK, train=replace(QUICK.train, steps=QUICK.train.steps + 1)),
    "task.p": replace(QUICK, task=replace(QUICK.task, p=13)),
    "task.lengths": replace(QUICK, task=replace(QUICK.task, lengths=(1, 9))),
    "model.width": replace(QUICK, model=replace(QUICK.model, width=2 * QUICK.model.width)),
    "rows": replace(QUICK, rows=QUICK.rows + 1),
    "batches": replace(QUICK, batches="padded"),
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
    assert f"{out}: holds a run with {name}={values[0]}, but {name}={values[1]}" in str(error.value)
    assert contents(out) == before


def test_the_same_settings_are_let_in_and_change_no_file(out):
    claim_folder(QUICK, "iteration-head", out)
    before = contents(out)
    claim_folder(IterationHeadStudy.quick(), "iteration-head", out)
    assert contents(out) == before


def without_dropout(record: Path) -> None:
    """A record as it was written before models had dropout."""
    held = read_json(record)
    for run in [held["settings"]] if "settings" in held else held["runs"].values():
        del run["model"]["dropout"]
    write_record(record, {name: value for name, value in held.items() if name not in ("checksum", "format")})


def test_a_run_or_sweep_from_before_a_setting_existed_goes_on_with_its_default(out):
    claim_folder(QUICK, "iteration-head", out / "run")
    without_dropout(out / "run" / "settings.json")
    before = contents(out)
    assert judged_settings(out / "run") == QUICK
    claim_folder(QUICK, "iteration-head", out / "run")
    assert contents(out) == before
    more = replace(QUICK, seeds=(*QUICK.seeds, 77))
    claim_folder(more, "iteration-head", out / "run")
    assert judged_settings(out / "run") == more
    other = replace(QUICK, model=replace(QUICK.model, dropout=0.1))
    without_dropout(out / "run" / "settings.json")
    with pytest.raises(ValueError, match=r"holds a run with model\.dropout=0\.0, but model\.dropout=0\.1 was given"):
        claim_folder(other, "iteration-head", out / "run")
    assert _folders([QUICK], out / "sweep") == ["run"]
    without_dropout(out / "sweep" / "sweep.json")
    assert _folders([QUICK], out / "sweep") == ["run"]
    assert _folders([other, QUICK], out / "sweep") == ["model.dropout=0.1", "run"]


def judged_settings(folder: Path) -> IterationHeadStudy:
    return restore_settings(QUICK, read_settings(folder / "settings.json")["settings"], folder)


def _folders(points: list[IterationHeadStudy], out: Path) -> list[str]:
    return [run.folder.name for run in sweeps._claim_folders(points, out, None)]


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
    found = runs.read_results(whole, base / "out")
    assert list(found)[: len(whole.jobs())] == whole.jobs()
    assert {job for job in found if job.name == "control"} == {Job("control", call[0]) for call in calls}
    assert all(job.needs == (Job("main", job.seed),) for job in found if job.name == "control")


def test_jobs_of_other_names_and_seeds_are_no_results_of_a_study(notes, out):
    start(Controlled(seeds=(0, 1, 2)), notes, out)
    (out / "seed-0" / "main").rename(out / "seed-0" / "main.bak")
    found = runs.read_results(Controlled(seeds=(1, 0), notes=str(notes)), out)
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
    names = {"study", "settings", "fixed", "versions", "machine", "revision", "date", "format", "checksum"}
    assert set(held) == names
    assert held["fixed"] == len(QUICK.seeds)


def test_a_run_that_is_enlarged_keeps_the_size_that_it_was_begun_with(notes, out):
    start(Counted(), notes, out)
    start(Counted(seeds=(0, 1, 2)), notes, out)
    held = read_settings(out / "settings.json")
    assert (held["fixed"], stored_plan(held)) == (2, Plan((0, 1, 2), 2))
    claim_folder(Counted(notes=str(notes)), "counted", out, until_decided=True)
    assert read_settings(out / "settings.json") == held


@pytest.mark.parametrize("content", ["[]", '{"study": "counted"}', '{"settings": 3}', '"text"'])
def test_settings_of_no_run_are_refused_by_name(notes, out, content):
    out.mkdir()
    (out / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json: is not a record that toylab wrote; give another folder"):
        start(Counted(), notes, out)


@pytest.mark.parametrize("name", ["study", "settings", "fixed", "versions", "machine", "revision", "date"])
def test_a_record_with_a_field_of_another_type_or_without_one_is_refused_by_name(out, name):
    claim_folder(QUICK, "iteration-head", out)
    held = read_settings(out / "settings.json")
    for wrong in ({name: 0.5}, {name: None}) if name != "revision" else ({name: 0.5},):  # there may be no revision
        write_record(out / "settings.json", {**held, **wrong})
        with pytest.raises(ToylabError, match=r"settings\.json: does not hold the settings of a run; give another"):
            claim_folder(QUICK, "iteration-head", out)


@pytest.mark.parametrize("seeds", [{}, {"seeds": 0}])
def test_settings_with_seeds_that_are_none_are_refused_by_name(notes, out, seeds):
    start(Counted(), notes, out)
    held = read_json(out / "settings.json")
    del held["settings"]["seeds"]
    write_record(out / "settings.json", {**held, "settings": {**held["settings"], **seeds}})
    with pytest.raises(ValueError, match=r"settings\.json"):
        start(Counted(), notes, out)


@pytest.mark.parametrize("file", ["settings.json", "seed-0/one/result.json"])
@pytest.mark.parametrize("damage", ["cut short", "another digit", "missing"])
def test_a_file_that_cannot_be_read_is_named_and_what_the_message_says_helps(notes, out, file, damage):
    whole = start(Counted(), notes, out)
    content = (out / file).read_text()
    if damage == "cut short":
        (out / file).write_text(content[: len(content) // 2])
    elif damage == "another digit":
        (out / file).write_text(re.sub(r"\d", lambda digit: str(9 - int(digit[0])), content, count=1))
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
    with pytest.raises(ValueError, match=r"metrics\.jsonl: is damaged.*delete the folder of this job and rerun"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_missing_history_is_refused_by_name_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: there is no such file; .+"):
        read_metrics(tmp_path / "metrics.jsonl")


@dataclass(frozen=True)
class Measured:
    share: float
    step: int


@pytest.mark.parametrize(("wrong", "name"), [({"share": "high"}, "share"), ({"step": 0.5}, "step")])
def test_a_result_with_a_field_of_another_type_is_refused_when_it_is_written(tmp_path, wrong, name):
    result, cost = Measured(share=0.5, step=1), runs.Cost(cpu_seconds=1, wall_seconds=1, peak_megabytes=None)
    runs.write_result(tmp_path, result, Measured, cost)
    assert runs.read_result(tmp_path, Measured) == result
    with pytest.raises(ToylabError, match=rf"^result\.{name}="):
        runs.write_result(tmp_path, replace(result, **wrong), Measured, cost)
