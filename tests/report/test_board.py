"""The scoreboard in a real browser: it sorts, filters and opens claims, and its link keeps what the reader chose."""

import math
from dataclasses import replace
from itertools import product

import pytest

from tests.report.browser import OVERFLOW, visit
from tests.report.javascript import BROWSER
from tests.report.pages import asks_no_network, claim, draw
from tests.report.test_browser import film
from toylab.report import canvas, figures
from toylab.report.page import picture
from toylab.runs.board import board_page
from toylab.runs.study_verdicts import StudyVerdicts

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium, and this runs")
pytestmark = [needs_browser, pytest.mark.slow]

ROWS = """const rows = () => [...document.querySelectorAll(".board tbody")].filter((one) => !one.hidden)
    .map((one) => one.querySelector("[aria-controls]").textContent);
  const heading = (name) => document.querySelector(`.board th[data-name="${name}"]`);
  const sort = (name) => { heading(name).querySelector("button").click(); return rows(); };
  const set = (id, value) => { const one = document.getElementById("board-" + id); one.value = value;
    one.dispatchEvent(new Event("input")); return rows(); };
"""


def board() -> list[StudyVerdicts]:
    """Two studies; values, verdicts, seeds and costs are in no order, and the last claim of each was not run."""
    values = [(0.5, "supported", 7, 30), (-2.0, "refuted", 6, 200), (10.0, "undecided", 10, 9), (None, "not run", 0, 0)]
    studies = []
    for study, words in {"first-paper": "zebra", "second paper & co": "apple"}.items():
        claims, costs = [], {}
        for n, (measured, verdict, seeds, cost) in enumerate(values):
            interval = None if measured is None else (measured, measured + 1)
            id = f"{words}-{n}"
            claims.append(
                claim(id=id, statement=f"{'cab'[n % 3]} {id}", measured=measured, interval=interval, verdict=verdict,
                      seeds=tuple(range(seeds)), note="a rare word" if n == 1 else "")
            )  # fmt: skip
            costs |= {id: cost} if cost else {}
        texts = dict.fromkeys(("title", "source", "command", "folder", "machine", "date"), "words")
        studies.append(
            StudyVerdicts(**texts | {"folder": "a run"}, study=study, cpu_seconds=1, claims=claims, costs=costs,
                          figures={claims[0].id: "drawn", claims[1].id: "lost"})
        )  # fmt: skip
    return studies


CLAIMS = [(study, one) for study in board() for one in study.claims]
KEYS = {
    "verdict": lambda study, one: ["supported", "refuted", "undecided", "uninformative", "not run"].index(one.verdict),
    "claim": lambda study, one: one.statement,
    "paper": lambda study, one: study.study,
    "measured": lambda study, one: one.measured,
    "seeds": lambda study, one: len(one.seeds),
    "cpu-s": lambda study, one: study.costs.get(one.id),
}


def statements(chosen) -> list[str]:
    return [one.statement for _, one in chosen]


def in_order(name: str, descending: bool = False, chosen=CLAIMS) -> list[str]:
    """Sorted by a column, equal ones as they stand on the page, those without a value last."""
    with_value = [pair for pair in chosen if KEYS[name](*pair) is not None]
    empty = [pair for pair in chosen if KEYS[name](*pair) is None]
    return statements(sorted(with_value, key=lambda pair: KEYS[name](*pair), reverse=descending) + empty)


def test_each_column_sorts_both_ways_and_says_so(tmp_path):
    found = visit(
        tmp_path,
        board_page(board()),
        ROWS
        + f"""found.first = rows(); found.up = {{}}; found.down = {{}}; found.told = [];
        for (const name of {list(KEYS)}) {{
          found.up[name] = sort(name);
          found.told.push([...document.querySelectorAll("[aria-sort]")].map((one) => one.dataset.name + one.ariaSort));
          found.down[name] = sort(name);
          found.told.push([...document.querySelectorAll("[aria-sort]")].map((one) => one.dataset.name + one.ariaSort));
        }}
        found.ths = [...document.querySelectorAll(".board th")].map((one) => [one.scope, one.children[0].tagName]);""",
    )
    assert found["first"] == statements(CLAIMS)
    for name in KEYS:
        assert found["up"][name] == in_order(name), name
        assert found["down"][name] == in_order(name, descending=True), name
    assert found["told"] == [[name + order] for name, order in product(KEYS, ("ascending", "descending"))]
    assert found["ths"] == [["col", "BUTTON"]] * len(KEYS)


