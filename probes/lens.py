"""What a direction of the residual stream says about tokens: the logit lens, and whose words a logit is made of.

Everything here takes the *rows* of the unembedding with the gain of the final norm folded in: what each token reads
from the normalised stream. A lens that leaves the gain out looks at other directions than the model does.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def token_cosines(
    direction: Float[Tensor, "*shape width"], rows: Float[Tensor, "vocab width"]
) -> Float[Tensor, "*shape vocab"]:
    """The logit lens: cosine of a direction with each token's row. Give a trained vector for the raw lens, or the mean
    difference of the last layer's stream between two runs for the difference lens."""
    return F.normalize(direction, dim=-1) @ F.normalize(rows, dim=-1).T


def ranks(scores: Float[Tensor, "*shape vocab"]) -> Int[Tensor, "*shape vocab"]:
    """The rank of each token, 1 for the largest score; of equal ones the first comes first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) + 1


def against(
    direction: Float[Tensor, "*shape width"], rows: Float[Tensor, "vocab width"], token: int, competitor: int
) -> Float[Tensor, "*shape"]:
    """Cosine of a direction with the difference of two rows. Only against the token that would come instead does a lens
    say what changes: rows of tokens that never occur move along with either."""
    return F.normalize(direction, dim=-1) @ F.normalize(rows[token] - rows[competitor], dim=0)


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
    """
    stream = parts.sum(dim=0)
    if centred:
        parts, stream = (x - x.mean(dim=-1, keepdim=True) for x in (parts, stream))
    scale = (stream.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return (parts / scale) @ rows.T
