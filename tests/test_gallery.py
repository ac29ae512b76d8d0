"""The gallery shows every task, and its command writes the published page."""

import re
import runpy

import pytest

from tests.modules import ROOT
from toylab.commands.flags import known_tasks

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
