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
    distributions = [
        SeedDistribution("normal", lambda rng, size: rng.standard_normal(size), 0.0, 0.0),
        SeedDistribution("lognormal", lambda rng, size: np.exp(rng.standard_normal(size)), 1.0, math.exp(0.5)),
    ]
    for study in published_scoreboard():
        for claim in study.claims:
            values = (
                np.sort(np.array([*claim.details["by seed"].values()], dtype=float)) if claim.seeds else np.zeros(0)
            )
            if len(values) >= FEWEST_SEEDS and values[0] < values[-1]:
                distributions.append(_of_values(f"{study.study}, {claim.id}", values))
    return distributions


def _of_values(name: str, values: np.ndarray) -> SeedDistribution:
    """Sampling with replacement. The median is the lower of the two middle values, so that it is attained."""
    return SeedDistribution(
        name, lambda rng, size: rng.choice(values, size), float(values[(len(values) - 1) // 2]), float(values.mean())
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
    return float(np.mean([bounds[0] <= truth <= bounds[1] for bounds in intervals if bounds is not None]))


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
    error_kinds: dict[str, tuple[Criterion, str]] = {
        "refuted, though at least": (at_least(truth), "refuted"),
        "refuted, though at most": (at_most(truth), "refuted"),
        "supported, though not above": (above(truth), "supported"),
        "supported, though not below": (below(truth), "supported"),
    }
    values = [dict(enumerate(row.tolist())) for row in rows]
    return {
        name: float(np.mean([decide(sample, criterion, "median", plan).word == word for sample in values]))
        for name, (criterion, word) in error_kinds.items()
    }


def share_error(rule: str, share: float = 0.5) -> float:
    """Probability of "supported" for "in most seeds" if each seed passes with probability `share`; exact, over all
    looks."""
    seeds, fixed = SIZES_OF_RULES[rule]
    looks = {look.seeds: look.level for look in Plan(tuple(range(seeds)), fixed).looks}
    undecided, supported = {0: 1.0}, 0.0  # probability of each number of passes, over undecided runs
    for seed_count in range(1, seeds + 1):
        updated: dict[int, float] = {}
        for passed, chance in undecided.items():
            updated[passed] = updated.get(passed, 0.0) + chance * (1 - share)
            updated[passed + 1] = updated.get(passed + 1, 0.0) + chance * share
        undecided = updated
        if seed_count in looks:
            bounds = {passed: share_interval(passed, seed_count, looks[seed_count]) for passed in undecided}
            supported += sum(chance for passed, chance in undecided.items() if bounds[passed][0] > 0.5)
            undecided = {
                passed: chance for passed, chance in undecided.items() if bounds[passed][0] <= 0.5 <= bounds[passed][1]
            }
    return supported


def coverage_table(distributions: Sequence[SeedDistribution]) -> str:
    """Coverage by number of seeds, and error rates of every rule, including the least favourable published claims."""
    lines = [["population", "seeds", "median, exact", "mean, Student", "mean, bootstrap"]]
    for seeds in SIZES:
        coverages = [coverage(item, seeds) for item in distributions]
        rows = [*coverages[:2], *_lowest_and_median(coverages[2:])]
        lines += [
            [item.population, str(seeds), *map(_three_decimals, (item.median, item.student, item.resampled))]
            for item in rows
        ]
    errors = [["rule", "median, simulated", "share, enumerated"]]
    for rule in SIZES_OF_RULES:
        largest = max(max(one_sided_errors(item, rule).values()) for item in distributions)
        errors.append([rule, f"{largest:.3f}", f"{share_error(rule):.4f}"])
    return f"{align_columns(lines)}\n\n{align_columns(errors)}"


def _lowest_and_median(coverages: Sequence[Coverage]) -> list[Coverage]:
    """The published claims with the lowest and with the median coverage of Student's interval."""
    ordered = sorted(coverages, key=lambda item: item.student)
    return [ordered[0], ordered[len(ordered) // 2]] if ordered else []


def _three_decimals(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"
