"""Energy of a weight change in the left null space of the original weight, with its random baseline.

The *left null space* of W (output by input, as in `nn.Linear`) is the orthogonal complement of its leading k left
singular directions. For a 256 x 64 up-projection it is three quarters of the output space for any weights, so a random
change has an energy share of .75 there. Shares are therefore reported with the baseline 1 - k/m and its standard
deviation. Transpose the matrices for the input side.

All computations are in float64, since shares near 0 and 1 cancel. Zero vectors have share and cosine 0. NaN and
infinity raise `ToylabError`.
Source: Jain et al. 2024 (arXiv 2407.10264), section 4.2, which plots the shares without a baseline.
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
        energy: minimum fraction of the squared singular values; None for all directions up to the numerical rank. A
            zero matrix has no directions.

    Raises:
        ToylabError: for an energy outside (0, 1].
    """
    check_range("it is a share, for example 0.9; None for the exact rank", energy=energy, above=0, most=1)
    check_finite(weight=weight)
    u, s, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    k = _rank(s, weight)
    if energy is not None and k:
        cumulative_energy = s.square().cumsum(dim=0) / s.square().sum()
        k = min(k, int((cumulative_energy < energy - 1e-12).sum()) + 1)
    return u[:, :k]


def _rank(s: Float[Tensor, " k"], matrix: Float[Tensor, "output input"]) -> int:
    """Numerical rank of a matrix, from its singular values."""
    return int((s > s[:1] * _rounding(matrix)).sum())


def _rounding(matrix: Float[Tensor, "output input"]) -> float:
    """Relative tolerance of singular values; weights are float32, so its eps is used."""
    return max(matrix.shape) * torch.finfo(torch.float32).eps


def energy_outside(vectors: Float[Tensor, "output column"], directions: Float[Tensor, "output k"]) -> float:
    """Fraction of the squared norm of all columns outside the span of orthonormal directions; 0 for zero columns."""
    check_finite(vectors=vectors, directions=directions)
    v = vectors.double()
    total = v.square().sum()
    inside = (directions.double().T @ v).square().sum()
    return 0.0 if total == 0 else ((total - inside) / total).clamp(0, 1).item()


@dataclass(frozen=True)
class NullShare:
    """Energy share of a weight change in the left null space of the weight, with its chance level.

    Attributes:
        share: fraction of the squared Frobenius norm of the change.
        chance: expected share of a change with random left directions, 1 - k/m.
        spread: standard deviation of the share over random rotations of the left directions of the change.
        k: number of directions of the weight outside the null space.
        top: share of the leading left singular direction of the change.
    """

    share: float
    chance: float
    spread: float
    k: int
    top: float

    @property
    def lift(self) -> float:
        """share / chance; 1 for a random change."""
        return self.share / self.chance if self.chance else 0.0


def null_share(
    change: Float[Tensor, "output input"],
    weight: Float[Tensor, "output input"],
    energy: float | int | None = None,
    *,
    draws: int = 20,
    rng: np.random.Generator | None = None,
) -> NullShare:
    """Energy share of a weight change in the left null space of the weight.

    Args:
        energy: see `left_singular_directions`.
        draws: number of random rotations for the spread of the baseline.
        rng: source of the rotations; seed 0 if not given.

    Raises:
        ToylabError: for different or empty shapes, an energy outside (0, 1], or fewer than one draw.
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
        rotation = torch.linalg.qr(torch.from_numpy(rng.standard_normal(tuple(u.shape))).to(u.device))[0]
        shares.append(energy_outside(rotation * s, directions))
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
    """Mean sine of the angles between the leading left singular directions of a weight after training and their span
    before.

    The measure in the code of Jain et al. 2024. It uses the weight, not its change, minus the mean over outputs. The
    leading directions have less than `energy` in total; there is at least one.

    Args:
        rows: whether to use rows instead of columns of the square matrix of left singular vectors, as the released
            script does. The rows are meaningless: each mixes in the arbitrary basis of the null space.

    Raises:
        ToylabError: for different or empty shapes, or an energy outside (0, 1].
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
    """Energy share, in the left null space of the weight, of the outputs dW a of the change on the given inputs."""
    check_nonempty(inputs=inputs)
    check_finite(change=change, inputs=inputs)
    return energy_outside((inputs.double() @ change.double().T).T, left_singular_directions(weight, energy))


