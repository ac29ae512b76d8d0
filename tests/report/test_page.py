"""Laws of a page: it asks nothing of any network, believes nothing it is told, and leaves nothing out."""

import json
import re
from html import escape
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.pages import HOSTILE, WORDS, Page, asks_no_network, claim, draw, picture
from toylab.report.page import Picture, file_names, pictures, require_measured
from toylab.training.attention_history import HistoryPage
from toylab.verdicts.judgement import ControlJudgement, Verdict


def test_everything_from_outside_is_shown_as_the_text_it_is():
    text = draw(HOSTILE)
    asks_no_network(text)
    seen = Page(text)
    assert not any(tag in ("script", "img") for tag, _ in seen.elements)
    assert "<script" not in text.lower()
    assert seen.open == []
    # title twice, introduction, seeds, statement twice, note, id, criterion, origin, the number of the paper, place,
    # control, population, a detail and its inner name and value, the heading and the caption of the picture, command
    # and cost; settings are JSON, where quotes are written \\".
    assert seen.text.count(HOSTILE) >= 20
    assert json.dumps({HOSTILE: [HOSTILE]}, indent=1) in seen.text
    labels = [attributes["aria-label"] for _, attributes in seen.elements if "aria-label" in attributes]
    assert labels == [HOSTILE]


def test_a_film_with_hostile_names_adds_its_own_two_scripts_and_no_other():
    scene = {"title": HOSTILE, "names": [HOSTILE], "links": {HOSTILE: [[0, 0]]}}
    weights = torch.full((1, 1, 1, 1, 1), 255, dtype=torch.uint8)
    text = draw(film=HistoryPage(HOSTILE, HOSTILE, [0], [scene], [weights], {HOSTILE: [0.5]}))
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


@given(st.lists(st.sampled_from(get_args(Verdict)), max_size=9))
def test_the_summary_counts_the_verdicts_but_not_checks_of_the_set_up(verdicts):
    claims = [claim(verdict=verdict) for verdict in verdicts]
    text = Page(draw(claims=[*claims, claim(kind="set-up")])).text
    (line,) = re.findall(r"Claims: (.*)", text)
    found = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z ]+)", line)}
    assert found == {v: verdicts.count(v) for v in set(verdicts)}


def test_a_missing_number_is_no_step_that_was_never_reached():
    text = Page(draw(claims=[claim(details={"by seed": {"0": None, "1": 0.5}})])).text
    assert "0: not measured; 1: 0.5" in text
    assert "never" not in text


def test_an_uninformative_claim_stands_on_the_page_with_its_measurement_and_what_its_control_scored():
    control = ControlJudgement(what="random weights", measured=0.91, interval=(0.9, 0.92), misses=False)
    text = draw(claims=[claim(verdict="uninformative", note="it cannot tell", measured=0.88, control=control)])
    seen = Page(text)
    assert ("tr", {"class": "uninformative", "id": "claim-words"}) in seen.elements
    assert "it cannot tell" in seen.text
    assert "0.88 [0.25, 0.75]" in seen.text
    assert "Control: random weights, 0.91 [0.9, 0.92]" in seen.text
    assert "Supported here" not in seen.text
    assert "Refuted at this scale" not in seen.text


def test_claims_of_the_paper_and_our_own_stand_in_two_tables_and_checks_of_the_set_up_apart():
    kinds = {"set-up": "checked", "own": "ours", "paper": "theirs"}
    text = draw(claims=[claim(kind=kind, id=id, statement=id) for kind, id in kinds.items()])
    order = ["Claims of the paper", "claim-theirs", "Our own questions", "claim-ours", "Checks of the set-up"]
    places = [text.index(words) for words in [*order, "claim-checked"]]
    assert places == sorted(places)
    assert "Supported here. theirs" in Page(text).text


def test_a_verdict_stands_with_its_control_threshold_number_of_the_paper_and_mark_over_the_family():
    facts = {"uncontrolled": "it is exact", "origin": "our pilot", "paper_number": ".97, figure 3"}
    facts |= {"family": "not reachable", "population": "instances", "verdict": "refuted"}
    text = Page(draw(seeds="Seeds 0 to 5: design seeds.", claims=[claim(**facts)])).text
    for name, fact in {
        "Control": "No control: it is exact",
        "Threshold from": "our pilot",
        "The paper's number": ".97, figure 3",
        "Also over the family": "not reachable",
        "Seeds": "0, 1, 2, 3, 4, 5 (instances)",
    }.items():
        assert f"{name}{fact}" in text
    assert "refuted at this scale" in text
    assert "Seeds 0 to 5: design seeds." in text


def test_a_measurement_of_too_few_seeds_has_no_verdict():
    text = draw(claims=[claim(verdict="undecided", seeds=(0, 1, 2, 3, 4))])
    assert ("tr", {"class": "measured", "id": "claim-words"}) in Page(text).elements


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
    nothing = Page(draw(claims=[claim("a claim", measured=None, interval=None, seeds=(), verdict="not run")])).text
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
    seen, plain = Page(draw(claims=[hostile])), Page(draw(claims=[claim(verdict="uninformative")]))
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in plain.elements]
    (row,) = [attributes for tag, attributes in seen.elements if tag == "tr" and "id" in attributes]
    assert row == {"class": words.replace(" ", "-"), "id": "claim-words"}


@pytest.mark.parametrize("empty", [[], {}, {"one": [], "another": {}}])
def test_a_figure_of_what_was_not_measured_is_left_out(empty):
    def figure(title, found):
        return Picture(title, str(require_measured(found)), "<svg></svg>")

    drawn = pictures((figure, "none", empty), (figure, "some", {"one": [], "another": [0.5]}))
    assert [one.title for one in drawn] == ["some"]