def test_filters_combine_and_a_link_brings_back_what_was_chosen(tmp_path):
    page, paper = board_page(board()), "second paper & co"
    found = visit(
        tmp_path,
        page,
        ROWS
        + f"""found.paper = set("paper", "{paper}"); found.both = set("verdict", "refuted");
        found.count = document.getElementById("board-count").textContent;
        set("verdict", ""); found.text = set("text", "rare WORD"); found.nothing = set("text", "rare zebra");
        set("text", ""); sort("measured"); found.sorted = sort("measured"); found.link = location.hash;
        document.getElementById("board-all").click(); found.all = rows(); found.empty = location.hash;
        const link = document.querySelector('.summary a'); link.click(); await wait(50); found.linked = rows();""",
    )
    assert found["paper"] == [one.statement for one in board()[1].claims]
    assert found["both"] == found["text"] == [board()[1].claims[1].statement]
    assert found["count"] == "1 of 8 claims"
    assert found["nothing"] == []
    assert found["sorted"] == in_order("measured", True, [pair for pair in CLAIMS if pair[0].study == paper])
    assert (found["all"], found["empty"]) == (statements(CLAIMS), "")
    assert found["linked"] == [one.statement for one in board()[0].claims]
    again = visit(
        tmp_path,
        page,
        ROWS + "found.rows = rows(); found.paper = document.getElementById('board-paper').value;",
        link=found["link"],
    )
    assert (again["rows"], again["paper"]) == (found["sorted"], paper)


def test_a_link_to_what_there_is_not_changes_nothing(tmp_path):
    link = "#paper=another&verdict=proven&sort=colour&order=descending"
    found = visit(tmp_path, board_page(board()), ROWS + "found.rows = rows(); found.sorted = "
                  "document.querySelectorAll('[aria-sort]').length;", link=link)  # fmt: skip
    assert (found["rows"], found["sorted"]) == (statements(CLAIMS), 0)


def test_a_claim_opens_its_figure_where_the_folder_has_it_and_its_facts_everywhere(tmp_path):
    drawing = tmp_path / "a run" / "figures"
    drawing.mkdir(parents=True)
    for name in ("drawn", "lost"):
        axes = figures.plot_curves({"a": ([0, 1], [0.0, 1.0])}, ylabel="share")
        (drawing / f"{name}.svg").write_text(canvas.to_svg(axes.figure))
    page = board_page(board(), tmp_path)
    (drawing / "lost.svg").unlink()  # the page without the folder of its run
    found = visit(
        tmp_path,
        page,
        """const buttons = [...document.querySelectorAll(".board [aria-controls]")].slice(0, 3);
        const more = buttons.map((one) => document.getElementById(one.getAttribute("aria-controls")));
        const heights = () => more.map((one) => one.getBoundingClientRect().height > 0);
        const told = () => buttons.map((one) => one.ariaExpanded);
        found.closed = [heights(), told()];
        for (const one of buttons) one.click();
        await wait(1500);
        found.opened = [heights(), told()];
        found.images = [...document.querySelectorAll(".board img")].map((one) => [one.naturalWidth > 0,
          one.closest("figure").hidden, one.alt.length > 10]).slice(0, 2);
        found.figures = more.map((one) => one.querySelectorAll("img").length);
        found.facts = more.map((one) => one.querySelectorAll("dt").length > 2);
        buttons[0].click(); found.again = [heights(), told()];""",
    )
    assert found["closed"] == [[False] * 3, ["false"] * 3]
    assert found["opened"] == [[True] * 3, ["true"] * 3]
    assert found["again"] == [[False, True, True], ["false", "true", "true"]]
    assert found["images"] == [[True, False, True], [False, True, True]]
    assert found["figures"] == [1, 1, 0]
    assert found["facts"] == [True] * 3


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_no_part_of_the_board_is_wider_than_the_window(tmp_path, width):
    long = replace(CLAIMS[0][1], statement="word " * 60, measured=math.pi * 1e-9, interval=(1e-10, 1 / 3))
    page = board_page([replace(one, claims=[*one.claims, long]) for one in board()])
    asks_no_network(page.replace('href="a%20run', 'href="#'))
    found = visit(
        tmp_path,
        page,
        f"""for (const one of document.querySelectorAll(".board [aria-controls]")) one.click();
        found.wide = {OVERFLOW}; found.inner = innerWidth;""",
        width,
    )
    assert (found["inner"], found["wide"]) == (width, [])


@pytest.mark.parametrize(("width", "form"), [(360, "narrow"), (800, "wide")])
def test_no_part_of_the_page_of_a_run_is_wider_than_the_window_and_no_figure_is_cut(tmp_path, width, form):
    groups = {f"a long name of a group, {n}": {"one": [0.0, 0.5], "another": [1.0]} for n in range(5)}
    shown = picture("words", "words", figures.plot_by_seed(groups, xlabel="share"))
    found = visit(
        tmp_path,
        draw("word " * 30, pictures=[shown], film=film()),
        f"""found.wide = {OVERFLOW};
        const drawings = [...document.querySelectorAll(".drawing")].filter((one) => one.offsetParent !== null);
        found.forms = drawings.map((one) => one.className.split(" ").pop());
        found.cut = drawings.map((one) => one.scrollWidth - one.clientWidth);""",
        width,
    )
    assert found["wide"] == []
    assert (found["forms"], found["cut"]) == ([form], [0])
