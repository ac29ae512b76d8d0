"""Laws of the lessons: solutions pass, mistakes bring hints and never praise, and a chapter is prose with some code."""

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probes import link_mass
from tasks import IteratedMap
from toylab import lessons
from toylab.calibration import Detector, Exhibit
from toylab.lessons import EXERCISES, check

LESSONS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
CELLS = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in LESSONS}


def source(cell) -> str:
    return "".join(cell["source"])


def asked() -> dict[str, tuple[str, str]]:
    """By the name of an exercise: the call in its notebook, and the solution folded away below."""
    found = {}
    for cells in CELLS.values():
        for cell, below in zip(cells, [*cells[1:], None], strict=True):
            for name, answer in re.findall(r'^check\("([^"]+)", (.*)\)$', source(cell), flags=re.MULTILINE):
                assert name not in found, f"{name} is asked twice"
                (solution,) = re.findall(
                    r"<summary>Solution</summary>\n\n```python\n(.*?)```", source(below), re.DOTALL
                )
                found[name] = (answer, solution)
    return found


def pattern_detector(rng_look) -> Detector:
    """A small stand-in for the detector of the last lesson: the key that should be read is 3."""

    def shown(rng, key):
        pattern = torch.zeros(4, 2, 5, 5, dtype=torch.double)
        pattern[:, 1, -1, key] = 1
        pattern[:, 0, -1] = torch.from_numpy(rng.dirichlet(np.ones(5), size=4))
        links = np.stack([np.arange(4), np.full(4, 4), np.full(4, 3)], axis=1)
        return Exhibit({"pattern": pattern, "links": links})

    return Detector(
        name="three", asks="does a head read three?", score="attention", look=rng_look, bar=0.8,
        plants={"three": lambda rng, noise: shown(rng, 3)},
        controls={"one": lambda rng: shown(rng, 1), "two": lambda rng: shown(rng, 2)}, deceivers={},
    )  # fmt: skip


def sharpest(shown):
    return float(shown["pattern"][:, :, -1].max(dim=-1).values.mean(dim=0).max())


NAMES = {"np": np, "torch": torch, "dataclass": dataclass, "replace": replace, "IteratedMap": IteratedMap}


def solved(name: str):
    answer, solution = asked()[name]
    names = {**NAMES, "mine": pattern_detector(sharpest)}
    exec(solution, names)
    return eval(answer, names)


def says(name: str, answer) -> str:
    with redirect_stdout(io.StringIO()) as told:
        check(name, answer)
    return told.getvalue()


@pytest.fixture(autouse=True)
def _afresh():
    lessons._attempts.clear()


def test_every_exercise_is_asked_in_one_lesson_and_every_lesson_has_two_or_more():
    assert set(asked()) == set(EXERCISES)
    for stem, cells in CELLS.items():
        assert sum('check("' in source(cell) for cell in cells if cell["cell_type"] == "code") >= 2, stem


@pytest.mark.parametrize("name", EXERCISES)
def test_the_folded_solution_is_right_and_says_what_for(name):
    assert says(name, solved(name)) == f"{name}: right. {EXERCISES[name].right}\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_an_answer_still_to_come_is_waited_for_without_a_hint(name):
    stub = pattern_detector(lambda shown: ...) if name == "own.detector" else lambda *_: ...
    for answer in (...,) if name == "tour.smallest" else (..., stub):
        assert "waiting for your answer" in says(name, answer)
    assert not lessons._attempts


WRONG = {
    "tour.carry": [lambda length, t: (length + t + 1, t), lambda length, t: (t, length + t), lambda length, t: 3],
    "tour.smallest": [dict, 7],
    "iteration.distance": [lambda length: length + 1, lambda length: 1],
    "iteration.steered": [
        lambda inputs, states: [(s * x + 1) % 11 for s, x in zip(states[1:], inputs[1:], strict=True)],
        lambda inputs, states: states[1:],
    ],
    "iteration.mass": [lambda pattern, links: pattern.mean(dim=(0, 2, 3)), lambda pattern, links: 1.0],
    "counting.tally": [
        lambda scores, counts, values: scores.softmax(dim=0) @ values,
        lambda scores, counts, values: (scores * counts).softmax(dim=0) @ values,
    ],
    "counting.count": [lambda mass, k: mass / (1 - mass), lambda mass, k: k * mass],
    "counting.elsewhere": [lambda n, k, now: n * now / k, lambda n, k, now: n],
    "safety.chance": [lambda rows, columns: (rows - columns) / rows, lambda rows, columns: columns / rows],
    "safety.null_share": [
        lambda change, weight: 1 - (change - weight).pow(2).sum() / change.pow(2).sum(),
        lambda change, weight: 1 - 5 / 20,
    ],
    "safety.push": [lambda beta, gain: beta / 2, lambda beta, gain: beta / (1 + np.exp(-beta * gain))],
    "steering.advantages": [lambda r: r - r.mean(dim=1, keepdim=True), lambda r: r - r.mean()],
    "steering.portion": [lambda base, steered, full: steered / full, lambda base, steered, full: full - steered],
    "steering.reach": [
        lambda this, other, length, norm: norm * (this - other).norm() / length,
        lambda this, other, length, norm: len(this) ** 0.5 * norm * (this - other).norm() / length,
    ],
    "own.before": [lambda row: row.split("*")[1][0], lambda row: row[0]],
    "own.detector": [pattern_detector(sharpest), pattern_detector(lambda shown: 0.0), sharpest],
}
"""What a learner may well say: off by one, upside down, the usual short cut."""


