"""Cases for the detector of positional encodings: models of each encoding, and models whose encoding has no effect.

Noise weakens the encoding: at noise x, position embeddings, rotary angles or ALiBi slopes are multiplied by 1 - x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from toylab.calibration import Detector, DetectorInput, PlantedPositive, SampledControl
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS, LearnedPositions, NoPositions, SinusoidalPositions
from toylab.model.transformer import Transformer
from toylab.probes.positions import FLOOR, name_encoding
from toylab.tasks import AssociativeRecall
from toylab.training.batches import next_token_loss, pad, training_batches
from toylab.training.loop import TrainConfig, train

ENCODINGS = tuple(name for name in POSITIONS if name != "none")
TASK = AssociativeRecall(pairs=4)


@dataclass(frozen=True)
class EncodedModel:
    """A model with rows of tokens, and the encoding that it behaves like; None in a control."""

    model: Transformer
    tokens: Int[Tensor, "row position"]
    encoding: str | None = None


def encoding_score(shown: EncodedModel) -> float:
    """The largest effect of positions, as a share of the effect of content; 0 if another encoding is named."""
    effects = name_encoding(shown.model, shown.tokens, np.random.default_rng(0))
    return effects.effect if shown.encoding in (None, effects.encoding) else 0.0


def _random_model(rng: np.random.Generator, positions: str, **fixed: Any) -> Transformer:
    settings: dict[str, Any] = {
        "layers": int(rng.integers(1, 4)),
        "heads": int(rng.choice([1, 2, 4])),
        "norm": str(rng.choice(["pre", "post", "entry", "none"])),
        "causal": bool(rng.integers(2)),
        **fixed,
    }
    config = ModelConfig(positions=positions, **settings)
    model = Transformer(config, int(rng.integers(8, 20)), int(rng.integers(8, 13)), int(rng.integers(2**31)))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.query.weight.mul_(float(rng.uniform(1, 4)))
    return model


def _shown(rng: np.random.Generator, model: Transformer, encoding: str | None = None) -> DetectorInput:
    tokens = torch.from_numpy(rng.integers(model.vocab, size=(6, model.context)))
    return DetectorInput(EncodedModel(model, tokens, encoding))


@torch.no_grad()
def weaken(model: Transformer, share: float) -> Transformer:
    """The model, in place, with the effect of its encoding multiplied by 1 - `share`."""
    encoding = model.positions
    if isinstance(encoding, LearnedPositions):
        encoding.table.lerp_(encoding.table.mean(dim=0), share)
    elif isinstance(encoding, SinusoidalPositions):
        encoding.config = replace(model.config, position_std=(1 - share) * model.config.position_std)
    else:
        for buffer in encoding.buffers():
            buffer.mul_(1 - share)
    return model


# Planted positives ---------------------------------------------------------------------------------------------------


def _random_weights(positions: str) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        return _shown(rng, weaken(_random_model(rng, positions), noise), positions)

    return plant


def _table_of_sinusoids(rng: np.random.Generator, noise: float, shuffled: bool = False) -> DetectorInput:
    """A learned table that holds sinusoidal positions, or the same vectors in a random order."""
    model = _random_model(rng, "learned")
    order = rng.permutation(model.context) if shuffled else np.arange(model.context)
    sinusoids = SinusoidalPositions(model.config, model.context, torch.Generator()).embed(torch.from_numpy(order)[None])
    model.positions.get_parameter("table").data = sinusoids[0]
    return _shown(rng, weaken(model, noise), "learned" if shuffled else "sinusoidal")


@lru_cache(maxsize=2 * len(POSITIONS))
def _trained(positions: str, seed: int) -> Transformer:
    model = Transformer.for_task(TASK, ModelConfig(positions=positions), seed)
    train(model, next_token_loss, training_batches(TASK, seed, 32, layout=pad), TrainConfig(steps=200, rows=32))
    return model


def _trained_case(rng: np.random.Generator, positions: str, noise: float = 0.0) -> DetectorInput:
    trained = _trained(positions, int(rng.integers(2)))
    model = Transformer.for_task(TASK, trained.config)
    model.load_state_dict(trained.state_dict())
    tokens = torch.from_numpy(TASK.sample(rng, 6).tokens)
    return DetectorInput(EncodedModel(weaken(model, noise), tokens, None if positions == "none" else positions))


# Controls ------------------------------------------------------------------------------------------------------------


def _without(positions: str = "none", **fixed: Any) -> SampledControl:
    """A random model whose encoding is absent, or weakened to nothing."""
    return lambda rng: _shown(rng, weaken(_random_model(rng, positions, **fixed), 1.0))


@torch.no_grad()
def _unread_positions(rng: np.random.Generator) -> DetectorInput:
    """Learned positions in two coordinates of the residual stream that no weight reads."""
    model = _random_model(rng, "learned", norm="none")
    model.positions.get_parameter("table")[:, :-2] = 0
    for name, parameter in model.named_parameters():
        if name.endswith(("query.weight", "key.weight", "value.weight", "up.weight")) or name.startswith("unembed"):
            parameter[:, -2:] = 0
    return _shown(rng, model)


class _Window(NoPositions):
    """Attention to the last three positions only."""

    def bias(self, query: Tensor, key: Tensor) -> Tensor:
        far = (query[:, :, None] - key[:, None, :]).abs() > 2
        return torch.zeros(far.shape).masked_fill(far, -torch.inf)[:, None]


def _sliding_window(rng: np.random.Generator) -> DetectorInput:
    model = _random_model(rng, "none")
    model.positions = _Window(model.config, model.context, torch.Generator())
    return _shown(rng, model)


DETECTORS = {
    "positions": Detector(
        name="positions",
        question="which positional encoding does a model behave like?",
        score="effect of positions relative to that of content; 0 if another encoding is named",
        score_of=encoding_score,
        threshold=FLOOR,
        planted_positives={
            **{f"{name}, random weights": _random_weights(name) for name in ENCODINGS},
            "a table of sinusoids": _table_of_sinusoids,
            "sinusoids in another order": partial(_table_of_sinusoids, shuffled=True),
            "trained, any encoding": lambda rng, noise: _trained_case(rng, str(rng.choice(ENCODINGS)), noise),
        },
        controls={
            "no positions": _without(),
            "order through the causal mask": _without(layers=3, causal=True),
            "a constant table": _without("learned"),
            "sinusoids of size 0": _without("sinusoidal"),
            "rotary of angle 0": _without("rotary"),
            "ALiBi of slope 0": _without("alibi"),
            "positions that no weight reads": _unread_positions,
            "trained without positions": lambda rng: _trained_case(rng, "none"),
        },
        decoys={"a sliding window": _sliding_window},
    )
}
