"""Laws of the page of a run: it asks nothing of any network, believes nothing it is told, and leaves nothing out."""

import errno
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from html import escape
from html.parser import HTMLParser
from importlib.resources import files

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.files import digest, read_json, write_json
from toylab.report import canvas, figures
from toylab.report.page import Picture, file_names, page
from toylab.runs.jobs import execute
from toylab.runs.judge import finish, judge_run, rebuild
from toylab.runs.registry import name_of
from toylab.runs.store import claim_folder
from toylab.runs.study import Job, Study, by_arm
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.training.attention_history import Shown
from toylab.verdicts.claim import Claim, claims_table, numbers, over_seeds, read_claims

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>&amp;\'" $title ${claims} </pre></style>'
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40)
VOID = {"meta", "br", "img", "link", "hr", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def claim(words: str = "words", **fields) -> Claim:
    texts = dict.fromkeys(("id", "paper", "statement", "bar", "note"), words)
    given = {"measured": 0.5, "interval": (0.25, 0.75), "seeds": (0, 1), "verdict": "holds", "details": {}}
    return Claim(**{**texts, **given, **fields})


def picture(words: str = "words") -> Picture:
    ax = figures.curves({words: ([0, 1], [0.0, 1.0])}, ylabel=words, title=words)
    return Picture(title=words, caption=words, svg=canvas.svg(ax.figure))


def draw(words: str = "words", **fields) -> str:
    given = {
        "title": words,
        "introduction": words,
        "claims": [claim(words, details={words: {words: words}})],
        "pictures": [Picture(words, words, "<svg></svg>")],
        "settings": {words: [words]},
        "command": words,
        "cost": words,
    }
    return page(**{**given, **fields})


def asks_no_network(text: str) -> None:
    seen = Page(text)
    for tag, attributes in seen.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        assert tag != "script" or attributes in ({}, {"type": "application/json", "id": "viewer-data"}), attributes
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name.split(":")[-1] in ("src", "href", "srcset", "data", "action", "poster", "background"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), f"{tag} {name}={value}"
    assert all(target.strip("\"' ").startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    scripts = re.findall(r"<script>\n(.*?)</script>", text, flags=re.DOTALL)
    ours = files("toylab.report").joinpath("viewer.js").read_text(encoding="utf-8")
    assert [script.strip() for script in scripts] == [ours.strip()] * text.count('id="viewer-data"')


def test_everything_from_outside_is_shown_as_the_text_it_is():
    text = draw(HOSTILE)
    asks_no_network(text)
    seen = Page(text)
    assert not any(tag in ("script", "img") for tag, _ in seen.elements)
    assert "<script" not in text.lower()
    assert seen.open == []
    # title twice, introduction, statement, note, id, bar, paper, a detail and its inner name and value,
    # the heading and the caption of the picture, command and cost; settings are JSON, where quotes are written \\".
    assert seen.text.count(HOSTILE) >= 15
    assert json.dumps({HOSTILE: [HOSTILE]}, indent=1) in seen.text
    labels = [attributes["aria-label"] for _, attributes in seen.elements if "aria-label" in attributes]
    assert labels == [HOSTILE]


def test_a_film_with_hostile_names_adds_its_own_two_scripts_and_no_other():
    scene = {"title": HOSTILE, "names": [HOSTILE], "links": {HOSTILE: [[0, 0]]}}
    weights = torch.full((1, 1, 1, 1, 1), 255, dtype=torch.uint8)
    text = draw(film=Shown(HOSTILE, HOSTILE, [0], [scene], [weights], {HOSTILE: [0.5]}))
    asks_no_network(text)
    seen = Page(text)
    assert [tag for tag, _ in seen.elements if tag in ("script", "img")] == ["script", "script"]
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', text, flags=re.DOTALL)
    held = json.loads(data)
    assert held["scenes"][0]["names"] == [HOSTILE]
    assert held["curves"] == {HOSTILE: [0.5]}


@settings(max_examples=15)
@given(WORDS)
def test_any_words_come_through_and_leave_the_page_as_it_is_built(words):
    seen, plain = Page(draw(words)), Page(draw())
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in plain.elements] or not words
    assert seen.open == []
    assert words in seen.text


def test_a_hostile_figure_label_is_text_in_the_page_as_well():
    text = draw(pictures=[picture("<script>alert(1)</script>")])
    asks_no_network(text)
    assert not any(tag == "script" for tag, _ in Page(text).elements)
    assert text.count(escape("<script>alert(1)</script>", quote=False)) >= 3


def test_a_figure_stands_in_the_page_without_its_xml_prologue_and_finds_its_own_parts():
    drawn = picture()
    assert drawn.svg.startswith("<?xml")
    text = draw(pictures=[drawn, picture("another")])
    assert "<?xml" not in text
    assert "<!DOCTYPE svg" not in text
    assert text.count("<svg") == text.count("</svg>") == 2
    held = {attributes["id"] for _, attributes in Page(text).elements if "id" in attributes}
    asked = {value[1:] for _, attributes in Page(text).elements for name, value in attributes.items() if "href" in name}
    assert asked | set(re.findall(r"url\(#([^)]*)\)", text)) <= held


def test_the_same_content_is_the_same_page():
    assert draw("words", pictures=[picture()]) == draw("words", pictures=[picture()])


@given(st.lists(st.sampled_from(["holds", "fails", "open", "withdrawn"]), max_size=9))
def test_the_summary_counts_the_verdicts(verdicts):
    text = Page(draw(claims=[claim(verdict=verdict) for verdict in verdicts])).text
    (line,) = re.findall(r"Claims: (.*)", text)
    found = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", line)}
    words = {"holds": "hold", "fails": "fail", "open": "open", "withdrawn": "withdrawn"}
    assert found == {words[v]: verdicts.count(v) for v in set(verdicts)}


def test_a_missing_number_is_no_step_that_was_never_reached():
    text = Page(draw(claims=[claim(details={"by seed": {"0": None, "1": 0.5}})])).text
    assert "0: not measured; 1: 0.5" in text
    assert "never" not in text


def test_a_withdrawn_claim_stands_on_the_page_with_its_measurement_and_the_reason():
    text = draw(claims=[claim(verdict="withdrawn", note="a random model meets the bar", measured=0.88)])
    seen = Page(text)
    assert ("tr", {"class": "withdrawn", "id": "claim-words"}) in seen.elements
    assert "a random model meets the bar" in seen.text
    assert "0.88 [0.25, 0.75]" in seen.text
    assert "What held here" not in seen.text
    assert "What did not hold here" not in seen.text


def test_every_number_of_a_claim_is_on_the_page():
    details = {
        "by seed": {"0": 0.123456, "1": 7},
        "asked": None,
        "reached": "never",
        "seen": True,
        "lost": False,
        "inner": {"a": {"b": 3}},
    }
    text = Page(draw(claims=[claim("a claim", details=details, seeds=(3, 14))])).text
    for expected in (
        "0: 0.123; 1: 7",
        "asked",
        "not measured",
        "reached",
        "never",
        "yes",
        "no",
        "a: b: 3",
        "3, 14",
        "0.5 [0.25, 0.75]",
    ):
        assert expected in text
    nothing = Page(draw(claims=[claim("a claim", measured=None, interval=None, seeds=(), verdict="open")])).text
    assert "not measured" in nothing
    assert "none" in nothing


@given(
    st.lists(
        st.sampled_from(["Loss (train)", "Loss: train", "loss train 2", "損失", "", "Claim one", "Viewer", "é"]) | WORDS
    )
)
def test_every_figure_has_a_name_of_its_own_that_a_file_can_have(titles):
    drawn = [Picture(title, "x", "<svg></svg>", (f"c{k}",)) for k, title in enumerate(titles)]
    names = file_names(drawn)
    assert len(set(names)) == len(names) == len(titles)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,110}", name) for name in names)
    seen = Page(draw(pictures=drawn, claims=[claim(id=f"c{k}") for k in range(len(titles))]))
    places = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(set(places)) == len(places)
    assert [attributes["href"] for tag, attributes in seen.elements if tag == "a"] == [f"#{name}" for name in names]


