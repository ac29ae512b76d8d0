"""Made-up results in which no two numbers are equal, and what a claim should measure on them, by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from random import Random
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from toylab.verdicts.claim import Claim, Conditions, judge_claims
from toylab.verdicts.decision import Plan
from toylab.verdicts.judgement import Judgement

SEEDS = tuple(range(6))
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Between:
    """A range in which a number is drawn."""

    low: float
    high: float


def number(path: str, low: float = 0.0, high: float = 1.0) -> float:
    """Between these, another one for every path."""
    return Random(path).uniform(low, high)


def made_up(kind: Any, path: str, given: Given | None = None) -> Any:
    """A value of a type, every number in it another one.

    Args:
        path: its name, from which its numbers follow.
        given: by the end of a path, such as "head.carry", what stands there, a range, or a function of the path; the
            longest end counts.
    """
    given = given or {}
    matching = [end for end in given if path.endswith(f".{end}")]
    value = given[max(matching, key=len)] if matching else Between(0, 1)
    if callable(value):
        return value(path)
    return _filled(kind, path, given, value) if isinstance(value, Between) else value


def _filled(kind: Any, path: str, given: Given, ends: Between) -> Any:
    form, parts = get_origin(kind) or kind, get_args(kind)
    if form in (Union, UnionType):
        return _filled(next(part for part in parts if part is not type(None)), path, given, ends)
    if is_dataclass(form):
        return form(**{name: made_up(hint, f"{path}.{name}", given) for name, hint in _fields(form).items()})
    if form is list:
        return [_filled(parts[0], f"{path}.{k}", given, ends) for k in range(4)]
    if form is tuple:
        return tuple(_filled(part, f"{path}.{k}", given, ends) for k, part in enumerate(parts) if ... not in parts)
    if form is dict:
        keys = range(4, 7) if parts[0] is int else ("a", "b")
        return {key: _filled(parts[1], f"{path}.{key}", given, ends) for key in keys}
    if form is bool:
        return number(path) < 0.5
    if form is int:
        return int(number(path, 0, 10**6))
    if form is str or form is Literal:
        return path
    return number(path, ends.low, ends.high)


@cache  # or most of the time would go into evaluating the same annotations
def _fields(form: type) -> dict[str, Any]:
    hints = get_type_hints(form)
    return {one.name: hints[one.name] for one in fields(form)}


def by_key(kind: Any, *keys: Any, given: Given | None = None) -> Callable[[str], dict[Any, Any]]:
    """What stands in a field of values by key."""
    return lambda path: {key: made_up(kind, f"{path}.{key}", given) for key in keys}


def floats_in(found: Any) -> list[float]:
    if is_dataclass(found):
        found = asdict(found)
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return [one for inner in found for one in floats_in(inner)]
    return [found] if isinstance(found, float) else []


# What claims should measure ------------------------------------------------------------------------------------------

OfSeed = Callable[[dict[str, Any]], float | None]
"""A number of a seed, from its results by condition."""


@dataclass(frozen=True)
class Row:
    """What is expected of a claim.

    Attributes:
        value: of one seed.
        criterion: in words.
        control: of one seed, or a number that was computed; None without a control.
        passes: of a claim on most seeds, whether a number meets the criterion.
    """

    value: OfSeed
    criterion: str
    control: OfSeed | float | None = None
    passes: Callable[[float], bool] | None = None

    def summary(self, of_seed: OfSeed, world: Conditions) -> float:
        """The share of seeds that pass, or the number in the middle."""
        found = [of_seed({name: held[seed] for name, held in world.items()}) for seed in SEEDS]
        if self.passes:
            return sum(1 for one in found if self.passes(one)) / len(SEEDS)
        found.sort()
        return (found[2] + found[3]) / 2


def judged(claims: list[Claim], results: Conditions) -> dict[str, Judgement]:
    return {one.id: one for one in judge_claims(claims, results, Plan.of(SEEDS))}


def check(claims: list[Claim], world: Conditions, rows: Mapping[str, Row], skipped: tuple[str, ...] = ()) -> None:
    """Every claim measures what its row says, of all seeds, by the criterion and the statistic of the row."""
    found = judged(claims, world)
    assert set(found) == {*rows, *skipped}
    for claim in claims:
        if claim.id in skipped:
            continue
        row, one = rows[claim.id], found[claim.id]
        assert one.seeds == SEEDS, claim.id
        assert one.measured == pytest.approx(row.summary(row.value, world), rel=1e-3), claim.id
        assert str(claim.criterion) == row.criterion, claim.id
        assert claim.statistic == ("share" if row.passes else "median"), claim.id
        assert (one.control is None) == (row.control is None), claim.id
        assert (one.control is None) != (claim.uncontrolled == ""), claim.id
        assert (claim.margin is None) == (claim.asks == "presence"), claim.id
        if row.control is not None:
            expected = row.summary(row.control, world) if callable(row.control) else row.control
            assert one.control.measured == pytest.approx(expected, rel=1e-3), claim.id
            assert one.control.measured != one.measured, claim.id


def check_claim(
    claim: Claim,
    found: Judgement,
    expected: tuple[str, float, float | None],
    own: Collection[str],
    absence: Collection[str],
    set_up: Collection[str] = (),
) -> None:
    """A claim has this statistic and criterion, measures this number, its control that one, and it is of its kind."""
    criterion, measured, control = expected
    assert f"{claim.statistic} {claim.criterion}" == criterion
    assert found.measured == pytest.approx(measured, rel=1e-3)
    assert (found.control is None) == (control is None) == bool(claim.uncontrolled)
    if found.control:
        assert found.control.measured == pytest.approx(control, rel=1e-3)
    assert claim.kind == ("set-up" if claim.id in set_up else "own" if claim.id in own else "paper")
    assert claim.asks == ("absence" if claim.id in absence else "presence")


def all_differ(world: Conditions) -> bool:
    values = [value for held in world.values() for one in held.values() for value in floats_in(one)]
    return len(set(values)) == len(values) > 0
