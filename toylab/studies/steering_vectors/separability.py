"""The separability sweep: bases that differ in the cosine of the two openers' unembedding rows."""

from __future__ import annotations

from dataclasses import dataclass

from toylab.model.steering import PreFlight
from toylab.studies.steering_vectors import results
from toylab.studies.steering_vectors.results import Temperatures, accuracy_at, fraction_of_way
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Conditions


@dataclass(frozen=True, kw_only=True)
class SeparabilityResult(results.AnsweringResult):
    """A base with a given cosine of the openers' rows, its answers, and a vector after its last layer."""

    pre_flight: PreFlight
    vector: Temperatures
    """Answers with the vector."""
    norm: float
    """Norm of the vector."""


@dataclass(frozen=True, order=True)
class SeparabilityPoint:
    """One base of the sweep: cosine of its openers' rows, bound of the pre-flight check in nats, and share of full
    training's gain recovered by a vector after the last layer."""

    cosine: float
    bound: float
    share: float


def separability_conditions(study: Settings) -> tuple[str, ...]:
    """The conditions of the sweep, in the order of the arguments of `separability_points`."""
    learned = ("base-learned", "vector-learned") if "learned" in study.parts else ()
    cosine_conditions = tuple(f"cosine-{cosine:g}" for cosine in study.cosines) if "separability" in study.parts else ()
    return ("full", "base", study.vectors[-1], *learned, *cosine_conditions)


def separability_points(
    full: results.FullResult, *measured: results.BaseResult | results.VectorResult | SeparabilityResult
) -> list[SeparabilityPoint]:
    """The bases of a seed by cosine.

    Args:
        measured: bases; in the same order, the vectors trained on them; and results with both base and vector.
    """
    bases = [result for result in measured if isinstance(result, results.BaseResult)]
    accuracies = [accuracy_at(result) for result in measured if isinstance(result, results.VectorResult)]
    cosine_bases = [result for result in measured if isinstance(result, SeparabilityResult)]
    accuracies += [result.vector[1].accuracy for result in cosine_bases]
    return sorted(
        SeparabilityPoint(
            base.pre_flight.cosine,
            base.pre_flight.bound,
            fraction_of_way(accuracy_at(base), accuracy, accuracy_at(full)),
        )
        for base, accuracy in zip([*bases, *cosine_bases], accuracies, strict=True)
    )


def separability_sweep(results_by_condition: Conditions, study: Settings) -> dict[int, list[SeparabilityPoint]]:
    """The bases by seed, for seeds with complete results."""
    names = separability_conditions(study)
    return {
        seed: separability_points(*(results_by_condition[name][seed] for name in names))
        for seed in results_by_condition.shared(*names)
    }
