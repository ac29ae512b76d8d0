"""The notebooks of the lessons as data: outline of a chapter, copies with solutions, and assignments for otter-grader.

A notebook is its JSON (nbformat 4.5). Goals, times and exercises are written in its prose, in fixed forms:

    **Learning goals**                          then one line of a list for each goal
    **Time** (estimate): 45 minutes, 25 of them for the exercises.
    **Exercise: the carry link.** *Easy, 5 minutes (estimate). Asked because ...*

An exercise with a check is three cells: the task, a stub that ends with the call of `check`, and the folded solution.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toylab.console import ToylabError
from toylab.files import file_errors
from toylab.lessons import EXERCISES

Cell = dict[str, Any]
Notebook = dict[str, Any]

OTTER_POINTS = {"Easy": 1, "Medium": 2, "Hard": 3}
"""Difficulties of an exercise, and the points of an assignment."""

_GOALS = re.compile(r"^\*\*Learning goals\*\*\n\n((?:- .*\n)+)", re.MULTILINE)
_TIME = re.compile(r"^\*\*Time\*\* \(estimate\): (\d+) minutes, (\d+) of them for the exercises", re.MULTILINE)
_EXERCISE = re.compile(r"\*\*Exercise(?:: ([^*]+))?\.\*\*(?: \*(\w+), (\d+) minutes \(estimate\)\. ([^*]+)\*)?")
_CALL = re.compile(r"^check\(\"([\w.]+)\", \w+\)$", re.MULTILINE)
_SOLUTION = re.compile(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```(.*?)</details>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An exercise as its text announces it; `title` is empty for an exercise without a check."""

    title: str
    difficulty: str
    minutes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a chapter announces; `minutes` is an estimate for all of it, `exercise_minutes` for its exercises."""

    goals: tuple[str, ...]
    minutes: int
    exercise_minutes: int
    exercises: tuple[Asked, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """An exercise with a check: its code cell, at `place`, as shipped (`stub`) and with the solution (`filled`).

    The task is the cell before, the folded solution the cell after, with an `explanation` below its code.
    """

    name: str
    points: int
    place: int
    stub: str
    filled: str
    call: str
    explanation: str


def lesson_paths() -> list[Path]:
    """The notebooks of the lessons, by chapter.

    Raises:
        ToylabError: outside a checkout, since an installed package has no notebooks.
    """
    folder = Path(__file__).parents[2] / "notebooks"
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ToylabError(f"{folder}: has no lessons; they are part of a checkout of the repository, not of a wheel")
    return paths


def read_notebook(path: Path | str) -> Notebook:
    """A notebook with the source of every cell as one string."""
    with file_errors(path):
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def read_outline(cells: Sequence[Cell]) -> Outline:
    """The goals, times and exercises that a chapter announces.

    Raises:
        ToylabError: for a chapter without goals or time, or an exercise without difficulty, minutes and reason.
    """
    prose = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown") + "\n"
    goals, time = _GOALS.search(prose), _TIME.search(prose)
    if goals is None or time is None:
        raise ToylabError(f"{prose.splitlines()[0]}: has no learning goals or no time; see toylab.lessons.notebooks")
    asked = []
    for title, difficulty, minutes, reason in _EXERCISE.findall(prose):
        if difficulty not in OTTER_POINTS:
            raise ToylabError(f"exercise={title!r}: has no difficulty, minutes and reason; write them after its title")
        asked.append(Asked(title=title, difficulty=difficulty, minutes=int(minutes), reason=" ".join(reason.split())))
    return Outline(
        goals=tuple(goal.removeprefix("- ") for goal in goals[1].splitlines()),
        minutes=int(time[1]),
        exercise_minutes=int(time[2]),
        exercises=tuple(asked),
    )


def questions(cells: Sequence[Cell]) -> list[Question]:
    """The exercises with a check, in order."""
    found = []
    for place, cell in enumerate(cells):
        if cell["cell_type"] != "code" or not (call := _CALL.search(cell["source"])):
            continue
        task, solution = (cells[near]["source"] for near in (place - 1, place + 1))
        announced, solved = _EXERCISE.search(task), _SOLUTION.search(solution)
        if announced is None or announced[2] not in OTTER_POINTS or solved is None:
            raise ToylabError(f"exercise={call[1]!r}: needs a task in the cell before and a solution in the one after")
        nodes = ast.parse(cell["source"]).body
        imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        found.append(
            Question(
                name=call[1],
                points=OTTER_POINTS[announced[2]],
                place=place,
                stub=cell["source"],
                filled="\n\n\n".join(filter(None, ["\n".join(imports), solved[1].strip(), call[0]])),
                call=call[0],
                explanation=solved[2].strip(),
            )
        )
    return found


def with_solutions(notebook: Notebook) -> Notebook:
    """A copy in which every check succeeds and every folded answer is open."""
    filled = copy.deepcopy(notebook)
    for question in questions(filled["cells"]):
        filled["cells"][question.place] |= {"source": question.filled, "outputs": [_printed(question)]}
    for cell in filled["cells"]:
        cell["source"] = cell["source"].replace("<details>", "<details open>")
    return filled


def as_otter(notebook: Notebook, name: str, files: Sequence[str] = ()) -> Notebook:
    """The master notebook of an assignment in the format of otter-grader 4 to 7, for `otter assign`.

    Each exercise with a check is a question: the task, one code cell with the stub as its prompt (a string, for Python)
    and the solution, and one public test that expects what `check` prints for a correct answer. All other cells are
    kept. `otter assign` removes outputs, the marks of the prompt, and the lines of the solution.

    Args:
        name: of the assignment.
        files: files beside the notebook that its code reads.
    """
    cells, by_place = notebook["cells"], {question.place: question for question in questions(notebook["cells"])}
    listed = "".join(f"\n- {file}" for file in files)
    master = [_raw("config", f"# ASSIGNMENT CONFIG\nname: {name}" + (f"\nfiles:{listed}" if files else ""))]
    for place, cell in enumerate(cells):
        if place + 1 in by_place or place - 1 in by_place:
            continue  # the task and the solution are parts of the question
        if place not in by_place:
            master.append(copy.deepcopy(cell))
            continue
        question = by_place[place]
        key, comment = cell["id"], textwrap.indent(textwrap.fill(question.explanation, 110), "# ")
        prompt = f"r''' # BEGIN PROMPT\n{question.stub}\n''' # END PROMPT"
        solution = f"# BEGIN SOLUTION NO PROMPT\n{question.filled}\n{comment}\n# END SOLUTION"
        config = f"# BEGIN QUESTION\nname: {question.name.replace('.', '_')}\npoints: {question.points}"
        master += [
            _raw(f"{key}-question", config),
            copy.deepcopy(cells[place - 1]),
            _raw(f"{key}-begin", "# BEGIN SOLUTION"),
            _code(key, f"{prompt}\n{solution}"),
            _raw(f"{key}-end", "# END SOLUTION"),
            _raw(f"{key}-tests", "# BEGIN TESTS"),
            _code(f"{key}-test", question.call) | {"outputs": [_printed(question)]},
            _raw(f"{key}-tested", "# END TESTS"),
            _raw(f"{key}-done", "# END QUESTION"),
        ]
        if rest := _SOLUTION.sub("", cells[place + 1]["source"]).strip():
            master.append({**cells[place + 1], "source": rest})
    return {**copy.deepcopy(notebook), "cells": master}


def _printed(question: Question) -> dict[str, Any]:
    """The output of a check of the correct answer."""
    text = f"{question.name}: right. {EXERCISES[question.name].right}\n"
    return {"name": "stdout", "output_type": "stream", "text": text}


def _raw(identifier: str, source: str) -> Cell:
    return {"cell_type": "raw", "id": identifier, "metadata": {}, "source": source}


def _code(identifier: str, source: str) -> Cell:
    empty = {"metadata": {}, "execution_count": None, "outputs": []}
    return {"cell_type": "code", "id": identifier, "source": source, **empty}
