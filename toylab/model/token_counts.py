"""Attention in linear time, exactly, where no position is known: count the tokens, not the pairs.

Without positions, what the first layer reads at a position depends on the token there and on nothing else. All zeros
have one key and one value, all ones another. So a query need not visit T keys; it visits the few *types* of token and
multiplies each by how many of that type it may see:

    sum over keys t of exp(q k_t) v_t   =   sum over types c of n_c exp(q k_c) v_c

and n_c exp(s_c) = exp(s_c + log n_c): a softmax over types whose scores are raised by the log of a tally. The tallies
are cumulative sums (causal) or totals (bidirectional), known before the model runs. That is also the whole theory of
such a layer: it sees the string only through (n_0, n_1, n_[, n_], n_BoS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TokenCounts:
    """The type of every token, and the log of how many of each type it may see (minus infinity for none)."""

    types: Float[Tensor, "batch position type"]
    log_counts: Float[Tensor, "batch position type"]


def count_tokens(
    tokens: Int[Tensor, "batch position"], vocab: int, causal: bool, dtype: torch.dtype | None = None
) -> TokenCounts:
    """The tallies of a batch: of each token and those before it, or of the whole row.

    Args:
        vocab: how many types there are.
        dtype: of the model that will use them; torch's default if not given.
    """
    types = F.embedding(tokens, torch.eye(vocab, dtype=dtype, device=tokens.device))  # an index would wrap around
    counts = types.cumsum(dim=1) if causal else types.sum(dim=1, keepdim=True).expand_as(types)
    return TokenCounts(types, counts.log())