def test_a_long_title_has_a_short_name():
    assert all(len(name) < 120 for name in file_names([Picture("x" * 300, "", ""), Picture("x" * 300, "", "")]))


@given(WORDS)
def test_a_verdict_from_a_file_is_text_as_well(words):
    hostile = claim()
    object.__setattr__(hostile, "verdict", words)
    seen, plain = Page(draw(claims=[hostile])), Page(draw(claims=[claim(verdict="open")]))
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in plain.elements]
    (row,) = [attributes for tag, attributes in seen.elements if tag == "tr" and "id" in attributes]
    assert row == {"class": words, "id": "claim-words"}


# What a study raises -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A study with nothing for the page but claims, one a condition, that cannot conclude without some conditions."""

    needs: tuple[str, ...] = ()
    fewer: bool = False
    seeds: tuple[int, ...] = (0, 1)

    def jobs(self):
        return [Job(name, seed) for name in ("one", "two") for seed in self.seeds]

    def run_job(self, job, folder):
        return {"value": job.seed + 1.0}

    def conclude(self, results):
        arms = by_arm(results)
        for name in self.needs:
            assert arms[name]
        texts = {"paper": "p", "statement": "s", "bar": "b"}
        names = [name for name in ("one", "two") if name in arms or not self.fewer]
        return (
            over_seeds(name, {s: r["value"] for s, r in arms.get(name, {}).items()}, lambda v: v > 0, **texts)
            for name in names
        )


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
    execute(study, name_of(type(study)), out, 1, progress=False)
    return out


