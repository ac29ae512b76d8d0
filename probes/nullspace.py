"""Where a weight change lies: in the null space of the weights it changes, or where any random change would lie?

A matrix W (outputs by inputs, as in `nn.Linear`) has left singular directions in its output space. Its *left null
space* is what none of its leading ones reaches. For an up-projection of 256 by 64, that is three quarters of the output
space whatever the weights: a change dW drawn at random has an energy share of .75 there. So every share here comes with
its baseline, 1 - k/m, and with the spread of that baseline; the share alone says nothing. Transposed matrices give the
same for the input side.

All in float64: shares near 0 and 1 are differences of nearly equal numbers. What has no length has no share and no
cosine, and counts as 0. NaN and infinity raise `ValueError`.
Source: Jain et al. 2024 (arXiv 2407.10264), section 4.2, which draws the shares without their baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.checks import check_finite, check_nonempty
from toylab.settings import check_range


def left_singular_directions(
    weight: Float[Tensor, "output input"], energy: float | int | None = None
) -> Float[Tensor, "output k"]:
    """The leading left singular directions of a matrix, as orthonormal columns.

    Args:
        energy: the share of the squared singular values that they hold, at least; None for the numerical rank, which
            no energy exceeds: a matrix of zeros has no directions.

    Raises:
        ValueError: for an energy that is no share.
    """
    check_range("it is a share, for example 0.9; None for the exact rank", energy=energy, above=0, most=1)
    check_finite(weight=weight)
    u, s, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    k = _rank(s, weight)
    if energy is not None and k:
        held = s.square().cumsum(dim=0) / s.square().sum()
        k = min(k, int((held < energy - 1e-12).sum()) + 1)
    return u[:, :k]


def _rank(s: Float[Tensor, " k"], matrix: Float[Tensor, "output input"]) -> int:
    """The numerical rank of a matrix of these singular values."""
    return int((s > s[:1] * _rounding(matrix)).sum())


def _rounding(matrix: Float[Tensor, "output input"]) -> float:
    """The part of its largest singular value below which all of a matrix is rounding: weights are float32 numbers."""
    return max(matrix.shape) * torch.finfo(torch.float32).eps


def energy_outside(vectors: Float[Tensor, "output column"], directions: Float[Tensor, "output k"]) -> float:
    """The share of the squared length of all columns that lies outside orthonormal directions; 0 for no length."""
    check_finite(vectors=vectors, directions=directions)
    v = vectors.double()
    total = v.square().sum()
    inside = (directions.double().T @ v).square().sum()
    return 0.0 if total == 0 else ((total - inside) / total).clamp(0, 1).item()


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
        energy: see `left_singular_directions`.
        draws: random rotations of the change, for the spread of the baseline.
        rng: decides them; a fixed one if not given.

    Raises:
        ValueError: for shapes that differ or hold nothing, an energy that is no share, fewer than one draw.
    """
    check_nonempty(change=change, weight=weight)
    check_finite(change=change)
    check_range(draws=draws, least=1)
    if change.shape != weight.shape:
        raise ToylabError(f"change of shape {tuple(change.shape)}, weight of {tuple(weight.shape)}: must be the same")
    directions = left_singular_directions(weight, energy)
    m, k = directions.shape
    u, s, _ = torch.linalg.svd(change.double(), full_matrices=False)
    rng = np.random.default_rng(0) if rng is None else rng
    shares = []
    for _ in range(draws):
        frame = torch.linalg.qr(torch.from_numpy(rng.standard_normal(tuple(u.shape))).to(u.device))[0]
        shares.append(energy_outside(frame * s, directions))
    return NullShare(
        share=energy_outside(change, directions),
        chance=1 - k / m,
        spread=float(np.std(shares)),
        k=k,
        top=energy_outside(u[:, :1] * s[:1], directions),
    )


def span_sine(
    after: Float[Tensor, "output input"],
    before: Float[Tensor, "output input"],
    energy: float | int = 0.9,
    *,
    rows: bool = False,
) -> float:
    """Mean sine of the angle between the leading left singular directions of a weight and the span of those before.

    This is the measure that was released with the paper: of the weight itself, not of its change, and without the mean
    over outputs. The directions are those that hold less than `energy` together, at least one.

    Args:
        rows: whether rows of the square matrix of left directions are taken for its columns, as the released script
            does. They have no meaning: the directions of the null space, which are arbitrary, enter all of them.

    Raises:
        ValueError: for shapes that differ or hold nothing, or an energy that is no share.
    """
    check_nonempty(after=after, before=before)
    check_finite(after=after, before=before)
    check_range("it is a share, for example 0.9", energy=energy, above=0, most=1)
    if after.shape != before.shape:
        raise ToylabError(f"after of shape {tuple(after.shape)}, before of {tuple(before.shape)}: must be the same")
    vectors = []
    for weight in (after.double(), before.double()):
        u, s, _ = torch.linalg.svd(weight - weight.mean(dim=0))
        k = max(1, int((s.square().cumsum(dim=0) < energy * s.square().sum()).sum()))
        vectors.append(u[:k] if rows else u[:, :k].T)
    inside = (vectors[0] @ vectors[1].T).square().sum(dim=1)
    return (1 - inside).clamp(min=0).sqrt().mean().item()


