"""Cases for the detector of positional encodings: models of each encoding, and models whose encoding has no effect.

Noise weakens the encoding: at noise x, learned positions, the frequencies of sinusoids and rotations and the slopes of
ALiBi are multiplied by 1 - x.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toylab.calibration import Detector, DetectorInput
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS, SinusoidalPositions
from toylab.model.transformer import Transformer
from toylab.probes.positions import FLOOR, name_encoding
from toylab.tasks import AssociativeRecall
from toylab.training.batches import next_token_loss, pad, training_batches
from toylab.training.loop import TrainConfig, train


def encoding_score(shown: tuple[Transformer, Tensor, str | None]) -> float:
    """The effect of positions; 0 if the encoding named is not the one shown, which is None in a control."""
    model, tokens, encoding = shown
    effects = name_encoding(model, tokens, np.random.default_rng(0))
    return effects.effect if encoding in (None, effects.encoding) else 0.0


@torch.no_grad()
def _shown(rng: np.random.Generator, model: Transformer, noise: float, encoding: str | None) -> DetectorInput:
    """Random rows, and the model with its encoding weakened in place."""
    for table in model.positions.parameters():
        table.lerp_(table.mean(dim=0), noise)
    for buffer in model.positions.buffers():
        buffer.mul_(1 - noise)
    return DetectorInput((model, torch.from_numpy(rng.integers(model.vocab, size=(6, model.context))), encoding))


def _random(
    rng: np.random.Generator,
    noise: float = 1.0,
    *,
    positions: str,
    encoding: str | None = None,
    order: Callable[[np.random.Generator, int], np.ndarray] | None = None,
    **fixed: Any,
) -> DetectorInput:
    """Random weights, with the effect of the encoding removed by default; `order` puts sinusoids into a table."""
    drawn: dict[str, Any] = {
        "heads": int(rng.choice([1, 2, 4])),
        "norm": str(rng.choice(["pre", "post", "entry", "none"])),
        "layers": int(rng.integers(1, 4)),
        "causal": bool(rng.integers(2)),
    }
    config = ModelConfig(positions=positions, **{**drawn, **fixed})
    model = Transformer(config, int(rng.integers(8, 20)), int(rng.integers(8, 13)), int(rng.integers(2**31)))
    for block in model.blocks:
        block.attn.query.weight.data *= float(rng.uniform(1, 4))
    if order is not None:
        sinusoids = SinusoidalPositions(config, model.context, torch.Generator())
        table = sinusoids.embed(torch.from_numpy(order(rng, model.context))[None])[0]
        model.positions.get_parameter("table").data = table
    return _shown(rng, model, noise, encoding)


@lru_cache(maxsize=2 * len(POSITIONS))
def _trained_model(positions: str, seed: int) -> Transformer:
    task = AssociativeRecall(pairs=4)
    model = Transformer.for_task(task, ModelConfig(positions=positions), seed)
    train(model, next_token_loss, training_batches(task, seed, 32, layout=pad), TrainConfig(steps=200, rows=32))
    return model


def _trained(rng: np.random.Generator, noise: float = 0.0, *, among: tuple[str, ...]) -> DetectorInput:
    positions = str(rng.choice(among))
    model = deepcopy(_trained_model(positions, int(rng.integers(2))))
    return _shown(rng, model, noise, None if positions == "none" else positions)


ENCODINGS = tuple(name for name in POSITIONS if name != "none")
_TABLE = partial(_random, positions="learned")
DETECTORS = {
    "positions": Detector(
        name="positions",
        question="which positional encoding does a model behave like?",
        score="effect of positions relative to that of content; 0 if another encoding is named",
        score_of=encoding_score,
        threshold=FLOOR,
        planted_positives={
            **{f"{name}, random weights": partial(_random, positions=name, encoding=name) for name in ENCODINGS},
            "a table of sinusoids": partial(_TABLE, encoding="sinusoidal", order=lambda _, size: np.arange(size)),
            "sinusoids in another order": partial(_TABLE, encoding="learned", order=np.random.Generator.permutation),
            "trained, any encoding": partial(_trained, among=ENCODINGS),
        },
        controls={
            "no positions": partial(_random, positions="none"),
            "order through the causal mask": partial(_random, positions="none", layers=3, causal=True),
            "a constant table": _TABLE,
            "sinusoids of frequency 0": partial(_random, positions="sinusoidal"),
            "rotary of angle 0": partial(_random, positions="rotary"),
            "ALiBi of slope 0": partial(_random, positions="alibi"),
            "trained without positions": partial(_trained, among=("none",)),
        },
    )
}
