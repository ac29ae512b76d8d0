"""What a direction of the residual stream says about tokens: the logit lens, and whose words a logit is made of.

Everything here takes the *rows* of the unembedding with the gain of the final norm folded in: what each token reads
from the normalised stream. A lens that leaves the gain out looks at other directions than the model does.

A vector of no length has no cosine and counts as 0. NaN and infinity raise `ValueError`.
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
    """The logit lens: cosine of a direction with each token's row. Give a trained vector for the raw lens, or the mean
    difference of the last layer's stream between two runs for the difference lens."""
    check_finite(direction=direction, rows=rows)
    return _unit(direction) @ _unit(rows).T


def token_ranks(scores: Float[Tensor, "*shape vocab"]) -> Int[Tensor, "*shape vocab"]:
    """The rank of each token, 1 for the largest score, infinities included; of equal ones the first comes first."""
    check_not_nan(scores=scores)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) + 1


def contrast_cosine(
    direction: Float[Tensor, "*shape width"], rows: Float[Tensor, "vocab width"], token: int, competitor: int
) -> Float[Tensor, "*shape"]:
    """Cosine of a direction with the difference of two rows. Only against the token that would come instead does a lens
    say what changes: rows of tokens that never occur move along with either."""
    check_finite(direction=direction, rows=rows)
    return _unit(direction) @ _unit(rows[token] - rows[competitor])


def logit_attribution(
    parts: Float[Tensor, "part *case width"],
    rows: Float[Tensor, "vocab width"],
    centred: bool = True,
    eps: float | int = 1e-5,
) -> Float[Tensor, "part *case vocab"]:
    """What each part of the final residual stream adds to each logit, the norm being what it is for their sum.

    Summed over the parts, these are the logits without the final norm's bias.

    Args:
        parts: what the embedding and every attention and MLP wrote; their sum is the stream.
        centred: for a LayerNorm, which takes the mean away; False for one that only scales.
        eps: of the norm.

    Raises:
        ValueError: for a stream of no length without an `eps`.
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
    """At length 1, however short; 0 where there is no length."""
    return F.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)
