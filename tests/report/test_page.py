"""Laws of a page: it asks nothing of any network, believes nothing it is told, and leaves nothing out."""

import json
import re
from html import escape
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.pages import HOSTILE, WORDS, Page, asks_no_network, claim, draw, picture, typeset
from toylab.report.bars import BarHistory
from toylab.report.page import Picture, file_names, mathematics, pictures, require_measured
from toylab.training.attention_history import HistoryPage
from toylab.verdicts.judgement import ControlJudgement, Verdict


def test_everything_from_outside_is_shown_as_the_text_it_is():
    text = draw(HOSTILE)
    asks_no_network(text)
    seen = Page(text)
    assert not any(tag in ("script", "img") for tag, _ in seen.elements)
    assert "<script" not in text.lower()
    assert seen.open == []
    # title twice, introduction, seeds, statement, criterion and control twice, note, id, origin, the number of the
    # paper, place, population, a detail and its inner name and value, the heading and the caption of the picture,
    # command and cost; settings are JSON, where quotes are written \\".
    assert seen.text.count(HOSTILE) >= 22
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


def test_bars_with_hostile_names_are_data_of_their_own_script():
    text = draw(
        film=BarHistory(
            title=HOSTILE, caption=HOSTILE, names=[HOSTILE], marked=[HOSTILE], unit=HOSTILE, steps=[0, 5],
            scenes={HOSTILE: [[0.0], [1.5]]},
        )
    )  # fmt: skip
    asks_no_network(text)
    assert [tag for tag, _ in Page(text).elements if tag in ("script", "img")] == ["script", "script"]
    (data,) = re.findall(r'id="viewer-data">(.*?)</script>', text, flags=re.DOTALL)
    assert json.loads(data)["scenes"] == {HOSTILE: [[0.0], [1.5]]}


@settings(max_examples=15)
@given(WORDS)
def test_any_words_come_through_and_leave_the_page_as_it_is_built(words):
    seen, plain = Page(draw(words)), Page(draw())
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in plain.elements] or not words
    assert seen.open == []
    assert typeset(words) in seen.text


def test_formulas_are_typeset_and_other_words_are_left_alone():
    assert mathematics("s_t is F(s_{t-1}, x_t)") == (
        "<i>s</i><sub>t</sub> is F(<i>s</i><sub>t\u22121</sub>, <i>x</i><sub>t</sub>)"
    )
    assert mathematics("R^2 >= 0.9 <= 1") == "<i>R</i><sup>2</sup> \u2265 0.9 \u2264 1"
    for plain in ("d_model", "resid_post", "x_", "_t", "a_bc", "10^3", "n / (n + K)"):
        assert mathematics(plain) == plain
    assert mathematics("<x_t>") == "&lt;<i>x</i><sub>t</sub>&gt;"


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
    assert "Supported." not in seen.text
    assert "Refuted at this scale" not in seen.text


def test_claims_of_the_paper_are_open_and_our_own_and_checks_of_the_set_up_are_folded():
    kinds = {"set-up": "checked", "own": "ours", "paper": "theirs"}
    text = draw(claims=[claim(kind=kind, id=id, statement=id) for kind, id in kinds.items()])
    order = [
        "Claims of the paper (1)",
        "claim-theirs",
        "Our own questions (1)",
        "claim-ours",
        "Checks of the set-up (1)",
    ]
    places = [text.index(words) for words in [*order, "claim-checked"]]
    assert places == sorted(places)
    folds = [attributes for tag, attributes in Page(text).elements if tag == "details" and "class" in attributes]
    assert [("open" in attributes) for attributes in folds] == [True, False, False]


def headline(**fields) -> str:
    (words,) = re.findall(r'(<p class="headline">.*?)</header>', draw(**fields), flags=re.DOTALL)
    return Page(words).text


def test_the_headline_is_the_first_decided_claim_of_the_paper_and_a_refuted_one_is_quoted_as_refuted():
    found = {kind: claim(kind=kind, statement=kind, id=kind) for kind in ("set-up", "own", "paper")}
    assert headline(claims=[*found.values()]).startswith("Supported. paper")
    refuted = claim(statement="It grows.", verdict="refuted", measured=0.1, interval=(0.0, 0.2))
    undecided = claim(statement="open", verdict="undecided")
    words = headline(claims=[undecided, refuted])
    assert words.startswith("Refuted at this scale. The claim was: It grows.")
    assert "Measured: 0.1 [0, 0.2]" in words
    few = claim(statement="open", verdict="undecided", seeds=(0,))
    assert headline(claims=[few]).startswith("Too few seeds for a verdict (1 seed): open")
    assert headline(claims=[undecided]).startswith("Undecided: open")
    assert headline(claims=[]).strip() == ""


def marks(**fields) -> dict[str, list[float]]:
    """Left end and width of every mark of a thermometer, in percent."""
    text = draw(claims=[claim(id="one", **fields)], thresholds={"one": (0.9, None)})
    drawn = re.findall(r"<i class=(\w+) style=\"left:([^%]*)%;width:([^%]*)%\">", text)
    return {kind: [float(left), float(width)] for kind, left, width in drawn}


def test_a_thermometer_shows_value_interval_threshold_and_control_on_one_axis():
    control = ControlJudgement(what="random", measured=0.2, interval=(0.1, 0.3), misses=True)
    seen = marks(measured=0.95, interval=(0.8, 1.0), control=control)
    assert seen == {"met": [90, 10], "bound": [90, 0], "bar": [80, 20], "control": [20, 0], "value": [95, 0]}
    wide = marks(measured=3.0, interval=(-1.0, 4.0))  # an axis from -1 to 4
    assert wide == {"met": [38, 62], "bound": [38, 0], "bar": [0, 100], "value": [80, 0]}
    assert marks(measured=None, interval=None) == {}


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
        st.sampled_from(
            [
                "Loss (train)",
                "Loss: train",
                "loss train 2",
                "損失",
                "",
                "Claim one",
                "Claims title",
                "Viewer",
                "Live",
                "é",
            ]
        )
        | WORDS
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
