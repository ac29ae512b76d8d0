"""Laws of the exercises: what is right is told so, and what is wrong gets its hints."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.lessons.notebooks import answer, asked, cells, plain, solution
from toylab import lessons
from toylab.lessons import EXERCISES, Exercise, answer_key, answer_key_fourier, answer_key_inputs, check
from toylab.probes import link_mass, peakiness
from toylab.tasks import IteratedMap, Polynomial
from toylab.training.losses import leave_one_out


@pytest.fixture(autouse=True)
def _no_attempts_yet():
    lessons._wrong_attempts.clear()


def slipped(name: str, old: str, new: str) -> object:
    """The solution with some words changed."""
    source = solution(*asked(name)[:2])
    assert old in source, (name, old)
    return answer(name, source.replace(old, new))


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
    "grokking.circle": [
        lambda cos_a, sin_a, cos_b, sin_b: cos_a * cos_b + sin_a * sin_b,
        lambda cos_a, sin_a, cos_b, sin_b: cos_a + cos_b,
        lambda cos_a, sin_a, cos_b, sin_b: sin_a * cos_b + cos_a * sin_b,
    ],
    "grokking.energy": [
        lambda values, k: float(np.square(values - values.mean(axis=0)).sum()),
        lambda values, k: frequency_energy(values, k) / np.square(values).sum(),
        lambda values, k: 2 * frequency_energy(values, k) / np.square(values - values.mean(axis=0)).sum(),
    ],
    "inputs.missed": [
        lambda inputs, failing, sample: 1 - sample * failing / inputs,
        lambda inputs, failing, sample: 1 - (1 - failing / inputs) ** sample,
        lambda inputs, failing, sample: np.prod([1 - failing / (inputs + i) for i in range(sample)]),
    ],
    "inputs.bound": [
        lambda sample, confidence: 0.0,
        lambda sample, confidence: 3 / sample,
        lambda sample, confidence: 1 - confidence ** (1 / sample),
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
    "grokking.circle": [("- sin_a", "+ sin_a"), ("cos_a * cos_b", "cos_a * cos_a")],
    "inputs.missed": [("1 - failing", "failing"), ("** sample", "* sample")],
    "inputs.bound": [("(1 - confidence)", "confidence"), ("1 / sample", "sample")],
    "grokking.energy": [("- values.mean(axis=0)", ""), ("(p / 2)", "p"), ("* k *", "* (k + 1) *")],
}
"""Solutions with a slip: old words and new ones."""


def frequency_energy(values: np.ndarray, k: int) -> float:
    energy = (np.abs(np.fft.fft(values, axis=0)) ** 2).sum(axis=1)
    return float(energy[k] + energy[-k]) / len(values)


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
    answers = WRONG[name]
    for number in range(max(len(hints) + 1, len(answers))):
        given_hint = min(number, len(hints) - 1)
        check(name, answers[number % len(answers)])
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


@pytest.mark.parametrize("name", EXERCISES)
def test_what_raises_or_is_of_another_kind_gets_one_line_and_no_hint(name, capsys):
    for unfit in UNFIT:
        check(name, unfit)
        out = capsys.readouterr().out
        assert out.count("\n") == 1, (unfit, out)
        assert out.startswith(f"{name}: "), unfit
        assert "Traceback" not in out, unfit
        assert ": right." not in out, unfit
        assert not lessons._wrong_attempts[name], unfit  # no attempt was used up


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
        lessons._wrong_attempts.clear()
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


def test_the_answer_key_checks_nothing_that_no_exercise_asks():
    files = (Path(module.__file__) for module in (answer_key, answer_key_fourier, answer_key_inputs))
    bodies = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    public = {node.name for node in bodies if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
    assert public == {one.check.__name__ for one in EXERCISES.values()}
