"""Layers of the transformer: attention, MLP, block, attention mask and KV cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.model.config import ModelConfig
from toylab.model.positions import NoPositions
from toylab.model.token_counts import TokenCounts
from toylab.probes.hooks import has_hooks
from toylab.tasks import stream

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),  # not a lambda: models must be picklable
    "relu": F.relu,
    "silu": F.silu,
}


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the width of the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.width, bias=config.biases)


class NoOp(nn.Module):
    """Placeholder for a disabled norm or unembedding. Unlike an `nn.Identity`, it is not a hook point."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


def softmax_over_keys(scores: Float[Tensor, "*shape key"]) -> Float[Tensor, "*shape key"]:
    """PyTorch's softmax over the last dimension."""
    return scores.softmax(dim=-1)


def short_softmax(scores: Float[Tensor, "*shape key"]) -> Float[Tensor, "*shape key"]:
    """Softmax over the last dimension by exp and sum: the same up to rounding, and faster for tens of keys on a CPU."""
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(dim=-1, keepdim=True))


class Attention(nn.Module):
    """Multi-head attention with a hook point at every intermediate activation.

    Two optimised paths compute the same output but skip some hook points; neither is taken if a skipped point has a
    hook.

    Args:
        few_queries: use the optimised path for far fewer queries than keys, without rotary positions.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator, few_queries: bool = False) -> None:
        super().__init__()
        self.heads, self.few_queries = config.heads, few_queries
        self.normalise: Callable[[Tensor], Tensor] = softmax_over_keys
        """From scores to pattern."""
        self.query = make_linear(config.width, config.width, config.biases, generator)
        self.key = make_linear(config.width, config.width, config.biases, generator)
        self.value = make_linear(config.width, config.width, config.biases, generator)
        self.output = make_linear(config.width, config.width, config.biases, generator)
        self.q, self.k, self.v = nn.Identity(), nn.Identity(), nn.Identity()
        self.scores, self.pattern, self.z = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(
        self,
        query_stream: Float[Tensor, "batch query width"],
        key_stream: Float[Tensor, "batch key width"],
        context: AttentionContext | None,
        cache: KVCache | None = None,
        layer: int = 0,
        token_counts: TokenCounts | None = None,
    ) -> Float[Tensor, "row asked width"]:
        """Attention output at every query. With token counts, `key_stream` is (1, type, width): one row per token
        type."""
        if token_counts is not None:
            return self._token_type_forward(key_stream[0], token_counts)
        assert context is not None  # counts alone do without
        if self.few_queries and not has_hooks(self.k, self.v, self.key, self.value):
            return self._few_queries_forward(query_stream, key_stream, context)
        q = self.q(context.rotate(self._split(self.query(query_stream)), context.query))
        k = self.k(context.rotate(self._split(self.key(key_stream)), context.key[:, -key_stream.shape[1] :]))
        v = self.v(self._split(self.value(key_stream)))
        scaled = q * q.shape[-1] ** -0.5  # scale queries instead of scores: fewer elements
        q, k, v = (x.transpose(1, 2) for x in (scaled, k, v))  # batch head position feature
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        scores = q @ k.mT
        pattern = self.pattern(self.normalise(self.scores(scores.add_(context.bias))))
        single_query = cache is not None and pattern.shape[2] == 1  # one query: elementwise is faster than matmul
        mean = (pattern.mT * v).sum(dim=2, keepdim=True) if single_query else pattern @ v
        return self.output(self.z(mean.transpose(1, 2)).flatten(2))

    def _few_queries_forward(
        self,
        query_stream: Float[Tensor, "batch query width"],
        key_stream: Float[Tensor, "batch key width"],
        context: AttentionContext,
    ) -> Float[Tensor, "batch query width"]:
        """Attention without positions for few queries and many keys; keys and values are never computed.

        Since q . (K x) = (q K) . x and sum a V x = V sum a x, the few queries are projected back to the residual
        stream, instead of projecting every position to a key and a value.
        """
        heads = self.heads
        q = self.q(self._split(self.query(query_stream))).transpose(1, 2)
        key_queries = q @ self.key.weight.unflatten(0, (heads, -1))
        scores = key_queries.flatten(1, 2) @ key_stream.transpose(1, 2)
        if self.key.bias is not None:
            scores = scores + (q @ self.key.bias.view(heads, -1, 1)).flatten(1, 2)
        scores = scores.unflatten(1, (heads, -1)) / math.sqrt(q.shape[-1])
        pattern = self.pattern(self.normalise(self.scores(scores + context.bias)))
        mean = (pattern.flatten(1, 2) @ key_stream).unflatten(1, (heads, -1))
        z = (mean @ self.value.weight.unflatten(0, (heads, -1)).transpose(1, 2)).transpose(1, 2)
        if self.value.bias is not None:
            z = z + pattern.sum(dim=-1).transpose(1, 2)[..., None] * self.value.bias.view(heads, -1)
        return self.output(self.z(z).flatten(2))

    def _token_type_forward(
        self, key_stream: Float[Tensor, "type width"], token_counts: TokenCounts
    ) -> Float[Tensor, "batch query width"]:
        """Linear-time attention without positions: a key and a value per token type; see `model.token_counts`."""
        heads, types = self.heads, len(key_stream)
        q, k, v = (
            linear(key_stream).view(types, heads, -1).transpose(0, 1) for linear in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])  # head, query type, key type
        outputs = v @ self.output.weight.view(-1, heads, q.shape[-1]).permute(1, 2, 0)  # head, key type, width
        token_scores = (token_counts.types @ scores.transpose(0, 1).flatten(1)).unflatten(-1, (heads, types))
        pattern = (token_scores + token_counts.log_counts[:, :, None]).softmax(dim=-1)
        out = pattern.flatten(2) @ outputs.flatten(0, 1)
        return out if self.output.bias is None else out + self.output.bias

    def _split(self, x: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position head feature"]:
        return x.unflatten(-1, (self.heads, -1))


class MLP(nn.Module):
    """A two-layer perceptron: linear, activation, linear."""

    def __init__(self, config: ModelConfig, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up = make_linear(config.width, hidden, config.biases, generator)
        self.down = make_linear(hidden, config.width, config.biases, generator)
        self.activation = ACTIVATIONS[config.activation]
        self.pre, self.post = nn.Identity(), nn.Identity()

    def forward(self, x: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        return self.down(self.post(self.activation(self.pre(self.up(x)))))


def dropped_out(x: Float[Tensor, "*shape"], module: Any) -> Float[Tensor, "*shape"]:
    """The output of a sublayer with `module.dropout`; at rate 0 and in evaluation mode, `x` itself."""
    return F.dropout(x, module.dropout) if module.training and module.dropout else x


class Block(nn.Module):
    """A transformer block: attention, then an MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        hidden = 4 * config.width if config.hidden is None else config.hidden
        self.norm, self.dropout = config.norm, config.dropout
        self.attn = Attention(config, generator)
        self.mlp = MLP(config, hidden, generator) if hidden else None
        norm = NoOp if config.norm == "none" else LayerNorm
        self.ln1 = norm(config)
        self.ln2 = norm(config) if hidden else None
        self.resid_pre, self.attn_out, self.resid_mid = nn.Identity(), nn.Identity(), nn.Identity()
        self.mlp_out, self.resid_post = nn.Identity(), nn.Identity()
        self.positions: Int[Tensor, "#batch query"] | None = None
        """Positions of the tokens in the latest call, from `attn_out` on; lets an edit select positions, also during
        `generate`, which feeds one token at a time."""

    def forward(
        self,
        x: Float[Tensor, "batch position width"],
        context: AttentionContext | None,
        queries: Int[Tensor, "batch query"] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        token_counts: TokenCounts | None = None,
    ) -> Float[Tensor, "row asked width"]:
        """The residual stream at every query. With token counts, `x` has one row per token type, (1, type, width)."""
        if token_counts is not None:
            self.positions = torch.arange(token_counts.types.shape[1], device=x.device)[None]
        else:
            assert context is not None  # counts alone do without
            self.positions = context.query
        x = self.resid_pre(x)
        if self.norm == "entry":
            x = self.ln1(x)
        key_stream = self.ln1(x) if self.norm == "pre" else x
        query_stream = key_stream
        if queries is not None:
            x, query_stream = _select_positions(x, queries), _select_positions(key_stream, queries)
        attended = self.attn(query_stream, key_stream, context, cache, layer, token_counts)
        if token_counts is not None:
            x = token_counts.types @ x[0]
        x = x + self.attn_out(dropped_out(attended, self))
        if self.norm == "post":
            x = self.ln1(x)
        x = self.resid_mid(x)
        if self.mlp is not None and self.ln2 is not None:
            x = x + self.mlp_out(dropped_out(self.mlp(self.ln2(x) if self.norm in ("pre", "entry") else x), self))
            if self.norm == "post":
                x = self.ln2(x)
        return self.resid_post(x)

    def before_counts(self) -> tuple[nn.Module, ...]:
        """Modules that token counts skip or run on token types instead of positions."""
        return self, self.resid_pre, self.ln1, *self.attn.modules()


