"""Criteria: the range of measured values that supports a claim. A criterion tests values and prints itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from toylab.console import ToylabError


@dataclass(frozen=True)
class Criterion:
    """The interval of values that meet the criterion.

    Attributes:
        low: lower threshold.
        high: upper threshold.
        strict: whether the thresholds themselves miss the criterion.
    """

    low: float | int = -math.inf
    high: float | int = math.inf
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (math.isinf(self.low) and math.isinf(self.high)):
            raise ToylabError(
                f"criterion from {self.low} to {self.high}: every or no number meets it; give one threshold, or "
                "two in ascending order"
            )

    def meets(self, value: float | int) -> bool:
        """Whether a value meets the criterion; NaN does not."""
        return self.low < value < self.high if self.strict else self.low <= value <= self.high

    def side(self, interval: tuple[float, float]) -> Literal["supported", "refuted", "undecided"]:
        """ "supported" if the whole interval meets the criterion, "refuted" if all of it misses, else "undecided"."""
        low, high = interval
        if self.meets(low) and self.meets(high):
            return "supported"
        below, beyond = (high <= self.low, low >= self.high) if self.strict else (high < self.low, low > self.high)
        return "refuted" if below or beyond else "undecided"

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{'>' if self.strict else '>='} {self.low:g}"
        if math.isinf(self.low):
            return f"{'<' if self.strict else '<='} {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


def at_least(low: float | int) -> Criterion:
    """`low` or more."""
    return Criterion(low=low)


def above(low: float | int) -> Criterion:
    """More than `low`."""
    return Criterion(low=low, strict=True)


def at_most(high: float | int) -> Criterion:
    """`high` or less."""
    return Criterion(high=high)


def below(high: float | int) -> Criterion:
    """Less than `high`."""
    return Criterion(high=high, strict=True)


def between(low: float | int, high: float | int) -> Criterion:
    """From `low` to `high`, ends included."""
    return Criterion(low, high)
