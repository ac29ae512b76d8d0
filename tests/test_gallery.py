"""The gallery shows every task, its command writes the published page, and links are drawn where they are."""

import re
import runpy

import numpy as np
import pytest
from matplotlib.patches import Arc

from tests.modules import ROOT
from toylab.commands.flags import known_tasks
from toylab.report.links import plot_links

PAGE = ROOT / "docs" / "gallery.md"


def figures(page: str) -> list[str]:
    return re.findall(r"!\[.*?\]\((.*?)\)", page)


def test_the_page_has_every_task_with_its_rows_and_no_other_figure_is_kept():
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", page, flags=re.MULTILINE) == list(known_tasks())
    shown = set(figures(page))
    assert {f"images/gallery/{name}-rows.svg" for name in known_tasks()} <= shown
    assert shown == {str(path.relative_to(PAGE.parent)) for path in (PAGE.parent / "images" / "gallery").iterdir()}


@pytest.mark.slow
def test_the_command_writes_the_published_page_and_its_figures(tmp_path):
    main = runpy.run_path(str(ROOT / "docs" / "make_gallery.py"))["main"]
    main.__globals__["HERE"] = tmp_path
    main()
    page = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert page == PAGE.read_text(encoding="utf-8"), "make gallery"
    for figure in figures(page):
        words = [re.findall(r"<text[^>]*>([^<]*)</text>", (at / figure).read_text()) for at in (tmp_path, PAGE.parent)]
        assert words[0] == words[1], figure


def test_each_link_is_an_arc_from_its_query_up_to_its_key_and_a_marker_at_the_key():
    links = {"back": np.array([[3, 0], [4, 1], [4, 4]]), "none": np.zeros((0, 2), dtype=int)}
    ax = plot_links([*"ab$cd"], ["", "", "", "$x$", "y"], links)
    arcs = [patch for patch in ax.patches if isinstance(patch, Arc)]
    ends = [sorted((arc.center[1] - arc.height / 2, arc.center[1] + arc.height / 2)) for arc in arcs]
    assert ends == [[0, 3], [1, 4], [4, 4]]
    marked = next(line for line in ax.lines if len(line.get_ydata()))
    assert list(marked.get_ydata()) == [0, 1, 4]
    said = {text.get_position()[1]: text.get_text() for text in ax.texts if text.get_position()[0] > 1}
    assert said[3] == "$x$"
    low, high = ax.get_ylim()
    assert low > 4
    assert high < 0
