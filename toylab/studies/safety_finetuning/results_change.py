"""Results on the change of the up-projections: the null-space measure that was released with the paper, and the
separation of prompts that a part of the change leaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SineForm:
    """One form of the measure of the null space that was released with the paper, see `probes.span_sine`: of the tuned
    up-projection of the last layer, beside 20 random changes of the same size."""

    own: float
    random: float
    """Mean over the random changes."""
    spread: float
    """Their standard deviation."""

    @property
    def deviation(self) -> float:
        """How far it lies above the mean of the random changes, in their standard deviations."""
        return (self.own - self.random) / self.spread

    @property
    def noise(self) -> float:
        """The standard deviation of the random changes over their mean."""
        return self.spread / self.random


@dataclass(frozen=True, kw_only=True)
class ReleasedSine:
    """Mean sine of the angle between left directions of the up-projection and the span of those before."""

    columns: SineForm
    """Of columns of the matrix of left directions, which is meant."""
    rows: SineForm
    """Of its rows, as released."""


@dataclass(frozen=True, kw_only=True)
class PartSeparations:
    """Separation of safe and unsafe prompts in the last layer with only a part of the change of the up-projections, all
    else tuned."""

    up_in_the_column_space: float
    """The part in the left null space taken away."""
    up_in_the_null_space: float
    """The other part taken away."""
