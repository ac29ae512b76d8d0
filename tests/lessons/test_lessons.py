"""Laws of the exercises, and of the notebooks that they stand in."""

import ast
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from toylab import lessons
from toylab.calibration.patterns import looking_at, one_head
from toylab.lessons import EXERCISES, Exercise, answer_key, check
from toylab.probes import link_mass, peakiness
from toylab.tasks import IteratedMap, Polynomial
from toylab.training.losses import leave_one_out

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PREFIX = {"tour": "00", "iteration": "01", "counting": "02", "safety": "03", "steering": "04", "own": "05"}
OWN_DEFINITIONS = {"vocabulary", "context", "sample", "solve", "step", "trace", "sharp"}
"""What a notebook may define besides what an exercise asks for: methods of tasks, and a probe that is wrong."""


@pytest.fixture(autouse=True)
def _no_attempts_yet():
    lessons._wrong.clear()


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


def slipped(name: str, old: str, new: str) -> object:
    """The solution with some words changed."""
    source = solution(*asked(name)[:2])
    assert old in source, (name, old)
    return answer(name, source.replace(old, new))


# The checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_the_folded_solution_is_right_and_says_why_it_matters(name, capsys):
    check(name, answer(name))
    assert capsys.readouterr().out == f"{name}: right. {EXERCISES[name].right}\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_a_cell_that_is_not_filled_in_waits(name, capsys):
    path, place, _ = asked(name)
    stub = plain(cells(path)[place].source)
    assert "..." in stub
    given_back = answer(name, stub[: stub.rindex("check(")])
    for unanswered in (..., given_back):
        capsys.readouterr()
        check(name, unanswered)
        out = capsys.readouterr().out
        assert out.startswith(f"{name} waits")
        assert out.count("\n") == 1
    assert cells(path)[place].outputs[0].text == out


WRONG = {
    "tour.carry": [
        lambda length, t: (length + t + 1, t),
        lambda length, t: (length + t, t - 1),
        lambda length, t: (t, 99),
    ],
    "tour.loss": [lambda length: np.log(11), lambda length: length * np.log(11) / (length + 1)],
    "iteration.address": [lambda position, end: position - end, lambda position, end: min(position - end + 1, end - 1)],
    "iteration.steered": [
        lambda inputs, states: states[:-1],
        lambda inputs, states: Polynomial().trace(inputs[1:], None),  # goes on from its own wrong states
        lambda inputs, states: [(s * x + 1) % 11 for s, x in zip(states, inputs[1:], strict=False)],
    ],
    "iteration.peaky": [
        link_mass,
        lambda pattern, links: peakiness(pattern, links, threshold=0.9),
        lambda pattern, links: (pattern[links[:, 0], :, links[:, 1], links[:, 2]] > 0.5).double().mean(dim=0),
    ],
    "counting.tally": [
        lambda scores, values, counts: np.exp(scores) / np.exp(scores).sum() @ values,
        lambda scores, values, counts: (counts * np.exp(scores)) @ values,
        lambda scores, values, counts: counts @ values / counts.sum(),
    ],
    "counting.count": [lambda mass, k: k * mass, lambda mass, k: mass / (1 - mass), lambda mass, k: k / (1 - mass)],
    "counting.elsewhere": [lambda n, k, now: n, lambda n, k, now: n * now / k, lambda n, k, now: n * k / (now + 1)],
    "safety.chance": [
        lambda rows, columns: columns / rows,
        lambda rows, columns: 1 - columns / rows,
        lambda rows, columns: abs(rows - columns) / rows,
    ],
    "safety.null_share": [
        lambda change, weight: 1 - columns_share(change, weight).sqrt(),
        lambda change, weight: columns_share(change, weight),
        lambda change, weight: 1 - columns_share(change.T, weight.T),
    ],
    "safety.pull": [
        lambda beta, chosen, rejected: beta / 2,
        lambda beta, chosen, rejected: 0.5,
        lambda beta, chosen, rejected: beta * float(torch.sigmoid(torch.tensor(beta * (chosen - rejected)))),
    ],
    "steering.advantage": [
        lambda rewards: rewards - rewards.mean(),
        lambda rewards: rewards,
        lambda rewards: (rewards - rewards.mean()) / (rewards.std() + 1e-6),
    ],
    "steering.opener": [
        lambda share, nats, temperature: share,
        lambda share, nats, temperature: share * np.exp(nats / temperature),
        lambda share, nats, temperature: 1 / (1 + np.exp(-(np.log(share / (1 - share)) / temperature + nats))),
    ],
    "steering.reach": [
        lambda row, other, length, norm: norm * np.linalg.norm(row - other),
        lambda row, other, length, norm: np.sqrt(len(row)) * norm * np.linalg.norm(row - other) / (length + norm),
        lambda row, other, length, norm: norm * np.linalg.norm(row - other) / np.hypot(length, norm),
    ],
    "own.detector": [
        lambda shown: float(shown["pattern"][:, :, -1].max(dim=-1).values.mean(dim=0).max()),
        lambda shown: float(shown["pattern"].max()),
        lambda shown: -float(link_mass(shown["pattern"], shown["links"]).max()),
        lambda shown: float(link_mass(shown["pattern"], shown["links"] - [0, 0, 1]).max()),
    ],
}
"""Answers as learners give them: plausible, of the right kind, and wrong."""

