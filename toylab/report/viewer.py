"""Attention patterns as the viewer of a page or notebook (`viewer.js`) reads them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toylab.training.attention_history import HistoryPage

_FINE = 65535
"""Levels of attention where nothing limits the size: three decimals are exact."""


def history_record(history: HistoryPage) -> dict[str, Any]:
    """An attention history in JSON form."""
    _, layers, heads, *_ = history.patterns[0].shape
    scenes = [
        {**scene, "layers": [{"data": _packed(patterns[:, layer])} for layer in range(layers)]}
        for scene, patterns in zip(history.scenes, history.patterns, strict=True)
    ]
    return {
        "steps": history.steps,
        "curves": history.curves,
        "start": history.start,
        "levels": 255,
        "layers": [{"title": f"layer {layer}", "heads": heads} for layer in range(layers)],
        "scenes": scenes,
    }


def patterns_record(
    patterns: Mapping[str, Float[Tensor, "row head query key"]],
    names: Sequence[Sequence[str]],
    links: Sequence[Mapping[str, list[list[int]]]],
    sizes: Sequence[int],
) -> dict[str, Any]:
    """Attention patterns of one evaluation in JSON form, one scene per row.

    Args:
        patterns: by title of the layer. As many queries or keys as a row has names are its positions; any others, such
            as the labels of a decoder, are numbered.
        names: token names of every row, padding included.
        links: of every row, by name the (query, key) pairs that an ideal algorithm attends to.
        sizes: of every row, the positions that are not padding.
    """
    scenes = []
    for row, (tokens, used) in enumerate(zip(names, sizes, strict=True)):
        layers = []
        for pattern in patterns.values():
            sides = {"queries": pattern.shape[2], "keys": pattern.shape[3]}
            queries, keys = (used if size == len(tokens) else size for size in sides.values())
            levels = (_FINE * pattern[row, :, :queries, :keys]).round().to(torch.uint16)
            numbered = {
                side: [f"label {n}" for n in range(size)] for side, size in sides.items() if size != len(tokens)
            }
            layers.append({"data": _packed(levels), **numbered})
        scenes.append({"title": f"row {row}", "names": tokens[:used], "links": links[row], "layers": layers})
    return {
        "steps": [0],
        "curves": {},
        "start": (0, 0),
        "levels": _FINE,
        "layers": [{"title": title, "heads": pattern.shape[1]} for title, pattern in patterns.items()],
        "scenes": scenes,
    }


def _packed(levels: Tensor) -> str:
    return b64encode(levels.contiguous().cpu().numpy().tobytes()).decode()
