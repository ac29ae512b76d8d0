"""Result types for the transfer of vectors to other models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toylab.settings import later_field
from toylab.studies.steering_vectors.exact_results import ExactAnswers
from toylab.studies.steering_vectors.results import fraction_of_way
from toylab.verdicts.judgement import measured


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """Last-layer vectors of a base and of its further trained child: accuracy at temperature 1, half of the prompts."""

    base: float
    """The child without a vector."""
    own: float
    of_the_parent: float
    parent_with_that_of_the_child: float
    parent: float
    """The parent without a vector."""
    parent_own: float
    cosine: float
    """Cosine of the parent's and the child's vector."""
    weight_change: float
    """Norm of the change of all weights relative to their norm."""
    of_random: float | None = None
    """The child with a random vector of the norm of the parent's."""

    @property
    def carried_at_random(self) -> float:
        """Gain of a random vector in the child divided by the gain of the child's own vector."""
        return fraction_of_way(self.base, measured(self.of_random), self.own)

    @property
    def carried(self) -> float:
        """Gain of the parent's vector in the child divided by the gain of the child's own vector."""
        return fraction_of_way(self.base, self.of_the_parent, self.own)

    @property
    def carried_back(self) -> float:
        """Gain of the child's vector in the parent divided by the gain of the parent's own vector."""
        return fraction_of_way(self.parent, self.parent_with_that_of_the_child, self.parent_own)


@dataclass(frozen=True, kw_only=True)
class TransferredVector:
    """The vector of another model, added to this model: accuracy at temperature 1."""

    own: float
    """Accuracy with the vector trained on this model."""
    cosine: float
    """Cosine of the other model's vector and this model's own vector."""
    raw: float
    """Accuracy with the other model's vector, unmapped."""
    mapped: float
    """Accuracy with the other model's vector, mapped through the unembeddings."""
    random: float | None = None
    """Accuracy with a random vector that has the norm of the other model's vector."""


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """The vectors of another model, added to this model; on half of the prompts."""

    base: float
    """Accuracy at temperature 1 without a vector."""
    layers: dict[int, TransferredVector]
    exact: ExactAnswers | None = later_field(None)
    """Openers with the last layer's vector of the other model, unmapped."""

    def share(self, layer: int, which: Literal["raw", "mapped", "random"] = "raw") -> float:
        """Gain of another model's vector divided by the gain of the model's own vector."""
        transferred = self.layers[layer]
        return fraction_of_way(self.base, getattr(transferred, which), transferred.own)
