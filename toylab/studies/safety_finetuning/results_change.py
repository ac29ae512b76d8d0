"""Results on the change of the up-projections: the null-space measure released with the paper, and the separation of
prompts with only one part of the change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SineForm:
    """One form of the null-space measure released with the paper (`probes.span_sine`): for the fine-tuned up-projection
    of the last layer, and for 20 random changes of the same size."""

    own: float
    random: float
    """Mean over the random changes."""
    spread: float
    """Standard deviation over the random changes."""

    @property
    def deviation(self) -> float:
        """Distance above the mean of the random changes, in units of their standard deviation."""
        return (self.own - self.random) / self.spread

    @property
    def noise(self) -> float:
        """Coefficient of variation (standard deviation over mean) of the random changes."""
        return self.spread / self.random


@dataclass(frozen=True, kw_only=True)
class ReleasedSine:
    """Mean sine of the angle between the left singular directions of the up-projection after fine-tuning and their span
    before fine-tuning."""

    columns: SineForm
    """The measure on the columns of the matrix of left singular directions, as intended."""
    rows: SineForm
    """The measure on the rows of that matrix, as in the released code."""


@dataclass(frozen=True, kw_only=True)
class PartSeparations:
    """Separation of safe and unsafe prompts in the last layer with only one part of the change of the up-projections;
    all other weights fine-tuned."""

    up_in_the_column_space: float
    """Separation without the part in the left null space."""
    up_in_the_null_space: float
    """Separation without the part in the column space."""


@dataclass(frozen=True, kw_only=True)
class MovedRefusals:
    """Share of NULL in answers to jailbreaks by mixed text, under a shift of the last layer's activations."""

    before: float
    """Without a shift."""
    unsafe: float
    """By the difference of the means of unsafe and safe text."""
    random: float
    """By a random vector of the same norm."""
