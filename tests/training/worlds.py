"""Worlds of two and three tokens, in which losses can be worked out by hand."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.training.losses import (
    PreferencePairs,
    Rollouts,
    pair_log_probs,
)

seeds = st.integers(0, 2**31)
some = fewer(0.2)
Chances = list[list[float]]
Make = Callable[[nn.Module], Callable[[nn.Module, PreferencePairs], Tensor]]
"""From the reference model to a loss."""


class World(nn.Module):
    """What comes next depends on the current token alone: row by row the chances of each token."""

    def __init__(self, chances: Chances) -> None:
        super().__init__()
        table = torch.tensor(chances, dtype=torch.double).log()
        self.table = nn.Parameter(table + torch.arange(len(table))[:, None])  # logits, which need no sum of 1

    def forward(self, tokens, *, queries):
        return self.table[tokens.gather(1, queries)]


def surprises(chances: Chances, prompt: list[int], answer: list[int]) -> list[float]:
    return [-math.log(chances[last][token]) for last, token in itertools.pairwise([prompt[-1], *answer])]


def draw(seed: int, rows: int = 3, prompt: int = 2, answer: int = 3, vocab: int = 3) -> PreferencePairs:
    rng = np.random.default_rng(seed)
    parts = (torch.from_numpy(rng.integers(vocab, size=(rows, n))) for n in (prompt, answer, answer))
    return PreferencePairs(*parts, torch.from_numpy(rng.random(rows) < 0.5))


def two_worlds(seed: int) -> tuple[Chances, Chances]:
    rng = np.random.default_rng([seed, 1])
    now, before = (rng.dirichlet([1, 1, 1], size=3) * 0.94 + 0.02 for _ in range(2))
    return now.tolist(), before.tolist()


def transformer(seed: int, **shape) -> Transformer:
    config = ModelConfig(**{"layers": 1, "heads": 2, "width": 8, "hidden": 8, "positions": "learned", **shape})
    return Transformer(config, 5, 9, seed).double()


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(model.parameters()))])


def swapped(pairs: PreferencePairs) -> PreferencePairs:
    return replace(pairs, chosen=pairs.rejected, rejected=pairs.chosen)


def built(formula: Callable[..., Tensor]) -> Make:
    """A loss from log-probabilities: of the chosen and rejected answers now, then of the same for the reference."""
    return lambda old: lambda model, pairs: formula(*pair_log_probs(model, pairs), *pair_log_probs(old, pairs))


LOG2, LOG3 = math.log(2), math.log(3)


def roll_out(seed: int, prompts: int = 2, samples: int = 3, steps: int = 4, vocab: int = 3) -> Rollouts:
    """Random tokens, of which some first ones count, and random rewards."""
    rng = np.random.default_rng([seed, 2])
    rows = prompts * samples
    asked = rng.integers(vocab, size=(prompts, 2)).repeat(samples, axis=0)
    counted = np.arange(steps) < rng.integers(1, steps + 1, size=(rows, 1))
    parts = asked, rng.integers(vocab, size=(rows, steps)), counted, rng.normal(size=(prompts, samples))
    return Rollouts(*map(torch.from_numpy, parts))
