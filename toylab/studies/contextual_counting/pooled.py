"""Quantities pooled over several counting models, for claims and figures: effects of appended tokens."""

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
"""Largest relative error at which a predicted slope counts as correct."""

Law = Callable[[CountShift], float]
"""Maps a shift to its predicted slope."""

Models = Iterable[CountingResult | None]
"""Results of several conditions; None for a condition without the seed."""


def counting_regions(models: Models, change: str) -> list[tuple[RegionCircuit, CountShift]]:
    """The solved regions of all models that count in the decoder, with the effect of a change on each."""
    return [region_and_shift for model in models if model for region_and_shift in model.shifted(change)]


def prediction_error(models: Models, law: Law, change: str) -> float | None:
    """Mean relative error of predicted slopes over counting regions; None without any."""
    errors = [shift.error(law(shift)) for _, shift in counting_regions(models, change)]
    return sum(errors) / len(errors) if errors else None


def predicted_to_change(models: Models, law: Law) -> list[CountShift]:
    """Shifts for which `law` predicts a change of slope by more than the tolerance, in counting regions, after
    appending 16 zeros or an empty region.

    The last region is left out when a region is appended, since it may treat the appended region as its own.
    """
    candidates = [
        shift
        for model in models
        if model
        for change in (SIXTEEN_ZEROS, ADDED_REGION)
        for region, shift in model.shifted(change)
        if change == SIXTEEN_ZEROS or region is not model.circuits[-1]
    ]
    return [shift for shift in candidates if abs(law(shift) / shift.before - 1) > TOLERANCE]


def share_predicted(*models: CountingResult | None, law: Law, answer: Law | None = None) -> float | None:
    """Among the shifts for which `law` predicts a change, the share whose slope `answer` (by default `law`) predicts
    within the tolerance; None without such shifts."""
    correct = [shift.error((answer or law)(shift)) <= TOLERANCE for shift in predicted_to_change(models, law)]
    return sum(correct) / len(correct) if correct else None


def compared_with(models: Models, biases: Collection[str]) -> list[tuple[RegionCircuit, CountShift]]:
    """Counting regions whose bias token is one of `biases`, and whose accuracy is at the floor if the bias token is
    hidden; each with the effect of 16 appended zeros."""
    return [
        region_and_shift
        for model in models
        if model
        for region_and_shift in model.shifted(SIXTEEN_ZEROS)
        if region_and_shift[0].bias in biases and region_and_shift[0].needs_bias(model.floor + SLACK)
    ]


def accuracy_kept(*models: CountingResult | None, biases: Collection[str]) -> float | None:
    """Mean accuracy of the regions of `compared_with` after 16 zeros were appended; None without such regions."""
    accuracies = [shift.accuracy for _, shift in compared_with(models, biases)]
    return sum(accuracies) / len(accuracies) if accuracies else None


def lead_of_constant(*models: CountingResult | None) -> float | None:
    """`accuracy_kept` of regions with a bias token of constant number, minus `accuracy_kept` of regions with zeros as
    bias; None if one of these kinds of regions is missing."""
    constant, zeros = (accuracy_kept(*models, biases=names) for names in (CONSTANT, ("zeros",)))
    return None if constant is None or zeros is None else constant - zeros


def regions_solved(models: Iterable[CountingResult]) -> str:
    """The number of solved regions, without interval, since regions of one model are not independent."""
    solved = [region.solved for model in models for region in model.circuits]
    return f"{sum(solved)} of {len(solved)}"


def bias_names(models: Iterable[CountingResult]) -> dict[str, int]:
    """The number of solved regions per largest bias class."""
    return dict(Counter(region.largest for model in models for region in model.solved).most_common())


def circuit_names(models: Iterable[CountingResult]) -> dict[str, int]:
    """The number of solved regions per circuit."""
    return dict(Counter(region.circuit for model in models for region in model.solved).most_common())


def accuracy_elsewhere(models: Iterable[CountingResult]) -> dict[str, float]:
    """Mean accuracy by kind of string that differs from the evaluated strings."""
    accuracies: dict[str, list[float]] = {}
    for model in models:
        for name, other in model.elsewhere.items():
            accuracies.setdefault(name, []).extend(other.accuracy)
    return {name: sum(shares) / len(shares) for name, shares in accuracies.items()}
