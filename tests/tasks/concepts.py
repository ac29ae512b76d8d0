"""Texts of two concepts for their tests: grammars of many shapes, prompts read back, and copies with other members."""

import dataclasses
import itertools
import math

from hypothesis import strategies as st

from toylab.tasks import TaskConcept, decode

seeds = st.integers(0, 2**20)
TOP = ("A0", "A1", "B0", "B1")
SPECS = [(6, 2, 1, False), (6, 2, 1, True), (6, 2, 2, False), (12, 2, 2, False), (12, 2, 2, True), (6, 3, 1, False)]
SPECS = [*SPECS, (12, 3, 1, True), (12, 3, 2, False), (8, 3, 2, True), (24, 3, 2, False)]
SPECS = [dict(zip(("letters", "levels", "alternatives", "sharing"), spec, strict=True)) for spec in SPECS]
SMALL = {"letters": 6, "alternatives": 1, "soft_slots": 1}
"""A task of few prompts."""


def within_error(count, rows, share):
    assert abs(count - rows * share) <= 4 * math.sqrt(rows * share * (1 - share)), f"{count} of {rows}, not {share}"


def said(call, *arguments, **others):
    """What a ValueError says, or nothing where none is raised."""
    try:
        call(*arguments, **others)
    except ValueError as error:
        return str(error)
    return ""


def named(x):
    return x.__name__.replace("_", " ") if callable(x) else str(x)


def prompts_of(task, batch):
    return batch.tokens[:, : task.prompt].tolist()


HOLDS = {
    "safe": {"A": "MS", "B0": "S"},
    "unsafe": {"A": "U", "B0": "MU"},
    "competing-task": {"A": "SU", "B0": "SU"},
    "competing-text": {"half": "M"},
    "mismatched-text": {"B1": "M"},
    "mismatched-token": {"A": "D", "B0": "D"},
}
"""Of each kind, its texts, and the classes of operators that may be asked of them."""


def may_hold(kind):
    """What a kind may hold: classes of operators, the identity left out, with what the text is of."""
    some = itertools.combinations_with_replacement
    asked = {text: {"".join(c) for n in (1, 2) for c in some(letters, n)} for text, letters in HOLDS[kind].items()}
    return {(c, text) for text in asked for c in ({"SU"} if kind == "competing-task" else asked[text])}


def described(task, prompt):
    """The classes of the operators, the identity left out, with what the text is of, read from names and tree."""
    symbols = task.grammar.parse(prompt[task.text])
    found = set(symbols)
    text = "A" if found <= {"A0", "A1"} else symbols[0] if len(found) == 1 else "mixed"
    if text == "mixed" and "B1" not in found and symbols.count("B0") == len(symbols) // 2:
        text = "half"
    return "".join(sorted(name[0] for name in decode(task, prompt[1:3]) if name != "id")), text


def broken(sound, members):
    """A copy that has other members in place of its own: those that `members` makes of it."""
    copy = dataclasses.replace(sound)
    copy.__dict__.update(members(copy))
    return copy


def drawing(task, kinds, **others):
    """A draw of one kind as if it were another, or of all as if the task had other settings."""
    other = dataclasses.replace(task, **others)
    return {"_draw": lambda rng, rows, kind, single: TaskConcept._draw(other, rng, rows, kinds.get(kind, kind), single)}
