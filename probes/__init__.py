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
from probes.counting import (
    CIRCUITS,
    Bias,
    Readout,
    Saturation,
    block_keys,
    class_readout,
    fit_saturation,
    mass_by_class,
    name_bias,
    name_circuit,
    predicted_slope,
    through_origin,
)
from probes.hooks import Edit, edit, points, watch
from probes.linear import ProbeScore, linear_probe
from probes.scores import rotary_planes, score_table

__all__ = [
    "CIRCUITS",
    "Bias",
    "Edit",
    "IterationHead",
    "ProbeScore",
    "Readout",
    "Saturation",
    "block_keys",
    "class_readout",
    "edit",
    "find_iteration_head",
    "fit_saturation",
    "follow_links",
    "invariance",
    "linear_probe",
    "link_mass",
    "mass_by_class",
    "mass_by_query",
    "moved",
    "name_bias",
    "name_circuit",
    "peakiness",
    "points",
    "predicted_slope",
    "rotary_planes",
    "score_table",
    "through_origin",
    "uniform_heads",
    "uniform_mass",
    "watch",
    "zero_heads",
]
