"""Confidence intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from toylab.console import ToylabError
from toylab.tasks import stream

Interval = tuple[float, float]


def interval(values: Sequence[float | int]) -> Interval | None:
    """The 95 % interval over seeds or rows: Wilson's for booleans, else bootstrap of the mean; None for one value."""
    if len(values) == 1:
        return None
    yes_or_no = all(isinstance(value, bool) for value in values)
    return wilson_interval(sum(map(bool, values)), len(values)) if yes_or_no else bootstrap_interval(values)


def mean_in_words(values: Sequence[float | int]) -> str:
    """A mean, or for booleans a count and total, with its interval."""
    yes_or_no = all(isinstance(value, bool) for value in values)
    text = f"{sum(values)} of {len(values)}" if yes_or_no else f"{sum(values) / len(values):.3f}"
    bounds = interval(values) if values else None
    places = 2 if yes_or_no else 3
    return f"{text} [{bounds[0]:.{places}f}, {bounds[1]:.{places}f}]" if bounds else text


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> Interval:
    """The 95 % interval of a share (Wilson 1927), which stays within [0, 1] for few trials and shares of 0 and 1.

    Raises:
        ToylabError: if there is no trial, or successes lie outside 0 .. trials.
    """
    _check_share(successes, trials)
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def share_interval(successes: int, trials: int, level: float = 0.05) -> Interval:
    """The exact interval of a share at confidence 1 - level (Clopper and Pearson 1934).

    Raises:
        ToylabError: if there is no trial, or successes lie outside 0 .. trials.
    """
    _check_share(successes, trials)
    from scipy.stats import beta  # takes half a second to import

    misses = trials - successes
    low = float(beta.ppf(level / 2, successes, misses + 1)) if successes else 0.0
    high = float(beta.ppf(1 - level / 2, successes + 1, misses)) if misses else 1.0
    return low, high


def median_interval(values: Sequence[float | int], level: float = 0.05) -> Interval | None:
    """The distribution-free interval of the median at confidence of at least 1 - level, between two order statistics.

    It runs from the k-th smallest to the k-th largest of n values and misses the median with probability
    2 P(Bin(n, 1/2) < k). None if there are too few values: five cover the median with probability 1 - 2/32.
    """
    ordered, size = sorted(values), len(values)
    outside, k = 0.0, 0  # probability of fewer than k values on one side of the median
    while k < size and 2 * (more := outside + math.comb(size, k) / 2**size) <= level:
        outside, k = more, k + 1
    return (float(ordered[k - 1]), float(ordered[-k])) if k else None


def bootstrap_interval(values: Sequence[float | int], draws: int = 2000) -> Interval:
    """The 95 % percentile bootstrap interval of the mean, with a fixed random seed.

    Raises:
        ToylabError: for fewer than two values.
    """
    if len(values) < 2:
        raise ToylabError(f"values={list(values)}: an interval needs at least 2")
    data = np.asarray(values, dtype=float)
    means = data[stream(0, "bootstrap").integers(len(data), size=(draws, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _check_share(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials or trials == 0:
        raise ToylabError(
            f"successes={successes}, trials={trials}: need at least one trial and 0 <= successes <= trials"
        )
