"""Instruments that look into any `torch.nn.Module` or tensor. They know no task and no model of this house."""

from probes.ablation import follow_links, moved, uniform_heads, zero_heads
from probes.attention import (
    IterationHead,
    find_iteration_head,
    invariance,
    link_mass,
    mass_by_query,
    peakiness,
    uniform_mass,
)
from probes.hooks import Edit, edit, points, watch

__all__ = [
    "Edit",
    "IterationHead",
    "edit",
    "find_iteration_head",
    "follow_links",
    "invariance",
    "link_mass",
    "mass_by_query",
    "moved",
    "peakiness",
    "points",
    "uniform_heads",
    "uniform_mass",
    "watch",
    "zero_heads",
]
