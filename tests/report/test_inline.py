"""Laws of figures inside a page: nothing that is drawn gets lost, and nothing acts beyond its own figure."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.pages import WORDS
from toylab.report import canvas, figures
from toylab.report.inline import inline_svg

NAMESPACE = "{http://www.w3.org/2000/svg}"
DRAWN = ("path", "use", "image", "text", "rect")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def drawings() -> dict[str, str]:
    weights = np.random.default_rng(0).dirichlet(np.ones(7), size=7)
    rows = {"a < b": {"x": [0.1, 0.5], "y": [0.2]}, "c & d": {"x": [0.3]}}
    return {
        "pattern": canvas.to_svg(figures.plot_attention(weights, list("abcdef<")).figure),
        "curves": canvas.to_svg(figures.plot_curves({"one": ([0, 1, 2], [0.1, 0.5, 0.25])}, ylabel="y").figure),
        "seeds": canvas.to_svg(figures.plot_by_seed(rows, xlabel="share").figure),
        "signs": canvas.to_svg(figures.plot_heatmap({"a": [0.5, -0.5]}, ["p", "q"], xlabel="token").figure),
    }


@pytest.fixture(scope="module", params=["pattern", "curves", "seeds", "signs"])
def svg(request) -> str:
    return drawings()[request.param]


def drawn(text: str) -> list[tuple[str, str, bool]]:
    """Name and text of every element that draws, in order, and whether it is a definition, which others draw."""
    root = ElementTree.fromstring(text)
    definitions = [*root.iter(f"{NAMESPACE}defs"), *root.iter("defs")]
    defined = {element for definition in definitions for element in definition.iter()}
    return [
        (name, element.text if name == "text" else "", element in defined)
        for element in root.iter()
        if (name := element.tag.removeprefix(NAMESPACE)) in DRAWN
    ]


def coordinates(text: str) -> list[float]:
    places = ("d", "x", "y", "width", "height", "viewBox")
    return [
        float(number)
        for element in ElementTree.fromstring(text).iter()
        for place in places
        for number in NUMBER.findall(element.get(place, ""))
    ]


def styles(text: str) -> list[str]:
    """The style of every element that draws, with the rules of its class filled in."""
    root = ElementTree.fromstring(text)
    rules = dict(re.findall(r"\.(\w+)\{(.*?)\}", "".join(s.text or "" for s in root.iter("style"))))
    spaced = [
        element.get("style") or rules.get(element.get("class", ""), "")
        for element in root.iter()
        if element.tag.removeprefix(NAMESPACE) in DRAWN
    ]
    return [re.sub(r"([:;])\s+", r"\1", style) for style in spaced]


def test_every_element_place_and_style_is_kept_in_two_thirds_of_the_size(svg):
    inline = inline_svg(svg)
    assert drawn(inline) == drawn(svg)
    assert styles(inline) == styles(svg)
    np.testing.assert_allclose(coordinates(inline), coordinates(svg), atol=0.00501)
    assert len(inline) < 0.65 * len(svg)


def test_a_figure_styles_nothing_but_itself_and_keeps_what_it_refers_to(svg):
    inline = inline_svg(svg)
    root = ElementTree.fromstring(inline)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    referred = set(re.findall(r"(?:href=\"|url\()#([\w-]+)", inline))
    assert set(ids) == referred & {e.get("id") for e in ElementTree.fromstring(svg).iter()}
    assert len(ids) == len(set(ids))
    for rule in re.findall(r"([^{}]*)\{", "".join(style.text or "" for style in root.iter("style"))):
        assert re.fullmatch(r"\.s\w{6}", rule)


@given(WORDS, st.sampled_from(["<", "&", '"', "'", "<b>x</b>"]))
def test_a_text_stays_the_same_text(words, sign):
    ax = figures.plot_curves({"one": ([0, 1], [0.0, 1.0])}, ylabel="y", title=words + sign)
    svg = canvas.to_svg(ax.figure)
    assert drawn(inline_svg(svg)) == drawn(svg)


def test_an_id_that_figures_of_a_page_share_names_one_shape():
    axes = (canvas.new_axes(width, 2.0) for width in (3.0, 5.0))
    curves = (figures.plot_curves({"a": ([0, 1], [0, 1])}, ylabel="y", ax=ax) for ax in axes)
    page = "<page>" + "".join(inline_svg(canvas.to_svg(ax.figure)) for ax in curves) + "</page>"
    shapes: dict[str, set[bytes]] = {}
    for element in ElementTree.fromstring(page).iter():
        if name := element.get("id"):
            shapes.setdefault(name, set()).add(ElementTree.tostring(element))
    assert len(shapes) > 2
    assert {name: shape for name, shape in shapes.items() if len(shape) > 1} == {}
