"""Hypothesis strategies of small models and of edits of their activations.

    model = data.draw(transformers(vocab=7, context=12, positions="rotary"))
    functions = data.draw(edits(model))
    with toylab.probes.edit(model, functions): ...

Only this module of the package requires hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import torch
from hypothesis import strategies as st
from torch import Tensor

from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS
from toylab.model.transformer import Transformer
from toylab.probes import Edit, watch

_OPTIONS = {name: get_args(get_type_hints(ModelConfig)[name]) for name in ("activation", "norm", "unembedding")}


@st.composite
def model_configs(draw: Callable, **fixed: Any) -> ModelConfig:
    """Language models of one or two layers with all kinds of norms, activations and positions; `fixed` sets fields."""
    drawn = {
        "layers": draw(st.integers(1, 2)),
        "heads": draw(st.sampled_from([1, 2, 4])),
        "width": draw(st.sampled_from([8, 16])),
        "hidden": draw(st.sampled_from([None, 0, 5])),
        "activation": draw(st.sampled_from(_OPTIONS["activation"])),
        "norm": draw(st.sampled_from(_OPTIONS["norm"])),
        "biases": draw(st.booleans()),
        "positions": draw(st.sampled_from(tuple(POSITIONS))),
        "position_base": draw(st.sampled_from([35.0, 1e4])),
        "position_frequency": draw(st.sampled_from([0.5, 1.0])),
        "position_width": draw(st.sampled_from([None, 2, 6])),
        "unembedding": draw(st.sampled_from([name for name in _OPTIONS["unembedding"] if name != "none"])),
    }
    return ModelConfig(**{**drawn, **fixed})


@st.composite
def transformers(draw: Callable, vocab: int, context: int, **fixed: Any) -> Transformer:
    """Models with random weights, in float64, so that a difference is no rounding error; `fixed` as above."""
    possible = model_configs(**fixed).filter(lambda config: config.unembedding != "orthogonal" or vocab <= config.width)
    config, seed = draw(possible), draw(st.integers(0, 2**32))
    return Transformer(config, vocab, context, seed).double()


def double(x: Tensor) -> Tensor:
    """Twice the activation."""
    return 2 * x


def average_rows(x: Tensor) -> Tensor:
    """Mean ablation: each row has the mean over the batch."""
    return x.mean(dim=0, keepdim=True).expand_as(x)


def edits(model: Transformer, most: int = 3) -> st.SearchStrategy[dict[str, Edit]]:
    """Edits of one to `most` hook points that the model visits: zero-ablation, mean ablation or scaling."""
    with torch.no_grad(), watch(model, "*") as seen:
        model(torch.zeros(1, 1, dtype=torch.long))
    functions = st.sampled_from([torch.zeros_like, double, average_rows])
    return st.dictionaries(st.sampled_from(list(seen)), functions, min_size=1, max_size=most)
