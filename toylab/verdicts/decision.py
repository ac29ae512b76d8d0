"""The decision rule: one number per seed, a criterion, and exact intervals at planned looks.

Two statistics are judged, and neither is a mean: the share of seeds that meet the criterion, which must exceed one
half ("in most seeds"), and the median over seeds ("in a typical seed"). A claim is supported if the whole interval
meets the criterion, refuted if the whole interval misses it, and undecided otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from toylab.verdicts.criterion import Criterion, above
from toylab.verdicts.intervals import Interval, median_interval, share_interval

DecisionWord = Literal["supported", "refuted", "undecided"]
Statistic = Literal["share", "median"]

FEWEST_SEEDS = 6
"""Seeds needed for a verdict: the range of five values covers the median with 93.8 % confidence, of six with 96.9 %."""
LEVEL = 0.05
LOOKS = (10, 20, 30)
"""Numbers of seeds at which a run `--until-decided` is judged, each look at a third of the level."""
MOST_SEEDS = above(0.5)


@dataclass(frozen=True)
class Look:
    """The first `seeds` of a run, judged at confidence 1 - `level`."""

    seeds: int
    level: float


@dataclass(frozen=True)
class Plan:
    """The seeds of a run in order, and the looks at which they are judged.

    Attributes:
        seeds: all seeds.
        fixed: number of seeds of a run begun with a fixed size, judged at the full level; seeds added later are
            judged at the looks of a run until decided. 0 for a run until decided.
    """

    seeds: tuple[int, ...]
    fixed: int

    @classmethod
    def of(cls, seeds: Sequence[int]) -> Plan:
        """The plan of a run with a fixed number of seeds."""
        return cls(tuple(seeds), len(seeds))

    def until(self, done: Collection[int]) -> Plan:
        """The plan up to the first unfinished seed, since a look counts only with exactly its planned seeds."""
        return replace(self, seeds=tuple(itertools.takewhile(lambda seed: seed in done, self.seeds)))

    @property
    def looks(self) -> list[Look]:
        """The looks that were reached, in order."""
        first = [Look(self.fixed, LEVEL)] if 0 < self.fixed <= len(self.seeds) else []
        later = [Look(n, LEVEL / len(LOOKS)) for n in LOOKS if self.fixed < n <= len(self.seeds)]
        return first + later


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The result of the decision rule.

    Attributes:
        word: the verdict.
        measured: the share of seeds that meet the criterion, or the median over seeds; None without any value.
        interval: its exact interval; None for a median of too few values.
        seeds: the judged seeds that have a value.
        level: level of the look, one minus the confidence of the interval.
    """

    word: DecisionWord
    measured: float | None
    interval: Interval | None
    seeds: tuple[int, ...]
    level: float


def decide(values: Mapping[int, float], criterion: Criterion, statistic: Statistic, plan: Plan) -> Decision:
    """The decision at the first look that decides, which is final; otherwise at the last look.

    Args:
        values: the quantity by seed; seeds without a value are omitted.
    """
    for look in plan.looks:
        judged = {seed: values[seed] for seed in plan.seeds[: look.seeds] if seed in values}
        decision = decide_at(judged, criterion, statistic, look.level)
        if decision.word != "undecided":
            return decision
    if plan.looks:
        return decision
    level = LEVEL if plan.fixed else LEVEL / len(LOOKS)
    return replace(decide_at(values, criterion, statistic, level), word="undecided")


def decide_at(values: Mapping[int, float], criterion: Criterion, statistic: Statistic, level: float) -> Decision:
    """The decision on all values at one level; fewer than six values are undecided."""
    seeds, numbers = tuple(values), list(values.values())
    measured: float | None = None
    interval: Interval | None = None
    if numbers and statistic == "share":
        passed = sum(map(criterion.meets, numbers))
        measured, interval, criterion = passed / len(numbers), share_interval(passed, len(numbers), level), MOST_SEEDS
    elif numbers:
        measured, interval = float(median(numbers)), median_interval(numbers, level)
    word = criterion.side(interval) if interval and len(numbers) >= FEWEST_SEEDS else "undecided"
    return Decision(word=word, measured=measured, interval=interval, seeds=seeds, level=level)


def is_reachable(seeds: int, statistic: Statistic, level: float) -> bool:
    """Whether this number of seeds can decide at this level, i.e. whether unanimous seeds would."""
    agreeing = dict.fromkeys(range(seeds), 1.0)
    return decide_at(agreeing, above(0), statistic, level).word == "supported"
