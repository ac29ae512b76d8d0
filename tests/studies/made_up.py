"""Made-up results in which no two numbers are equal, and what a claim should measure on them, by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from random import Random
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from toylab.verdicts.claim import Claim, Conditions, judge_claims
from toylab.verdicts.decision import Plan
from toylab.verdicts.judgement import Judgement

SEEDS = tuple(range(6))
Given = Mapping[str, Callable[[str], Any]]
"""By the end of a path, such as `soft/unsafe`, what stands there, as a function of the path."""


def number(path: str, low: float = 0.05, high: float = 0.95) -> float:
    """Another one for every path."""
    return Random(path).uniform(low, high)


def made_up(kind: Any, path: str, given: Given | None = None) -> Any:
    """A value of a type, every number in it another one; lists have three entries, lists of results two."""
    given = given or {}
    for end, make in given.items():
        if path.endswith(f"/{end}"):
            return make(path)
    if is_dataclass(kind):
        types = get_type_hints(kind)
        return kind(**{one.name: made_up(types[one.name], f"{path}/{one.name}", given) for one in fields(kind)})
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return made_up(inner[0], path, given)
    if origin is list:
        return [made_up(inner[0], f"{path}/{k}", given) for k in range(2 if is_dataclass(inner[0]) else 3)]
    if origin is tuple:
        return tuple(made_up(one, f"{path}/{k}", given) for k, one in enumerate(inner))
    return {float: number, int: lambda path: Random(path).randint(2, 20)}[kind](path)


def by_key(kind: Any, *keys: Any, given: Given | None = None) -> Callable[[str], dict[Any, Any]]:
    """What stands in a field of values by key."""
    return lambda path: {key: made_up(kind, f"{path}/{key}", given) for key in keys}


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


def all_differ(world: Conditions) -> bool:
    values = [value for held in world.values() for one in held.values() for value in floats_in(one)]
    return len(set(values)) == len(values) > 0
