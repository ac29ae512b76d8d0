"""Decompositions of attention scores: by pair of token types, and by rotary plane.

NaN and infinity raise `ToylabError`.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.checks import check_finite, check_nonempty, check_result_finite


def score_table(
    queries: Float[Tensor, "type head feature"], keys: Float[Tensor, "type head feature"]
) -> Float[Tensor, "head query key"]:
    """Attention score of every query token type with every key token type.

    In a first layer without positions, every attention score is an entry of this table.
    """
    check_nonempty(queries=queries, keys=keys)
    check_finite(queries=queries, keys=keys)
    products = rearrange(queries, "q h f -> h q f") @ rearrange(keys, "k h f -> h f k")
    return check_result_finite("queries, keys", products / math.sqrt(queries.shape[-1]))


def rotary_planes(
    query: Float[Tensor, "*shape feature"], key: Float[Tensor, "*shape feature"]
) -> Float[Tensor, "*shape plane"]:
    """Contribution of each rotary plane to the attention score at distance 0, fastest plane first.

    Query and key are taken before rotation (or at position 0). A plane is the feature pair (i, i + feature / 2), as in
    `toylab.model.positions`. The contributions sum to the score, query . key / sqrt(feature).

    Raises:
        ToylabError: for an odd number of features, or none.
    """
    check_finite(query=query, key=key)
    if query.shape[-1] % 2 or not query.shape[-1]:
        raise ToylabError(f"features={query.shape[-1]}: rotary planes are pairs, so their number must be even")
    product = query * key / math.sqrt(query.shape[-1])
    return check_result_finite("query, key", torch.stack(product.chunk(2, dim=-1)).sum(dim=0))
