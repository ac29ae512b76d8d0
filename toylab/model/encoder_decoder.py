"""An encoder-decoder for contextual counting: learned label queries cross-attend to an encoded string.

    tokens -> encoder (Transformer without unembedding) -> residual stream
    label queries -> [self-attention] -> cross-attention to the stream -> [MLP] -> logits over the counts

With the default decoder, cross-attention only, the logits are linear in the attention output, so a count must be
encoded in the attention pattern. Layers and hook points are those of `toylab.model.transformer`:
`encoder.blocks.0.attn.pattern`, `decoder.cross.pattern`.

Source: Golkar et al. 2024 (arXiv 2406.02585), section 2; details the paper does not specify are settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.device import takes_any_device
from toylab.model.layers import MLP, Attention, AttentionContext, LayerNorm, dropped_out, make_linear, torch_stream
from toylab.model.positions import NoPositions
from toylab.model.token_counts import TokenCounts
from toylab.model.transformer import Transformer
from toylab.settings import check_range, check_settings

ENCODER = ModelConfig(
    layers=1, heads=1, hidden=0, biases=False, positions="none", embedding_std=0.3, unembedding="none"
)
"""Default encoder: one layer, one causal head, no MLP, no positions, width 32."""


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """Architecture of an `EncoderDecoder`; vocabulary size, label queries and classes come from the task."""

    encoder: ModelConfig = ENCODER
    """Its biases, activation and dropout also hold for the sublayers of the decoder (`attn_out`, `cross_out`,
    `mlp_out`)."""
    heads: int = 1
    """Attention heads of the decoder."""
    self_attention: bool = False
    """Whether the decoder has self-attention between label queries before cross-attention."""
    residual: bool = False
    """Whether the cross-attention output is added to the stream of the query or replaces it."""
    hidden: int = 0
    """Width of the decoder's MLP; 0 for none."""
    query_std: float | int = 0.3
    """Standard deviation of the initial label queries."""
    head: Literal["smooth", "default"] = "smooth"
    """Initial weights of the output head: a smooth function of the count (see `smooth_head`), or independent per
    class."""
    logit_scale: float | int = 10.0
    """Fixed factor on the logits (not the biases). Separating n from n + 1 requires weights that grow with n^2, beyond
    the reach of Adam's uniform step size without this factor."""

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
    """An encoder-decoder from token ids to logits over counts, one row of logits per label query.

    Args:
        config: architecture.
        symbols: vocabulary size of the encoder.
        queries: number of label queries.
        classes: number of possible counts.
        context: number of learned position embeddings of the encoder.
        seed: of the initial weights.
    """

    def __init__(
        self, config: EncoderDecoderConfig, symbols: int, queries: int, classes: int, context: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.config, self.symbols, self.queries, self.classes, self.context = config, symbols, queries, classes, context
        self.encoder = Transformer(config.encoder, symbols, context, seed)
        # A separate random stream: the encoder consumes the one of `seed`, and both must differ.
        self.decoder = Decoder(config, queries, classes, torch_stream(seed, "decoder"))

    @takes_any_device
    def forward(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        seen: Bool[Tensor, "batch position"] | None = None,
        token_counts: TokenCounts | None = None,
    ) -> Float[Tensor, "batch label count"]:
        """Logits over counts for every label query.

        Args:
            tokens: ids below `symbols`.
            seen: attention mask, False on padding.
            token_counts: of `tokens`, for linear-time attention in an encoder without positions.
        """
        segments = None if seen is None else seen.long()
        return self.decoder(self.encoder(tokens, segments=segments, token_counts=token_counts), seen)


class Decoder(nn.Module):
    """Label queries with cross-attention to the encoder's residual stream, and an output head."""

    def __init__(self, config: EncoderDecoderConfig, queries: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.dropout = config, config.encoder.dropout
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

    @takes_any_device
    def forward(
        self, stream: Float[Tensor, "batch position width"], seen: Bool[Tensor, "batch position"] | None = None
    ) -> Float[Tensor, "batch label count"]:
        batch, keys, _ = stream.shape
        labels = len(self.queries)
        x = self.resid_pre(self.queries.expand(batch, -1, -1))
        if self.attn is not None and self.ln1 is not None:
            normed = self.ln1(x)
            attended = self.attn(normed, normed, self._attention_context(labels, labels, stream))
            x = x + self.attn_out(dropped_out(attended, self))
        x = self.resid_mid(x)
        attended = self.cross(x, stream, self._attention_context(labels, keys, stream, seen))
        attended = self.cross_out(dropped_out(attended, self))
        x = x + attended if self.config.residual else attended
        if self.mlp is not None and self.ln2 is not None:
            x = x + self.mlp_out(dropped_out(self.mlp(self.ln2(x)), self))
        x = self.resid_post(x)
        return self.head(self.config.logit_scale * x)

    def _attention_context(
        self, queries: int, keys: int, like: Tensor, seen: Bool[Tensor, "batch key"] | None = None
    ) -> AttentionContext:
        """Mask of padding only, without positions: label queries and string share no position index."""
        bias = like.new_zeros(1, 1, queries, keys)
        if seen is not None:
            bias = bias.expand(len(seen), -1, -1, -1).masked_fill(~seen[:, None, None], -torch.inf)
        zeros = torch.zeros(1, max(queries, keys), dtype=torch.long, device=like.device)
        return AttentionContext(self.positions, zeros[:, :queries], zeros[:, :keys], bias)


def smooth_head(
    classes: int, width: int, generator: torch.Generator, half: float | int = 4.0
) -> Float[Tensor, "count width"]:
    """Initial output weights that are smooth in the count c: W_c = (x r1 + x^2 r2) / sqrt(width), x = c / (c + half).

    A counting head outputs n / (n + K); with similar weights for neighbouring counts, the gradient relates this scalar
    to the order of the counts from the first step.
    """
    x = torch.arange(classes) / (torch.arange(classes) + half)
    directions = torch.randn(2, width, generator=generator)
    return torch.stack([x, x**2], dim=1) @ directions / width**0.5
