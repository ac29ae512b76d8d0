"""Settings of the study's models: bases, and conditions fine-tuned from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from toylab.model.config import ModelConfig
from toylab.training.loop import TrainConfig

Method = Literal["control", "constant", "ssft", "unlearning", "dpo", "dpo-standard", "npo"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Base:
    """The settings of a pre-trained model."""

    model: ModelConfig
    train: TrainConfig
    main: bool = False
    """Whether activations are measured as well."""
    fresh: bool = False  # whether every seed draws its own task


@dataclass(frozen=True)
class Condition:
    """The settings of a fine-tuned model: base, method and training."""

    base: str
    method: Method
    train: TrainConfig
    rank: int | None = None
    """Maximum rank of the change of the MLP matrices, if only these are trained."""
    main: bool = False
    """Whether activations and attacks are measured as well."""
    fresh: bool = False  # whether every seed draws its own task
