"""Laws of the outlines of chapters, of copies with solutions, and of assignments in the format of otter-grader."""

import ast
import copy
import re

import nbformat
import pytest

from tests.lessons.notebooks import NOTEBOOKS, asked, cells, solution
from toylab.console import ToylabError
from toylab.lessons import EXERCISES
from toylab.lessons.notebooks import as_otter, lesson_paths, questions, read_notebook, read_outline, with_solutions

every_chapter = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return read_notebook(path)["cells"]


def test_the_lessons_are_all_notebooks():
    assert lesson_paths() == NOTEBOOKS


# Outlines ------------------------------------------------------------------------------------------------------------


@every_chapter
def test_a_chapter_has_goals_and_times_and_every_exercise_a_difficulty_and_a_reason(path):
    outline = read_outline(read(path))
    assert 3 <= len(outline.goals) <= 5
    assert all(goal[0].isupper() and goal.rstrip().endswith(".") for goal in outline.goals)
    opening = cells(path)[0].source
    assert "**Learning goals**" in opening
    assert "**Time** (estimate)" in opening
    prose = "\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")
    assert len(outline.exercises) == prose.count("**Exercise")
    for one in outline.exercises:
        assert one.difficulty in ("Easy", "Medium", "Hard")
        assert 3 <= one.minutes <= 30
        assert re.fullmatch(r"Asked because .{20,}\.", one.reason), one
    assert sum(one.minutes for one in outline.exercises) == outline.exercise_minutes < outline.minutes


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("**Learning goals**", "**Goals**", "no learning goals"),
        ("**Time** (estimate)", "**Time**", "no time"),
        ("*Easy, ", "*Simple, ", "exercise='the carry link': has no difficulty"),
        (" *Easy, 5 minutes (estimate).", "", "exercise='the carry link': has no difficulty"),
    ],
)
def test_an_incomplete_chapter_is_refused(old, new, complaint):
    changed = read(NOTEBOOKS[0])
    (cell,) = (cell for cell in changed if old in cell["source"])
    cell["source"] = cell["source"].replace(old, new)
    with pytest.raises(ToylabError, match=re.escape(complaint)):
        read_outline(changed)


def test_a_check_without_a_solution_is_refused():
    changed = read(NOTEBOOKS[0])
    place = questions(changed)[0].place
    changed[place + 1]["source"] = "no solution"
    with pytest.raises(ToylabError, match=r"tour\.carry.* a solution in the one after"):
        questions(changed)


# Solutions -----------------------------------------------------------------------------------------------------------


@every_chapter
def test_solutions_change_the_exercises_and_the_folds_alone(path):
    notebook, before = read_notebook(path), read(path)
    filled = with_solutions(notebook)
    nbformat.validate(nbformat.from_dict(filled))
    after = filled["cells"]
    assert notebook["cells"] == before
    places = {question.place: question.name for question in questions(before)}
    assert sorted(places.values()) == sorted(name for name in EXERCISES if asked(name)[0] == path)
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        if place not in places:
            assert {**new, "source": new["source"].replace("<details open>", "<details>")} == old
            assert "<details>" not in new["source"]


@pytest.mark.parametrize("name", EXERCISES)
def test_a_filled_cell_is_the_solution_between_the_imports_and_the_check_of_its_stub(name):
    """`test_lessons` runs every folded solution, and holds what is printed then."""
    path, place, words = asked(name)
    cell = with_solutions(read_notebook(path))["cells"][place]
    stub, folded = (ast.parse(source).body for source in (cells(path)[place].source, solution(path, place)))
    imports = [node for node in stub if isinstance(node, ast.Import | ast.ImportFrom)]
    expected = ast.Module([*imports, *folded, *ast.parse(f'check("{name}", {words})').body], [])
    assert ast.unparse(ast.parse(cell["source"])) == ast.unparse(expected)
    assert [output["text"] for output in cell["outputs"]] == [f"{name}: right. {EXERCISES[name].right}\n"]


# Assignments ---------------------------------------------------------------------------------------------------------


def blocks(master):
    """A reader of otter's format: cells outside of questions, and of each question its settings and cells by block."""
    assert master[0]["cell_type"] == "raw"
    assert master[0]["source"].startswith("# ASSIGNMENT CONFIG\nname: ")
    outside, asked_in_otter, stack = [], [], []
    for cell in master[1:]:
        if cell["cell_type"] != "raw":
            (asked_in_otter[-1][stack[-1]] if stack else outside).append(cell)
            continue
        head, *settings = cell["source"].splitlines()
        word, block = re.fullmatch(r"# (BEGIN|END) (QUESTION|SOLUTION|TESTS)", head).groups()
        if word == "END":
            assert stack.pop() == block
        elif block == "QUESTION":
            assert not stack
            stack.append(block)
            pairs = dict(line.split(": ") for line in settings)
            asked_in_otter.append({"settings": pairs, **{b: [] for b in ("QUESTION", "SOLUTION", "TESTS")}})
        else:
            assert stack == ["QUESTION"]
            stack.append(block)
    assert not stack
    return outside, asked_in_otter


@every_chapter
def test_an_assignment_keeps_every_cell_and_has_the_exercises_as_questions(path):
    notebook = read_notebook(path)
    filled = with_solutions(notebook)["cells"]
    original = copy.deepcopy(notebook)
    master = as_otter(notebook, path.stem, ["data.json"])
    assert notebook == original
    nbformat.validate(nbformat.from_dict(master))
    assert len({cell["id"] for cell in master["cells"]}) == len(master["cells"])
    assert master["cells"][0]["source"] == f"# ASSIGNMENT CONFIG\nname: {path.stem}\nfiles:\n- data.json"
    outside, found = blocks(master["cells"])
    exercises = questions(notebook["cells"])
    taken = {place for one in exercises for place in (one.place - 1, one.place, one.place + 1)}
    after = {one.place + 1 for one in exercises}
    kept = [
        cell["source"].partition("</details>")[2].strip() if place in after else cell["source"]
        for place, cell in enumerate(notebook["cells"])
        if place in after or place not in taken
    ]
    assert [cell["source"] for cell in outside] == [*filter(None, kept)]
    points = {"Easy": "1", "Medium": "2", "Hard": "3"}
    for one, block in zip(exercises, found, strict=True):
        (task,), (code,), (test,) = (block[name] for name in ("QUESTION", "SOLUTION", "TESTS"))
        assert task == notebook["cells"][one.place - 1]
        (difficulty,) = re.findall(r"\*(Easy|Medium|Hard), ", task["source"])
        assert block["settings"] == {"name": one.name.replace(".", "_"), "points": points[difficulty]}
        assert without_solution(code["source"]) == notebook["cells"][one.place]["source"]
        assert "</" not in code["source"]  # of what follows the solution in its cell
        assert f"\n{one.filled}\n" in code["source"]
        ast.parse(code["source"])
        assert test["source"] == one.call
        assert test["outputs"] == filled[one.place]["outputs"]


def without_solution(source):
    """What `otter assign` leaves of a code cell for students."""
    kept, inside = [], False
    for line in source.splitlines():
        if line == "# BEGIN SOLUTION NO PROMPT":
            inside = True
        elif line == "# END SOLUTION":
            inside = False
        elif not inside and not line.endswith(("# BEGIN PROMPT", "# END PROMPT")):
            kept.append(line)
    assert not inside
    return "\n".join(kept)
