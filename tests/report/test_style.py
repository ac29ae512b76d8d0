"""Laws of the style of all pages: text stands out from its ground in both schemes, and whatever is focused is seen."""

import re
from importlib.resources import files
from itertools import pairwise

import pytest

from tests.report.pages import Page, claim, draw, picture
from tests.runs.test_scoreboard import standing
from toylab.report import figures, page
from toylab.runs.board import board_page

STYLE = files("toylab.report").joinpath("page.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root[^{]*\{([^}]*#[^}]*)\}", STYLE)
)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_known_pairs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half_and_marks_of_three(scheme):
    for colour in re.findall(r"[ {]color: var\(--(\w+)\)", STYLE):
        assert contrast(scheme[colour], scheme["paper"]) >= 4.5, colour
    for mark in ("dark", "refuted", "supported", "faint"):
        assert contrast(scheme[mark], scheme["paper"]) >= 3, mark


def test_nothing_hides_the_focus_of_the_keyboard():
    assert "outline: none" not in STYLE
    assert "outline: 0" not in STYLE
    assert not re.search(r"tabindex=\"?[1-9]", board_page([standing()]) + draw())


@pytest.mark.parametrize("text", [board_page([standing()]), draw(pictures=[picture()], claims=[claim()])])
def test_every_table_has_headers_with_a_scope_every_image_words_and_every_heading_its_level(text):
    seen = Page(text)
    assert ("html", {"lang": "en"}) in seen.elements
    assert all(attributes.get("scope") for tag, attributes in seen.elements if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in seen.elements if tag == "img")
    assert all(a.get("aria-label") for _, a in seen.elements if a.get("role") == "img")
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_a_figure_that_was_set_again_is_in_the_page_in_both_forms_and_one_is_shown_at_a_time():
    wide = page.picture("words", "words", figures.plot_by_seed({"a": {"x": [0.5, 1.0]}}, xlabel="share"))
    drawings = [a for tag, a in Page(draw(pictures=[wide])).elements if "drawing" in (a.get("class") or "")]
    assert [one["class"] for one in drawings] == ["drawing wide", "drawing narrow"]
    assert [one["aria-label"] for one in drawings] == ["words", "words"]
    ids = [set(re.findall(r'id="(m\w{10}|p\w{10})"', svg)) for svg in (wide.svg, wide.narrow)]
    assert not ids[0] & ids[1], "a part of the form that is not shown cannot be drawn in the other"
    shown, narrow = STYLE.split("@media (max-width: 40rem)")
    assert ".drawing.narrow { display: none; }" in shown
    assert ".drawing.wide { display: none; }" in narrow
