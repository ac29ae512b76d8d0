"""A transformer, sized by its task and open to inspection at every named point.

Wherever a researcher may want to look stands an `nn.Identity`; its path is its name (`blocks.0.attn.pattern`), the
one TransformerLens uses without its `hook_`. `toylab.probes.points(model)` lists them all. What is probed is what was
trained: no weight is folded, and the same code runs whether anybody watches or not.

Axis names: batch, position (query or key inside attention), head, feature (within a head), width, hidden, vocab.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.layers import AttentionContext, Block, BlockList, KVCache, LayerNorm, NoOp, make_linear
from toylab.model.positions import POSITIONS
from toylab.model.token_counts import TokenCounts
from toylab.probes.hooks import has_hooks
from toylab.settings import torch_seed
from toylab.tasks import Task


class Transformer(nn.Module):
    """Tokens in, logits out.

    Args:
        config: the shape.
        vocab: number of tokens.
        context: number of positions that learned positions know; the other encodings have no such limit.
        seed: of the initial weights; nothing else draws on it, and torch's global generator is left alone.
    """

    def __init__(self, config: ModelConfig, vocab: int, context: int, seed: int = 0) -> None:
        super().__init__()
        if config.unembedding == "orthogonal" and vocab > config.width:
            raise ToylabError(
                f"width={config.width}: an orthogonal unembedding of {vocab} tokens needs a width of at least that"
            )
        generator = torch.Generator().manual_seed(torch_seed(seed))
        self.config, self.vocab, self.context = config, vocab, context
        std = config.embedding_std
        if config.unembedding == "tied":
            std = std * config.width**-0.5  # or a token's logit for itself would start near the width
        embeddings = std * torch.randn(vocab, config.width, generator=generator)
        self.embedding = nn.Embedding(vocab, config.width, _weight=embeddings)
        self.positions = POSITIONS[config.positions](config, context, generator)
        self.blocks = BlockList(Block(config, generator) for _ in range(config.layers))
        self.ln_final = LayerNorm(config) if config.norm in ("pre", "entry") else NoOp()
        self.unembedding = _unembedding(config, self.embedding, generator)
        self.embed, self.pos_embed, self.final = nn.Identity(), nn.Identity(), nn.Identity()

    @classmethod
    def for_task(cls, task: Task, config: ModelConfig | None = None, seed: int = 0) -> Transformer:
        """A model of the task's vocabulary and context."""
        return cls(config or ModelConfig(), len(task.vocabulary), task.context, seed)

    def forward(
        self,
        tokens: Int[Tensor, "batch position"],
        *,
        positions: Int[Tensor, "#batch position"] | None = None,
        segments: Int[Tensor, "batch position"] | None = None,
        queries: Int[Tensor, "batch query"] | None = None,
        cache: KVCache | None = None,
        token_counts: TokenCounts | None = None,
    ) -> Float[Tensor, "batch query vocab"]:
        """Logits for the token after each position (without an unembedding, the final residual stream).

        Args:
            tokens: ids below `vocab`.
            positions: of each token, 0, 1, 2 ... by default (counted on from what `cache` holds).
            segments: tokens see only tokens of their own segment: several sequences packed into one row.
            queries: indices of the positions whose logits are wanted; the last block then computes no others.
            cache: keys and values of earlier tokens, which `tokens` continue; it is extended in place.
            tally: of these tokens: a first layer without positions then runs in linear time. The logits are the same
                but for rounding. It is left aside where anything listens to the points that it passes by (`embed`,
                `resid_pre` and those of `attn`).

        Raises:
            ValueError: for a position past the end of learned positions; for a cache in a bidirectional model, whose
                old keys would have to change with every new token; for a tally with positions, segments, queries or
                a cache, of which it knows nothing.
        """
        if cache is not None and not self.config.causal:
            raise ToylabError("cache: a bidirectional model cannot keep one; call it without, or with causal=True")
        if token_counts is not None and (
            self.config.positions != "none" or any(x is not None for x in (positions, segments, queries, cache))
        ):
            raise ToylabError("tally: works on whole rows of a model with positions='none'; leave it out otherwise")
        if token_counts is not None and has_hooks(self.embedding, self.embed, *self.blocks[0].before_counts()):
            token_counts = None
        past = 0 if cache is None else cache.length
        if positions is None:
            positions = torch.arange(past + tokens.shape[1], device=tokens.device)[None]
        dtype = self.embedding.weight.dtype
        last = len(self.blocks) - 1
        # The first layer needs none with a tally: who sees whom is all in the counts.
        geometry = None
        if token_counts is None or last:
            geometry = AttentionContext.of(self.positions, positions, segments, past, dtype, self.config.causal)
        if token_counts is None:
            assert geometry is not None
            x = self.embed(self.embedding(tokens))
            placed = self.positions.embed(geometry.query)
            if placed is not None:
                x = x + self.pos_embed(placed)
        else:
            x = self.embedding.weight[None]
        for layer, block in enumerate(self.blocks):
            if layer == 0 and token_counts is not None:
                x = block(x, None, token_counts=token_counts)
            elif layer == last and queries is not None:
                assert geometry is not None  # no counts beside queries
                x = block(x, geometry.at(queries), queries, cache, layer)
            else:
                x = block(x, geometry, None, cache, layer)
        return self.unembedding(self.final(self.ln_final(x)))


def _unembedding(config: ModelConfig, embedding: nn.Embedding, generator: torch.Generator) -> nn.Linear | NoOp:
    if config.unembedding == "none":
        return NoOp()
    vocab = embedding.num_embeddings
    layer = make_linear(config.width, vocab, False, generator)
    if config.unembedding == "tied":
        layer.weight = embedding.weight
    elif config.unembedding == "orthogonal":
        columns = torch.linalg.qr(torch.randn(config.width, vocab, generator=generator))[0]
        layer.weight.data = columns.T.contiguous()
    if config.unembedding in ("frozen", "orthogonal"):
        layer.weight.requires_grad_(False)
    return layer