def test_a_study_needs_no_pictures_and_may_make_its_claims_one_by_one(tmp_path, capsys):
    assert isinstance(Bare(), Study)
    summary = finish(done(Bare(), tmp_path / "out"), Bare)
    assert capsys.readouterr().err == ""
    assert [one.id for one in read_claims(tmp_path / "out" / "claims.json")] == ["one", "two"]
    assert len(re.findall(r"\d CPU-s$", summary, flags=re.MULTILINE)) == 2
    assert not (tmp_path / "out" / "figures").exists()


@pytest.mark.parametrize("needs", [("one",), ("two",), ("one", "two")])
def test_claims_stay_where_a_study_cannot_conclude_without_some_jobs_and_costs_are_left_out(tmp_path, capsys, needs):
    summary = finish(done(Bare(needs=needs), tmp_path / "out"), Bare)
    told = capsys.readouterr().err
    assert told.startswith("toylab: costs are left out: Bare.conclude fails without the results of ")
    assert f"(KeyError: {needs[0]!r})" in told
    assert told.count("\n") == 1
    assert len(read_claims(tmp_path / "out" / "claims.json")) == 2
    assert not re.findall(r"CPU-s$", summary, flags=re.MULTILINE)
    assert "<dt>Cost</dt>" not in (tmp_path / "out" / "report.html").read_text()


def test_a_claim_that_is_missing_without_some_jobs_costs_these(tmp_path, capsys):
    judged = judge_run(done(Bare(fewer=True), tmp_path / "out"), Bare)
    assert capsys.readouterr().err == ""
    assert judged.costs.keys() == {"one", "two"}
    assert all(cost <= judged.cpu_seconds for cost in judged.costs.values())


def test_claims_are_kept_before_what_pictures_raise_is_raised_again(tmp_path):
    out = done(Raising(), tmp_path / "out")
    with pytest.raises(ZeroDivisionError, match=r"^of the study$"):
        finish(out, Raising)
    assert len(read_claims(out / "claims.json")) == 2
    assert (out / "report.html").exists()


def test_two_claims_of_one_id_are_refused_by_name(tmp_path, monkeypatch):
    out, conclude = done(Bare(), tmp_path / "out"), Bare.conclude
    monkeypatch.setattr(Bare, "conclude", lambda self, results: [*conclude(self, results), *conclude(self, results)])
    with pytest.raises(ToylabError, match=r"claim 'one': is made twice by Bare\.conclude; give"):
        finish(out, Bare)


def test_what_is_no_picture_is_named_after_the_claims_are_kept(tmp_path, monkeypatch):
    out = done(Drawn(), tmp_path / "out")
    monkeypatch.setattr(Drawn, "pictures", lambda self, results, out: ["loss.png"])
    with pytest.raises(TypeError, match=r"pictures: holds 'loss\.png', and each must be"):
        finish(out, Drawn)
    assert len(read_claims(out / "claims.json")) == 2


def test_figures_of_one_name_are_two_files(tmp_path):
    finish(done(Drawn(), tmp_path / "out"), Drawn)
    kept = {path.name: path.read_text() for path in (tmp_path / "out" / "figures").iterdir()}
    assert kept == {
        "loss-train.svg": "<svg><text>Loss (train)</text></svg>",
        "loss-train-2.svg": "<svg><text>Loss: train</text></svg>",
    }


