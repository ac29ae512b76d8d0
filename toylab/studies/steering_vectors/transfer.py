"""Result types for the transfer of vectors to other models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """Of the two vectors."""
    weight_change: float
    """Norm of the change of all weights relative to their norm."""
    of_random: float | None = None
    """The child with a random vector of the norm of the parent's."""

    @property
    def carried_at_random(self) -> float:
        """Ratio of the gain of a random vector in the child to that of the child's own vector."""
        return fraction_of_way(self.base, measured(self.of_random), self.own)

    @property
    def carried(self) -> float:
        """Ratio of the gain of the parent's vector in the child to that of the child's own vector."""
        return fraction_of_way(self.base, self.of_the_parent, self.own)

    @property
    def carried_back(self) -> float:
        """Ratio of the gain of the child's vector in the parent to that of the parent's own vector."""
        return fraction_of_way(self.parent, self.parent_with_that_of_the_child, self.parent_own)


@dataclass(frozen=True, kw_only=True)
class TransferredVector:
    """Another model's vector in this one: accuracy at temperature 1."""

    own: float
    """With the vector trained on this model."""
    cosine: float
    """Of the two vectors."""
    raw: float
    """With the other vector, unmapped."""
    mapped: float
    """With the other vector mapped through the unembeddings."""
    random: float | None = None
    """With a random vector of the norm of the other one."""


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """Another model's vectors in this one, on half of the prompts."""

    base: float
    """Accuracy at temperature 1 without a vector."""
    layers: dict[int, TransferredVector]

    def share(self, layer: int, which: Literal["raw", "mapped", "random"] = "raw") -> float:
        """Ratio of the gain of another model's vector to that of the model's own."""
        transferred = self.layers[layer]
        return fraction_of_way(self.base, getattr(transferred, which), transferred.own)
