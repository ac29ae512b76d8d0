"""The notebooks, their exercises, and the answers that stand in them."""

import ast
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import nbformat

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@cache
def cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def code(path: Path) -> list:
    return [cell for cell in cells(path) if cell.cell_type == "code"]


def plain(source: str) -> str:
    """A cell without its magic lines."""
    return "\n".join(line for line in source.splitlines() if not line.startswith("%"))


def calls() -> list[tuple[Path, int, str, str]]:
    """Every check in a notebook: file, place of its cell, exercise, and the words for the answer."""
    found = []
    for path in NOTEBOOKS:
        for place, cell in enumerate(cells(path)):
            if cell.cell_type != "code":
                continue
            for node in ast.walk(ast.parse(plain(cell.source))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "check":
                    name, answer = node.args
                    found.append((path, place, name.value, ast.unparse(answer)))
    return found


CALLS = calls()


def solution(path: Path, place: int) -> str:
    """The Python block of the solution that stands in the cell after an exercise."""
    text = cells(path)[place + 1].source
    assert text.startswith("<details><summary>Solution</summary>"), text[:80]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]


def asked(name: str) -> tuple[Path, int, str]:
    """Where an exercise stands: file, place of its cell, and the words for the answer."""
    ((path, place, words),) = ((path, place, words) for path, place, one, words in CALLS if one == name)
    return path, place, words


def answer(name: str, source: str | None = None) -> object:
    """The answer that a source gives to an exercise, its folded solution if none is given, after the imports above."""
    path, place, words = asked(name)
    module = sys.modules["lesson"] = ModuleType("lesson")  # where pickle finds the classes of this lesson
    names = vars(module)
    for cell in cells(path)[: place + 1]:
        if cell.cell_type != "code":
            continue
        if cell.source.startswith("%%writefile"):
            exec(plain(cell.source), names)
            continue
        for node in ast.walk(ast.parse(plain(cell.source))):
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", None) != "behind":
                exec(ast.unparse(node), names)
    exec(solution(path, place) if source is None else source, names)
    return eval(words, names)


def lesson_task() -> type:
    """The task that notebook 05 writes into a file."""
    (source,) = (cell.source for cell in code(NOTEBOOKS[5]) if cell.source.startswith("%%writefile"))
    names: dict = {"__name__": "lesson"}
    exec(plain(source), names)
    return names["BehindTheStar"]
