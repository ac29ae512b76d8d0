"""Small encoder-decoders of every kind."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig

SYMBOLS, QUERIES, CLASSES, CONTEXT, WIDTH = 5, 3, 7, 12, 8
SEEDS = st.integers(0, 2**31)
NORMS = ("pre", "post", "entry", "none")
few = fewer(0.2)


@st.composite
def configs(draw: st.DrawFn, encoder: dict | None = None, **fixed) -> EncoderDecoderConfig:
    """Small shapes of every kind; `encoder` fixes settings of the encoder, the others those of the whole."""
    inner = {
        "layers": draw(st.integers(1, 2)),
        "heads": draw(st.sampled_from([1, 2])),
        "width": WIDTH,
        "hidden": draw(st.sampled_from([0, 5])),
        "activation": draw(st.sampled_from(["relu", "gelu"])),
        "norm": draw(st.sampled_from(NORMS)),
        "biases": draw(st.booleans()),
        "causal": draw(st.booleans()),
        "positions": draw(st.sampled_from(["none", "learned", "alibi"])),
        "unembedding": "none",
    }
    drawn = {
        "encoder": ModelConfig(**{**inner, **(encoder or {})}),
        "heads": draw(st.sampled_from([1, 2])),
        "self_attention": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "hidden": draw(st.sampled_from([0, 6])),
        "query_std": draw(st.sampled_from([0.5, 2])),
        "head": draw(st.sampled_from(["smooth", "default"])),
        "logit_scale": draw(st.sampled_from([1, 10.0])),
    }
    return EncoderDecoderConfig(**{**drawn, **fixed})


def build(config: EncoderDecoderConfig, seed: int = 0, context: int = CONTEXT) -> EncoderDecoder:
    """In float64, and with norms that are not the identity, which would hide a missing one."""
    model = EncoderDecoder(config, SYMBOLS, QUERIES, CLASSES, context, seed).double()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    return model


def small(encoder: dict | None = None, **settings) -> EncoderDecoderConfig:
    """One causal layer of width 8 without positions, but for what is said."""
    return EncoderDecoderConfig(encoder=replace(ENCODER, **{"width": WIDTH, **(encoder or {})}), **settings)


def draw_tokens(seed: int, rows: int, width: int) -> torch.Tensor:
    return torch.randint(SYMBOLS, (rows, width), generator=torch.Generator().manual_seed(seed))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(one: torch.Tensor, other: torch.Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


EDITS = {
    "q": lambda x: x.flip(1) * 2,
    "k": lambda x: x.flip(1) * 2,
    "v": lambda x: x.flip(1) * 2,
    "scores": lambda x: torch.arange(x.shape[-1]).to(x).expand_as(x),
    "pattern": lambda x: torch.full_like(x, 0.3),  # no share out of one, as where some links are cut
    "z": lambda x: x.flip(2) + 1,
}
