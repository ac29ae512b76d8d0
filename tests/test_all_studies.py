"""Laws that every study keeps, and the claims that scripts of others rely on."""

import json
import re
import shutil
from base64 import b64decode
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.report.pages import read_data
from toylab.model.checkpoint import load_model
from toylab.runs import registry
from toylab.runs.judge import judge_and_report, settings_flags, settings_from_json
from toylab.runs.store import read_cost, read_metrics, read_settings, write_result
from toylab.runs.study import Study
from toylab.verdicts.judgement import claims_markdown, read_claims, shown_verdict

FIXTURES = {
    "iteration-head": "run",
    "contextual-counting": "counting",
    "safety-finetuning": "safety",
    "steering-vectors": "steering",
}
"""What the fixtures of each study's runs are called by."""


@pytest.fixture(params=registry.study_names())
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, request) -> Path:
    """The short run of a study."""
    return request.getfixturevalue(f"short_{FIXTURES[name]}")


@pytest.mark.parametrize("preset", registry.PRESETS)
def test_every_preset_is_a_study_whose_jobs_differ_and_whose_settings_survive_json(name, preset):
    kind = registry.load_study(name).STUDY
    study = getattr(kind, preset)()
    assert isinstance(study, Study)
    jobs = study.jobs()
    assert len(jobs) == len(set(jobs))
    assert {job.seed for job in jobs} == set(study.seeds)
    assert settings_from_json(kind.default(), json.loads(json.dumps(_plain(study)))) == study


def test_flags_name_exactly_what_differs_from_the_default(name):
    kind = registry.load_study(name).STUDY
    assert settings_flags(kind.default(), kind.default()) == []
    assert "--seeds" in settings_flags(kind.default(), kind.quick())


def test_a_run_measures_its_claims_and_decides_none_from_one_seed(name, folder):
    check_claims(name, folder)


@pytest.mark.slow
def test_the_quick_run_measures_its_claims_and_decides_none_from_one_seed(name, request):
    folder = request.getfixturevalue(f"quick_{FIXTURES[name]}")
    check_claims(name, folder)
    check_page(name, folder, figures=4)


def declared(name: str) -> set[str]:
    return {claim.id for claim in registry.load_study(name).STUDY.default().claims()}


def test_every_claim_says_all_that_a_claim_must_say(name):
    study = registry.load_study(name).STUDY.default()
    conditions = {job.condition for job in replace(study, seeds=(0, 1)).jobs()}
    for claim in study.claims():
        assert all((claim.statement, claim.place, claim.measure, claim.origin)), claim.id
        assert claim.conditions or claim.optional, claim.id
        if not claim.undecidable:
            controls = claim.control.conditions if claim.control else ()
            assert {*claim.conditions, *controls} <= conditions, claim.id


def check_claims(name: str, folder: Path) -> None:
    claims = {claim.id: claim for claim in read_claims(folder / "claims.json")}
    assert set(claims) == declared(name)
    for claim in claims.values():
        assert claim.statement
        assert claim.criterion
        assert claim.place
        assert claim.verdict == ("undecided" if claim.seeds else "not run")
        assert shown_verdict(claim) == ("measured" if claim.seeds else "not run")
        assert claim.family == ""
        assert claim.seeds == ((0,) if claim.measured is not None else ())
        assert claim.note or claim.measured is None
    assert any(claim.measured is not None for claim in claims.values())
    for table in claims_markdown(list(claims.values())).split("\n\n")[1::2]:
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1


def test_the_page_of_a_run_shows_every_claim_and_figure(name, folder):
    check_page(name, folder)  # of the counting study some figures need a model that counts: see its own tests


def check_page(name: str, folder: Path, figures: int = 3) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"<summary>{id}:" in page for id in declared(name))
    drawn = list((folder / "figures").glob("*.svg"))
    assert len(drawn) >= figures
    assert page.count("<figure ") == len(drawn)
    assert "http-equiv" not in page
    assert " src=" not in page


LIVE = {"iteration": "main", "counting": "none", "refusal": "ssft", "steering": "base"}
"""By kind of a live panel, the condition of its models."""


