"""Logit lens and direct logit attribution.

`rows` are the rows of the unembedding with the gain of the final norm folded in, that is, the direction of the
normalised stream that each logit reads. Without the gain, the lens reads different directions than the model.

Zero vectors have cosine 0. NaN and infinity raise `ToylabError`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.probes.checks import check_finite, check_not_nan


def token_cosines(
    direction: Float[Tensor, "*shape width"], rows: Float[Tensor, "vocab width"]
) -> Float[Tensor, "*shape vocab"]:
    """Logit lens: cosine similarity of a direction with each unembedding row. The direction is a steering vector (raw
    lens), or the mean difference of the final stream between two runs (difference lens)."""
    check_finite(direction=direction, rows=rows)
    return _unit(direction) @ _unit(rows).T


def token_ranks(scores: Float[Tensor, "*shape vocab"]) -> Int[Tensor, "*shape vocab"]:
    """Rank of each token, 1 for the largest score; ties are ranked by token id, and infinities are allowed."""
    check_not_nan(scores=scores)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) + 1


def contrast_cosine(
    direction: Float[Tensor, "*shape width"], rows: Float[Tensor, "vocab width"], token: int, competitor: int
) -> Float[Tensor, "*shape"]:
    """Cosine similarity of a direction with the difference of two unembedding rows. The contrast with the competing
    token removes components common to all rows, such as the components of tokens that never occur."""
    check_finite(direction=direction, rows=rows)
    return _unit(direction) @ _unit(rows[token] - rows[competitor])


def logit_attribution(
    parts: Float[Tensor, "part *case width"],
    rows: Float[Tensor, "vocab width"],
    centred: bool = True,
    eps: float | int = 1e-5,
) -> Float[Tensor, "part *case vocab"]:
    """Direct logit attribution: contribution of each component of the final residual stream to each logit.

    All contributions are divided by the scale of the final norm on the full stream. The contributions sum to the logits
    without the bias of the final norm.

    Args:
        parts: outputs of the embedding and of every attention and MLP layer; they sum to the stream.
        centred: True for LayerNorm, False for RMSNorm.
        eps: eps of the norm.

    Raises:
        ToylabError: for a zero stream with eps 0.
    """
    check_finite(parts=parts, rows=rows, eps=eps)
    stream = parts.sum(dim=0)
    if centred:
        parts, stream = (x - x.mean(dim=-1, keepdim=True) for x in (parts, stream))
    scale = (stream.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    if not bool((scale > 0).all()):
        raise ToylabError(f"eps={eps}: the stream of some case has no length to divide by; give the eps of the norm")
    return (parts / scale) @ rows.T


def _unit(x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
    """Normalised to unit length; zero vectors stay 0."""
    return F.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)
