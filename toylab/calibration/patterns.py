"""Synthetic attention patterns: one head with planted attention among heads with random attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from toylab.calibration import DetectorInput
from toylab.tasks import Task


def attending_inputs(
    task: Callable[..., Task], link: str, place: Callable[[np.random.Generator, np.ndarray, int], Any]
) -> Callable[..., DetectorInput]:
    """Sampler of detector inputs: patterns of four heads, one of which attends from each query of a link to one key.

    Args:
        task: task class, constructed with a `length` sampled for each case.
        link: name of a link with one edge per row.
        place: maps a random generator, the linked key of each row and the row length to the attended key of each row.

    Returns:
        A function from a random generator and a noise level (0 to 1) to a case: a pattern (batch, head, query, key) and
        links (link, 3).
    """

    def exhibit(rng: np.random.Generator, noise: float = 0.0) -> DetectorInput:
        batch = task(length=int(rng.integers(6, 14))).sample(rng, 16)
        links, size = batch.links[link], batch.tokens.shape[1]
        return DetectorInput(
            {"pattern": one_head_patterns(rng, links, place(rng, links[:, 2], size), size, noise), "links": links}
        )

    return exhibit


def one_head_patterns(
    rng: np.random.Generator,
    links: Int[np.ndarray, "link 3"],
    keys: Int[np.ndarray, " link"],
    size: int,
    noise: float | int,
) -> Float[Tensor, "batch 4 {size} {size}"]:
    """Random causal attention of four heads, one of which puts 1 - noise of each query's attention on a given key."""
    scores = torch.from_numpy(rng.normal(size=(int(links[:, 0].max()) + 1, 4, size, size)))
    pattern = scores.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf).softmax(dim=-1)
    head, (row, query, _) = int(rng.integers(4)), links.T
    pattern[row, head, query] *= noise
    pattern[row, head, query, keys] += 1 - noise
    return pattern
