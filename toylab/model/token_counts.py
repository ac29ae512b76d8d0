"""Exact linear-time attention in the first layer of a model without positions, from token counts.

Without positions, key and value in the first layer depend only on the token, so a query can sum over token *types*,
each weighted by the number n_c of visible tokens of this type, instead of over T keys:

    sum over keys t of exp(q k_t) v_t   =   sum over types c of n_c exp(q k_c) v_c

Since n_c exp(s_c) = exp(s_c + log n_c), this is a softmax over types with log counts added to the scores. The counts
are cumulative sums (causal) or totals (bidirectional) of the tokens. Such a layer is therefore a function of the query
token and the counts (n_0, n_1, n_[, n_], n_BoS) alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TokenCounts:
    """One-hot type of every token, and the log count of each type visible to it (-inf for none)."""

    types: Float[Tensor, "batch position type"]
    log_counts: Float[Tensor, "batch position type"]


def count_tokens(
    tokens: Int[Tensor, "batch position"], vocab: int, causal: bool, dtype: torch.dtype | None = None
) -> TokenCounts:
    """Token counts of a batch: cumulative up to each position (causal) or of the whole row.

    Args:
        vocab: number of token types.
        dtype: dtype of the model; torch's default if None.
    """
    types = F.embedding(tokens, torch.eye(vocab, dtype=dtype, device=tokens.device))  # raises on negative ids
    counts = types.cumsum(dim=1) if causal else types.sum(dim=1, keepdim=True).expand_as(types)
    return TokenCounts(types, counts.log())
