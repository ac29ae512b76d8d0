"""An encoder-decoder for questions about a string: a `Transformer` reads it, label queries fetch one answer each.

    tokens -> encoder (Transformer without unembedding) -> residual stream
    label queries -> [self-attention] -> cross-attention to the stream -> [MLP] -> logits over the counts

With the default decoder, cross-attention alone, the logits are linear in what the attention brings back: all that a
model knows of a count must be in *where* its queries look. The parts are those of `toylab.model.transformer`, and so
are the names of their points: `encoder.blocks.0.attn.pattern`, `decoder.cross.pattern`.

Source: Golkar et al. 2024 (arXiv 2406.02585), section 2; what the paper leaves open is a setting here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.layers import MLP, Attention, AttentionContext, LayerNorm, make_linear, torch_stream
from toylab.model.positions import NoPositions
from toylab.model.token_counts import TokenCounts
from toylab.model.transformer import Transformer
from toylab.settings import check_range, check_settings

ENCODER = ModelConfig(
    layers=1, heads=1, hidden=0, biases=False, positions="none", embedding_std=0.3, unembedding="none"
)
"""One causal head without MLP and without positions, width 32."""


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """The shape of an `EncoderDecoder`; its sizes come from the task."""

    encoder: ModelConfig = ENCODER
    heads: int = 1
    """Heads of the decoder's attention."""
    self_attention: bool = False
    """Whether the label queries attend to each other first."""
    residual: bool = False
    """Whether the cross-attention is added to the query's own stream; without, it replaces it."""
    hidden: int = 0
    """Size of the decoder's MLP, 0 for none."""
    query_std: float | int = 0.3
    """Scale of the initial label queries."""
    head: Literal["smooth", "default"] = "smooth"
    """How the output head starts: near counts with near weights, or each class independent of all others."""
    logit_scale: float | int = 10.0
    """A fixed factor on the logits, biases left out. Telling n from n + 1 takes weights that grow with n^2; the factor
    brings them within reach of an optimiser that moves every weight by about the same small step."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.encoder.unembedding != "none":
            raise ToylabError(f"encoder.unembedding={self.encoder.unembedding}: an encoder has none; set it to none")
        if self.heads < 1 or self.encoder.width % self.heads:
            raise ToylabError(f"heads={self.heads}: must divide encoder.width={self.encoder.width}; 1 always does")
        check_range("0 leaves the MLP out", hidden=self.hidden, least=0)
        check_range(query_std=self.query_std, least=0)
        check_range("1 leaves the logits as they are", logit_scale=self.logit_scale, above=0)


class EncoderDecoder(nn.Module):
    """A string in, logits over the answers of all label queries out.

    Args:
        config: the shape.
        symbols: tokens that the encoder knows.
        queries: label queries, one an answer.
        classes: possible answers.
        context: number of positions that learned positions know.
        seed: of the initial weights.
    """

    def __init__(
        self, config: EncoderDecoderConfig, symbols: int, queries: int, classes: int, context: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.config, self.symbols, self.queries, self.classes, self.context = config, symbols, queries, classes, context
        self.encoder = Transformer(config.encoder, symbols, context, seed)
        # A stream of its own: the decoder must not repeat the numbers that the encoder starts from.
        self.decoder = Decoder(config, queries, classes, torch_stream(seed, "decoder"))

    def forward(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        seen: Bool[Tensor, "batch position"] | None = None,
        token_counts: TokenCounts | None = None,
    ) -> Float[Tensor, "batch label count"]:
        """Logits of every answer.

        Args:
            tokens: ids below `symbols`.
            seen: False on padding, which then nobody reads.
            tally: of these tokens, for the linear-time form of an encoder without positions.
        """
        segments = None if seen is None else seen.long()
        return self.decoder(self.encoder(tokens, segments=segments, token_counts=token_counts), seen)


class Decoder(nn.Module):
    """Label queries that fetch their answers from a residual stream."""

    def __init__(self, config: EncoderDecoderConfig, queries: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        shape = replace(config.encoder, heads=config.heads, positions="none")
        self.queries = nn.Parameter(config.query_std * torch.randn(queries, shape.width, generator=generator))
        self.positions = NoPositions(shape, queries, generator)
        self.cross = Attention(shape, generator, few_queries=True)
        self.attn = Attention(shape, generator) if config.self_attention else None
        self.ln1 = LayerNorm(shape) if config.self_attention else None
        self.mlp = MLP(shape, config.hidden, generator) if config.hidden else None
        self.ln2 = LayerNorm(shape) if config.hidden else None
        self.head = make_linear(shape.width, classes, True, generator)
        if config.head == "smooth":
            self.head.weight.data = smooth_head(classes, shape.width, generator)
        self.resid_pre, self.attn_out, self.resid_mid = nn.Identity(), nn.Identity(), nn.Identity()
        self.cross_out, self.mlp_out, self.resid_post = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(
        self, stream: Float[Tensor, "batch position width"], seen: Bool[Tensor, "batch position"] | None = None
    ) -> Float[Tensor, "batch label count"]:
        batch, keys, _ = stream.shape
        labels = len(self.queries)
        x = self.resid_pre(self.queries.expand(batch, -1, -1))
        if self.attn is not None and self.ln1 is not None:
            read = self.ln1(x)
            x = x + self.attn_out(self.attn(read, read, self._geometry(labels, labels, stream)))
        x = self.resid_mid(x)
        fetched = self.cross_out(self.cross(x, stream, self._geometry(labels, keys, stream, seen)))
        x = x + fetched if self.config.residual else fetched
        if self.mlp is not None and self.ln2 is not None:
            x = x + self.mlp_out(self.mlp(self.ln2(x)))
        x = self.resid_post(x)
        return self.head(self.config.logit_scale * x)

    def _geometry(
        self, queries: int, keys: int, like: Tensor, seen: Bool[Tensor, "batch key"] | None = None
    ) -> AttentionContext:
        """Everybody sees every key that is no padding; labels and strings have no positions in common."""
        bias = like.new_zeros(1, 1, queries, keys)
        if seen is not None:
            bias = bias.expand(len(seen), -1, -1, -1).masked_fill(~seen[:, None, None], -torch.inf)
        at = torch.zeros(1, max(queries, keys), dtype=torch.long, device=like.device)
        return AttentionContext(self.positions, at[:, :queries], at[:, :keys], bias)


def smooth_head(
    classes: int, width: int, generator: torch.Generator, half: float | int = 4.0
) -> Float[Tensor, "count width"]:
    """Output weights that start as a smooth curve: W_c = (x r1 + x^2 r2) / sqrt(width), with x = c / (c + half).

    A counting circuit brings back n / (n + K) as one number; a head in which near counts have near weights can learn
    from the first step that such a number orders them.
    """
    x = torch.arange(classes) / (torch.arange(classes) + half)
    directions = torch.randn(2, width, generator=generator)
    return torch.stack([x, x**2], dim=1) @ directions / width**0.5
