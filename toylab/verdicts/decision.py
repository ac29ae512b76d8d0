"""The rule that decides: one number per seed, a criterion, and exact intervals at looks that were planned.

Two questions are asked, never of a mean. In how many seeds: the share of seeds that meet the criterion, and "in most"
means above one half. What does a typical seed show: the median over seeds. A claim is supported where the whole
interval meets the criterion, refuted where the whole interval misses it, else undecided.
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
"""Seeds that decide: smallest and largest of five values enclose the median in 93.8 % of cases, of six in 96.9 %."""
LEVEL = 0.05
LOOKS = (10, 20, 30)
"""Seeds at which a run that goes on until its claims are decided is looked at, each time at a third of the level."""
MOST_SEEDS = above(0.5)


@dataclass(frozen=True)
class Look:
    """The first `seeds` of a run, judged at confidence 1 - `level`."""

    seeds: int
    level: float


@dataclass(frozen=True)
class Plan:
    """The seeds of a run in their order, and when they are looked at.

    Attributes:
        seeds: all of them.
        fixed: how many there were when the run was begun with a fixed size, which is a look at the full level; seeds
            that were added later are looked at as those of a run until decided. 0 for a run until decided.
    """

    seeds: tuple[int, ...]
    fixed: int

    @classmethod
    def of(cls, seeds: Sequence[int]) -> Plan:
        """Of a run with a fixed size."""
        return cls(tuple(seeds), len(seeds))

    def until(self, done: Collection[int]) -> Plan:
        """The plan up to the first seed that is not done: a look at other seeds than the planned ones is none."""
        return replace(self, seeds=tuple(itertools.takewhile(lambda seed: seed in done, self.seeds)))

    @property
    def looks(self) -> list[Look]:
        """Those that were reached, the first first."""
        first = [Look(self.fixed, LEVEL)] if 0 < self.fixed <= len(self.seeds) else []
        later = [Look(n, LEVEL / len(LOOKS)) for n in LOOKS if self.fixed < n <= len(self.seeds)]
        return first + later


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a rule says of one number per seed.

    Attributes:
        word: the verdict.
        measured: the share of seeds that meet the criterion, or the median over seeds; None without a value.
        interval: its exact interval; None for a median of too few values.
        seeds: those that were looked at and have a value.
        level: of the look, one minus the confidence of the interval.
    """

    word: DecisionWord
    measured: float | None
    interval: Interval | None
    seeds: tuple[int, ...]
    level: float


def decide(values: Mapping[int, float], criterion: Criterion, statistic: Statistic, plan: Plan) -> Decision:
    """The first look that decides, which stands; else the last one.

    Args:
        values: by seed; seeds without a value are left out.
    """
    for look in plan.looks:
        seen = {seed: values[seed] for seed in plan.seeds[: look.seeds] if seed in values}
        found = decide_at(seen, criterion, statistic, look.level)
        if found.word != "undecided":
            return found
    if plan.looks:
        return found
    level = LEVEL if plan.fixed else LEVEL / len(LOOKS)
    return replace(decide_at(values, criterion, statistic, level), word="undecided")


def decide_at(values: Mapping[int, float], criterion: Criterion, statistic: Statistic, level: float) -> Decision:
    """All values at one level; fewer than six decide nothing."""
    seeds, held = tuple(values), list(values.values())
    measured: float | None = None
    interval: Interval | None = None
    if held and statistic == "share":
        passed = sum(map(criterion.meets, held))
        measured, interval, criterion = passed / len(held), share_interval(passed, len(held), level), MOST_SEEDS
    elif held:
        measured, interval = float(median(held)), median_interval(held, level)
    word = criterion.side(interval) if interval and len(held) >= FEWEST_SEEDS else "undecided"
    return Decision(word=word, measured=measured, interval=interval, seeds=seeds, level=level)


def is_reachable(seeds: int, statistic: Statistic, level: float) -> bool:
    """Whether so many seeds can decide at all at this level: whether they do where they agree."""
    agreeing = dict.fromkeys(range(seeds), 1.0)
    return decide_at(agreeing, above(0), statistic, level).word == "supported"