MUTANTS = {
    "tour.maximum": [
        ("np.maximum", "np.minimum"),
        ("max(inputs[: t + 1])", "max(inputs[: t + 2])"),
        ("max(", "inputs[0] or max("),
    ],
    "own.task": [
        ("self.length - links", "self.length - 1 - links"),
        ('split("*")[0][-1]', 'split("*")[1][0]'),
        ("tokens[:, :-1] = tokens[:, -2::-1]", "tokens[:, :-1] = tokens[:, :-1]"),
        ('links={"the letter in front": links}', "links={}"),
        ('links={"the letter in front": links}', 'links={"a": links, "b": links[:, [0, 2, 1]]}'),
    ],
    "tour.carry": [("length + t", "length + t + 1"), ("length + t, t", "length + t, t + 1")],
    "tour.loss": [("(length - 1)", "length"), ("log(11)", "log(10)")],
    "iteration.address": [("+ 1", "+ 2")],
    "iteration.steered": [("inputs[2:]", "inputs[1:]"), ("+ 1)", ")"), ("[inputs[1],", "[inputs[0],")],
    "iteration.peaky": [("> 0.5", "> 0.7"), (" > 0.5", "")],
    "counting.tally": [("counts * ", ""), (" / weights.sum()", "")],
    "counting.count": [("(1 - mass)", "(1 + mass)")],
    "counting.elsewhere": [("k / now", "now / k")],
    "safety.chance": [("max(0, 1 - columns / rows)", "1 - columns / rows"), ("columns / rows", "rows / columns")],
    "safety.null_share": [("change - basis", "0 * change - basis"), (".square().sum()", ".abs().sum()")],
    "safety.pull": [("beta * torch", "torch"), ("beta * rejected - beta * chosen", "beta * chosen - beta * rejected")],
    "steering.advantage": [("/ (number - 1)", "/ number"), ("rewards.sum() - rewards", "rewards.sum()")],
    "steering.opener": [("/ temperature", ""), ("+ nats", "- nats")],
    "steering.reach": [("np.sqrt(len(row))", "len(row)"), ("np.hypot(length, norm)", "length")],
    "own.detector": [(".mean(dim=0).max()", ".max()"), ("[row, :, query, key]", "[row, :, query, key - 1]")],
}
"""Solutions with a slip: old words and new ones."""


def columns_share(change: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    basis = torch.linalg.qr(weight).Q
    return (basis.T @ change).square().sum() / change.square().sum()


def test_every_exercise_has_wrong_answers_and_slips_to_be_tried_on():
    assert set(MUTANTS) == set(EXERCISES)
    assert set(WRONG) | {"tour.maximum", "own.task"} == set(EXERCISES)
    assert all(len(found) >= 2 for found in WRONG.values())


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_get_what_is_wrong_and_the_hints_in_order(name, capsys):
    hints = EXERCISES[name].hints
    attempts = [WRONG[name][number % len(WRONG[name])] for number in range(len(hints) + 1)]
    for number, wrong in enumerate([*attempts, *WRONG[name]]):
        given_hint = min(number, len(hints) - 1)
        check(name, wrong)
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{name}: not yet. "), first
        assert second == f"Hint {given_hint + 1} of {len(hints)}: {hints[given_hint]}"
        assert EXERCISES[name].right not in first + second


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name, slips in MUTANTS.items() for slip in slips])
def test_a_solution_with_a_slip_is_rejected(name, slip, capsys):
    check(name, slipped(name, *slip))
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ")
    assert ": right. " not in out
    assert 1 <= out.count("\n") <= 2


def test_hints_begin_anew_after_a_right_answer(capsys):
    name = "counting.count"
    for wrong, told in ((True, "Hint 1"), (True, "Hint 2"), (False, "right."), (True, "Hint 1")):
        check(name, WRONG[name][0] if wrong else answer(name))
        assert told in capsys.readouterr().out


def raises(*_):
    raise KeyError("two\nlines")


def endless(*_):
    return endless()


class Awkward:
    def __init__(self, *_, **__):
        raise OSError("cannot be made")