def relative_change(
    change: Float[Tensor, "output input"], weight: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"]
) -> Float[Tensor, " case"]:
    """||dW a|| / ||W a|| of each input a; 0 where dW a is 0.

    Raises:
        ToylabError: if W a is 0 and dW a is not.
    """
    check_nonempty(change=change, weight=weight)
    check_finite(change=change, weight=weight, inputs=inputs)
    a = inputs.double()
    (change_norms, change_is_nonzero), (weight_norms, weight_is_nonzero) = (
        _response(matrix.double(), a) for matrix in (change, weight)
    )
    if bool((infinite := change_is_nonzero & ~weight_is_nonzero).any()):
        raise ToylabError(
            f"inputs: the weight maps row {int(infinite.nonzero()[0])} to 0, so the ratio is infinite; remove this row"
        )
    return torch.where(weight_is_nonzero, change_norms / torch.where(weight_is_nonzero, weight_norms, 1), 0)


def _response(
    matrix: Float[Tensor, "output input"], a: Float[Tensor, "case input"]
) -> tuple[Float[Tensor, " case"], Bool[Tensor, " case"]]:
    """||M a|| of each input, and whether it exceeds rounding noise."""
    length = (a @ matrix.T).norm(dim=1)
    return length, length > torch.linalg.matrix_norm(matrix, ord=2) * a.norm(dim=1) * _rounding(matrix)


def row_cosines(
    change: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"], top: int = 15
) -> Float[Tensor, "case direction"]:
    """|cosine| of each input with the leading right singular directions of a change, which are the inputs it reads.

    The number of directions is `top`, or the numerical rank of the change if smaller.
    """
    check_range(top=top, least=1)
    check_finite(change=change, inputs=inputs)
    _, s, v = torch.linalg.svd(change.double(), full_matrices=False)
    a = inputs.double()
    return (a @ v[: min(top, _rank(s, change))].T).abs() / _lengths(a)


def _lengths(a: Float[Tensor, "case input"]) -> Float[Tensor, "case 1"]:
    """Norm of each input, at least `tiny`, so that zero inputs stay 0."""
    return a.norm(dim=1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)


def weak_share(
    inputs: Float[Tensor, "case input"], weight: Float[Tensor, "output input"], energy: float | int = 0.9
) -> float:
    """Mean energy share of inputs outside the leading right singular directions of a weight."""
    check_nonempty(inputs=inputs)
    check_finite(inputs=inputs)
    a = inputs.double()
    return energy_outside((a / _lengths(a)).T, left_singular_directions(weight.T, energy))


def amplification(weight: Float[Tensor, "output input"], inputs: Float[Tensor, "case input"]) -> Float[Tensor, " case"]:
    """||W a|| / ||a|| of each input a."""
    check_finite(weight=weight, inputs=inputs)
    a = inputs.double()
    return (a @ weight.double().T).norm(dim=1) / _lengths(a)[:, 0]


def energy_along(vectors: Float[Tensor, "case output"], direction: Float[Tensor, " output"]) -> float:
    """Fraction of the squared norm of vectors along a direction: mean cos^2, weighted by squared norm."""
    check_nonempty(vectors=vectors)
    check_finite(vectors=vectors, direction=direction)
    if not bool(vectors.any() & direction.any()):
        return 0.0
    return 1 - energy_outside(vectors.T, (direction.double() / direction.double().norm())[:, None])


# Parts of a change ---------------------------------------------------------------------------------------------------


def split_change(
    change: Float[Tensor, "output input"], weight: Float[Tensor, "output input"], energy: float | int | None = None
) -> tuple[Float[Tensor, "output input"], Float[Tensor, "output input"]]:
    """Decompose a change into its components in the column space and in the left null space of the weight."""
    check_finite(change=change)
    directions = left_singular_directions(weight, energy)
    column = directions @ (directions.T @ change.double())
    return column.to(change.dtype), (change.double() - column).to(change.dtype)


def top_rank(change: Float[Tensor, "output input"], rank: int) -> Float[Tensor, "output input"]:
    """Best approximation of a change by a matrix of the given rank (truncated SVD)."""
    check_range(rank=rank, least=1)
    check_finite(change=change)
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).to(change.dtype)


def top_energy(matrix: Float[Tensor, "row column"], rank: int = 1) -> float:
    """Fraction of the squared singular values in the leading `rank` ones; 1 for a matrix of at most this rank."""
    check_range(rank=rank, least=1)
    check_finite(matrix=matrix)
    s = torch.linalg.svdvals(matrix.double()).square()
    return (s[:rank].sum() / s.sum()).item() if bool(s.any()) else 0.0
