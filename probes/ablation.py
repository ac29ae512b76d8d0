"""Causal tests as edits: switch a head off, flatten its pattern, or put another pattern in its place.

Each function returns an edit for `probes.edit`; `queries` picks the positions it acts on (all by default), as an
index along the query axis such as `slice(9, None)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probes.attention import Links, edges_within
from probes.hooks import Edit

ALL = slice(None)


def zero_heads(heads: int | Sequence[int], queries: slice | Sequence[int] = ALL) -> Edit:
    """For a point `z`, (batch, query, head, feature): the heads contribute nothing at these queries."""
    chosen = _as_list(heads)

    def zero(z: Tensor) -> Tensor:
        z = z.clone()
        for head in chosen:
            z[:, queries, head] = 0
        return z

    return zero


def uniform_heads(heads: int | Sequence[int], queries: slice | Sequence[int] = ALL) -> Edit:
    """For a point `pattern`, (batch, head, query, key): the heads attend evenly to all keys a causal mask shows."""
    chosen = _as_list(heads)

    def flatten(pattern: Tensor) -> Tensor:
        seen = torch.ones_like(pattern[0, 0]).tril(pattern.shape[-1] - pattern.shape[-2])
        even = seen / seen.sum(dim=-1, keepdim=True)
        pattern = pattern.clone()
        for head in chosen:
            pattern[:, head, queries] = even[queries if isinstance(queries, slice) else list(queries)]
        return pattern

    return flatten


def follow_links(heads: int | Sequence[int], links: Links) -> Edit:
    """For a point `pattern`: at every linked query, the heads attend to the linked keys alone, evenly.

    While the model runs, links that point outside the pattern raise `ValueError`.
    """
    chosen = _as_list(heads)

    def follow(pattern: Tensor) -> Tensor:
        row, query, key = edges_within(pattern, links).unbind(dim=1)
        pattern = pattern.clone()
        for head in chosen:
            pattern[row, head, query] = 0
            pattern[row, head, query, key] = 1
            pattern[row, head, query] /= pattern[row, head, query].sum(dim=-1, keepdim=True)
        return pattern

    return follow


def moved(links: Links, by: int) -> Links:
    """The same queries, reading `by` positions further on."""
    return np.asarray(torch.as_tensor(links)) + np.array([0, 0, by])


def _as_list(heads: int | Sequence[int]) -> list[int]:
    return np.atleast_1d(heads).tolist()
