"""The route of causal decoders: what rows with a common prefix share is computed once, and the rest without overhead.

In a causal model, the activations at a position depend on the tokens up to it only. Consecutive rows in lexicographic
order share prefixes, so that distinct prefixes form a tree. The positions of the tree are computed once per prefix. The
*own* positions behind it are computed once per row, in groups of rows with the same prefix:

- Attention is the quotient of two sums over keys, of exp(score) * value and of exp(score). The sums over the keys of
  the prefix and over those of the row are added; the former are one matrix product for all rows of a group.
- In the first layer, queries, keys and values are functions of token and position: they are read from tables, and sums
  over keys that all rows of a group have are computed once per group.
- The last layer computes scored positions alone.

The largest score is not subtracted before exp, so that sums may overflow: the logits are then NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from toylab.model.layers import Attention, AttentionContext, Block, KVCache
from toylab.model.transformer import Transformer

_Stream = Float[Tensor, "group member position width"]
_Asked = Float[Tensor, "group member query width"]
_Pair = tuple[Float[Tensor, "group head key feature"], Float[Tensor, "group head key feature"]]
"""Keys and values of the prefixes."""

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
    distinct = (1 + differs.sum(dim=0)).tolist()
    shared = min(next((at for at, number in enumerate(distinct) if number > rows // 2), width), width - 1)
    if not shared:
        return model(tokens)[:, scored]
    cache, parents, logits = KVCache(), torch.zeros(rows, dtype=torch.long), []
    for position in range(shared):
        is_first = torch.cat([torch.ones(1, dtype=torch.bool), differs[:, position]])
        starts = is_first.nonzero()[:, 0]
        _repeat(cache, parents[starts])
        of_prefix = model(tokens[starts, position : position + 1], cache=cache)
        parents = is_first.cumsum(dim=0) - 1  # the prefix of each row
        if (scored == position).any():
            logits.append(of_prefix[parents])
    logits.append(_own_logits(model, tokens, cache, parents, scored[scored >= shared] - shared))
    return torch.cat(logits, dim=1)


def _repeat(cache: KVCache, parents: Int[Tensor, " prefix"]) -> None:
    """Repeat the keys and values of each prefix for the prefixes that continue it."""
    if len(parents) and cache.length:
        cache.layers = {at: (keys[parents], values[parents]) for at, (keys, values) in cache.layers.items()}


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
        _repeat(cache, parents)
        parents, sizes = torch.arange(rows), torch.ones(rows, dtype=torch.long)
    starts, size = sizes.cumsum(dim=0) - sizes, int(sizes.max())
    member = torch.minimum(torch.arange(size), sizes[:, None] - 1)
    own = tokens[(starts[:, None] + member), shared:]  # group member position
    context = AttentionContext.of(
        model.positions, torch.arange(width)[None], None, shared, model.embedding.weight.dtype
    )
    table = model.embedding.weight[:, None].expand(-1, width - shared, -1)
    embedded = model.positions.embed(context.query)
    table = table if embedded is None else table + embedded
    x = _looked_up(table, own)
    for layer, block in enumerate(model.blocks):
        wanted = queries if layer == len(model.blocks) - 1 else torch.arange(width - shared)
        prefix = cache.layers[layer]
        if layer == 0 and _unshared(own).sum() <= _UNSHARED:
            x, z = (part[:, :, wanted] for part in _first_layer(block, prefix, context, x, table, own))
        else:
            x, z = _later_layer(block, prefix, context, x, wanted)
        x = _after_attention(block, x, z)
    logits = model.unembedding(model.ln_final(x)).flatten(0, 1)
    return logits if len(logits) == rows else logits[parents * size + torch.arange(rows) - starts[parents]]


def _looked_up(table: Float[Tensor, "token position width"], own: Int[Tensor, "group member position"]) -> Tensor:
    """The entry of each token at each position: (group, member, position, width)."""
    tokens, positions, _ = table.shape
    return F.embedding(own + tokens * torch.arange(positions), table.transpose(0, 1).flatten(0, 1))


def _unshared(own: Int[Tensor, "group member position"]) -> Bool[Tensor, " position"]:
    """Own positions at which the rows of some group have different tokens."""
    return (own != own[:, :1]).any(dim=0).any(dim=0)


def _later_layer(
    block: Block, prefix: _Pair, context: AttentionContext, x: _Stream, queries: Int[Tensor, " query"]
) -> tuple[_Asked, _Asked]:
    """The stream of a block at some own positions, and z, the mean of the values of its attention."""
    attn, (keys, values) = block.attn, prefix
    x = block.ln1(x) if block.norm == "entry" else x
    stream = block.ln1(x) if block.norm == "pre" else x
    k, v = (_heads(attn, linear(stream), context, turn) for linear, turn in ((attn.key, True), (attn.value, False)))
    if len(queries) < stream.shape[2]:
        x, stream, context = x[:, :, queries], stream[:, :, queries], context.at(queries[None])
    q = _heads(attn, attn.query(stream), context, True)  # group head member query feature
    q = q * q.shape[-1] ** -0.5
    bias = context.bias[0][:, None].split((keys.shape[2], k.shape[3]), dim=-1)
    weights = (q.flatten(2, 3) @ keys.mT).unflatten(2, q.shape[2:4]).add_(bias[0]).exp_()
    own_weights = (q @ k.mT).add_(bias[1]).exp_()
    sums = (weights.flatten(2, 3) @ values).view_as(q).add_(own_weights @ v)
    return x, _mean(sums, weights.sum(dim=-1).add_(own_weights.sum(dim=-1))).permute(0, 2, 3, 1, 4).flatten(3)


def _first_layer(
    block: Block,
    prefix: _Pair,
    context: AttentionContext,
    x: _Stream,
    table: Float[Tensor, "token position width"],
    own: Int[Tensor, "group member position"],
) -> tuple[_Stream, _Stream]:
    """The same for the first layer, at all own positions, from the residual stream of each token at each position."""
    attn, at = block.attn, torch.arange(own.shape[2])
    stream = block.ln1(table) if block.norm in ("entry", "pre") else table
    q, k, v = (
        _heads(attn, linear(stream)[None], context, turn)[0].permute(2, 1, 0, 3)  # position token head feature
        for linear, turn in ((attn.query, True), (attn.key, True), (attn.value, False))
    )
    q = q * q.shape[-1] ** -0.5
    unshared = _unshared(own)
    same, other = at[~unshared], at[unshared]
    tokens = own[:, 0, same]
    keys, values = (
        torch.cat([of_prefix, of_own[same, tokens].transpose(1, 2)], dim=2)
        for of_prefix, of_own in zip(prefix, (k, v), strict=True)
    )
    past = context.key.shape[1] - len(at)
    bias = context.bias[0][:, :, torch.cat([torch.arange(past), past + same])]
    sums, totals = x.new_empty(*own.shape, *q.shape[2:]), x.new_empty(*own.shape, q.shape[2])
    for places, of_places in ((same, own[:, :1, same]), (other, own[:, :, other])):
        asked = q[places, of_places].permute(0, 3, 1, 2, 4)  # group head member query feature
        weights = (asked.flatten(2, 3) @ keys.mT).unflatten(2, asked.shape[2:4]).add_(bias[:, None, places]).exp_()
        sums[:, :, places] = (weights.flatten(2, 3) @ values).view_as(asked).permute(0, 2, 3, 1, 4)
        totals[:, :, places] = weights.sum(dim=-1).permute(0, 2, 3, 1)
    for j in other.tolist():  # keys that the sums over groups lack
        scores = torch.einsum("pthf,shf->ptsh", q[j:], k[j]) + context.bias[0][:, j:, past + j].T[:, None, None]
        pair = (at[: len(at) - j] * len(table) + own[:, :, j:]) * len(table) + own[:, :, j : j + 1]
        weights = F.embedding(pair, scores.exp().flatten(0, 2))
        sums[:, :, j:].addcmul_(weights[..., None], v[j, own[:, :, j]][:, :, None])
        totals[:, :, j:].add_(weights)
    return block.ln1(x) if block.norm == "entry" else x, _mean(sums, totals).flatten(3)


def _after_attention(block: Block, x: _Stream, z: _Stream) -> _Stream:
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


def _mean(sums: Float[Tensor, "*shape feature"], totals: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape feature"]:
    """Means from sums and total weights."""
    return sums.div_(totals.masked_fill_(totals < _LEAST, torch.nan)[..., None])
