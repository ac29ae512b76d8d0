"""Laws of the notebooks that exercises stand in."""

import ast
import re

import pytest

from tests.lessons.notebooks import CALLS, NOTEBOOKS, cells, code, plain
from toylab.lessons import EXERCISES

PREFIX = {
    "tour": "00",
    "iteration": "01",
    "counting": "02",
    "safety": "03",
    "steering": "04",
    "own": "05",
    "grokking": "06",
    "inputs": "07",
}
OWN_DEFINITIONS = {"vocabulary", "context", "sample", "solve", "step", "trace", "sharp"}
"""What a notebook may define besides what an exercise asks for: methods of tasks, and a probe that is wrong."""


def test_every_exercise_stands_in_the_one_notebook_of_its_name():
    assert sorted(name for _, _, name, _ in CALLS) == sorted(EXERCISES)
    for path, _, name, _ in CALLS:
        assert path.name.startswith(PREFIX[name.split(".")[0]]), (path.name, name)
    for path in NOTEBOOKS:
        assert 2 <= sum(one == path for one, *_ in CALLS) <= 4, path.name


def test_every_exercise_is_preceded_by_its_task_and_asks_for_a_guess_first():
    for path, place, name, _ in CALLS:
        task = cells(path)[place - 1]
        assert task.cell_type == "markdown"
        assert "**Exercise: " in task.source, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_no_absolute_path(path):
    for cell in cells(path):
        for text in (cell.source, *(str(output.get("text", "")) for output in cell.get("outputs", []))):
            assert not re.search(r"(?<![\w.:/<])/(?:root|home|tmp|work|Users|usr|var|mnt)\b|[A-Z]:\\\\", text), cell.id


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_what_its_exercises_ask_for_and_little_else(path):
    wanted = {words for one, _, _, words in CALLS if one == path}
    found = {
        node.name
        for cell in code(path)
        for node in ast.walk(ast.parse(plain(cell.source)))
        if isinstance(node, ast.FunctionDef)
    }
    assert found <= wanted | OWN_DEFINITIONS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_outnumbers_code(path):
    fences = r"```python\n.*?```"
    text = "\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")
    solutions = "\n".join(re.findall(fences, text, flags=re.DOTALL))
    prose = len(re.sub(fences, "", text, flags=re.DOTALL).split())
    programme = len(solutions.split()) + sum(len(cell.source.split()) for cell in code(path))
    assert prose > programme, (prose, programme)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_none_is_an_error(path):
    numbers = [cell.execution_count for cell in code(path)]
    assert numbers == list(range(1, len(numbers) + 1))
    kinds = [output.output_type for cell in code(path) for output in cell.outputs]
    assert kinds
    assert "error" not in kinds
    assert not [cell.id for cell in code(path) for output in cell.outputs if output.get("name") == "stderr"]
