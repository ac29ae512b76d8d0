"""Numbers of several counting models that claims and figures read: what changes when something is appended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from toylab.studies.contextual_counting.results import (
    ADDED_REGION,
    CONSTANT,
    SIXTEEN_ZEROS,
    SLACK,
    CountingResult,
    CountShift,
    RegionCircuit,
)

TOLERANCE = 0.15
"""Greatest relative error of a predicted slope that counts as a hit."""

Law = Callable[[CountShift], float]
"""The slope that is predicted."""

Models = Iterable[CountingResult | None]
"""Of several conditions, None where a condition lacks the seed."""


def counting_regions(models: Models, change: str) -> list[tuple[RegionCircuit, CountShift]]:
    """The solved regions that count in the decoder, with what a change does to each."""
    return [one for model in models if model for one in model.shifted(change)]


def prediction_error(models: Models, law: Law, change: str) -> float | None:
    """Mean relative error of the slopes that a law predicts for counting regions; None if there are none."""
    errors = [shift.error(law(shift)) for _, shift in counting_regions(models, change)]
    return sum(errors) / len(errors) if errors else None


def predicted_to_change(models: Models, law: Law) -> list[CountShift]:
    """Those of counting regions, once 16 zeros or an empty region were appended, whose slope a law predicts to change
    by more than what counts as a hit.

    The last region is not asked about an appended one, which it may take for its own: no law of weights predicts that.
    """
    found = [
        shift
        for model in models
        if model
        for change in (SIXTEEN_ZEROS, ADDED_REGION)
        for region, shift in model.shifted(change)
        if change == SIXTEEN_ZEROS or region is not model.circuits[-1]
    ]
    return [shift for shift in found if abs(law(shift) / shift.before - 1) > TOLERANCE]


def share_predicted(*models: CountingResult | None, law: Law, answer: Law | None = None) -> float | None:
    """The share of these slopes that a law, or another answer to the same question, predicts; None without any."""
    found = [shift.error((answer or law)(shift)) <= TOLERANCE for shift in predicted_to_change(models, law)]
    return sum(found) / len(found) if found else None


def compared_with(models: Models, biases: Collection[str]) -> list[tuple[RegionCircuit, CountShift]]:
    """Counting regions with one of these biases, at the floor without it, and what 16 zeros do to each."""
    return [
        one
        for model in models
        if model
        for one in model.shifted(SIXTEEN_ZEROS)
        if one[0].bias in biases and one[0].needs_bias(model.floor + SLACK)
    ]


def accuracy_kept(*models: CountingResult | None, biases: Collection[str]) -> float | None:
    """Accuracy of these regions after 16 zeros were appended."""
    held = [shift.accuracy for _, shift in compared_with(models, biases)]
    return sum(held) / len(held) if held else None


def lead_of_constant(*models: CountingResult | None) -> float | None:
    """That accuracy where the bias is of constant number less that where it is zeros; None where one is lacking."""
    constant, zeros = (accuracy_kept(*models, biases=one) for one in (CONSTANT, ("zeros",)))
    return None if constant is None or zeros is None else constant - zeros


def regions_solved(models: Models) -> str:
    """How many regions are solved; without an interval, since regions of a model are no independent samples."""
    found = [region.solved for model in models for region in model.circuits]
    return f"{sum(found)} of {len(found)}"


def bias_names(models: Models) -> dict[str, int]:
    """How many solved regions have each class as the largest bias."""
    return dict(Counter(region.largest for model in models for region in model.solved).most_common())


def circuit_names(models: Models) -> dict[str, int]:
    """How many solved regions have each circuit."""
    return dict(Counter(region.circuit for model in models for region in model.solved).most_common())


def accuracy_elsewhere(models: Models) -> dict[str, float]:
    """Mean accuracy by what differs from the strings on which models are judged."""
    held: dict[str, list[float]] = {}
    for model in models:
        for name, one in model.elsewhere.items():
            held.setdefault(name, []).extend(one.accuracy)
    return {name: sum(shares) / len(shares) for name, shares in held.items()}
