"""Laws of judging a run: claims are kept before all else, and what is missing, broken or raised is told."""

import errno
import json
import operator
import os
import re
from dataclasses import asdict, dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.pages import Page, asks_no_network
from toylab.console import ToylabError
from toylab.files import read_json, sha256_of, write_json
from toylab.report.inline import inline_svg
from toylab.report.page import Picture, mathematics
from toylab.runs import judge
from toylab.runs.jobs import Run, execute, execute_all
from toylab.runs.judge import FirstPage, claim_costs, judge_and_report, judge_run, settings_from_json
from toylab.runs.registry import study_name
from toylab.runs.store import claim_folder
from toylab.runs.study import Job, JobInput, Study
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.verdicts.claim import Claim
from toylab.verdicts.criterion import above
from toylab.verdicts.judgement import claims_table, measured_in_words, read_claims


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A study with nothing for the page but claims, one a condition."""

    seeds: tuple[int, ...] = (0, 1)

    def jobs(self):
        return [Job(name, seed) for name in ("one", "two") for seed in self.seeds]

    def run_job(self, job, folder):
        return {"value": job.seed + 1.0}

    def claims(self):
        return (claim(name) for name in ("one", "two"))


def claim(name):
    """About one condition."""
    value, positive = operator.itemgetter("value"), above(0)
    return Claim(
        id=name, place="p", statement="s", conditions=(name,), measure="value", quantity=value, criterion=positive
    )


@dataclass(frozen=True, kw_only=True)
class Grown(Bare):
    """The same with a claim more, and a figure that it names."""

    def claims(self):
        return [*super().claims(), replace(claim("two"), id="new", figure="Values")]

    def pictures(self, results, out):
        return [Picture("Values", "One point per seed.", "<svg></svg>")]


def test_a_claim_that_is_declared_is_judged_priced_and_shown_with_its_figure(tmp_path):
    out = done(Grown(), tmp_path / "out")
    judge_and_report(out, Grown)
    judged = judge_run(out, Grown)
    assert [one.id for one in read_claims(out / "claims.json")] == ["one", "two", "new"]
    assert judged.costs["new"] == judged.costs["two"]
    assert judged.pictures[0].claims == ("new",)
    assert "<summary>new:" in (out / "report.html").read_text()


def test_a_claim_costs_its_jobs_and_all_that_they_go_on_from():
    base = Job("base", 0)
    middle = Job("middle", 0, inputs={"base": JobInput(base)})
    one, two = Job("one", 0, inputs={"middle": JobInput(middle)}), Job("two", 0)
    spent = {base: 1, middle: 2, one: 4, two: 8, Job("one", 1): 16}
    assert claim_costs([claim("one"), claim("two")], spent) == {"one": 1 + 2 + 4 + 16, "two": 8}


@dataclass(frozen=True, kw_only=True)
class Raising(Bare):
    """The same with pictures that are not drawn."""

    def pictures(self, results, out):
        raise ZeroDivisionError("of the study")


@dataclass(frozen=True, kw_only=True)
class Drawn(Bare):
    """The same with two pictures whose titles give the same name."""

    def pictures(self, results, out):
        return (Picture(title, "x", f"<svg><text>{title}</text></svg>") for title in ("Loss (train)", "Loss: train"))


def done(study, out):
    execute(study, study_name(type(study)), out, 1, progress=False)
    return out


def test_a_study_needs_no_pictures_and_may_make_its_claims_one_by_one(tmp_path, capsys):
    assert isinstance(Bare(), Study)
    summary = judge_and_report(done(Bare(), tmp_path / "out"), Bare)
    assert capsys.readouterr().err == ""
    assert [one.id for one in read_claims(tmp_path / "out" / "claims.json")] == ["one", "two"]
    assert len(re.findall(r"\d CPU-s$", summary, flags=re.MULTILINE)) == 2
    assert not (tmp_path / "out" / "figures").exists()


def test_claims_are_kept_before_what_pictures_raise_is_raised_again(tmp_path):
    out = done(Raising(), tmp_path / "out")
    with pytest.raises(ZeroDivisionError, match=r"^of the study$"):
        judge_and_report(out, Raising)
    assert len(read_claims(out / "claims.json")) == 2
    assert (out / "report.html").exists()


def test_two_claims_of_one_id_are_refused_by_name(tmp_path, monkeypatch):
    out = done(Bare(), tmp_path / "out")
    monkeypatch.setattr(Bare, "claims", lambda self: [claim("one"), claim("one")])
    with pytest.raises(ToylabError, match=r"claim 'one': is declared twice; give"):
        judge_run(out, Bare)


def test_what_is_no_picture_is_named_after_the_claims_are_kept(tmp_path, monkeypatch):
    out = done(Drawn(), tmp_path / "out")
    monkeypatch.setattr(Drawn, "pictures", lambda self, results, out: ["loss.png"])
    with pytest.raises(TypeError, match=r"pictures: holds 'loss\.png', and each must be"):
        judge_and_report(out, Drawn)
    assert len(read_claims(out / "claims.json")) == 2


def test_figures_of_one_name_are_two_files(tmp_path):
    judge_and_report(done(Drawn(), tmp_path / "out"), Drawn)
    kept = {path.name: path.read_text() for path in (tmp_path / "out" / "figures").iterdir()}
    assert kept == {
        "loss-train.svg": "<svg><text>Loss (train)</text></svg>",
        "loss-train-2.svg": "<svg><text>Loss: train</text></svg>",
    }


def test_a_run_that_may_not_be_written_is_judged_without_a_page(tmp_path, monkeypatch):
    out = done(Drawn(), tmp_path / "out")
    whole = judge_and_report(out, Drawn)

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    *told, last = judge_and_report(out, Drawn).splitlines()
    assert told == whole.splitlines()[:-1]
    assert "--out" not in last
    assert str(out) in last


@pytest.mark.parametrize("name", ["figures", "claims.json", "report.html", "figures/loss-train.svg"])
def test_no_page_is_written_through_a_link_that_leads_out(tmp_path, name):
    out, outside = done(Drawn(), tmp_path / "out"), tmp_path / "outside"
    (out / name).parent.mkdir(exist_ok=True)
    outside.mkdir()
    (outside / "loss-train.svg").write_text("precious")
    (out / name).symlink_to(outside if name == "figures" else outside / "loss-train.svg")
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(ToylabError, match=rf"{name}.*: a link leads out of .+; delete the link"):
        judge_and_report(out, Drawn)
    assert [path.read_text() for path in outside.iterdir()] == ["precious"]
    assert sorted(path.name for path in out.iterdir()) == before


@pytest.mark.parametrize("result", [[], {}, {"cost": 3}, {"cost": {"cpu_seconds": "<b>"}}])
def test_a_result_of_no_job_is_refused_by_name(tmp_path, result):
    out = done(Bare(), tmp_path / "out")
    path = out / "seed-0" / "one" / "result.json"
    write_json(path, result)
    (path.parent / "done").write_text(f"{sha256_of(path.read_bytes())}  result.json\n")
    with pytest.raises(ToylabError, match=r"result\.json: is not the result of a job; delete this file and rerun"):
        judge_and_report(out, Bare)


def test_a_folder_of_another_study_than_the_class_is_refused(tmp_path):
    with pytest.raises(ToylabError, match=r"study=\S+:Drawn: .+ holds a run of '\S+:Bare'; give"):
        judge_and_report(done(Bare(), tmp_path / "out"), Drawn)


# The page of a real run ----------------------------------------------------------------------------------------------


def test_the_page_of_a_run_asks_no_network_and_is_whole(short_run):
    text = (short_run / "report.html").read_text(encoding="utf-8")
    asks_no_network(text)
    seen = Page(text)
    assert seen.open == []
    for one in read_claims(short_run / "claims.json"):
        assert Page(mathematics(one.statement)).text in seen.text
        assert Page(mathematics(one.criterion)).text in seen.text
        assert measured_in_words(one) in seen.text
    drawn = sorted((short_run / "figures").iterdir())
    assert drawn
    for path in drawn:
        figure = path.read_text(encoding="utf-8")
        assert inline_svg(figure) in text
    narrow, patterns = text.count('<div class="drawing narrow"'), re.findall('<svg id="(?:viewer|live)-pattern"', text)
    assert text.count("<svg") == len(drawn) + narrow + len(patterns)


def test_judging_and_drawing_again_gives_the_same_bytes(short_run):
    def held() -> dict[str, bytes]:
        paths = [short_run / "report.html", short_run / "claims.json", *(short_run / "figures").iterdir()]
        return {path.name: path.read_bytes() for path in paths}

    before = held()
    judge_and_report(short_run)
    assert held() == before


def test_the_summary_is_the_table_of_the_claims_and_where_to_look(undrawn):
    summary = judge_and_report(undrawn)
    assert summary.startswith(claims_table(read_claims(undrawn / "claims.json"), costs=judge_run(undrawn).costs))
    assert summary.endswith(f"Report: {(undrawn / 'report.html').resolve()}")


def test_a_run_of_which_some_jobs_are_missing_is_judged_by_the_others(undrawn):
    whole = {one.id: one for one in read_claims(undrawn / "claims.json")}
    (undrawn / "seed-0" / "one-layer" / "done").unlink()
    summary = judge_and_report(undrawn)
    part = {one.id: one for one in read_claims(undrawn / "claims.json")}
    assert part["depth"].measured is None
    assert part["accuracy"] == whole["accuracy"]
    jobs = len(replace(IterationHeadStudy.quick(), parts=("pairs",)).jobs())
    assert f"{jobs - 1} of {jobs} jobs finished" in summary


# Finishing what was hardly begun -------------------------------------------------------------------------------------


@given(jobs=st.permutations(Bare(seeds=(0, 1, 2)).jobs()), before=st.integers(0, 5))
def test_the_first_page_is_written_once_when_a_condition_is_whole_and_the_run_is_not(jobs, before):
    waiting = [job.name for job in jobs]
    due = next(i for i in range(6) if {"one", "two"} - set(waiting[i + 1 :]))  # with this job, a condition is whole
    pages = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(judge, "is_done", lambda job, out: job in jobs[:before])
        patched.setattr(judge, "judge_unfinished", lambda *_: pages.append(position))
        first = FirstPage(Bare(seeds=(0, 1, 2)), "out")
        for position in range(before, 6):
            first(jobs[position])
    assert pages == ([due] if before <= due < 5 else [])


def test_the_first_page_says_how_far_the_run_is(tmp_path, capsys):
    study = Bare(seeds=(0, 1))
    execute_all([Run(study, study_name(Bare), tmp_path)], "bare", 1, False, on_done=FirstPage(study, tmp_path, Bare))
    assert capsys.readouterr().err.splitlines() == [f"First page, after 2 of 4 jobs: {tmp_path / 'report.html'}"]
    page = tmp_path / "report.html"
    assert "Unfinished: 2 of 4 jobs.</h1>" in page.read_text(encoding="utf-8")
    judge_and_report(tmp_path, Bare)
    assert "Unfinished" not in page.read_text(encoding="utf-8")


def test_before_any_job_is_done_no_claim_is_run(tmp_path):
    claim_folder(IterationHeadStudy.quick(), "iteration-head", tmp_path / "out")
    judge_and_report(tmp_path / "out")
    claims = read_claims(tmp_path / "out" / "claims.json")
    assert claims
    assert {one.verdict for one in claims} == {"not run"}
    assert {one.measured for one in claims} == {None}
    asks_no_network((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
def test_settings_come_back_from_their_json(preset):
    study = getattr(IterationHeadStudy, preset)()
    assert settings_from_json(IterationHeadStudy.default(), json.loads(json.dumps(asdict(study)))) == study
    changed = replace(study, task=replace(study.task, lengths=(2, 9), p=7, coefficients=(1, 2, 3, 4)), seeds=(4,))
    assert settings_from_json(IterationHeadStudy.default(), json.loads(json.dumps(asdict(changed)))) == changed


BROKEN = {
    "of no study": {"study": "cooking"},
    "without a study": {"study": None},
    "without settings": {"settings": None},
    "with an unknown setting": {"settings": {"colour": "red"}},
    "with an impossible setting": {"settings": {"seeds": []}},
    "without its machine": {"machine": None},
    "without its versions": {"versions": None},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_folder_whose_settings_are_broken_is_refused_by_name(tmp_path, change):
    out = tmp_path / "out"
    claim_folder(IterationHeadStudy.quick(), "iteration-head", out)
    held = {**read_json(out / "settings.json"), **change}
    (out / "settings.json").write_text(json.dumps({n: v for n, v in held.items() if n not in change or v is not None}))
    with pytest.raises(ValueError, match=r"settings\.json|there is no study 'cooking'"):
        judge_and_report(out)
    assert [path.name for path in out.iterdir()] == ["settings.json"]
