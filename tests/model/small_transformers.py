"""Small transformers of every kind."""

from typing import get_args, get_type_hints

import torch
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS
from toylab.model.transformer import Transformer

VOCAB, CONTEXT = 7, 14
NORMS, UNEMBEDDINGS, ACTIVATION_NAMES = (
    get_args(get_type_hints(ModelConfig)[name]) for name in ("norm", "unembedding", "activation")
)
ENCODINGS = tuple(POSITIONS)
UNEMBEDDINGS = tuple(name for name in UNEMBEDDINGS if name != "none")  # a model without one is no language model
SEEDS = st.integers(0, 2**32)
some = fewer(0.3)


def build(config: ModelConfig, seed: int = 0, context: int = CONTEXT) -> Transformer:
    """In float64, so that what is left over is a mistake and no noise."""
    return Transformer(config, VOCAB, context, seed).double()


def draw_tokens(seed: int, rows: int, width: int) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, width), generator=torch.Generator().manual_seed(seed))
