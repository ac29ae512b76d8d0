"""Where a weight change lies: in the null space of the weights it changes, or where any random change would lie?

A matrix W (outputs by inputs, as in `nn.Linear`) has left singular directions in its output space. Its *left null
space* is what none of its leading ones reaches. For an up-projection of 256 by 64, that is three quarters of the output
space whatever the weights: a change dW drawn at random has an energy share of .75 there. So every share here comes with
its baseline, 1 - k/m, and with the spread of that baseline; the share alone says nothing. Transposed matrices give the
same for the input side.

All in float64: shares near 0 and 1 are differences of nearly equal numbers.
Source: Jain et al. 2024 (arXiv 2407.10264), section 4.2, which draws the shares without their baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from toylab.names import ToylabError


def leading(weight: Float[Tensor, "output input"], energy: float | int | None = None) -> Float[Tensor, "output k"]:
    """The leading left singular directions of a matrix, as orthonormal columns.

    Args:
        energy: the share of the squared singular values that they hold, at least; None for the numerical rank.

    Raises:
        ValueError: for an energy that is no share.
    """
    if energy is not None and not 0 < energy <= 1:
        raise ToylabError(f"energy={energy}: is a share above 0, at most 1, for example 0.9; None for the exact rank")
    u, s, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    if energy is None:
        k = int((s > s[0] * max(weight.shape) * torch.finfo(torch.float32).eps).sum())  # weights are float32 numbers
    else:
        held = s.square().cumsum(dim=0) / s.square().sum()
        k = int((held < energy - 1e-12).sum()) + 1
    return u[:, :k]


def outside(vectors: Float[Tensor, "output column"], directions: Float[Tensor, "output k"]) -> float:
    """The share of the squared length of all columns that lies outside orthonormal directions; 0 for no length."""
    v = vectors.double()
    total = v.square().sum()
    inside = (directions.T @ v).square().sum()
    return 0.0 if total == 0 else ((total - inside) / total).clamp(0, 1).item()  # what is no number stays none


@dataclass(frozen=True)
class NullShare:
    """The energy share of a change in the left null space of a weight, and what chance would give.

    Attributes:
        share: of the squared Frobenius norm of the change.
        chance: its expectation for a change of random directions, 1 - k/m.
        spread: standard deviation over random rotations of the change's own left directions.
        k: how many directions of the weight count as not null.
        top: the same share for the leading left singular direction of the change alone.
    """

    share: float
    chance: float
    spread: float
    k: int
    top: float

    @property
    def lift(self) -> float:
        """Share over chance: 1 is what any change would show."""
        return self.share / self.chance if self.chance else 0.0


def null_share(
    change: Float[Tensor, "output input"],
    weight: Float[Tensor, "output input"],
    energy: float | int | None = None,
    *,
    draws: int = 20,
    rng: np.random.Generator | None = None,
) -> NullShare:
    """How much of a weight change lies in the left null space of the weight.

    Args:
        energy: see `leading`.
        draws: random rotations of the change, for the spread of the baseline.
        rng: decides them; a fixed one if not given.
    """
    if change.shape != weight.shape:
        raise ToylabError(f"change of shape {tuple(change.shape)}, weight of {tuple(weight.shape)}: must be the same")
    directions = leading(weight, energy)
    m, k = directions.shape
    u, s, _ = torch.linalg.svd(change.double(), full_matrices=False)
    rng = np.random.default_rng(0) if rng is None else rng
    shares = []
    for _ in range(draws):
        frame = torch.linalg.qr(torch.from_numpy(rng.standard_normal(tuple(u.shape))))[0]
        shares.append(outside(frame * s, directions))
    return NullShare(
        share=outside(change, directions),
        chance=1 - k / m,
        spread=float(np.std(shares)),
        k=k,
        top=outside(u[:, :1] * s[:1], directions),
    )


def conditional_share(
    change: Float[Tensor, "output input"],
    weight: Float[Tensor, "output input"],
    inputs: Float[Tensor, "case input"],
    energy: float | int | None = None,
) -> float:
    """The energy share, in the left null space of the weight, of what the change adds for these inputs."""
    return outside((inputs.double() @ change.double().T).T, leading(weight, energy))


def effect(
    change: Float[Tensor, "output input"], weight: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"]
) -> Float[Tensor, " case"]:
    """||dW a|| / ||W a|| of each input a: how much the change adds, relative to what was there."""
    a = inputs.double()
    return (a @ change.double().T).norm(dim=1) / (a @ weight.double().T).norm(dim=1)


def row_cosines(
    change: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"], top: int = 15
) -> Float[Tensor, "case direction"]:
    """|cos| of each input with the leading right singular directions of a change: which inputs it reads."""
    v = torch.linalg.svd(change.double(), full_matrices=False)[2][:top]
    a = inputs.double()
    return (a @ v.T).abs() / a.norm(dim=1, keepdim=True)


def weak_share(
    inputs: Float[Tensor, "case input"], weight: Float[Tensor, "output input"], energy: float | int = 0.9
) -> float:
    """The mean share of inputs in directions that a weight hardly reads: outside its leading right singular ones."""
    a = inputs.double()
    a = a / a.norm(dim=1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)  # an input of no length has no direction
    return outside(a.T, leading(weight.T, energy))


def gain(weight: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"]) -> Float[Tensor, " case"]:
    """||W a|| / ||a|| of each input: how strongly the weight responds to its direction."""
    a = inputs.double()
    return (a @ weight.double().T).norm(dim=1) / a.norm(dim=1)


def alignment(vectors: Float[Tensor, "case output"], direction: Float[Tensor, " output"]) -> float:
    """The share of the squared length of vectors along one direction: their cos^2, weighted by squared length; 0 for
    no length."""
    unit = direction.double() / direction.double().norm()
    return 1 - outside(vectors.T, unit[:, None]) if bool(vectors.any()) else 0.0


# Parts of a change ---------------------------------------------------------------------------------------------------


def split_change(
    change: Float[Tensor, "output input"], weight: Float[Tensor, "output input"], energy: float | int | None = None
) -> tuple[Float[Tensor, "output input"], Float[Tensor, "output input"]]:
    """A change as the sum of its parts in the column space and in the left null space of the weight."""
    directions = leading(weight, energy)
    column = directions @ (directions.T @ change.double())
    return column.to(change.dtype), (change.double() - column).to(change.dtype)


def top_rank(change: Float[Tensor, "output input"], rank: int) -> Float[Tensor, "output input"]:
    """The best approximation of a change by a matrix of this rank (its leading singular parts)."""
    if rank < 1:
        raise ToylabError(f"rank={rank}: must be at least 1")
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).to(change.dtype)


def top_energy(matrix: Float[Tensor, "row column"], rank: int = 1) -> float:
    """The share of the squared singular values in the leading ones: near 1 for a matrix close to this rank."""
    s = torch.linalg.svdvals(matrix.double()).square()
    return (s[:rank].sum() / s.sum()).item()
