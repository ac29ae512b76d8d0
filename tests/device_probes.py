"""Every probe, by name, as a route that is gone on each device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.places import Place, model_of, normal, tokens
from toylab import probes
from toylab.probes import edit, points, watch

LINKS = np.array([[0, 3, 1], [0, 4, 2], [1, 3, 1], [1, 4, 2]])


def pattern(seed: int = 0) -> Tensor:
    return normal(seed, 2, 3, 6, 6).softmax(dim=-1)


def mask(seed: int = 0) -> Tensor:
    return normal(seed, 2, 3, 6) > 0


def masses() -> dict[str, Tensor]:
    return {name: normal(seed, 9).abs() for seed, name in enumerate(("ones", "zeros", "begin"))}


def edited(name: str, change: Callable[[Place], probes.Edit]) -> Callable[[Place], Tensor]:
    def go(place: Place) -> Tensor:
        model = place(model_of())
        with edit(model, {name: change(place)}):
            return model(place(tokens(2)))

    return go


def watched(place: Place) -> Any:
    model = place(model_of())
    with watch(model, *points(model)) as seen:
        model(place(tokens()))
    return dict(seen)


def fitted(place: Place) -> Any:
    x = place(normal(0, 20, 8))
    model = probes.fit_autoencoder(x, features=12, steps=4, rows=5)
    return model, model(x), probes.explained_variance(model, x), probes.dead_share(model, x)


def by_paths(place: Place) -> Any:
    change = place(normal(0, 16))
    options = [{"blind": ("blocks.1.ln1", "ln_final")}, {"clean": ("blocks.1.attn.q",), "clean_scale": "ln_final"}]
    return [
        probes.PathPatched(place(model_of()), lambda h: h + change, "blocks.0.resid_post", **one)(place(tokens()))
        for one in options
    ]


def of_positions(measure: Callable[[Any, Tensor], Any]) -> Callable[[Place], Any]:
    return lambda place: [
        measure(place(model_of(name)), place(tokens())) for name in ("learned", "sinusoidal", "alibi")
    ]


def slope_sizes(measure: Callable) -> Callable[[Place], Tensor]:
    def go(place: Place) -> Tensor:
        weight = place(normal(0, 4, 3))
        function = (lambda x: x.tanh() @ weight) if measure is probes.jacobian_norms else (lambda x: x.square().sum(1))
        return measure(function, place(normal(1, 5, 4)))

    return go


BY_LENGTH = {n: {"carry": LINKS, "stop": LINKS, "end of input": LINKS} for n in (1, 2)}
PROBES: dict[str, Callable[[Place], Any]] = {
    "PathPatched": by_paths,
    "SparseAutoencoder": lambda place: place(probes.SparseAutoencoder(8, 12, 3, torch.Generator()))(
        place(normal(0, 5, 8))
    ),
    "contrast_cosine": lambda place: probes.contrast_cosine(place(normal(0, 4)), place(normal(1, 7, 4)), 1, 2),
    "energy_along": lambda place: probes.energy_along(place(normal(0, 5, 4)), place(normal(1, 4))),
    "auc": lambda place: probes.auc(place(normal(0, 5)), place(normal(1, 7))),
    "block_keys": edited("blocks.0.attn.scores", lambda place: probes.block_keys(place(mask()[:, :1]))),
    "class_readout": lambda place: probes.class_readout(
        place(masses()), place({name: normal(3, 4) for name in masses()}), place(normal(4, 4)), place(normal(5, 9, 4))
    ),
    "compare_features": lambda place: probes.compare_features(
        *(place(normal(seed, 30, *shape) > 0) for seed, shape in enumerate([(4,), (), ()])), permutations=5
    ),
    "conditional_share": lambda place: probes.conditional_share(
        *place([normal(0, 6, 4), normal(1, 6, 4), normal(2, 3, 4)])
    ),
    "cosine_to": lambda place: [
        probes.cosine_to(place(normal(0, 5, 4))),
        probes.cosine_to(place(normal(0, 5, 4)), place(normal(1, 4))),
    ],
    "dead_share": fitted,
    "distance_effects": of_positions(probes.distance_effects),
    "edit": edited("blocks.0.mlp_out", lambda place: torch.zeros_like),
    "relative_change": lambda place: probes.relative_change(
        *place([normal(0, 6, 4), normal(1, 6, 4), normal(2, 3, 4)])
    ),
    "explained_variance": fitted,
    "find_iteration_head": lambda place: probes.find_iteration_head(
        {n: [place(pattern(n)), place(pattern(n + 5))] for n in BY_LENGTH}, BY_LENGTH, carry_threshold=0.1
    ),
    "fit_autoencoder": fitted,
    "fit_saturation": lambda place: probes.fit_saturation(place(normal(0, 9).abs()), place(torch.arange(9))),
    "follow_links": edited("blocks.0.attn.pattern", lambda place: probes.follow_links(0, LINKS)),
    "amplification": lambda place: probes.amplification(*place([normal(1, 6, 4), normal(2, 3, 4)])),
    "gradient_norms": slope_sizes(probes.gradient_norms),
    "invariance": lambda place: probes.invariance(place(pattern()), LINKS, 0.01),
    "jacobian_norms": slope_sizes(probes.jacobian_norms),
    "left_singular_directions": lambda place: [
        probes.left_singular_directions(place(normal(0, 6, 4)), energy).abs() for energy in (None, 0.5)
    ],
    "linear_probe": lambda place: [
        probes.linear_probe(place(normal(0, 40, 3)), labels, groups, np.random.default_rng(0), steps=5)
        for labels in (place((normal(1, 40) > 0).long()),)
        for groups in (place(torch.arange(40) // 4), torch.arange(40) // 4)
    ],
    "link_mass": lambda place: [
        probes.link_mass(place(pattern()), links) for links in (LINKS, place(torch.tensor(LINKS)))
    ],
    "logit_attribution": lambda place: probes.logit_attribution(place(normal(0, 3, 5, 4)), place(normal(1, 7, 4))),
    "mass_by_class": lambda place: probes.mass_by_class(
        place(pattern()[:, 0, :3]), place({"in": mask(), "out": ~mask()})
    ),
    "mass_by_query": lambda place: probes.mass_by_query(place(pattern()), LINKS),
    "shift_sensitivity": of_positions(lambda it, read: probes.shift_sensitivity(it, read, 2)),
    "shift_links": lambda place: probes.shift_links(place(torch.tensor(LINKS)), 1).tolist(),
    "name_bias": lambda place: probes.name_bias(place(masses()), "ones"),
    "name_encoding": of_positions(lambda it, read: probes.name_encoding(it, read, np.random.default_rng(0)).encoding),
    "null_share": lambda place: probes.null_share(*place([normal(0, 6, 4), normal(1, 6, 4)]), draws=3),
    "span_sine": lambda place: [
        probes.span_sine(*place([normal(0, 6, 4), normal(1, 6, 4)]), rows=rows) for rows in (False, True)
    ],
    "energy_outside": lambda place: probes.energy_outside(place(normal(0, 6, 2)), place(torch.eye(6)[:, :3].double())),
    "peakiness": lambda place: probes.peakiness(place(pattern()), LINKS, 0.2),
    "points": lambda place: list(points(place(model_of()))),
    "patch_activation": edited(
        "blocks.0.resid_post", lambda place: probes.patch_activation(place(normal(0, 2, 6, 16)), [1, 3])
    ),
    "permutation_sensitivity": of_positions(
        lambda it, read: probes.permutation_sensitivity(it, read, np.random.default_rng(0))
    ),
    "token_ranks": lambda place: probes.token_ranks(place(normal(0, 3, 7))),
    "rotary_planes": lambda place: probes.rotary_planes(place(normal(0, 3, 4)), place(normal(1, 3, 4))),
    "row_cosines": lambda place: probes.row_cosines(place(normal(0, 6, 4)), place(normal(1, 3, 4))),
    "score_table": lambda place: probes.score_table(place(normal(0, 3, 2, 4)), place(normal(1, 3, 2, 4))),
    "separation": lambda place: probes.separation(place(normal(0, 5, 4)), place(normal(1, 6, 4))),
    "split_change": lambda place: probes.split_change(place(normal(0, 6, 4)), place(normal(1, 6, 4))),
    "nearness": lambda place: probes.nearness(*place([normal(0, 5, 4), normal(1, 4), normal(2, 4)])),
    "slope_through_origin": lambda place: probes.slope_through_origin(place(normal(0, 9)), place(torch.arange(9))),
    "token_cosines": lambda place: probes.token_cosines(place(normal(0, 3, 4)), place(normal(1, 7, 4))),
    "top_energy": lambda place: probes.top_energy(place(normal(0, 6, 4)), 2),
    "top_rank": lambda place: probes.top_rank(place(normal(0, 6, 4)), 2),
    "top_share": lambda place: probes.top_share(place(normal(0, 6, 4))),
    "uniform_heads": edited("blocks.0.attn.pattern", lambda place: probes.uniform_heads([0, 1], [2, 4])),
    "uniform_mass": lambda place: [probes.uniform_mass(links) for links in (LINKS, place(torch.tensor(LINKS)))],
    "watch": watched,
    "weak_share": lambda place: probes.weak_share(place(normal(0, 5, 4)), place(normal(1, 6, 4))),
    "zero_heads": edited("blocks.0.attn.z", lambda place: probes.zero_heads(1, slice(2, None))),
}
ON_NUMBERS = {"CIRCUITS", "Edit", "Tap", "name_circuit", "predicted_slope"}
"""Of `probes`, what takes no tensors."""
