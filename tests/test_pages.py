"""Links, length and version of the pages of documentation."""

import re
from pathlib import Path

import pytest

from tests.test_readme import HOME, PAGES, README


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_every_heading_that_is_linked_exists(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), link
            assert not anchor or anchor in anchors(linked), link


def test_the_readme_is_short_and_links_every_page_of_the_documentation():
    assert len(README.splitlines()) <= 250
    linked = re.findall(r"\(docs/(\w+\.md)\)", README)
    assert set(linked) == {page.name for page in (HOME / "docs").glob("*.md")}


def test_the_citation_is_of_this_version():
    (version,) = re.findall(r'^version = "(.*)"', (HOME / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"version: {version}\n" in (HOME / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (HOME / "CHANGELOG.md").read_text(encoding="utf-8")