if TYPE_CHECKING:

    class BlockList(nn.ModuleList):
        """A list that is known to hold blocks."""

        def __iter__(self) -> Iterator[Block]: ...

        @overload
        def __getitem__(self, idx: slice) -> BlockList: ...

        @overload
        def __getitem__(self, idx: int) -> Block: ...

        def __getitem__(self, idx: int | slice) -> Block | BlockList: ...
else:
    BlockList = nn.ModuleList


@dataclass(frozen=True)
class AttentionContext:
    """Attention mask and positional bias, computed once per forward pass and shared by all layers."""

    encoding: NoPositions
    query: Int[Tensor, "#batch query"]
    key: Int[Tensor, "#batch key"]
    bias: Float[Tensor, "#batch #head query key"]

    @classmethod
    def of(
        cls,
        encoding: NoPositions,
        positions: Int[Tensor, "#batch key"],
        segments: Int[Tensor, "batch key"] | None,
        past: int,
        dtype: torch.dtype,
        causal: bool = True,
    ) -> AttentionContext:
        """Queries are the positions from `past` on; each attends to the keys of its segment, in a causal model only up
        to its own position."""
        query = positions[:, past:]
        visible: Bool[Tensor, "#batch query key"] = (query[:, :, None] >= positions[:, None, :]) | (not causal)
        if segments is not None:
            visible = visible & (segments[:, past:, None] == segments[:, None, :])
        bias = torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, -torch.inf)[:, None]
        extra = encoding.bias(query, positions)
        return cls(encoding, query, positions, bias if extra is None else bias + extra.to(dtype))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.encoding.rotate(x, positions)

    def at(self, queries: Int[Tensor, "batch query"]) -> AttentionContext:
        """The context restricted to the given queries."""
        batch = len(queries)
        query = self.query.expand(batch, -1).gather(1, queries)
        bias = self.bias.expand(batch, -1, -1, -1)
        index = queries[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])
        return AttentionContext(self.encoding, query, self.key, bias.gather(2, index))