def test_the_page_of_a_run_holds_the_trained_weights(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 1.5e6
    panel = read_data(page, "live")
    shown = panel["models"][0]
    stored = load_model(folder / shown["title"].replace(" ", "-") / LIVE[panel["kind"]] / "model.safetensors")
    for name, tensor in stored.state_dict().items():
        packed = shown["model"]["weights"][name]
        planes = np.frombuffer(b64decode(packed["data"]), dtype=np.uint8).reshape(4, -1)
        weights = np.ascontiguousarray(planes.T).view("<f4").reshape(packed["shape"])
        np.testing.assert_array_equal(weights, tensor.numpy())
    assert shown["title"] in panel["start"]
    assert panel["examples"]


def test_a_finished_run_holds_no_checkpoint(folder):
    assert list(folder.rglob("done"))
    assert not list(folder.rglob("checkpoint*"))


def test_a_job_that_is_done_again_reads_what_it_trained_and_measures_the_same(name, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    settings = read_settings(tmp_path / "run" / "settings.json")["settings"]
    study = settings_from_json(registry.load_study(name).STUDY.default(), settings)
    jobs = study.jobs()
    started = [job for job in jobs if job.inputs and not job.name.startswith("pairs-")]  # pairs take seconds
    for job in (jobs[0], *started[:1]):
        own = job.folder(tmp_path / "run")
        kept = [path for path in own.iterdir() if path.stem.split("-")[0] in ("model", "skill", "vector", "metrics")]
        assert len(kept) >= 2
        times = [path.stat().st_mtime_ns for path in kept]
        write_result(tmp_path, study.run_job(job, own), job.result_type, read_cost(own))
        assert (tmp_path / "result.json").read_bytes() == (own / "result.json").read_bytes()
        assert [path.stat().st_mtime_ns for path in kept] == times


@pytest.mark.slow
def test_one_layer_does_not_iterate(quick_run):
    claims = {claim.id: claim for claim in read_claims(quick_run / "claims.json")}
    assert claims["depth"].measured < 0.5


def test_the_counter_written_by_hand_makes_no_error(short_counting):
    claims = {claim.id: claim for claim in read_claims(short_counting / "claims.json")}
    assert claims["golden"].measured == 1
    assert claims["golden"].details["errors"] == {"0": 0}
    assert claims["failure-rate"].verdict == "undecided"


@pytest.mark.slow
def test_exact_claims_of_counting_measure_the_same_even_in_seconds(quick_counting):
    claims = {claim.id: claim for claim in read_claims(quick_counting / "claims.json")}
    assert (claims["golden"].measured, claims["bidirectional-chance"].measured) == (1, pytest.approx(0, abs=0.02))
    assert claims["golden"].details["errors"] == {"0": 0}
    assert claims["failure-rate"].verdict == "not run"
    assert "--preset paper" in claims["failure-rate"].note


def test_a_study_with_one_head_does_not_train_the_same_arm_twice():
    paper = registry.load_study("iteration-head").STUDY.paper()
    assert "one-head" not in paper.conditions()


def test_eos_counts_as_often_as_the_setting_says():
    study = registry.load_study("iteration-head").STUDY(end_weight=3.0)
    loss = study._loss(study.task)
    weights = loss.keywords["weights"]
    assert weights[study.task.end_of_sequence] == 3
    assert torch.equal(weights[:-1], torch.ones(len(weights) - 1))


def _plain(value):
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def test_the_page_of_the_iteration_head_shows_its_training_and_asks_nothing_of_any_network(short_run):
    text = (short_run / "report.html").read_text(encoding="utf-8")
    assert len(text) < 3e6
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\(["']?(?!#)|@import|fetch\(|XMLHttp""", text)
    film = read_data(text, "viewer")
    history = read_metrics(short_run / "seed-0" / "main" / "metrics.jsonl")
    assert film["steps"] == [entry["step"] for entry in history]
    assert film["curves"]["sequence accuracy"] == [entry["accuracy"] for entry in history]
    for scene in film["scenes"]:
        size = len(scene["names"])
        for layer, shown in zip(scene["layers"], film["layers"], strict=True):
            shape = len(film["steps"]), shown["heads"], size, size
            weights = np.frombuffer(b64decode(layer["data"]), dtype=np.uint8).reshape(shape)
            np.testing.assert_allclose(weights.sum(axis=-1) / film["levels"], 1, atol=0.5 * size / 255)


def test_a_run_without_a_film_has_a_page_without_a_viewer(undrawn):
    (undrawn / "seed-0" / "main" / "film.safetensors").unlink()
    judge_and_report(undrawn)
    assert "viewer" not in (undrawn / "report.html").read_text(encoding="utf-8").split("</style>")[1]
