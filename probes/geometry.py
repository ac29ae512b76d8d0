"""The shape of two clouds of activations, and how sharply a function turns at a point.

NaN and infinity raise `ValueError`.

Source: Jain et al. 2024 (arXiv 2407.10264), section 4.1 (clusters) and 4.3 (sensitivity).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from toylab.console import ToylabError
from toylab.probes.checks import check_finite, check_nonempty, check_not_nan, check_result_finite
from toylab.probes.nullspace import top_energy


def nearness(
    activations: Float[Tensor, "case feature"], safe: Float[Tensor, " feature"], unsafe: Float[Tensor, " feature"]
) -> Float[Tensor, " case"]:
    """Distance to the unsafe mean minus distance to the safe one: above 0 lies nearer to safe.

    The means must come from other cases than those judged, or each case is pulled to its own side. Divide by the
    distance of the means to compare models whose activations differ in scale. 0 where both means are the same.
    """
    check_finite(activations=activations, safe=safe, unsafe=unsafe)
    return check_result_finite("activations", (activations - unsafe).norm(dim=1) - (activations - safe).norm(dim=1))


def separation(safe: Float[Tensor, "case feature"], unsafe: Float[Tensor, "other feature"]) -> float:
    """Distance of the means over the mean distance of a case to its own mean: free of scale, 0 for the same cloud.

    Raises:
        ValueError: if all cases of each cloud are the same, as single ones are: there is no spread to measure by.
    """
    check_nonempty(safe=safe, unsafe=unsafe)
    check_finite(safe=safe, unsafe=unsafe)
    if bool((safe == safe[0]).all() & (unsafe == unsafe[0]).all()):
        raise ToylabError(
            f"safe={len(safe)}, unsafe={len(unsafe)} cases: those of each cloud are all the same, so there is no "
            "spread to measure the distance by; give several that differ"
        )
    means = safe.mean(dim=0), unsafe.mean(dim=0)
    within = torch.cat([(cloud - mean).norm(dim=1) for cloud, mean in zip((safe, unsafe), means, strict=True)])
    return check_result_finite("safe, unsafe", (means[0] - means[1]).norm() / within.mean()).item()


def auc(high: Float[Tensor, " case"], low: Float[Tensor, " other"]) -> float:
    """The probability that a case of the first group has the larger number, ties counted half: .5 for no difference.

    Raises:
        ValueError: for an empty group or something that is no number, which have no such probability.
    """
    if not len(high) or not len(low):
        raise ToylabError(f"high={len(high)}, low={len(low)} cases: each group needs at least one")
    check_not_nan(high=high, low=low)
    ordered, high = low.double().sort().values, high.double().contiguous()
    below, up_to = (int(torch.searchsorted(ordered, high, right=right).sum()) for right in (False, True))
    return (below + up_to) / (2 * len(high) * len(low))


def top_share(activations: Float[Tensor, "case feature"]) -> float:
    """The share of the variance in the first principal component: 1 for a cloud on a line, 0 for one point."""
    check_nonempty(activations=activations)
    check_finite(activations=activations)
    if bool((activations == activations[0]).all()):
        return 0.0  # rounding of the mean would else be taken for a direction
    return top_energy(activations - activations.mean(dim=0))


def cosine_to(changes: Float[Tensor, "case feature"], direction: Float[Tensor, " feature"] | None = None) -> float:
    """Mean cosine of each change with a direction, their own mean if none is given: 1 where all change alike.

    A change or a direction of no length has no cosine and counts as 0.
    """
    check_nonempty(changes=changes)
    check_finite(changes=changes)
    if direction is None:
        toward, numbers = changes.mean(dim=0), torch.finfo(changes.dtype)
        if toward.norm() <= 8 * numbers.eps * changes.norm(dim=1).max():  # they cancel: what is left is rounding
            toward = torch.zeros_like(toward)
    else:
        check_finite(direction=direction)
        toward, numbers = direction, torch.finfo(torch.result_type(changes, direction))
    return check_result_finite(
        "changes", torch.cosine_similarity(changes, toward[None], dim=1, eps=numbers.tiny).mean()
    ).item()


def gradient_norms(function: Callable[[Tensor], Tensor], points: Float[Tensor, "case ..."]) -> Float[Tensor, " case"]:
    """The norm of the gradient of a number at each point, by autograd: a local Lipschitz constant of that number.

    Args:
        function: from all points to one number each, case by case.

    Raises:
        ValueError: where it has no finite gradient.
    """
    check_finite(points=points)
    x = points.detach().clone().requires_grad_(True)
    out = function(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    check_finite(**{"function(points)": out, "the gradient of function": gradient})
    return check_result_finite("points", gradient.flatten(1).norm(dim=1))


def jacobian_norms(function: Callable[[Tensor], Tensor], points: Float[Tensor, "case ..."]) -> Float[Tensor, " case"]:
    """The largest singular value of the Jacobian at each point: the local Lipschitz constant of the whole vector.

    Args:
        function: from all points to one vector each, case by case.

    Raises:
        ValueError: where it has no finite Jacobian.
    """
    check_finite(points=points)
    x = points.detach().clone().requires_grad_(True)
    out = function(x)
    jacobian = [torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(out.shape[1])]
    jacobian = torch.stack(jacobian, dim=1)
    check_finite(**{"function(points)": out, "the Jacobian of function": jacobian})
    wide = torch.promote_types(jacobian.dtype, torch.float32)  # half precision has no singular values
    return torch.linalg.svdvals(jacobian.to(wide))[:, 0].to(jacobian.dtype)
