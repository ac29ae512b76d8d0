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
    select_heads, select_queries = _index_selector("heads", heads), _index_selector("queries", queries, from_end=True)

    def zero(z: Tensor) -> Tensor:
        positions = select_queries(z.shape[1])
        z = z.clone()
        for head in select_heads(z.shape[2]):
            z[:, positions, head] = 0
        return z

    return zero


def uniform_heads(heads: Indices, queries: slice | Indices = ALL_QUERIES) -> Edit:
    """Replace patterns by uniform causal attention; an edit for a point `pattern`, (batch, head, query, key)."""
    select_heads, select_queries = _index_selector("heads", heads), _index_selector("queries", queries, from_end=True)

    def flatten(pattern: Tensor) -> Tensor:
        visible = torch.ones_like(pattern[0, 0]).tril(pattern.shape[-1] - pattern.shape[-2])
        uniform = visible / visible.sum(dim=-1, keepdim=True)
        positions = select_queries(pattern.shape[2])
        pattern = pattern.clone()
        for head in select_heads(pattern.shape[1]):
            pattern[:, head, positions] = uniform[positions]
        return pattern

    return flatten


def follow_links(heads: Indices, links: Links) -> Edit:
    """Replace patterns by the ideal pattern: each query that has links attends uniformly to the keys of its links.

    Queries without links keep their attention. An edit for a point `pattern`, (batch, head, query, key). Links outside
    the pattern raise `ToylabError` during the forward pass.
    """
    select_heads = _index_selector("heads", heads)

    def follow(pattern: Tensor) -> Tensor:
        row, query, key = edges_within(pattern, links).unbind(dim=1)
        pattern = pattern.clone()
        for head in select_heads(pattern.shape[1]):
            pattern[row, head, query] = 0
            pattern[row, head, query, key] = 1
            pattern[row, head, query] /= pattern[row, head, query].sum(dim=-1, keepdim=True)
        return pattern

    return follow


def shift_links(links: Links, by: int) -> Links:
    """Links with every key shifted by `by` positions: a control for `follow_links`."""
    return np.asarray(torch.as_tensor(links).cpu()) + np.array([0, 0, by])


@overload
def _index_selector(name: str, selection: Indices, from_end: bool = False) -> Callable[[int], list[int]]: ...


@overload
def _index_selector(
    name: str, selection: slice | Indices, from_end: bool = False
) -> Callable[[int], slice | list[int]]: ...


def _index_selector(
    name: str, selection: slice | Indices, from_end: bool = False
) -> Callable[[int], slice | list[int]]:
    """A function from the number of heads or queries to the selected indices.

    Duplicates raise an error: a mask given as integers 0 and 1 would otherwise select heads 0 and 1.
    """
    if isinstance(selection, slice):
        return lambda size: selection
    indices = as_tensor(selection)
    if indices.dtype == torch.bool:
        return lambda size: _mask_indices(name, indices, size)
    numbers = as_whole(name, indices).reshape(-1).tolist()

    def select(size: int) -> list[int]:
        lowest = -size if from_end else 0
        if outside := [number for number in numbers if not lowest <= number < size]:
            raise ToylabError(f"{name}: {outside[0]} is none of the {size} here; must be from {lowest} to {size - 1}")
        selected = [number % size for number in numbers]
        if len(set(selected)) < len(selected):
            raise ToylabError(f"{name}={numbers}: names one twice; name each once, or give a mask of booleans")
        return selected

    return select


def _mask_indices(name: str, mask: Tensor, size: int) -> list[int]:
    """Indices at which a boolean mask of this size is true."""
    if mask.shape != (size,):
        raise ToylabError(f"{name}: is a mask of shape {tuple(mask.shape)}; must have one entry for each of {size}")
    return mask.nonzero()[:, 0].tolist()
