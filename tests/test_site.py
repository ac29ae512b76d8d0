"""The documentation site: every page is listed, every part that is included exists, and it builds without a warning."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
CONTENTS = (HOME / "docs" / "contents.txt").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^(?!:|`|$)(?:.* <)?([^\s<>]+)>?$", CONTENTS, flags=re.MULTILINE)
PAGES = [
    *sorted((HOME / "docs").rglob("*.md")),
    *sorted((HOME / "notebooks").glob("*.md")),
    *sorted((HOME / "notebooks").glob("*.ipynb")),
    *sorted(HOME.glob("C*.md")),
]
NAMES = [str(page.relative_to(HOME).with_suffix("")) for page in PAGES]


def listed(name: str) -> bool:
    """Whether an entry or a pattern of the contents is for this page; a star ends at a folder."""
    return any(fnmatch(name, entry) and name.count("/") == entry.count("/") for entry in ENTRIES)


@pytest.mark.parametrize("name", NAMES)
def test_every_page_and_every_lesson_is_listed(name):
    assert listed(name)


def test_every_entry_names_a_page():
    for entry in ENTRIES:
        assert [name for name in NAMES if fnmatch(name, entry)], entry


def test_every_module_of_a_package_in_the_reference_exists_and_is_listed_once():
    modules = [
        module
        for page in (HOME / "docs" / "api").glob("*.md")
        for module in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
    ]
    assert len(modules) == len(set(modules))
    for module in modules:
        path = HOME.joinpath(*module.replace("toylab.tasks", "tasks").replace("toylab.probes", "probes").split("."))
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module


@pytest.mark.parametrize("page", sorted((HOME / "docs" / "howto").glob("*.md")), ids=lambda page: page.stem)
def test_every_part_that_is_included_is_found_once(page):
    """Sphinx would report a missing part too, but takes minutes."""
    text = page.read_text(encoding="utf-8")
    for path, options in re.findall(r"```\{include\} (\S+)\n(.*?)```", text, flags=re.DOTALL):
        source = (page.parent / path).read_text(encoding="utf-8")
        places = [source.find(json.loads(words)) for words in re.findall(r'^:\S+: (".*")$', options, re.MULTILINE)]
        assert places
        assert places == sorted(places)
        assert -1 not in places


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_shows_formulas_figures_and_shapes(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--conf-dir", "docs", ".", tmp_path]
    built = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    assert not built.returncode, built.stderr
    page = lambda name: (tmp_path / f"{name}.html").read_text(encoding="utf-8")  # noqa: E731
    assert all((tmp_path / f"{name}.html").exists() for name in NAMES)
    assert "iteration-head.svg" in page("index")
    lesson = page("notebooks/00_tour")
    assert "<math" in lesson
    assert ".png" in lesson
    assert "batch head query key" in page("docs/api/probes")
    for name in ("index", *NAMES):
        assert not re.findall(r'(?:src|rel="stylesheet" href)="https?:', page(name)), name  # nothing from a network
