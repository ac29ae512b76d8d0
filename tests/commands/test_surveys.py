"""Laws of train and survey: a folder that is read back, resumed and extended; models of jobs and files."""

import json
import shutil

import pytest

from tests.commands.helpers import check_refused, hashes
from toylab.model.checkpoint import load_model
from toylab.runs.store import read_metrics
from toylab.runs.table import load_runs
from toylab.runs.task_training import survey_rows
from toylab.survey import survey
from toylab.tasks import Copy, stream

FEW = (
    "--task.p 3 --task.lengths 2 --model.width 16 --model.heads 2 --model.position-width 4 --model.hidden 8 --growth 0"
)
TRAIN = ("train", "copy", *FEW.split(), "--train.steps", 4, "--train.evaluate-every", 2, "--workers", 1)
TASK = Copy(p=3, lengths=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from toylab.cli import run

    out = tmp_path_factory.mktemp("trained") / "out"
    assert run([*map(str, TRAIN), "--seeds", "0..1", "--workers", "1", "--out", str(out)]) == 0
    return out


def test_a_folder_of_trainings_has_models_metrics_settings_and_curves(trained):
    assert json.loads((trained / "settings.json").read_text())["settings"]["task"]["p"] == 3
    assert (trained / "curves.svg").read_text().startswith("<?xml")
    for row in load_runs(trained):
        job = trained / f"seed-{row['seed']}" / "train"
        metrics = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in metrics] == [0, 2, 4]
        assert row["result.steps"] == 4
        assert row["result.validation_accuracy"] == metrics[-1]["accuracy"]
        expected = survey(load_model(job / "model.safetensors"), survey_rows(TASK, row["seed"]))
        assert row["result.survey.accuracy"] == pytest.approx(expected.accuracy)


def test_seeds_are_added_and_no_training_is_repeated(call, trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "copy")
    before = hashes(out)
    assert call(*TRAIN, "--seeds", 0, 2, "--out", out).code == 0
    after = hashes(out)
    kept = [name for name in before if name.startswith("seed-")]
    assert kept
    assert all(after[name] == before[name] for name in kept)
    assert (out / "seed-2" / "train" / "done").exists()
    check_refused(call(*TRAIN, "--train.rows", 8, "--out", out), "train.rows=32", "train.rows=8")


def test_a_survey_is_the_same_of_a_folder_a_job_and_a_file(call, trained, tmp_path):
    out = tmp_path / "heads.svg"
    whole = call("survey", trained, "--out", out)
    assert whole.code == 0
    assert out.read_text().count(">1.1<") >= 2  # the last head of both seeds
    file = trained / "seed-0" / "train" / "model.safetensors"
    named = ("--task", "copy", "--task.p", 3, "--task.lengths", 2, "--out", out)
    first = str(survey(load_model(file), survey_rows(TASK, 0)))
    for words in ((file.parent, "--out", out), (file, "--out", out), (file, *named), (file.parent, "--task", "copy")):
        assert first in call("survey", *words).out
    assert first in whole.out
    other = load_model(trained / "seed-1" / "train" / "model.safetensors")
    assert str(survey(other, survey_rows(TASK, 1))) in whole.out
    heads = survey(load_model(file), survey_rows(TASK, 0)).head_table()
    assert heads in whole.out


def test_a_survey_of_a_job_of_a_study_takes_the_task_of_its_condition(call, tiny_run, tmp_path):
    for job in ("main", "parity"):
        outcome = call("survey", tiny_run / "seed-0" / job, "--out", tmp_path / "heads.svg")
        assert outcome.code == 0, outcome.err
        assert "carry" in outcome.out


def test_a_model_without_a_task_is_refused(call, trained, tmp_path, tiny_run):
    file = shutil.copy(trained / "seed-0" / "train" / "model.safetensors", tmp_path / "mine.safetensors")
    check_refused(call("survey", file), "names no task", "--task TASK")
    check_refused(call("prove", file), "names no task", "--task TASK")
    check_refused(call("survey", file, "--task", "parity"), "has 10 tokens, and Parity has 9")
    check_refused(call("survey", trained, "--task", "parity"), "holds a model of 'copy'; give --task copy")
    check_refused(call("survey", trained, "--task", "copy", "--task.p", 3), "--task.p", "give none")
    check_refused(call("survey", trained, "--colour", "red"), "--colour", "give none")
    check_refused(call("report", trained), "no run of a study, but a training on copy", "toylab survey")
    check_refused(call("survey", tmp_path), "holds no trained model")
    check_refused(call("survey", tmp_path / "nowhere"), "there is no such file or folder")
    check_refused(call("survey", tiny_run), "holds no model", f"such as {tiny_run / 'seed-0'}")
    without = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("model.safetensors"))
    check_refused(call("survey", without / "seed-0" / "main"), "holds no model; run it", "train_and_keep")
    (without / "seed-0" / "main" / "model.safetensors").write_bytes(b"cut short")
    check_refused(call("survey", without / "seed-0" / "main"), "is damaged", "delete it and rerun the command that did")
    check_refused(call("survey", trained, "--out", tmp_path / "x.txt"), "must end with .svg")


def test_no_row_of_a_survey_is_a_row_of_the_training():
    surveyed, trained = (set(map(tuple, b.tokens)) for b in (survey_rows(TASK, 0), TASK.sample(stream(0), 2000)))
    assert surveyed
    assert not surveyed & trained


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_an_optimizer_is_named_and_gets_the_learning_rate(call, trained, tmp_path, name):
    assert call(*TRAIN, "--optimizer", name, "--train.weight-decay", 0.01, "--out", tmp_path / "out").code == 0
    default, named = (read_metrics(out / "seed-0/train/metrics.jsonl") for out in (trained, tmp_path / "out"))
    assert [entry["learning_rate"] for entry in named] == [entry["learning_rate"] for entry in default]
    misspelt = call(*TRAIN, "--optimizer", name[:-1] + "x", "--out", tmp_path / "other")
    check_refused(misspelt, f"no optimizer '{name[:-1]}x'", "did you mean")
    check_refused(call(*TRAIN, "--optimizer", name.lower(), "--out", tmp_path / "other"), f"did you mean {name}?")


@pytest.mark.parametrize("name", ["SparseAdam", "LBFGS"])
def test_weight_decay_of_an_optimizer_without_it_is_refused_before_the_training(call, tmp_path, name):
    outcome = call(*TRAIN, "--optimizer", name, "--train.weight-decay", 0.1, "--out", tmp_path / "out")
    check_refused(outcome, f"train.weight_decay=0.1: {name} has none; give --train.weight-decay 0")
    assert not (tmp_path / "out").exists()


def test_a_misspelt_option_beside_stored_settings_is_named_as_everywhere(call, trained):
    check_refused(call("survey", trained, "--devise", "cpu"), "no option --devise", "did you mean --device")
    check_refused(call("survey", trained, "--task.lengths", 3), "settings of the task are stored")