def test_a_run_that_may_not_be_written_is_judged_without_a_page(tmp_path, monkeypatch):
    out = done(Drawn(), tmp_path / "out")
    whole = finish(out, Drawn)

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    *told, last = finish(out, Drawn).splitlines()
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
        finish(out, Drawn)
    assert [path.read_text() for path in outside.iterdir()] == ["precious"]
    assert sorted(path.name for path in out.iterdir()) == before


@pytest.mark.parametrize("result", [[], {}, {"cost": 3}, {"cost": {"cpu_seconds": "<b>"}}])
def test_a_result_of_no_job_is_refused_by_name(tmp_path, result):
    out = done(Bare(), tmp_path / "out")
    path = out / "seed-0" / "one" / "result.json"
    write_json(path, result)
    (path.parent / "done").write_text(f"{digest(path.read_bytes())}  result.json\n")
    with pytest.raises(ToylabError, match=r"result\.json: is not the result of a job; delete this file and run"):
        finish(out, Bare)


def test_a_folder_of_another_study_than_the_class_is_refused(tmp_path):
    with pytest.raises(ToylabError, match=r"study=\S+:Drawn: .+ holds a run of '\S+:Bare'; give"):
        finish(done(Bare(), tmp_path / "out"), Drawn)


# The page of a real run ----------------------------------------------------------------------------------------------


def test_the_page_of_a_run_asks_no_network_and_is_whole(short_run):
    text = (short_run / "report.html").read_text(encoding="utf-8")
    asks_no_network(text)
    seen = Page(text)
    assert seen.open == []
    for one in read_claims(short_run / "claims.json"):
        assert one.statement in seen.text
        assert one.bar in seen.text
        assert numbers(one) in seen.text
    drawn = sorted((short_run / "figures").iterdir())
    assert drawn
    for path in drawn:
        figure = path.read_text(encoding="utf-8")
        assert figure[figure.index("<svg") :].strip() in text
    assert text.count("<svg") == len(drawn) + text.count('<svg id="viewer-pattern"')


def test_judging_and_drawing_again_gives_the_same_bytes(short_run):
    def held() -> dict[str, bytes]:
        paths = [short_run / "report.html", short_run / "claims.json", *(short_run / "figures").iterdir()]
        return {path.name: path.read_bytes() for path in paths}

    before = held()
    finish(short_run)
    assert held() == before


def test_the_summary_is_the_table_of_the_claims_and_where_to_look(short_run):
    summary = finish(short_run)
    assert summary.startswith(claims_table(read_claims(short_run / "claims.json"), costs=judge_run(short_run).costs))
    assert summary.endswith(f"Report: {(short_run / 'report.html').resolve()}")


def test_a_run_of_which_some_jobs_are_missing_is_judged_by_the_others(short_run, tmp_path):
    out = tmp_path / "part"
    shutil.copytree(short_run, out)
    whole = {one.id: one for one in read_claims(out / "claims.json")}
    (out / "seed-0" / "one-layer" / "done").unlink()
    summary = finish(out)
    part = {one.id: one for one in read_claims(out / "claims.json")}
    assert part["depth"].measured is None
    assert part["accuracy"] == whole["accuracy"]
    jobs = len(IterationHeadStudy.quick().jobs())
    assert f"{jobs - 1} of {jobs} trainings done" in summary


# Finishing what was hardly begun -------------------------------------------------------------------------------------


def test_before_any_job_is_done_every_claim_is_open(tmp_path):
    claim_folder(IterationHeadStudy.quick(), "iteration-head", tmp_path / "out")
    finish(tmp_path / "out")
    claims = read_claims(tmp_path / "out" / "claims.json")
    assert claims
    assert {one.verdict for one in claims} == {"open", "withdrawn"}
    assert {one.measured for one in claims} == {None}
    asks_no_network((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
def test_settings_come_back_from_their_json(preset):
    study = getattr(IterationHeadStudy, preset)()
    assert rebuild(IterationHeadStudy.default(), json.loads(json.dumps(asdict(study)))) == study
    changed = replace(study, task=replace(study.task, lengths=(2, 9), p=7, coefficients=(1, 2, 3, 4)), seeds=(4,))
    assert rebuild(IterationHeadStudy.default(), json.loads(json.dumps(asdict(changed)))) == changed


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
        finish(out)
    assert [path.name for path in out.iterdir()] == ["settings.json"]
