"""Error rates of the verdict rules, simulated on populations with known parameters.

    toylab calibrate intervals

The populations are normal, skewed and Bernoulli distributions, and the per-seed values of the published scoreboard,
which mix failed and perfect models. The threshold is the true value, where verdicts err most often. Usual intervals of
the mean are shown for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from toylab.console import align_columns
from toylab.runs.scoreboard import published_scoreboard
from toylab.tasks import stream
from toylab.verdicts.criterion import Criterion, above, at_least, at_most, below
from toylab.verdicts.decision import FEWEST_SEEDS, LEVEL, Plan, decide
from toylab.verdicts.intervals import Interval, bootstrap_interval, median_interval, share_interval

SIZES = (3, 5, 6, 10, 20, 30)
SIZES_OF_RULES = {"six, fixed": (6, 6), "ten, fixed": (10, 10), "10, 20, 30": (30, 0), "6, then 10, 20, 30": (30, 6)}
"""By rule, the seeds of a run and the initial fixed number of seeds (0: until decided)."""
ERROR_LIMIT = 0.03
"""Largest tolerated one-sided error rate of a rule, where the nominal rate is .025."""


@dataclass(frozen=True)
class SeedDistribution:
    """Per-seed values to sample from, with their true median and mean."""

    name: str
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
    median: float
    mean: float


def seed_distributions() -> list[SeedDistribution]:
    """The simulated distributions: two continuous ones, and every published claim with a value for every seed."""
    found = [
        SeedDistribution("normal", lambda rng, size: rng.standard_normal(size), 0.0, 0.0),
        SeedDistribution("lognormal", lambda rng, size: np.exp(rng.standard_normal(size)), 1.0, math.exp(0.5)),
    ]
    for standing in published_scoreboard():
        for claim in standing.claims:
            held = np.sort(np.array([*claim.details["by seed"].values()], dtype=float)) if claim.seeds else np.zeros(0)
            if len(held) >= FEWEST_SEEDS and held[0] < held[-1]:
                found.append(_of_values(f"{standing.study}, {claim.id}", held))
    return found


def _of_values(name: str, held: np.ndarray) -> SeedDistribution:
    """Sampling with replacement. The median is the lower of the two middle values, so that it is attained."""
    return SeedDistribution(
        name, lambda rng, size: rng.choice(held, size), float(held[(len(held) - 1) // 2]), float(held.mean())
    )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage of three nominal 95 % intervals."""

    population: str
    seeds: int
    median: float | None
    """Exact interval of the median; None with too few values for one."""
    student: float
    """Student's interval of the mean."""
    resampled: float
    """Bootstrap interval of the mean."""


def coverage(population: SeedDistribution, seeds: int, draws: int = 400) -> Coverage:
    """Shares of `draws` samples in which each nominal 95 % interval covers the true value."""
    rows = population.draw(stream(0, "coverage", seeds), (draws, seeds))
    medians = [median_interval(row.tolist()) for row in rows]
    return Coverage(
        population=population.name,
        seeds=seeds,
        median=None if medians[0] is None else _share(medians, population.median),
        student=_share(map(_student, rows), population.mean),
        resampled=_share((bootstrap_interval(row.tolist(), 200) for row in rows), population.mean),
    )


def _share(intervals: Iterable[Interval | None], truth: float) -> float:
    return float(np.mean([found[0] <= truth <= found[1] for found in intervals if found is not None]))


def _student(row: np.ndarray) -> Interval:
    half = _quantile(len(row)) * row.std(ddof=1) / math.sqrt(len(row))
    return float(row.mean() - half), float(row.mean() + half)


@lru_cache
def _quantile(seeds: int) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - LEVEL / 2, seeds - 1))


def one_sided_errors(population: SeedDistribution, rule: str, draws: int = 400) -> dict[str, float]:
    """Shares of `draws` samples with a wrong verdict on the median, for thresholds at the true median, by criterion."""
    seeds, fixed = SIZES_OF_RULES[rule]
    plan = Plan(tuple(range(seeds)), fixed)
    rows = population.draw(stream(0, "errors", rule), (draws, seeds))
    truth = population.median
    wrong: dict[str, tuple[Criterion, str]] = {
        "refuted, though at least": (at_least(truth), "refuted"),
        "refuted, though at most": (at_most(truth), "refuted"),
        "supported, though not above": (above(truth), "supported"),
        "supported, though not below": (below(truth), "supported"),
    }
    values = [dict(enumerate(row.tolist())) for row in rows]
    return {
        told: float(np.mean([decide(one, criterion, "median", plan).word == word for one in values]))
        for told, (criterion, word) in wrong.items()
    }


def share_error(rule: str, share: float = 0.5) -> float:
    """Probability of "supported" for "in most seeds" if each seed passes with probability `share`; exact, over all
    looks."""
    seeds, fixed = SIZES_OF_RULES[rule]
    looks = {look.seeds: look.level for look in Plan(tuple(range(seeds)), fixed).looks}
    going, supported = {0: 1.0}, 0.0  # probability of each number of passes, over undecided runs
    for seen in range(1, seeds + 1):
        more: dict[int, float] = {}
        for passed, chance in going.items():
            more[passed] = more.get(passed, 0.0) + chance * (1 - share)
            more[passed + 1] = more.get(passed + 1, 0.0) + chance * share
        going = more
        if seen in looks:
            ends = {passed: share_interval(passed, seen, looks[seen]) for passed in going}
            supported += sum(chance for passed, chance in going.items() if ends[passed][0] > 0.5)
            going = {passed: chance for passed, chance in going.items() if ends[passed][0] <= 0.5 <= ends[passed][1]}
    return supported


def coverage_table(chosen: Sequence[SeedDistribution]) -> str:
    """Coverage by number of seeds, and error rates of every rule, including the least favourable published claims."""
    lines = [["population", "seeds", "median, exact", "mean, Student", "mean, bootstrap"]]
    for seeds in SIZES:
        found = [coverage(one, seeds) for one in chosen]
        rows = [*found[:2], *_spread(found[2:])]
        lines += [[one.population, str(seeds), *map(_told, (one.median, one.student, one.resampled))] for one in rows]
    errors = [["rule", "median, simulated", "share, enumerated"]]
    for rule in SIZES_OF_RULES:
        largest = max(max(one_sided_errors(one, rule).values()) for one in chosen)
        errors.append([rule, f"{largest:.3f}", f"{share_error(rule):.4f}"])
    return f"{align_columns(lines)}\n\n{align_columns(errors)}"


def _spread(found: Sequence[Coverage]) -> list[Coverage]:
    """The published claims with the lowest and with the median coverage of Student's interval."""
    ordered = sorted(found, key=lambda one: one.student)
    return [ordered[0], ordered[len(ordered) // 2]] if ordered else []


def _told(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"
