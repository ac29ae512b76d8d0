"""Laws of the command lessons."""

import json

import pytest

from toylab.lessons.notebooks import as_otter, lesson_paths, read_notebook, read_outline, with_solutions


def test_lessons_copies_every_notebook_and_what_it_reads(call, tmp_path):
    for _ in range(2):  # the same command again is no mistake
        outcome = call("lessons", "--out", tmp_path)
        assert (outcome.code, outcome.err) == (0, "")
    paths = lesson_paths()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in paths), "grokking.json"])
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (paths[0].parent / path.name).read_bytes()
    for path, line in zip(paths, outcome.out.splitlines()[1:], strict=False):
        outline = read_outline(read_notebook(path)["cells"])
        assert line.split() == [path.stem, str(outline.minutes), str(len(outline.exercises))]


@pytest.mark.parametrize("form", ["solutions", "otter"])
def test_other_forms_are_written_as_notebooks(call, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    assert call("lessons", f"--{form}").code == 0
    for path in lesson_paths():
        written = json.loads((tmp_path / "runs" / f"lessons-{form}" / path.name).read_text(encoding="utf-8"))
        files = ["grokking.json"] if path.stem == "06_grokking" else []
        notebook = read_notebook(path)
        assert written == (with_solutions(notebook) if form == "solutions" else as_otter(notebook, path.stem, files))


def test_answers_of_a_reader_are_not_overwritten(call, tmp_path):
    call("lessons", "--out", tmp_path)
    mine, other = tmp_path / lesson_paths()[-1].name, tmp_path / lesson_paths()[0].name
    mine.write_text("my answers")
    other.unlink()
    outcome = call("lessons", "--solutions", "--out", tmp_path)
    assert outcome.code == 2
    assert "has other content, perhaps answers; give another folder with --out" in outcome.err
    outcome = call("lessons", "--out", tmp_path)
    assert (outcome.code, mine.read_text(), other.exists()) == (2, "my answers", False)


def test_two_forms_at_once_are_refused(call, tmp_path):
    outcome = call("lessons", "--solutions", "--otter", "--out", tmp_path)
    assert outcome.code == 2
    assert not [*tmp_path.iterdir()]


def test_an_installation_without_lessons_says_where_they_are(call, tmp_path, monkeypatch):
    monkeypatch.setattr("toylab.lessons.notebooks.__file__", str(tmp_path / "a" / "b" / "notebooks.py"))
    outcome = call("lessons")
    assert outcome.code == 2
    assert "part of a checkout" in outcome.err
