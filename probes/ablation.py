"""Causal tests as edits: switch a head off, flatten its pattern, or put another pattern in its place.

Each function returns an edit for `toylab.probes.edit`; `queries` picks the positions it acts on (all by default): a
slice such as `slice(9, None)`, numbers, or a mask of booleans. While the model runs, a head or query that is not there
raises `ValueError`.
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
"""One number, several, or a mask of booleans."""


def zero_heads(heads: Indices, queries: slice | Indices = ALL_QUERIES) -> Edit:
    """For a point `z`, (batch, query, head, feature): the heads contribute nothing at these queries."""
    heads_of, queries_of = _among("heads", heads), _among("queries", queries, from_end=True)

    def zero(z: Tensor) -> Tensor:
        places = queries_of(z.shape[1])
        z = z.clone()
        for head in heads_of(z.shape[2]):
            z[:, places, head] = 0
        return z

    return zero


def uniform_heads(heads: Indices, queries: slice | Indices = ALL_QUERIES) -> Edit:
    """For a point `pattern`, (batch, head, query, key): the heads attend evenly to all keys a causal mask shows."""
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
    """For a point `pattern`: at every linked query, the heads attend to the linked keys alone, evenly.

    While the model runs, links that point outside the pattern raise `ValueError`.
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
    """The same queries, reading `by` positions further on."""
    return np.asarray(torch.as_tensor(links).cpu()) + np.array([0, 0, by])


@overload
def _among(name: str, chosen: Indices, from_end: bool = False) -> Callable[[int], list[int]]: ...


@overload
def _among(name: str, chosen: slice | Indices, from_end: bool = False) -> Callable[[int], slice | list[int]]: ...


def _among(name: str, chosen: slice | Indices, from_end: bool = False) -> Callable[[int], slice | list[int]]:
    """From the number of heads or queries there are to those that are chosen.

    Duplicates are refused: integers 0 and 1 that stand for a mask would else be taken for heads 0 and 1.
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
    if chosen.shape != (size,):
        raise ToylabError(f"{name}: is a mask of shape {tuple(chosen.shape)}; must have one entry for each of {size}")
    return chosen.nonzero()[:, 0].tolist()