UNFIT = [
    raises,
    endless,
    lambda *_: None,
    lambda *_: "4",
    lambda *_: [[1.0, 2.0], [3.0]],
    lambda: 1,
    4,
    "reads",
    None,
    Awkward,
    dict,
]


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("name", EXERCISES)
def test_what_raises_or_is_of_another_kind_gets_one_line_and_no_hint(name, unfit, capsys):
    check(name, unfit)
    out = capsys.readouterr().out
    assert out.count("\n") == 1, out
    assert out.startswith(f"{name}: ")
    assert "Traceback" not in out
    assert ": right." not in out
    assert not lessons._wrong[name]  # no attempt was used up


@pytest.mark.parametrize("name", WRONG)
def test_nan_is_never_right(name, capsys):
    check(name, lambda *_: np.full(2, np.nan) if name == "tour.carry" else np.nan)
    assert ": right." not in capsys.readouterr().out


def test_an_unknown_exercise_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no exercise 'tour.cary'; did you mean tour\.carry\?"):
        check("tour.cary", ...)


def test_an_answer_may_write_into_what_it_is_given(capsys):
    def in_place(rewards):
        rewards -= (rewards.sum() - rewards) / (len(rewards) - 1)
        return rewards

    check("steering.advantage", in_place)
    assert ": right." in capsys.readouterr().out


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, torch.as_tensor])
def test_numbers_may_come_as_they_like(kind, capsys):
    check("steering.advantage", lambda rewards: kind(leave_one_out(torch.from_numpy(rewards)[None])[0].tolist()))
    assert ": right." in capsys.readouterr().out


def test_a_check_is_the_same_every_time(capsys):
    said = []
    for _ in range(2):
        lessons._wrong.clear()
        for name, wrong in WRONG.items():
            check(name, wrong[0])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_an_exercise_is_told_in_full():
    for name, one in EXERCISES.items():
        assert isinstance(one, Exercise)
        assert one.name == name
        assert 2 <= len(one.hints) <= 4
        assert all(sentence[-1] in ".?" and "\n" not in sentence for sentence in (*one.hints, one.right))
    assert issubclass(answer("tour.maximum"), IteratedMap)


@given(st.integers(1, 40))
def test_the_loss_that_the_tour_draws_is_the_mean_over_what_is_scored(longest):
    """28 of 44 for lengths 1 to 8: the dashed line of the tour."""
    form_loss = answer("tour.loss")
    scored = np.arange(1, longest + 1) + 1
    mean = sum(form_loss(length) * (length + 1) for length in range(1, longest + 1)) / scored.sum()
    guessed = longest * (longest - 1) / 2
    assert mean == pytest.approx(guessed * np.log(11) / scored.sum())


@given(st.floats(0.01, 3), st.floats(-20, 20), st.floats(-20, 20))
def test_the_pull_of_the_solution_is_the_slope_of_the_loss(beta, chosen, rejected):
    gain = torch.tensor(chosen, dtype=torch.double, requires_grad=True)
    (-F.logsigmoid(beta * gain - beta * rejected)).backward()
    assert answer("safety.pull")(beta, chosen, rejected) == pytest.approx(-gain.grad.item(), abs=1e-12)


# Patterns made by hand -----------------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0]), st.integers(4, 10))
def test_one_head_looks_where_it_is_told_and_every_row_sums_to_one(seed, noise, size):
    rng = np.random.default_rng(seed)
    query = rng.integers(1, size, size=5)
    links = np.stack([np.arange(5), query, rng.integers(0, query)], axis=1)
    pattern = one_head(rng, links, links[:, 2], size, noise)
    torch.testing.assert_close(pattern.sum(dim=-1), torch.ones(5, 4, size, dtype=torch.double))
    assert not pattern.triu(1).any()
    assert link_mass(pattern, links).max() >= 1 - noise - 1e-9


def test_a_look_alike_is_shown_with_the_true_links():
    control = looking_at(lesson_task(), "the letter behind", lambda rng, key, size: key - 1)
    shown = control(np.random.default_rng(0)).shown
    links = shown["links"]
    assert link_mass(shown["pattern"], links).max() < 0.5
    assert link_mass(shown["pattern"], links - [0, 0, 1]).max() == pytest.approx(1)


def lesson_task() -> type:
    """The task that notebook 05 writes into a file."""
    (source,) = (cell.source for cell in code(NOTEBOOKS[5]) if cell.source.startswith("%%writefile"))
    names: dict = {"__name__": "lesson"}
    exec(plain(source), names)
    return names["BehindTheStar"]


# The notebooks -------------------------------------------------------------------------------------------------------


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


def test_the_answer_key_checks_nothing_that_no_exercise_asks():
    tree = ast.parse(Path(answer_key.__file__).read_text(encoding="utf-8"))
    public = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    assert public == {one.check.__name__ for one in EXERCISES.values()} | {"filled"}
