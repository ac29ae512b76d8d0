"""Every probe, by name, on what a model of a task did on one device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.device_scene import ROWS, Scene
from toylab import probes
from toylab.probes import edit, points, watch

SAME_LINKS = np.array([[row, query, query - 2] for row in range(ROWS) for query in (3, 4)])


def edited(name: str, change: Callable[[Scene], probes.Edit]) -> Callable[[Scene], Tensor]:
    def go(at: Scene) -> Tensor:
        with edit(at.model, {name: change(at)}):
            return at.model(at.tokens)

    return go


def watched(at: Scene) -> Any:
    with watch(at.model, *points(at.model)) as seen:
        at.model(at.tokens)
    return dict(seen)


def autoencoder(at: Scene) -> probes.SparseAutoencoder:
    return at.put(probes.SparseAutoencoder(8, 12, 3, torch.Generator()))


def by_paths(at: Scene) -> Any:
    change = at.normal(0, 16)
    options = [{"blind": ("blocks.1.ln1", "ln_final")}, {"clean": ("blocks.1.attn.q",), "clean_scale": "ln_final"}]
    return [
        probes.PathPatched(at.model, lambda h: h + change, "blocks.0.resid_post", **one)(at.tokens) for one in options
    ]


def slope_sizes(measure: Callable) -> Callable[[Scene], Tensor]:
    def go(at: Scene) -> Tensor:
        weight = at.normal(0, 4, 3)
        function = (lambda x: x.tanh() @ weight) if measure is probes.jacobian_norms else (lambda x: x.square().sum(1))
        return measure(function, at.normal(1, 5, 4))

    return go


PROBES: dict[str, Callable[[Scene], Any]] = {
    "PathPatched": by_paths,
    "SparseAutoencoder": lambda at: at.put(probes.SparseAutoencoder(8, 12, 3, torch.Generator()))(at.normal(0, 5, 8)),
    "contrast_cosine": lambda at: probes.contrast_cosine(at.normal(0, 4), at.normal(1, 7, 4), 1, 2),
    "energy_along": lambda at: probes.energy_along(at.normal(0, 5, 4), at.normal(1, 4)),
    "auc": lambda at: probes.auc(at.normal(0, 5), at.normal(1, 7)),
    "block_keys": edited("blocks.0.attn.scores", lambda at: probes.block_keys(at.mask()[:, :1])),
    "class_readout": lambda at: probes.class_readout(
        at.masses(), {name: at.normal(3, 4) for name in at.masses()}, at.normal(4, 4), at.normal(5, 9, 4)
    ),
    "compare_features": lambda at: probes.compare_features(
        *((at.normal(seed, 30, *shape) > 0) for seed, shape in enumerate([(4,), (), ()])), permutations=5
    ),
    "conditional_share": lambda at: probes.conditional_share(
        *[at.normal(0, 6, 4), at.normal(1, 6, 4), at.normal(2, 3, 4)]
    ),
    "cosine_to": lambda at: [
        probes.cosine_to(at.normal(0, 5, 4)),
        probes.cosine_to(at.normal(0, 5, 4), at.normal(1, 4)),
    ],
    "dead_share": lambda at: probes.dead_share(autoencoder(at), at.normal(0, 20, 8)),
    "distance_effects": lambda at: probes.distance_effects(at.model, at.tokens),
    "edit": edited("blocks.0.mlp_out", lambda at: torch.zeros_like),
    "relative_change": lambda at: probes.relative_change(*[at.normal(0, 6, 4), at.normal(1, 6, 4), at.normal(2, 3, 4)]),
    "explained_variance": lambda at: probes.explained_variance(autoencoder(at), at.normal(0, 20, 8)),
    "find_iteration_head": lambda at: probes.find_iteration_head(
        {n: [at.pattern(n), at.pattern(n + 5)] for n in (1, 2)},
        {n: dict.fromkeys(("carry", "stop", "end of input"), at.links) for n in (1, 2)},
        carry_threshold=0.1,
    ),
    "fit_autoencoder": lambda at: probes.fit_autoencoder(at.normal(0, 20, 8), features=12, steps=2, rows=5),
    "fit_saturation": lambda at: probes.fit_saturation(at.normal(0, 9).abs(), at.put(torch.arange(9))),
    "follow_links": edited("blocks.0.attn.pattern", lambda at: probes.follow_links(0, at.links)),
    "amplification": lambda at: probes.amplification(*[at.normal(1, 6, 4), at.normal(2, 3, 4)]),
    "gradient_norms": slope_sizes(probes.gradient_norms),
    "invariance": lambda at: probes.invariance(at.pattern(), SAME_LINKS, 0.01),
    "jacobian_norms": slope_sizes(probes.jacobian_norms),
    "left_singular_directions": lambda at: [
        probes.left_singular_directions(at.normal(0, 6, 4), energy).abs() for energy in (None, 0.5)
    ],
    "linear_probe": lambda at: [
        probes.linear_probe(at.normal(0, 40, 3), labels, groups, np.random.default_rng(0), steps=2)
        for labels in ((at.normal(1, 40) > 0).long(),)
        for groups in (at.put(torch.arange(40) // 4), torch.arange(40) // 4)
    ],
    "link_mass": lambda at: [
        probes.link_mass(at.pattern(), links) for links in (at.links, at.put(torch.tensor(at.links)))
    ],
    "logit_attribution": lambda at: probes.logit_attribution(at.normal(0, 3, 5, 4), at.normal(1, 7, 4)),
    "mass_by_class": lambda at: probes.mass_by_class(at.pattern()[:, 0, :3], {"in": at.mask(), "out": ~at.mask()}),
    "mass_by_query": lambda at: probes.mass_by_query(at.pattern(), at.links),
    "shift_sensitivity": lambda at: probes.shift_sensitivity(at.model, at.tokens, 2),
    "shift_links": lambda at: probes.shift_links(at.put(torch.tensor(at.links)), 1).tolist(),
    "name_bias": lambda at: probes.name_bias(at.masses(), "ones"),
    "name_encoding": lambda at: probes.name_encoding(at.model, at.tokens, np.random.default_rng(0)).encoding,
    "fourier_energy": lambda at: probes.fourier_energy(at.normal(0, 7, 4)),
    "keep_frequencies": lambda at: probes.keep_frequencies(at.normal(0, 7, 4), [1, 3]),
    "read_frequencies": lambda at: probes.read_frequencies(at.normal(0, 7, 4), 2, draws=3),
    "null_share": lambda at: probes.null_share(*[at.normal(0, 6, 4), at.normal(1, 6, 4)], draws=3),
    "span_sine": lambda at: [
        probes.span_sine(*[at.normal(0, 6, 4), at.normal(1, 6, 4)], rows=rows) for rows in (False, True)
    ],
    "energy_outside": lambda at: probes.energy_outside(at.normal(0, 6, 2), at.put(torch.eye(6)[:, :3].double())),
    "peakiness": lambda at: probes.peakiness(at.pattern(), at.links, 0.2),
    "points": lambda at: list(points(at.model)),
    "patch_activation": edited(
        "blocks.0.resid_post", lambda at: probes.patch_activation(at.normal(0, *at.tokens.shape, 16), [1, 3])
    ),
    "permutation_sensitivity": lambda at: probes.permutation_sensitivity(at.model, at.tokens, np.random.default_rng(0)),
    "token_ranks": lambda at: probes.token_ranks(at.normal(0, 3, 7)),
    "rotary_planes": lambda at: probes.rotary_planes(at.normal(0, 3, 4), at.normal(1, 3, 4)),
    "row_cosines": lambda at: probes.row_cosines(at.normal(0, 6, 4), at.normal(1, 3, 4)),
    "score_table": lambda at: probes.score_table(at.normal(0, 3, 2, 4), at.normal(1, 3, 2, 4)),
    "separation": lambda at: probes.separation(at.normal(0, 5, 4), at.normal(1, 6, 4)),
    "split_change": lambda at: probes.split_change(at.normal(0, 6, 4), at.normal(1, 6, 4)),
    "nearness": lambda at: probes.nearness(*[at.normal(0, 5, 4), at.normal(1, 4), at.normal(2, 4)]),
    "slope_through_origin": lambda at: probes.slope_through_origin(at.normal(0, 9), at.put(torch.arange(9))),
    "token_cosines": lambda at: probes.token_cosines(at.normal(0, 3, 4), at.normal(1, 7, 4)),
    "top_energy": lambda at: probes.top_energy(at.normal(0, 6, 4), 2),
    "top_rank": lambda at: probes.top_rank(at.normal(0, 6, 4), 2),
    "top_share": lambda at: probes.top_share(at.normal(0, 6, 4)),
    "uniform_heads": edited("blocks.0.attn.pattern", lambda at: probes.uniform_heads([0, 1], [2, 4])),
    "uniform_mass": lambda at: [probes.uniform_mass(links) for links in (at.links, at.put(torch.tensor(at.links)))],
    "watch": watched,
    "weak_share": lambda at: probes.weak_share(at.normal(0, 5, 4), at.normal(1, 6, 4)),
    "zero_heads": edited("blocks.0.attn.z", lambda at: probes.zero_heads(1, slice(2, None))),
}
ON_NUMBERS = {"CIRCUITS", "Edit", "Tap", "name_circuit", "predicted_slope"}
"""Of `probes`, what takes no tensors."""
