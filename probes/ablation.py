"""Interventions on attention heads: zero-ablation, uniform attention, and idealised patterns.

Each function returns an edit for `toylab.probes.edit`. The argument `queries` selects the positions at which the edit
acts (all by default): a slice such as `slice(9, None)`, indices, or a boolean mask. A head or query out of range raises
`ToylabError` during the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import SupportsIndex, overload

import numpy as np
import torch
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.attention import Links, edges_within
from toylab.probes.checks import as_tensor, as_whole
from toylab.probes.hooks import Edit

ALL_QUERIES = slice(None)
Indices = SupportsIndex | Sequence[SupportsIndex] | np.ndarray | Tensor
"""One index, several, or a boolean mask."""


def zero_heads(heads: Indices, queries: slice | Indices = ALL_QUERIES) -> Edit:
    """Zero-ablate heads at these queries; an edit for a point `z`, (batch, query, head, feature)."""
    heads_of, queries_of = _among("heads", heads), _among("queries", queries, from_end=True)

    def zero(z: Tensor) -> Tensor:
        places = queries_of(z.shape[1])
        z = z.clone()
        for head in heads_of(z.shape[2]):
            z[:, places, head] = 0
        return z

    return zero


def uniform_heads(heads: Indices, queries: slice | Indices = ALL_QUERIES) -> Edit:
    """Replace patterns by uniform causal attention; an edit for a point `pattern`, (batch, head, query, key)."""
    heads_of, queries_of = _among("heads", heads), _among("queries", queries, from_end=True)

    def flatten(pattern: Tensor) -> Tensor:
        seen = torch.ones_like(pattern[0, 0]).tril(pattern.shape[-1] - pattern.shape[-2])
        even = seen / seen.sum(dim=-1, keepdim=True)
        places = queries_of(pattern.shape[2])
        pattern = pattern.clone()
        for head in heads_of(pattern.shape[1]):
            pattern[:, head, places] = even[places]
        return pattern

    return flatten


def follow_links(heads: Indices, links: Links) -> Edit:
    """Replace patterns by the ideal pattern: each query that has links attends uniformly to the keys of its links.

    Queries without links keep their attention. An edit for a point `pattern`, (batch, head, query, key). Links outside
    the pattern raise `ToylabError` during the forward pass.
    """
    heads_of = _among("heads", heads)

    def follow(pattern: Tensor) -> Tensor:
        row, query, key = edges_within(pattern, links).unbind(dim=1)
        pattern = pattern.clone()
        for head in heads_of(pattern.shape[1]):
            pattern[row, head, query] = 0
            pattern[row, head, query, key] = 1
            pattern[row, head, query] /= pattern[row, head, query].sum(dim=-1, keepdim=True)
        return pattern

    return follow


def shift_links(links: Links, by: int) -> Links:
    """Links with every key shifted by `by` positions: a control for `follow_links`."""
    return np.asarray(torch.as_tensor(links).cpu()) + np.array([0, 0, by])


@overload
def _among(name: str, chosen: Indices, from_end: bool = False) -> Callable[[int], list[int]]: ...


@overload
def _among(name: str, chosen: slice | Indices, from_end: bool = False) -> Callable[[int], slice | list[int]]: ...


def _among(name: str, chosen: slice | Indices, from_end: bool = False) -> Callable[[int], slice | list[int]]:
    """A function from the number of heads or queries to the selected indices.

    Duplicates raise an error: a mask given as integers 0 and 1 would otherwise select heads 0 and 1.
    """
    if isinstance(chosen, slice):
        return lambda size: chosen
    held = as_tensor(chosen)
    if held.dtype == torch.bool:
        return lambda size: _of_mask(name, held, size)
    numbers = as_whole(name, held).reshape(-1).tolist()

    def among(size: int) -> list[int]:
        lowest = -size if from_end else 0
        if outside := [number for number in numbers if not lowest <= number < size]:
            raise ToylabError(f"{name}: {outside[0]} is none of the {size} here; must be from {lowest} to {size - 1}")
        found = [number % size for number in numbers]
        if len(set(found)) < len(found):
            raise ToylabError(f"{name}={numbers}: names one twice; name each once, or give a mask of booleans")
        return found

    return among


def _of_mask(name: str, chosen: Tensor, size: int) -> list[int]:
    """Indices at which a boolean mask of this size is true."""
    if chosen.shape != (size,):
        raise ToylabError(f"{name}: is a mask of shape {tuple(chosen.shape)}; must have one entry for each of {size}")
    return chosen.nonzero()[:, 0].tolist()
