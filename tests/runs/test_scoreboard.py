"""Laws of the scoreboard: it says of every claim what its run says, what it cost, and where it is shown."""

import errno
import functools
import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.pages import HOSTILE, Page, asks_no_network
from toylab import cli
from toylab.console import ToylabError
from toylab.files import read_json, write_json, write_record
from toylab.report.page import mathematics
from toylab.runs import registry, scoreboard
from toylab.runs.judge import JudgedRun, claim_costs, judge_run
from toylab.runs.scoreboard import StudyVerdicts
from toylab.runs.store import claim_folder
from toylab.runs.study import Job, JobInput
from toylab.verdicts.claim import Claim
from toylab.verdicts.criterion import above
from toylab.verdicts.judgement import ControlJudgement, Judgement, Verdict, measured_in_words, read_claims

SHORT = {
    "iteration-head": "short_run",
    "contextual-counting": "short_counting",
    "safety-finetuning": "short_safety",
    "steering-vectors": "short_steering",
}
BOARD = ("contextual-counting", "iteration-head")
judged_once = functools.cache(judge_run)  # tests that ask for one run after another need not draw it each time


@pytest.fixture(scope="module")
def made(request, tmp_path_factory) -> tuple[Path, list[StudyVerdicts]]:
    """A folder with short runs of two studies, and what the scoreboard says of them."""
    folder = tmp_path_factory.mktemp("runs")
    for name in BOARD:
        shutil.copytree(request.getfixturevalue(SHORT[name]), folder / f"{name}-quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoreboard, "judge_run", judged_once)
        return folder, scoreboard.build_scoreboard(folder)


@pytest.fixture
def runs(made, monkeypatch) -> Path:
    monkeypatch.setattr(scoreboard, "judge_run", judged_once)
    return made[0]


@pytest.fixture(params=SHORT)
def judged(request, monkeypatch) -> JudgedRun:
    """Short runs of all studies, judged, without the lines of their figures."""
    run = request.getfixturevalue(SHORT[request.param])  # with a page, whose figures have lines
    monkeypatch.setattr("toylab.report.page.to_svg", lambda figure, salt="": "")
    return judge_run(run)


def standing(words: str = "words", **fields) -> StudyVerdicts:
    claim = Judgement(
        id="one", place=words, statement=words, criterion=words, measured=0.5, interval=(0.2, 0.8),
        seeds=tuple(range(310, 316)), verdict="refuted", note=words, origin=words, paper_number=words,
        uncontrolled=words, family="yes",
    )  # fmt: skip
    texts = dict.fromkeys(("study", "title", "source", "command", "folder", "machine", "date"), words)
    return StudyVerdicts(**{**texts, "cpu_seconds": 3, "claims": [claim], "costs": {"one": 2}, "figures": {}, **fields})


# What a claim cost ---------------------------------------------------------------------------------------------------


def planted() -> list[Claim]:
    """Claims that depend on one condition, on two, and on one that starts from another."""

    def of(id, *conditions):
        return Claim(
            id=id, place="p", statement="s", conditions=conditions, measure="m", quantity=max, criterion=above(0)
        )

    alone = ("first", "child", "grandchild", "nothing")
    return [*(of(name, name) for name in alone), of("both", "first", "second")]


@given(st.lists(st.floats(0.1, 1e3), min_size=10, max_size=10))
def test_a_claim_costs_what_its_conditions_and_what_they_start_from_took(seconds):
    start = {"first": None, "second": None, "base": None, "child": "base", "grandchild": "child"}
    jobs: dict[tuple[str, int], Job] = {}
    for name, base in start.items():
        for seed in (0, 1):
            jobs[name, seed] = Job(name, seed, inputs={base: JobInput(jobs[base, seed])} if base else {})
    spent = dict(zip(jobs.values(), seconds, strict=True))
    found = claim_costs(planted(), spent)

    def total(*wanted):
        return pytest.approx(sum(seconds for job, seconds in spent.items() if job.name in wanted))

    assert found["first"] == total("first")
    assert found["both"] == total("first", "second")
    assert found["child"] == total("child", "base")
    assert found["grandchild"] == total("grandchild", "child", "base")
    assert found["nothing"] == 0


def test_every_claim_of_a_real_run_has_its_cost_and_figures_name_claims_that_there_are(judged):
    assert set(judged.costs) == {claim.id for claim in judged.claims}
    for claim in judged.claims:
        assert judged.costs[claim.id] > 0 or claim.measured is None, claim.id
        assert judged.costs[claim.id] <= judged.cpu_seconds + 1e-6
    named = [id for picture in judged.pictures for id in picture.claims]
    assert set(named) <= {claim.id for claim in judged.claims}
    assert len(named) == len(set(named))
    assert len({picture.name for picture in judged.pictures}) == len(judged.pictures)


# The board -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_claim_of_every_run_and_each_link_leads_somewhere(runs):
    text = (runs / "scoreboard.html").read_text(encoding="utf-8")
    seen = Page(text)
    links = [attributes["href"] for tag, attributes in seen.elements if tag == "a"]
    places = {
        path.parent.name: {a["id"] for _, a in Page(path.read_text(encoding="utf-8")).elements if "id" in a}
        for path in runs.glob("*/report.html")
    }
    choices = {f"paper={name}" for name in BOARD}
    outward = [link for link in links if not link.startswith("#")]
    for link in links:
        page, _, place = link.partition("#")
        assert place in (choices if not page else places[page.split("/")[0]]), link
    claims = [claim for name in BOARD for claim in read_claims(runs / f"{name}-quick" / "claims.json")]
    assert len(outward) == len(claims)
    sources = [attributes["src"] for tag, attributes in seen.elements if tag == "img"]
    assert sources
    assert all((runs / unquote(source)).is_file() for source in sources)
    for claim in claims:
        assert Page(mathematics(claim.statement)).text in seen.text
        assert Page(mathematics(claim.criterion)).text in seen.text
        assert measured_in_words(claim) in seen.text
    assert seen.open == []


def test_the_page_of_a_run_links_claims_to_figures_that_are_there(runs):
    for path in runs.glob("*/report.html"):
        seen = Page(path.read_text(encoding="utf-8"))
        links = [a["href"] for tag, a in seen.elements if tag == "a"]
        places = [a["id"] for _, a in seen.elements if "id" in a and not a["id"].startswith("viewer")]
        figures = {a["id"] for tag, a in seen.elements if tag == "figure"}
        assert len(links) >= 4
        assert {link.removeprefix("#") for link in links} <= figures
        assert figures <= set(places)


def test_the_board_comes_back_from_its_file_as_it_was(made):
    runs, standings = made
    held = scoreboard.read_scoreboard(runs / "scoreboard.json")
    assert [one.study for one in held] == ["contextual-counting", "iteration-head"]
    assert [asdict(one) for one in held] == [asdict(one) for one in standings]
    for one in held:
        assert one.claims == read_claims(runs / one.folder / "claims.json")


def test_no_line_of_the_text_is_longer_than_eighty_columns_and_it_ends_with_where_to_look(runs):
    text = scoreboard.finish_all(runs)
    *lines, last = text.splitlines()
    assert last == f"Scoreboard: {(runs / 'scoreboard.html').resolve()}"
    assert max(map(len, lines)) <= 80
    held = scoreboard.read_scoreboard(runs / "scoreboard.json")
    for one in held:
        assert all(claim.id in text for claim in one.claims)
    counts = [re.split(r"  +", line) for line in lines[-len(held) :]]
    asked = [[claim for claim in one.claims if claim.kind != "set-up"] for one in held]
    assert [[int(n) for n in row[1:6]] for row in counts] == [
        [sum(claim.verdict == verdict for claim in claims) for verdict in get_args(Verdict)] for claims in asked
    ]
    assert text.count("Seeds 0: design seeds.") == len(held)


@given(st.sampled_from(["words", HOSTILE, "a | b", "<b>", "&amp;"]))
def test_everything_from_outside_is_shown_as_the_text_it_is(words):
    text = scoreboard.board_page([standing(words)])
    seen = Page(text)
    shown = [(tag, {k: v for k, v in a.items() if tag != "a"}) for tag, a in seen.elements]
    asks_no_network(re.sub(r'<a href="[^"]*"', "<a", text))
    assert [tag for tag, _ in shown if tag in ("script", "img")] == ["script"]  # that of the page
    assert seen.open == []
    assert seen.text.count(words) >= 12


@given(st.sampled_from(["javascript:alert(1)<!--", "//evil.example", "a b#c?d%e", "..", HOSTILE]))
def test_a_link_leads_to_a_folder_beside_the_page_whatever_its_name(folder):
    one = standing(folder=folder)
    link = urlsplit(one.link(one.claims[0]))
    assert (link.scheme, link.netloc, link.query) == ("", "", "")
    assert [unquote(part) for part in link.path.split("/")] == [folder, "report.html"]
    (shown,) = [a["href"] for tag, a in Page(scoreboard.board_page([one])).elements if a.get("href", "#")[0] != "#"]
    assert shown == one.link(one.claims[0])


def test_costs_that_a_study_does_not_give_are_no_zeros():
    one = standing(costs={})
    assert "CPU-s" not in str(one)
    assert '<td class=number data-of="CPU-s"></td>' in scoreboard.board_page([one])
    assert "CPU-s |" not in scoreboard.board_markdown([one])


@given(st.sampled_from(["words", "a | b", "a || b"]))
def test_the_markdown_has_every_cell_of_every_measured_claim(words):
    one = standing(words)
    lines = scoreboard.board_markdown([one]).splitlines()
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [words, "0", "1", "0", "0", "0", "1", "6", "3"] in rows
    control = f"No control: {words}"
    cells = ["refuted at this scale", words, words, words, "0.5 [0.2, 0.8]", words, control, "yes", "6", "2"]
    assert cells in rows
    assert "Seeds 310 to 315: rehearsal." in lines
    left = standing(words, claims=[replace(one.claims[0], verdict="not run", measured=None, interval=None)])
    assert "\n| not run |" not in scoreboard.board_markdown([left])
    assert "Not measured by this run: one." in left.text()


def test_the_board_shows_each_verdict_with_its_control_origin_number_of_the_paper_and_family():
    control = ControlJudgement(what="random weights", measured=0.1, interval=(0.05, 0.2), misses=True)
    one = standing(study="a study")
    claim = replace(one.claims[0], control=control, origin="our pilot", paper_number=".97, table 2")
    kinds = {"set-up": "checked", "own": "ours", "paper": "theirs"}
    one = replace(one, claims=[replace(claim, kind=kind, statement=word) for kind, word in kinds.items()])
    page, markdown = Page(scoreboard.board_page([one])).text, scoreboard.board_markdown([one])
    for shown in (page, markdown, one.text()):
        order = ["theirs", "ours", "Our own questions", "checked", "Checks of the set-up"]
        if shown != page:  # where the kind heads its claims
            order = ["Claims of the paper", "theirs", "Our own questions", "ours", "Checks of the set-up", "checked"]
        places = [shown.index(words) for words in order]
        assert places == sorted(places)
        assert "Control: random weights, 0.1 [0.05, 0.2]" in shown
        assert "310 to 315: rehearsal" in shown
    assert "Threshold fromour pilotThe paper's number.97, table 2Also over the familyyes" in page
    assert "refuted at this scale" in page
    assert re.split(r"  +", scoreboard.scoreboard_summary([one]).splitlines()[1])[:3] == ["a study", "0", "2"]


@pytest.mark.parametrize("verdict", ["undecided", "uninformative"])
def test_why_a_measured_claim_is_not_judged_is_said_in_every_form(verdict):
    one = standing("words")
    one = replace(one, claims=[replace(one.claims[0], verdict=verdict, note="it cannot fail")])
    for shown in (one.text(), scoreboard.board_markdown([one]), Page(scoreboard.board_page([one])).text):
        assert "it cannot fail" in shown
        assert verdict in shown.lower()
        assert "0.5 [0.2, 0.8]" in shown
    head, line = (re.split(r"  +", line) for line in scoreboard.scoreboard_summary([one]).splitlines())
    counts = dict(zip(head, line, strict=True))
    assert {name for name in get_args(Verdict) if counts[name] != "0"} == {verdict}


def test_the_thermometers_of_the_board_show_the_threshold_of_each_claim():
    one = standing(thresholds={"one": (0.4, None)})
    assert "class=bound" in scoreboard.board_page([one])
    assert "class=bound" not in scoreboard.board_page([standing()])


# Which runs ----------------------------------------------------------------------------------------------------------


def pretend(folder: Path, name: str, study: str, seeds: list[int], date: str) -> None:
    """The record of a run, as the choice between runs reads it."""
    shutil.copytree(folder / "origin", folder / name)
    path = folder / name / "settings.json"
    held = {k: v for k, v in read_json(path).items() if k not in ("checksum", "format")}
    held |= {"study": study, "date": date, "settings": {**held["settings"], "seeds": seeds}}
    write_record(path, held)


def test_of_several_runs_of_a_study_the_one_with_most_seeds_counts_then_the_latest(tmp_path):
    study = registry.load_study("iteration-head").STUDY.quick()
    claim_folder(study, "iteration-head", tmp_path / "origin")
    pretend(tmp_path, "few", "iteration-head", [0], "2026-03-01T00:00:00+00:00")
    pretend(tmp_path, "many", "iteration-head", [0, 1, 2], "2026-01-01T00:00:00+00:00")
    pretend(tmp_path, "many-later", "iteration-head", [3, 4, 5], "2026-02-01T00:00:00+00:00")
    pretend(tmp_path, "other", "steering-vectors", [0], "2026-01-01T00:00:00+00:00")
    assert [path.name for path in scoreboard._runs_to_judge(tmp_path)] == ["many-later", "other"]


def test_a_run_that_cannot_be_judged_is_named_and_left_out(undrawn, tmp_path, capsys):
    shutil.move(undrawn, tmp_path / "ours")
    shutil.copytree(tmp_path / "ours", tmp_path / "origin")
    pretend(tmp_path, "theirs", "not_at_hand:Study", [0], "2026-01-01T00:00:00+00:00")
    assert [one.folder for one in scoreboard.build_scoreboard(tmp_path)] == ["ours"]
    told = capsys.readouterr().err
    assert told.count("toylab: omitted: ") == 1
    assert str(tmp_path / "theirs") in told
    for name in ("ours", "origin"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(ValueError, match="not_at_hand"):
        scoreboard.build_scoreboard(tmp_path)


def test_without_a_run_it_says_what_to_give(tmp_path, capsys):
    assert cli.run(["report", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert str(tmp_path) in told
    assert "run all" in told
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_board_in_three_forms(runs, capsys):
    assert cli.run(["report", str(runs)]) == 0
    assert capsys.readouterr().out.strip() == scoreboard.finish_all(runs)
    assert cli.run(["report", str(runs), "--markdown"]) == 0
    held = scoreboard.read_scoreboard(runs / "scoreboard.json")
    assert capsys.readouterr().out.strip() == scoreboard.board_markdown(held)
    assert cli.run(["report", str(runs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((runs / "scoreboard.json").read_text())
    assert cli.run(["report", str(runs / "iteration-head-quick"), "--json"]) == 2
    assert "toylab claims" in capsys.readouterr().err


SOUND = json.loads(json.dumps(asdict(standing())))
NO_BOARD = [
    {},
    [1],
    [{"study": "one"}],
    "words",
    *([{**SOUND, name: value}] for name, value in {"study": 3, "costs": {"one": "<b>"}, "figures": {"one": 1}}.items()),
    *([{**SOUND, "claims": [{**SOUND["claims"][0], **changes}]}] for changes in (
        {"verdict": "supported onclick=alert(1)"}, {"measured": "<b>"}, {"interval": [1]}, {"seeds": ["<b>"]},
        {"statement": None}, {"details": []},
    )),
]  # fmt: skip


@pytest.mark.parametrize("held", NO_BOARD)
def test_a_file_that_is_no_board_is_refused_by_name(tmp_path, held):
    write_json(tmp_path / "scoreboard.json", held)
    with pytest.raises(ToylabError, match=r"scoreboard\.json.*rewrite it"):
        scoreboard.read_scoreboard(tmp_path / "scoreboard.json")


def test_a_board_comes_back_from_its_file(tmp_path):
    write_json(tmp_path / "scoreboard.json", [SOUND])
    assert scoreboard.read_scoreboard(tmp_path / "scoreboard.json") == [standing()]


def begun(folder: Path) -> Path:
    """A folder with a run of which no job is done."""
    claim_folder(registry.load_study("iteration-head").STUDY.quick(), "iteration-head", folder / "one")
    return folder


@pytest.mark.parametrize("name", ["scoreboard.html", "scoreboard.json"])
def test_no_board_is_written_through_a_link_that_leads_out(tmp_path, name):
    folder = begun(tmp_path / "runs")
    (tmp_path / "precious").write_text("precious")
    (folder / name).symlink_to("../precious")
    with pytest.raises(ToylabError, match=rf"{name}: a link leads out"):
        scoreboard.build_scoreboard(folder)
    assert (tmp_path / "precious").read_text() == "precious"


def test_runs_that_may_not_be_written_are_judged_without_pages(tmp_path, monkeypatch, capsys):
    folder = begun(tmp_path)
    whole = scoreboard.finish_all(folder).splitlines()

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    assert scoreboard.finish_all(folder).splitlines() == whole[:-1]
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == ["no page written", "no scoreboard written"]
