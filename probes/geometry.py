"""The shape of two clouds of activations, and how sharply a function turns at a point.

Source: Jain et al. 2024 (arXiv 2407.10264), section 4.1 (clusters) and 4.3 (sensitivity).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probes.nullspace import top_energy
from toylab.names import ToylabError


def tau(
    activations: Float[Tensor, "case feature"], safe: Float[Tensor, " feature"], unsafe: Float[Tensor, " feature"]
) -> Float[Tensor, " case"]:
    """Distance to the unsafe mean minus distance to the safe one: above 0 lies nearer to safe.

    The means must come from other cases than those judged, or each case is pulled to its own side. Divide by the
    distance of the means to compare models whose activations differ in scale.
    """
    return (activations - unsafe).norm(dim=1) - (activations - safe).norm(dim=1)


def separation(safe: Float[Tensor, "case feature"], unsafe: Float[Tensor, "other feature"]) -> float:
    """Distance of the means over the mean distance of a case to its own mean: free of scale, 0 for the same cloud."""
    means = safe.mean(dim=0), unsafe.mean(dim=0)
    within = torch.cat([(cloud - mean).norm(dim=1) for cloud, mean in zip((safe, unsafe), means, strict=True)])
    return ((means[0] - means[1]).norm() / within.mean()).item()


def auc(high: Float[Tensor, " case"], low: Float[Tensor, " other"]) -> float:
    """The probability that a case of the first group has the larger number, ties counted half: .5 for no difference.

    Raises:
        ValueError: for an empty group or something that is no number, which have no such probability.
    """
    if not len(high) or not len(low):
        raise ToylabError(f"high={len(high)}, low={len(low)} cases: each group needs at least one")
    if bool(high.isnan().any() | low.isnan().any()):
        raise ToylabError("high, low: hold something that is no number (nan); leave such cases out")
    higher, same = high[:, None] > low[None, :], high[:, None] == low[None, :]
    return (higher.double() + 0.5 * same.double()).mean().item()


def top_share(activations: Float[Tensor, "case feature"]) -> float:
    """The share of the variance in the first principal component: near 1 for a cloud that is a line."""
    return top_energy(activations - activations.mean(dim=0))


def cosine_to(changes: Float[Tensor, "case feature"], direction: Float[Tensor, " feature"] | None = None) -> float:
    """Mean cosine of each change with a direction, their own mean if none is given: 1 where all change alike."""
    toward = changes.mean(dim=0) if direction is None else direction
    return torch.cosine_similarity(changes, toward[None], dim=1).mean().item()


def gradient_norms(function: Callable[[Tensor], Tensor], points: Float[Tensor, "case ..."]) -> Float[Tensor, " case"]:
    """The norm of the gradient of a number at each point, by autograd: a local Lipschitz constant of that number.

    Args:
        function: from all points to one number each, case by case.
    """
    x = points.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return gradient.flatten(1).norm(dim=1)


def jacobian_norms(function: Callable[[Tensor], Tensor], points: Float[Tensor, "case ..."]) -> Float[Tensor, " case"]:
    """The largest singular value of the Jacobian at each point: the local Lipschitz constant of the whole vector.

    Args:
        function: from all points to one vector each, case by case.
    """
    x = points.detach().clone().requires_grad_(True)
    out = function(x)
    rows = [torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(out.shape[1])]
    return torch.linalg.svdvals(torch.stack(rows, dim=1))[:, 0]