def conditional_share(
    change: Float[Tensor, "output input"],
    weight: Float[Tensor, "output input"],
    inputs: Float[Tensor, "case input"],
    energy: float | int | None = None,
) -> float:
    """The energy share, in the left null space of the weight, of what the change adds for these inputs."""
    check_nonempty(inputs=inputs)
    check_finite(change=change, inputs=inputs)
    return energy_outside((inputs.double() @ change.double().T).T, left_singular_directions(weight, energy))


def relative_change(
    change: Float[Tensor, "output input"], weight: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"]
) -> Float[Tensor, " case"]:
    """||dW a|| / ||W a|| of each input a: how much the change adds, relative to what was there.

    0 where it adds nothing.

    Raises:
        ValueError: where it adds something to nothing.
    """
    check_nonempty(change=change, weight=weight)
    check_finite(change=change, weight=weight, inputs=inputs)
    a = inputs.double()
    (added, adds), (there, is_there) = (_response(matrix.double(), a) for matrix in (change, weight))
    if bool((endless := adds & ~is_there).any()):
        raise ToylabError(
            f"inputs: the weight makes nothing of row {int(endless.nonzero()[0])}, so there is nothing to compare its "
            "change with; leave it out"
        )
    return torch.where(is_there, added / torch.where(is_there, there, 1), 0)


def _response(
    matrix: Float[Tensor, "output input"], a: Float[Tensor, "case input"]
) -> tuple[Float[Tensor, " case"], Bool[Tensor, " case"]]:
    """||M a|| of each input, and whether it is more than rounding."""
    length = (a @ matrix.T).norm(dim=1)
    return length, length > torch.linalg.matrix_norm(matrix, ord=2) * a.norm(dim=1) * _rounding(matrix)


def row_cosines(
    change: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"], top: int = 15
) -> Float[Tensor, "case direction"]:
    """|cos| of each input with the leading right singular directions of a change: which inputs it reads.

    There are `top` directions, or as many as the change has by its numerical rank.
    """
    check_range(top=top, least=1)
    check_finite(change=change, inputs=inputs)
    _, s, v = torch.linalg.svd(change.double(), full_matrices=False)
    a = inputs.double()
    return (a @ v[: min(top, _rank(s, change))].T).abs() / _lengths(a)


def _lengths(a: Float[Tensor, "case input"]) -> Float[Tensor, "case 1"]:
    """What each input is divided by; an input of no length has no direction, and stays 0."""
    return a.norm(dim=1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)


def weak_share(
    inputs: Float[Tensor, "case input"], weight: Float[Tensor, "output input"], energy: float | int = 0.9
) -> float:
    """The mean share of inputs in directions that a weight hardly reads: outside its leading right singular ones."""
    check_nonempty(inputs=inputs)
    check_finite(inputs=inputs)
    a = inputs.double()
    return energy_outside((a / _lengths(a)).T, left_singular_directions(weight.T, energy))


def amplification(weight: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"]) -> Float[Tensor, " case"]:
    """||W a|| / ||a|| of each input: how strongly the weight responds to its direction."""
    check_finite(weight=weight, inputs=inputs)
    a = inputs.double()
    return (a @ weight.double().T).norm(dim=1) / _lengths(a)[:, 0]


def energy_along(vectors: Float[Tensor, "case output"], direction: Float[Tensor, " output"]) -> float:
    """The share of the squared length of vectors along one direction: their cos^2, weighted by squared length."""
    check_nonempty(vectors=vectors)
    check_finite(vectors=vectors, direction=direction)
    if not bool(vectors.any() & direction.any()):
        return 0.0
    return 1 - energy_outside(vectors.T, (direction.double() / direction.double().norm())[:, None])


# Parts of a change ---------------------------------------------------------------------------------------------------


def split_change(
    change: Float[Tensor, "output input"], weight: Float[Tensor, "output input"], energy: float | int | None = None
) -> tuple[Float[Tensor, "output input"], Float[Tensor, "output input"]]:
    """A change as the sum of its parts in the column space and in the left null space of the weight."""
    check_finite(change=change)
    directions = left_singular_directions(weight, energy)
    column = directions @ (directions.T @ change.double())
    return column.to(change.dtype), (change.double() - column).to(change.dtype)


def top_rank(change: Float[Tensor, "output input"], rank: int) -> Float[Tensor, "output input"]:
    """The best approximation of a change by a matrix of this rank (its leading singular parts)."""
    check_range(rank=rank, least=1)
    check_finite(change=change)
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).to(change.dtype)


def top_energy(matrix: Float[Tensor, "row column"], rank: int = 1) -> float:
    """The share of the squared singular values in the leading ones: near 1 for a matrix close to this rank."""
    check_range(rank=rank, least=1)
    check_finite(matrix=matrix)
    s = torch.linalg.svdvals(matrix.double()).square()
    return (s[:rank].sum() / s.sum()).item() if bool(s.any()) else 0.0
