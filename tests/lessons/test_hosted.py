"""Badges and installation of hosted notebooks."""

import shutil
from types import SimpleNamespace

import nbformat
import pytest

from notebooks.execute import INSTALL, make_hosted
from tests.lessons.notebooks import NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def hosted(request, tmp_path):
    path = tmp_path / request.param.name
    shutil.copy(request.param, path)
    make_hosted(path, "OWNER/REPOSITORY")
    return request.param, path


def test_a_badge_opens_this_notebook_and_nothing_else_changes(hosted):
    original, _ = hosted
    before, after = (nbformat.read(one, as_version=4) for one in hosted)
    link = f"https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/{original.name}"
    assert after.cells[0].source.splitlines()[2].endswith(f"({link})")
    changed = [i for i, (old, new) in enumerate(zip(before.cells, after.cells, strict=True)) if old != new]
    assert changed == [0, [cell.cell_type for cell in after.cells].index("code")]
    for old, new in zip(before.cells, after.cells, strict=True):
        assert new.source.endswith(old.source.partition("\n\n")[2] if old is before.cells[0] else old.source)
        assert {**new, "source": ""} == {**old, "source": ""}


def test_another_repository_replaces_the_first(hosted):
    _, path = hosted
    text = path.read_text(encoding="utf-8")
    make_hosted(path, "OWNER/OTHER")
    assert path.read_text(encoding="utf-8") == text.replace("OWNER/REPOSITORY", "OWNER/OTHER")


@pytest.mark.parametrize("installed", [True, False])
def test_only_a_missing_toylab_is_installed(installed, monkeypatch):
    calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    shell = SimpleNamespace(run_line_magic=lambda *call: calls.append(call))
    exec(INSTALL.format("OWNER/REPOSITORY"), {"get_ipython": lambda: shell})
    pip = [("pip", "install --quiet git+https://github.com/OWNER/REPOSITORY")]
    assert calls == ([] if installed else pip)


def test_all_lessons_have_a_badge_or_none():
    cells = [nbformat.read(path, as_version=4).cells[0].source for path in NOTEBOOKS]
    assert len({"Open in Colab" in cell for cell in cells}) == 1
