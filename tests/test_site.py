"""The documentation site: every page is listed, every part that is included exists, and it builds without a warning."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import toylab
import toylab.probes
import toylab.tasks

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


MODULES = [
    module
    for page in sorted((HOME / "docs" / "api").glob("*.md"))
    for module in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
]


def test_every_module_of_the_reference_exists_and_is_listed_once():
    assert len(MODULES) == len(set(MODULES))
    for module in MODULES:
        path = HOME.joinpath(*module.replace("toylab.tasks", "tasks").replace("toylab.probes", "probes").split("."))
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module


@pytest.mark.parametrize("package", [toylab, toylab.tasks, toylab.probes], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package):
    homes = {name: getattr(getattr(package, name), "__module__", "") for name in package.__all__}
    missing = {name for name, home in homes.items() if home.startswith("toylab.") and home not in MODULES}
    assert missing <= {"ToylabError"}  # which has no page of its own


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
    signatures = re.sub(r"<[^>]+>", "", page("docs/api/probes"))
    assert "pattern: Float[Tensor, 'batch head query key']" in signatures.replace("&#39;", "'")
    for name in ("index", *NAMES):
        assert not re.findall(r'(?:src|rel="stylesheet" href)="https?:', page(name)), name  # nothing from a network