class KVCache:
    """Keys and values of preceding tokens, one pair per layer, each (batch, head, key, feature)."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Number of cached tokens."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens; returns all keys and values of the layer."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        self.layers[layer] = keys, values
        return keys, values

    def keep(self, rows: Bool[Tensor, " row"]) -> None:
        """Keep the selected rows only."""
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}

    def repeat(self, times: int) -> None:
        """Repeat each row `times` times, consecutively."""
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = keys.repeat_interleave(times, dim=0), values.repeat_interleave(times, dim=0)


def _select_positions(
    x: Float[Tensor, "batch position width"], positions: Int[Tensor, "batch query"]
) -> Float[Tensor, "batch query width"]:
    return x.gather(1, positions[:, :, None].expand(-1, -1, x.shape[-1]))


def torch_stream(seed: int, purpose: str) -> torch.Generator:
    """A torch generator, independent for each (seed, purpose)."""
    return torch.Generator().manual_seed(int(stream(seed, purpose).integers(2**32)))


def make_linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    """A linear layer with weights and biases uniform in +-1 / sqrt(inputs): PyTorch's default, from `generator`."""
    layer = nn.Linear(inputs, outputs, bias, device="meta")  # without storage, so nothing is drawn that is overwritten
    for name, parameter in list(layer.named_parameters()):
        weights = torch.empty(parameter.shape).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        setattr(layer, name, nn.Parameter(weights))
    return layer