@pytest.mark.parametrize("name", EXERCISES)
def test_typical_mistakes_bring_the_hints_in_order_and_no_praise(name):
    hints = EXERCISES[name].hints
    assert len(WRONG[name]) >= 2
    told = [says(name, answer) for answer in WRONG[name] * 2]
    for number, text in enumerate(told):
        last = min(number, len(hints) - 1)
        complaint, hint = text.splitlines()
        assert complaint.startswith(f"{name}: not yet; ")
        assert hint == f"Hint {last + 1} of {len(hints)}: {hints[last]}"
        assert EXERCISES[name].right not in text


def test_a_smallest_that_keeps_the_largest_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Largest(IteratedMap):
        name = "largest"
        values = 10

        def step(self, states, inputs):
            return np.maximum(states, inputs)

        def trace(self, inputs, start):
            return [min(inputs[: t + 1]) for t in range(len(inputs))]

    assert "your step" in says("tour.smallest", Largest)
    assert "your trace" in says("tour.smallest", type("Other", (Largest,), {"trace": lambda self, i, s: list(i)}))


@pytest.mark.parametrize("name", EXERCISES)
def test_an_answer_that_breaks_is_told_in_one_line(name):
    def broken(*_):
        raise RuntimeError("first line\nsecond line")

    answer = pattern_detector(broken) if name == "own.detector" else broken
    complaint, _ = says(name, answer).splitlines()
    assert "second line" not in complaint
    assert name == "tour.smallest" or "RuntimeError: first line" in complaint


def test_an_unknown_exercise_is_named():
    with pytest.raises(ValueError, match=r"iteration\.mass"):
        check("iteration.mas", 1)


def test_the_right_detector_of_the_last_lesson_is_its_own_solution():
    right = pattern_detector(lambda shown: float(link_mass(shown["pattern"], shown["links"]).max()))
    assert says("own.detector", right).startswith("own.detector: right.")


# The chapters --------------------------------------------------------------------------------------------------------

OWN = {"00_tour": {"step", "trace"}, "05_your_own": {"vocabulary", "context", "sample", "solve", "says", "show", "rows",
       "attends", "behind", "look_alike", "control", "sharp", "linked"}}  # fmt: skip
"""What a lesson is about, and so defines; nothing else is defined in one but answers to exercises."""


@pytest.mark.parametrize("stem", CELLS)
def test_a_chapter_is_more_prose_than_code_and_says_where_to_look_in_the_paper(stem):
    prose = " ".join(source(c) for c in CELLS[stem] if c["cell_type"] == "markdown")
    code = " ".join(source(c) for c in CELLS[stem] if c["cell_type"] == "code")
    assert len(prose.split()) > len(code.split())
    assert len(re.findall(r"\*\*Predict", prose)) >= 3
    assert re.search(r"arXiv \d{4}\.\d{5}", prose)
    assert re.search(r"[Ss]ections? \d", prose)


@pytest.mark.parametrize("stem", CELLS)
def test_a_chapter_defines_nothing_but_what_it_is_about(stem):
    code = "\n".join(source(c) for c in CELLS[stem] if c["cell_type"] == "code")
    stubs = {answer for answer, _ in asked().values()} | {"look"}
    assert set(re.findall(r"^ *def (\w+)\(", code, flags=re.MULTILINE)) <= stubs | OWN.get(stem, set())
    assert not re.search(r"""["'](/|~|[A-Z]:\\)\w""", code)


@pytest.mark.parametrize("stem", CELLS)
def test_a_chapter_keeps_what_it_printed_and_no_error(stem):
    outputs = [output for cell in CELLS[stem] if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert len(outputs) >= 8
    assert not any(output["output_type"] == "error" for output in outputs)
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "waiting for your answer" in printed
    assert not re.search(r"/(home|root|work|tmp|Users)/", printed)
