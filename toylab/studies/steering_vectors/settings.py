"""Settings of the study on steering vectors, and their presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.settings import check_range, check_settings
from toylab.studies.steering_vectors.data import (
    MODEL,
    RL_TRAINING,
)
from toylab.tasks import Reasoning, Styles
from toylab.training.loop import TrainConfig

Part = Literal["combine", "adaptive", "family", "transfer", "learned", "separability", "flag", "features", "converged"]

SKILL = TrainConfig(
    steps=1200,
    rows=32,
    learning_rate=4e-3,
    warmup=50,
    weight_decay=0.1,
    evaluate_every=25,
    stop_at=0.6,
    stop_after=1,
    cooldown=100,
)
"""Seeds acquire the skill after 150 to 450 steps, each within 25 steps, hence a stop rule."""
MIXTURE = TrainConfig(
    steps=350,
    rows=32,
    learning_rate=2e-3,
    warmup=50,
    schedule="cosine",
    weight_decay=0.1,
    cooldown=0,
    evaluate_every=50,
)
CONVERGED = replace(RL_TRAINING, steps=160)
"""Reinforcement learning long enough to judge a match: joint vectors reach .73 of the gain after 40 steps, .80 after
160."""
SEPARABLE_SEED = 503
"""Offset to the seed of the unembedding that a model shares with no other model."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the study; every field is a flag of `toylab run steering-vectors`."""

    task: Reasoning = Reasoning()
    styles: Styles = Styles()
    """Mixture of answer styles in the second phase of pre-training."""
    model: ModelConfig = MODEL
    skill: TrainConfig = SKILL
    """First phase: error-free answers, mostly chains; chains are not learned if mixed with direct answers from the
    start."""
    mixture: TrainConfig = MIXTURE
    """Second phase: the mixture of styles."""
    rl: TrainConfig = RL_TRAINING
    """Reinforcement learning of vectors, with `rows` prompts per step."""
    converged: TrainConfig = CONVERGED
    """Reinforcement learning of the whole model and of vectors after all layers, to compare them."""
    samples: int = 8
    """Sampled answers per prompt."""
    full_rate: float = 1e-3
    """Learning rate of reinforcement learning of the whole model."""
    flag_kl: float | int = 0.5
    """Weight of the KL divergence to the base in full training on the flagged task; without it, some seeds collapse to
    direct answers."""
    adaptive_steps: int = 60
    """Training steps of the token-wise scale, which has more parameters than a vector."""
    least_shift: float | int = 3.0
    """Smallest bound, in nats, on the shift of the openers' log-odds at which the pre-flight check admits training."""
    cosines: tuple[float, ...] = (0.8, 0.95)
    """Cosines of the openers' unembedding rows in the separability sweep."""
    parts: tuple[Part, ...] = (
        "combine", "adaptive", "family", "transfer", "learned", "separability", "flag", "features",
        "converged",
    )  # fmt: skip
    """Parts besides single vectors, jointly trained vectors, full training, baselines and paths."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    rows: int = 500
    """Held-out prompts in an evaluation."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("fewer prompts give imprecise shares", rows=self.rows, least=64)
        check_range("the leave-one-out baseline needs several answers, for example 8", samples=self.samples, least=2)
        check_range(adaptive_steps=self.adaptive_steps, least=0)
        check_range("0 disables the KL term of the flagged task", flag_kl=self.flag_kl, least=0)
        check_range("for example 1e-3", full_rate=self.full_rate, above=0)
        check_range("openers are orthogonal at 0, the same at 1", cosines=self.cosines, least=0, most=1)
        if self.model.norm != "pre" or not self.model.causal or self.model.layers < 2:
            raise ToylabError(
                "model: the study needs a causal pre-norm model of at least 2 layers; set causal, norm and layers"
            )
        if self.model.unembedding == "none":
            raise ToylabError("model.unembedding=none: a language model needs one")
        if self.task.flag:
            raise ToylabError(
                "task.flag: the flagged task is a part of the study; leave task.flag off, and add --parts flag"
            )

    @classmethod
    def quick(cls) -> Settings:
        """Runs in under a minute, for tests and notebooks: one seed, the main conditions, few prompts."""
        return cls(
            mixture=replace(MIXTURE, steps=250),
            rl=replace(RL_TRAINING, steps=25),
            parts=("combine",),
            seeds=(0,),
            rows=128,
        )

    @classmethod
    def default(cls) -> Settings:
        """Runs in minutes on two cores: six seeds, the minimum for a verdict."""
        return cls()

    @classmethod
    def paper(cls) -> Settings:
        """Ten seeds, longer training. (The paper's models have 7 billion parameters.)"""
        return cls(
            rl=CONVERGED,
            adaptive_steps=240,
            cosines=(0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99),
            seeds=tuple(range(10)),
            rows=4000,
        )

    @property
    def last(self) -> int:
        """The last layer."""
        return self.model.layers - 1

    @property
    def vectors(self) -> tuple[str, ...]:
        """The single-vector conditions, by layer."""
        return tuple(f"vector-{layer}" for layer in range(self.model.layers))
