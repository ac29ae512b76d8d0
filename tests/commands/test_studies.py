"""Laws of the commands on studies: run, report and claims; a damaged file is named and nothing is lost."""

import json
import os
import re
import shutil

import pytest

from tests.commands.helpers import TINY, check_refused, hashes
from toylab.runs.judge import judge_and_report
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.verdicts.judgement import claims_markdown, claims_table, read_claims


def test_claims_prints_the_table_or_the_file(call, tiny_run):
    held = read_claims(tiny_run / "claims.json")
    assert call("claims", tiny_run).out.strip("\n") == claims_table(held)
    outcome = call("claims", tiny_run, "--json")
    assert outcome.code == 0
    assert [one["id"] for one in json.loads(outcome.out)] == [one.id for one in held]
    assert call("claims", tiny_run, "--markdown").out.strip("\n") == claims_markdown(held)


@pytest.mark.slow
def test_report_makes_the_page_anew_from_what_was_measured(call, copied):
    before, page = hashes(copied), (copied / "report.html").read_bytes()
    for path in (copied / "report.html", copied / "claims.json", *(copied / "figures").iterdir()):
        path.unlink()
    outcome = call("report", copied)
    assert outcome.code == 0
    assert outcome.out.strip().endswith(str((copied / "report.html").resolve()))
    assert (copied / "report.html").read_bytes() == page
    assert hashes(copied) == before


def test_the_commands_work_on_a_run_that_was_trained(call, undrawn):
    summary = judge_and_report(undrawn)
    assert call("report", undrawn).out.strip() == summary
    claims = re.sub(r" +\d+ CPU-s$", "", summary, flags=re.MULTILINE)
    assert claims.startswith(call("claims", undrawn).out.strip())
    assert len(json.loads(call("claims", undrawn, "--json").out)) == len(read_claims(undrawn / "claims.json"))


TRAINED = {"metrics.jsonl", "model.safetensors"}


def test_a_run_leaves_a_whole_folder(tiny_run):
    jobs = {f"seed-{job.seed}/{job.name}" for job in IterationHeadStudy(seeds=(0,), parts=("pairs",)).jobs()}
    assert {str(path.parent.relative_to(tiny_run)) for path in tiny_run.rglob("done")} == jobs
    for job in jobs:
        trained = {"copy.jsonl" if "copy" not in job else "sum.jsonl"} if "pairs-" in job else TRAINED
        assert {"done", "result.json"} | trained <= set(os.listdir(tiny_run / job))
        assert not (tiny_run / job / "checkpoint.safetensors").exists()
    assert {"settings.json", "claims.json", "report.html", "figures"} <= set(os.listdir(tiny_run))
    hidden = {path.name for path in tiny_run.rglob(".*")}
    assert {".lock", ".training-seconds"} <= hidden
    assert all(re.fullmatch(r"\.lock|\.training-seconds[-a-z]*", name) for name in hidden)


def test_the_same_command_again_repeats_nothing_and_says_the_same(call, undrawn):
    before = hashes(undrawn)
    first = call("run", "iteration-head", *TINY, "--workers", 1, "--out", undrawn)
    assert first.code == 0
    assert hashes(undrawn) == before
    assert call("report", undrawn).out == first.out


def test_a_job_that_was_cut_off_between_training_and_measuring_is_measured_again(call, undrawn):
    before = hashes(undrawn)
    job = undrawn / "seed-0" / "one-layer"
    (job / "done").unlink()
    (job / "result.json").unlink()
    assert call("run", "iteration-head", *TINY, "--workers", 1, "--out", undrawn).code == 0
    changed = {name for name, held in hashes(undrawn).items() if before.get(name) != held}
    # The cost in seconds, and the checksum of the file that holds it.
    assert changed <= {"seed-0/one-layer/result.json", "seed-0/one-layer/done"}


@pytest.mark.parametrize("command", ["claims", "report"])
def test_a_missing_folder_is_named_with_a_remedy(call, tmp_path, command):
    check_refused(call(command, tmp_path / "missing"), str(tmp_path / "missing"), "there is no such file")


def test_a_file_in_place_of_the_folder_is_named_with_a_remedy(call, tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    check_refused(call("run", "iteration-head", *TINY, "--workers", 1, "--out", path), str(path))
    assert path.read_text() == "precious"


def test_a_folder_of_another_run_is_refused_and_left_alone(call, copied):
    before = hashes(copied)
    outcome = call("run", "iteration-head", *TINY, "--task.p", 11, "--workers", 1, "--out", copied)
    check_refused(outcome, f"{copied}: holds a run with task.p=7, but task.p=11", "another folder with --out")
    assert hashes(copied) == before


def test_a_folder_of_other_things_is_refused_and_left_alone(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    outcome = call("run", "iteration-head", *TINY, "--workers", 1, "--out", tmp_path)
    check_refused(outcome, str(tmp_path), "holds no run", "another folder with --out")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "model.safetensors", "metrics.jsonl"])
def test_a_job_that_meets_a_damaged_file_names_it_and_loses_nothing(call, undrawn, file):
    job = undrawn / "seed-0" / "one-layer"
    whole = (job / "metrics.jsonl" if file == "metrics.jsonl" else job / "model.safetensors").read_bytes()
    (job / "done").unlink()
    if file == "checkpoint.safetensors":
        (job / "model.safetensors").unlink()
    (job / file).write_bytes(whole[: len(whole) // 2])
    (undrawn / "claims.json").unlink()
    before = hashes(undrawn)
    again = ["run", "iteration-head", *TINY, "--workers", 1, "--out", undrawn]
    outcome = call(*again)
    check_refused(outcome, str(job / file), "is damaged", "delete")
    assert hashes(undrawn) == before
    assert str(job / file) in (job / "error.txt").read_text()
    # What the other jobs found does not wait for it.
    assert {one.id: one.measured for one in read_claims(undrawn / "claims.json")}["depth"] is None
    # What the message tells to do is enough.
    if "delete this file" in outcome.message:
        (job / file).unlink()
    else:
        shutil.rmtree(job)
    assert call(*again).code == 0
    assert (job / "done").exists()
    assert not (job / "error.txt").exists()


@pytest.mark.parametrize(
    "file", ["claims.json", "settings.json", "seed-0/main/result.json", "seed-0/main/metrics.jsonl"]
)
@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_finished_run_with_a_damaged_file_names_it_and_loses_nothing(call, undrawn, file, damage):
    content = (undrawn / file).read_bytes()
    if damage == "cut short":
        (undrawn / file).write_bytes(content[: len(content) // 2])
    else:
        (undrawn / file).unlink()
    before = hashes(undrawn)
    check_refused(call("claims" if file == "claims.json" else "report", undrawn), str(undrawn / file))
    assert hashes(undrawn) == before
