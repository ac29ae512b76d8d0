"""Criteria: what a measured number must reach over seeds. A criterion judges values and writes its own words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from toylab.console import ToylabError


@dataclass(frozen=True)
class Criterion:
    """An interval of numbers that meet the criterion, and how the seeds must meet it.

    Attributes:
        low: the least of them.
        high: the greatest of them.
        strict: whether the ends themselves miss it.
        share: of the seeds that must meet it; without, the mean over seeds is judged.
        surely: whether both ends of the 95 % interval of the mean must meet it.
    """

    low: float | int = -math.inf
    high: float | int = math.inf
    strict: bool = False
    share: float | None = None
    surely: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (math.isinf(self.low) and math.isinf(self.high)):
            raise ToylabError(f"criterion from {self.low} to {self.high}: no number decides it; give one end, or two")

    def meets(self, value: float | int) -> bool:
        """Whether a value meets the criterion; NaN meets none."""
        return self.low < value < self.high if self.strict else self.low <= value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{'>' if self.strict else '>='} {self.low:g}"
        if math.isinf(self.low):
            return f"{'<' if self.strict else '<='} {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


def at_least(low: float | int, share: float | None = None, surely: bool = False) -> Criterion:
    """`low` or more."""
    return Criterion(low=low, share=share, surely=surely)


def above(low: float | int, share: float | None = None, surely: bool = False) -> Criterion:
    """More than `low`."""
    return Criterion(low=low, strict=True, share=share, surely=surely)


def at_most(high: float | int, share: float | None = None, surely: bool = False) -> Criterion:
    """`high` or less."""
    return Criterion(high=high, share=share, surely=surely)


def below(high: float | int, share: float | None = None, surely: bool = False) -> Criterion:
    """Less than `high`."""
    return Criterion(high=high, strict=True, share=share, surely=surely)


def between(low: float | int, high: float | int, share: float | None = None, surely: bool = False) -> Criterion:
    """From `low` to `high`, ends included."""
    return Criterion(low, high, share=share, surely=surely)
