"""The route of causal decoders: what rows with a common prefix share is computed once, and the rest without overhead.

In a causal model, the activations at a position depend on the tokens up to it only. Consecutive rows in lexicographic
order share prefixes, so that distinct prefixes form a tree, whose positions are computed once per prefix. The *own*
positions behind it are computed once per row, in groups of rows with the same prefix:

- Attention is the quotient of two sums over keys, of exp(score) * value and of exp(score). The sums over the keys of
  the prefix and over those of the row are added; the former are one matrix product for all rows of a group.
- In the first layer, queries, keys and values are functions of token and position: they are read from tables, and sums
  over keys that all rows of a group have are computed once per group.
- The last layer computes scored positions alone.

The largest score is not subtracted before exp, so that sums may overflow: the logits are then NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from toylab.model.layers import Attention, AttentionContext, Block, KVCache
from toylab.model.transformer import Transformer

_Stream = Float[Tensor, "group member position width"]
_Asked = Float[Tensor, "group member query width"]
_Pair = tuple[Float[Tensor, "group head key feature"], Float[Tensor, "group head key feature"]]
"""Keys and values of the prefixes."""

_ROOTS = 32
"""Rows per prefix from which on the positions of a prefix are computed one by one, not together."""
_ROWS = 1000
"""Rows of a forward pass: their activations fit into the cache of a processor."""
_WASTE = 1.5
"""Groups are filled up to the size of the largest; above this ratio of filled to given rows, each row is a group."""
_UNSHARED = 3
"""Own positions whose tokens differ within groups, up to which the first layer is computed from tables."""
_LEAST = 1e-30
"""Sums of exp(score) below this lose digits, and become NaN."""


def prefix_logits(
    model: Transformer, tokens: Int[Tensor, "row position"], scored: Int[Tensor, " answer"]
) -> Float[Tensor, "row answer vocab"]:
    """Logits at scored positions, of rows in lexicographic order; NaN in rows whose scores exceed the range of exp."""
    rows, width = tokens.shape
    differs = (tokens[1:] != tokens[:-1]).cummax(dim=1).values  # from the row before, up to each position
    distinct = 1 + differs.sum(dim=0)
    shared = min(int((distinct <= rows // 2).sum()), width - 1)
    if not shared:
        return model(tokens)[:, scored]
    cache, parents, logits = KVCache(), torch.zeros(rows, dtype=torch.long), []
    together = min(max(int((distinct <= rows // _ROOTS).sum()), 1), shared)
    for start, stop in ((0, together), *((at, at + 1) for at in range(together, shared))):
        is_first = torch.cat([torch.ones(1, dtype=torch.bool), differs[:, stop - 1]])
        firsts = is_first.nonzero()[:, 0]
        _select(cache, parents[firsts])
        of_prefix = model(tokens[firsts, start:stop], cache=cache)
        parents = is_first.cumsum(dim=0) - 1  # the prefix of each row
        here = scored[(scored >= start) & (scored < stop)] - start
        logits.append(of_prefix[:, here][parents])
    logits.append(_own_logits(model, tokens, cache, parents, scored[scored >= shared] - shared))
    return torch.cat(logits, dim=1)


def _select(cache: KVCache, prefixes: Int[Tensor, " prefix"]) -> None:
    """The keys and values of some prefixes, which may be repeated."""
    cache.layers = {at: (keys[prefixes], values[prefixes]) for at, (keys, values) in cache.layers.items()}


def _own_logits(
    model: Transformer,
    tokens: Int[Tensor, "row position"],
    cache: KVCache,
    parents: Int[Tensor, " row"],
    queries: Int[Tensor, " query"],
) -> Float[Tensor, "row query vocab"]:
    """Logits at own positions, counted from the end of the prefixes."""
    (rows, width), shared = tokens.shape, cache.length
    sizes = parents.bincount()
    if len(sizes) * int(sizes.max()) > _WASTE * rows:
        _select(cache, parents)
        parents, sizes = torch.arange(rows), torch.ones(rows, dtype=torch.long)
    starts, size = sizes.cumsum(dim=0) - sizes, int(sizes.max())
    member = torch.minimum(torch.arange(size), sizes[:, None] - 1)
    own = tokens[starts[:, None] + member, shared:]  # group member position
    positions, dtype = torch.arange(width)[None], model.embedding.weight.dtype
    context = AttentionContext.of(model.positions, positions, None, shared, dtype)
    tables = _Tables.of(model, own, context)
    groups = max(_ROWS // size, 1)
    parts = []
    for at in range(0, len(own), groups):
        chosen = slice(at, at + groups)
        layers = [cache.layers[layer] for layer in range(len(model.blocks))]
        prefixes = [(keys[chosen], values[chosen]) for keys, values in layers]
        parts.append(_grouped_logits(model, own[at : at + groups], prefixes, context, tables, queries))
    logits = torch.cat(parts)
    return logits if len(logits) == rows else logits[parents * size + torch.arange(rows) - starts[parents]]


def _grouped_logits(
    model: Transformer,
    own: Int[Tensor, "group member position"],
    prefixes: Sequence[_Pair],
    context: AttentionContext,
    tables: _Tables,
    queries: Int[Tensor, " query"],
) -> Float[Tensor, "row query vocab"]:
    """Logits at own positions of groups of rows; `prefixes` has the keys and values of each layer."""
    x = tables.look_up(tables.stream, own)
    for layer, (block, prefix) in enumerate(zip(model.blocks, prefixes, strict=True)):
        wanted = queries if layer == len(prefixes) - 1 else torch.arange(own.shape[2])
        if layer == 0 and len(tables.other) <= _UNSHARED:
            z = _first_layer(prefix, tables, own, context)
            x, z = (_at(part, wanted) for part in (block.ln1(x) if block.norm == "entry" else x, z))
        else:
            x, z = _later_layer(block, prefix, context, x, wanted)
        x = _after_attention(block, x, z)
    return model.unembedding(model.ln_final(x)).flatten(0, 1)


def _at(x: _Stream, wanted: Int[Tensor, " query"]) -> _Asked:
    """The stream at some positions."""
    if len(wanted) == x.shape[2]:
        return x
    is_run = len(wanted) and int(wanted[-1] - wanted[0]) + 1 == len(wanted)
    return x[:, :, int(wanted[0]) : int(wanted[-1]) + 1].contiguous() if is_run else x[:, :, wanted]


@dataclass(frozen=True)
class _Tables:
    """What the first layer computes from a token and its position alone.

    Attributes:
        stream: residual stream.
        q, k, v: queries, keys, and values with a last feature of 1.
        same, other: own positions at which the rows of every group have the same token, and the others.
    """

    stream: Float[Tensor, "position token width"]
    q: Float[Tensor, "position token head feature"]
    k: Float[Tensor, "position token head feature"]
    v: Float[Tensor, "position token head feature_1"]
    same: Int[Tensor, " same"]
    other: Int[Tensor, " other"]

    @classmethod
    def of(cls, model: Transformer, own: Int[Tensor, "group member position"], context: AttentionContext) -> _Tables:
        block, at = model.blocks[0], torch.arange(own.shape[2])
        stream = model.embedding.weight[:, None].expand(-1, len(at), -1)
        embedded = model.positions.embed(context.query)
        stream = stream if embedded is None else stream + embedded
        read = block.ln1(stream) if block.norm in ("entry", "pre") else stream
        q, k, v = (
            _heads(block.attn, linear(read)[None], context, turn)[0].permute(2, 1, 0, 3)
            for linear, turn in ((block.attn.query, True), (block.attn.key, True), (block.attn.value, False))
        )
        differs = (own != own[:, :1]).any(dim=0).any(dim=0)
        q = q * q.shape[-1] ** -0.5
        return cls(stream.transpose(0, 1).contiguous(), q, k, _with_ones(v), at[~differs], at[differs])

    def look_up(
        self, table: Float[Tensor, "position token width"], own: Int[Tensor, "group member position"]
    ) -> _Stream:
        """The entry of each token at each position."""
        return F.embedding(own + table.shape[1] * torch.arange(len(table)), table.flatten(0, 1))


def _first_layer(
    prefix: _Pair, tables: _Tables, own: Int[Tensor, "group member position"], context: AttentionContext
) -> _Stream:
    """z, the mean of the values, of the attention of the first layer at all own positions."""
    q, k, v, same = tables.q, tables.k, tables.v, tables.same
    at, past, tokens = torch.arange(len(q)), context.key.shape[1] - len(q), own[:, 0, same]
    keys, values = (
        torch.cat([of_prefix, of_own[same, tokens].transpose(1, 2)], dim=2)
        for of_prefix, of_own in zip((prefix[0], _with_ones(prefix[1])), (k, v), strict=True)
    )
    bias = context.bias[0][:, :, torch.cat([torch.arange(past), past + same])]
    sums = q.new_empty(*own.shape, *v.shape[2:])
    for places, of_places in ((same, own[:, :1, same]), (tables.other, own[:, :, tables.other])):
        asked = q[places, of_places].permute(0, 3, 1, 2, 4)  # group head member query feature
        weights = (asked.flatten(2, 3) @ keys.mT).unflatten(2, asked.shape[2:4]).add_(bias[:, None, places]).exp_()
        of_groups = (weights.flatten(2, 3) @ values).unflatten(2, asked.shape[2:4]).permute(0, 2, 3, 1, 4)
        for i, place in enumerate(places.tolist()):
            sums[:, :, place] = of_groups[:, :, i]
    for j in tables.other.tolist():  # keys that the sums over groups lack
        scores = torch.einsum("pthf,shf->ptsh", q[j:], k[j]) + context.bias[0][:, j:, past + j].T[:, None, None]
        pairs = (at[: len(at) - j] * q.shape[1] + own[:, :, j:]) * q.shape[1] + own[:, :, j : j + 1]
        weights, of_key = F.embedding(pairs, scores.exp().flatten(0, 2)), v[j][own[:, :, j]]
        sums[:, :, j:].addcmul_(weights[..., None], of_key[:, :, None])
    return _means(sums)


def _later_layer(
    block: Block, prefix: _Pair, context: AttentionContext, x: _Stream, wanted: Int[Tensor, " query"]
) -> tuple[_Asked, _Asked]:
    """The stream of a block at some own positions, and z of its attention."""
    attn = block.attn
    x = block.ln1(x) if block.norm == "entry" else x
    stream = block.ln1(x) if block.norm == "pre" else x
    k = _heads(attn, attn.key(stream), context, True).contiguous()  # copied once, in place of in each product
    v = _with_ones(_heads(attn, attn.value(stream), context, False))
    x, stream = _at(x, wanted), _at(stream, wanted)
    context = context.at(wanted[None])
    q = _heads(attn, attn.query(stream), context, True)  # group head member query feature
    q = (q * q.shape[-1] ** -0.5).contiguous()
    keys, values = prefix
    bias = context.bias[0][:, None].split((keys.shape[2], k.shape[3]), dim=-1)
    weights = (q.flatten(2, 3) @ keys.mT).unflatten(2, q.shape[2:4]).add_(bias[0]).exp_()
    sums = (weights.flatten(2, 3) @ _with_ones(values)).unflatten(2, q.shape[2:4])
    sums.add_((q @ k.mT).add_(bias[1]).exp_() @ v)
    return x, _means(sums.permute(0, 2, 3, 1, 4))


def _after_attention(block: Block, x: _Asked, z: _Asked) -> _Asked:
    """The stream after a block."""
    x = block.attn.output(z).add_(x)
    x = block.ln1(x) if block.norm == "post" else x
    if block.mlp is not None and block.ln2 is not None:
        up = block.ln2(x) if block.norm in ("pre", "entry") else x
        x = block.mlp(up.flatten(0, 1)).view_as(x).add_(x)
        x = block.ln2(x) if block.norm == "post" else x
    return x


def _heads(
    attn: Attention, x: _Stream, context: AttentionContext, turn: bool
) -> Float[Tensor, "group head member position feature"]:
    """Queries, keys or values by head."""
    of_heads = x.unflatten(-1, (attn.heads, -1))
    if turn:
        of_heads = context.rotate(of_heads.flatten(0, 1), context.query).view_as(of_heads)
    return of_heads.permute(0, 3, 1, 2, 4)


def _with_ones(values: Float[Tensor, "*shape feature"]) -> Float[Tensor, "*shape feature_1"]:
    """Values with a feature of 1, whose weighted sum is the sum of the weights."""
    return F.pad(values, (0, 1), value=1.0)


def _means(sums: Float[Tensor, "group member query head feature_1"]) -> _Asked:
    """Means of values from their sums and, as the last feature, the sum of weights."""
    totals, means = sums[..., -1:], sums.new_empty(*sums.shape[:-1], sums.shape[-1] - 1)
    return torch.div(sums[..., :-1], totals.masked_fill(totals < _LEAST, torch.nan), out=means).flatten(3)
