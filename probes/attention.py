"""Scores of attention patterns against the links of a task, and a detector of iteration heads built on them.

A link is an edge (row, query, key): in this row, an ideal algorithm attends from position `query` to position `key`. A
query may have several links. Every score takes one pattern (batch, head, query, key), normalised over keys, and returns
one number per head. NaN and infinity in the pattern raise `ToylabError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.checks import as_whole, check_finite
from toylab.settings import check_range

Links = Integer[np.ndarray, "link 3"] | Integer[Tensor, "link 3"]
Pattern = Float[Tensor, "batch head query key"]


def mass_by_query(pattern: Pattern, links: Links) -> Float[Tensor, "linked_query head"]:
    """Total attention of each linked query on its linked keys, in order of (row, query).

    Raises:
        ToylabError: without links, or for a link outside the pattern.
    """
    check_finite(pattern=pattern)
    row, query, key = edges_within(pattern, links).unbind(dim=1)
    _, group = torch.unique(row * pattern.shape[2] + query, return_inverse=True)
    total = pattern.new_zeros(int(group.max()) + 1, pattern.shape[1])
    return total.index_add_(0, group, pattern[row, :, query, key])


def edges_within(pattern: Pattern, links: Links) -> Int[Tensor, "link 3"]:
    """The links as a tensor on the device of the pattern.

    Raises:
        ToylabError: without links, or for a link outside the pattern.
    """
    edges = as_whole("links", links).to(pattern.device)
    if not len(edges):
        raise ToylabError(_NO_LINKS)
    batch, _, queries, keys = pattern.shape
    limit = torch.tensor([batch, queries, keys], device=pattern.device)
    outside = ((edges < 0) | (edges >= limit)).any(dim=1)
    if bool(outside.any()):
        raise ToylabError(
            f"link {tuple(edges[outside][0].tolist())} points outside the pattern of (batch, query, key) = "
            f"{tuple(limit.tolist())}; remove it"
        )
    return edges


_NO_LINKS = "links: none were given, so there is nothing to score; give a batch with links"


def link_mass(pattern: Pattern, links: Links) -> Float[Tensor, " head"]:
    """Attention of a linked query on its linked keys, averaged over the linked queries."""
    return mass_by_query(pattern, links).mean(dim=0)


def peakiness(pattern: Pattern, links: Links, threshold: float = 0.5) -> Float[Tensor, " head"]:
    """Fraction of the linked queries that put more than `threshold` of their attention on their linked keys.

    A link is the (query, key) edge along which an ideal algorithm attends. Source: Cabannes et al. 2024, with threshold
    .5 (`peaky_thres` in the published code).
    """
    check_finite(threshold=threshold)
    return (mass_by_query(pattern, links) > threshold).to(pattern.dtype).mean(dim=0)


def invariance(pattern: Pattern, links: Links, threshold: float = 0.5) -> Float[Tensor, " head"]:
    """Invariance to token content: 1 - standard deviation over rows of the attention on linked keys.

    All rows must have the same links, so that only their tokens differ. The score is 0 for heads with `peakiness` below
    .5, since attention that is always near 0 is invariant too.

    Raises:
        ToylabError: if links differ between rows, or for fewer than two rows.
    """
    mass = mass_by_query(pattern, links)
    batch = pattern.shape[0]
    check_range(rows=batch, least=2)
    edges = np.asarray(torch.as_tensor(links).cpu())
    per_row = [{(q, k) for _, q, k in edges[edges[:, 0] == row].tolist()} for row in range(batch)]
    if any(row_links != per_row[0] for row_links in per_row):
        raise ToylabError("links: rows differ; invariance needs the same links in each row, so give rows of one length")
    spread = mass.unflatten(0, (batch, -1)).std(dim=0, correction=0).mean(dim=0)
    peaky = peakiness(pattern, links, threshold) >= 0.5
    return torch.where(peaky, 1 - spread, torch.zeros_like(spread))


def uniform_mass(links: Links) -> float:
    """Chance level of `link_mass`: its value for uniform causal attention."""
    edges = as_whole("links", links, least=0).cpu().numpy()
    if not len(edges):
        raise ToylabError(_NO_LINKS)
    _, first, keys = np.unique(edges[:, :2], axis=0, return_index=True, return_counts=True)
    return float((keys / (edges[first, 1] + 1)).mean())


BACKUP_SHARE = 0.25
"""Minimum peakiness on the link "carry" for another head to count as a backup of the iteration head."""


@dataclass(frozen=True)
class IterationHead:
    """The best candidate for an iteration head, its scores, and the criteria it does not meet.

    Peakiness on a link is the share of linked queries with more than half of their attention on the linked keys.

    Attributes:
        layer, head: position of the best candidate.
        carry: its peakiness on the link "carry" (from the position that predicts s_t to x_t), mean over lengths.
        stop: its peakiness on the link "stop" (from the last state to the end-of-input token), mean over lengths.
        end_of_input: largest mean attention to EoI (the end-of-input token) of any head in an earlier layer; 0 in the
            first layer.
        end_of_input_at: (layer, head) of that earlier head, if any.
        misses: one sentence per failed criterion; empty if the head is accepted.
        backups: other heads, in any layer, whose peakiness on "carry" is at least `BACKUP_SHARE` = .25. Ablating the
            iteration head alone, without its backups, underestimates its effect.
    """

    layer: int
    head: int
    carry: float
    stop: float
    end_of_input: float
    end_of_input_at: tuple[int, int] | None
    misses: tuple[str, ...]
    backups: tuple[tuple[int, int], ...] = ()

    @property
    def found(self) -> bool:
        return not self.misses

    @property
    def by_layer(self) -> dict[int, list[int]]:
        """The head and its backups, as a list of heads per layer."""
        layers: dict[int, list[int]] = {}
        for layer, head in sorted({(self.layer, self.head), *self.backups}):
            layers.setdefault(layer, []).append(head)
        return layers


def find_iteration_head(
    patterns: Mapping[int, Sequence[Pattern]],
    links: Mapping[int, Mapping[str, Links]],
    *,
    carry_threshold: float = 0.9,
    stop_threshold: float = 0.5,
    end_of_input_threshold: float = 0.25,
) -> IterationHead:
    """Search all layers and heads for an iteration head (Cabannes et al. 2024).

    There are three criteria, averaged over input lengths. The head attends to input x_t when it predicts state s_t
    (peakiness on "carry"). The head attends to EoI, the end-of-input token, after the last state (peakiness on "stop").
    A head of an *earlier* layer attends to EoI. At a single length, "carry" is a fixed offset, so a purely positional
    head would pass; for this reason at least two lengths are required.

    Args:
        patterns: from input length to the pattern of each layer.
        links: from input length to the links "carry", "stop" and "end of input".

    Raises:
        ToylabError: for fewer than two lengths, lengths that differ between the arguments, or NaN in a pattern.
    """
    if set(patterns) != set(links) or len(patterns) < 2:
        raise ToylabError(
            f"lengths={sorted(patterns)}: give patterns and links for the same lengths, at least two of them; at "
            "one length an iteration head cannot be distinguished from a head with a fixed offset"
        )
    if len(layers := {len(layer_patterns) for layer_patterns in patterns.values()}) > 1 or 0 in layers:
        raise ToylabError(f"patterns: of {sorted(layers)} layers; give as many for every length, at least one")
    check_finite(
        patterns=patterns,
        carry_threshold=carry_threshold,
        stop_threshold=stop_threshold,
        end_of_input_threshold=end_of_input_threshold,
    )

    def scores(score, name: str) -> Float[Tensor, "layer head"]:
        by_length = [torch.stack([score(p, links[n][name]) for p in layers]) for n, layers in patterns.items()]
        mean = torch.stack(by_length).mean(dim=0)
        return mean.to(torch.promote_types(mean.dtype, torch.float32))  # numpy has no bfloat16

    carry, stop, end = scores(peakiness, "carry"), scores(peakiness, "stop"), scores(link_mass, "end of input")
    thresholds = {"carry": carry_threshold, "stop": stop_threshold, "end_of_input": end_of_input_threshold}
    candidates = [_judge(layer, head, carry, stop, end, thresholds) for layer, head in np.ndindex(*carry.shape)]
    return max(candidates, key=lambda candidate: (candidate.found, candidate.carry))


def _judge(
    layer: int,
    head: int,
    carry: Float[Tensor, "layer head"],
    stop: Float[Tensor, "layer head"],
    end: Float[Tensor, "layer head"],
    thresholds: Mapping[str, float],
) -> IterationHead:
    """Check one head against the thresholds, given the scores of all heads."""
    earlier = end[:layer]
    end_at = divmod(int(earlier.argmax()), end.shape[1]) if layer else None
    end_attention = float(earlier.max()) if layer else 0.0
    misses = []
    if carry[layer, head] < thresholds["carry"]:
        misses.append(
            f"no head is peaked on x_t: the best reaches {carry[layer, head]:.2f}, below {thresholds['carry']}"
        )
    if stop[layer, head] < thresholds["stop"]:
        misses.append(
            f"it does not read the end of the input to stop: {stop[layer, head]:.2f}, below {thresholds['stop']}"
        )
    if not layer:
        misses.append("it is in the first layer, so no earlier head can pass it the position of the end of the input")
    elif end_attention < thresholds["end_of_input"]:
        misses.append(
            f"no earlier head finds the end of the input: {end_attention:.2f}, below {thresholds['end_of_input']}"
        )
    return IterationHead(
        layer=layer,
        head=head,
        carry=float(carry[layer, head]),
        stop=float(stop[layer, head]),
        end_of_input=end_attention,
        end_of_input_at=end_at,
        backups=tuple(
            (a, b) for a, b in np.argwhere(carry.cpu().numpy() >= BACKUP_SHARE).tolist() if (a, b) != (layer, head)
        ),
        misses=tuple(misses),
    )
