"""A transformer with a hook point at every activation of interest.

Hook points are `nn.Identity` modules named by their path (`blocks.0.attn.pattern`), as in TransformerLens without its
`hook_`. `toylab.probes.points(model)` lists them all. The probed model is the trained model: no weights are folded,
and hooks do not change the output.

Axis names: batch, position (query or key inside attention), head, feature (within a head), width, hidden, vocab.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.device import takes_any_device
from toylab.model.layers import MLP, AttentionContext, Block, BlockList, KVCache, LayerNorm, NoOp, make_linear
from toylab.model.positions import POSITIONS
from toylab.model.token_counts import TokenCounts
from toylab.probes.hooks import has_hooks
from toylab.settings import torch_seed
from toylab.tasks import Task


class Transformer(nn.Module):
    """A decoder-only (or, with `causal=False`, bidirectional) transformer, from token ids to logits.

    Args:
        config: architecture.
        vocab: vocabulary size.
        context: number of learned position embeddings; other encodings have no such limit.
        seed: of the initial weights only; torch's global generator is not used.

    Raises:
        ToylabError: for an orthogonal unembedding with more tokens than the width.
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
            std = std * config.width**-0.5  # otherwise a token's own logit is about `width` at init
        embeddings = std * torch.randn(vocab, config.width, generator=generator)
        self.embedding = nn.Embedding(vocab, config.width, _weight=embeddings)
        self.positions = POSITIONS[config.positions](config, context, generator)
        self.blocks = BlockList(Block(config, generator) for _ in range(config.layers))
        self.ln_final = LayerNorm(config) if config.norm in ("pre", "entry") else NoOp()
        self.unembedding = _unembedding(config, self.embedding, generator)
        self.embed, self.pos_embed, self.final = nn.Identity(), nn.Identity(), nn.Identity()

    @classmethod
    def for_task(cls, task: Task, config: ModelConfig | None = None, seed: int = 0) -> Transformer:
        """A model with the vocabulary size and context of a task."""
        return cls(config or ModelConfig(), len(task.vocabulary), task.context, seed)

    @property
    def mlps(self) -> list[MLP]:
        """The MLPs of the blocks that have one, by layer."""
        return [block.mlp for block in self.blocks if block.mlp is not None]

    @takes_any_device
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
        """Next-token logits at each position (the final residual stream if there is no unembedding).

        Args:
            tokens: ids below `vocab`.
            positions: position of each token; by default 0, 1, 2 ..., continuing after the tokens in `cache`.
            segments: segment ids of packed sequences; attention is restricted to tokens of the same segment.
            queries: positions at which logits are computed; the last block skips all others.
            cache: keys and values of the preceding tokens, extended in place.
            token_counts: of `tokens`, for linear-time attention in a first layer without positions. The logits agree
                up to rounding. Ignored if a skipped point (`embed`, `resid_pre`, those of `attn`) has a hook.

        Raises:
            ToylabError: for a position beyond the learned ones; for a cache in a bidirectional model, in which new
                tokens change old keys; for token counts combined with positions, segments, queries or a cache.
        """
        if cache is not None and not self.config.causal:
            raise ToylabError("cache: a bidirectional model cannot use one; call it without, or with causal=True")
        if token_counts is not None and (
            self.config.positions != "none" or any(x is not None for x in (positions, segments, queries, cache))
        ):
            raise ToylabError("token_counts: need whole rows of a model with positions='none'; leave it out")
        if token_counts is not None and has_hooks(self.embedding, self.embed, *self.blocks[0].before_counts()):
            token_counts = None
        past = 0 if cache is None else cache.length
        if positions is None:
            positions = torch.arange(past + tokens.shape[1], device=tokens.device)[None]
        dtype = self.embedding.weight.dtype
        last = len(self.blocks) - 1
        # With token counts, the first layer needs no mask: the causal counts replace it.
        attention_context = None
        if token_counts is None or last:
            attention_context = AttentionContext.of(
                self.positions, positions, segments, past, dtype, self.config.causal
            )
        if token_counts is None:
            assert attention_context is not None
            x = self.embed(self.embedding(tokens))
            position_embeddings = self.positions.embed(attention_context.query)
            if position_embeddings is not None:
                x = x + self.pos_embed(position_embeddings)
        else:
            x = self.embedding.weight[None]
        for layer, block in enumerate(self.blocks):
            if layer == 0 and token_counts is not None:
                x = block(x, None, token_counts=token_counts)
            elif layer == last and queries is not None:
                assert attention_context is not None  # no counts beside queries
                x = block(x, attention_context.at(queries), queries, cache, layer)
            else:
                x = block(x, attention_context, None, cache, layer)
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
