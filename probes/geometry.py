"""Cluster statistics of two groups of activations, and local Lipschitz constants of a function.

NaN and infinity raise `ToylabError`.

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
    """Distance to the unsafe mean minus distance to the safe mean; positive if nearer to the safe one.

    Estimate the means on held-out cases, otherwise each case biases its own mean. Divide by the distance between the
    means to compare models whose activations differ in scale.
    """
    check_finite(activations=activations, safe=safe, unsafe=unsafe)
    return check_result_finite("activations", (activations - unsafe).norm(dim=1) - (activations - safe).norm(dim=1))


def separation(safe: Float[Tensor, "case feature"], unsafe: Float[Tensor, "other feature"]) -> float:
    """Distance between the group means over the mean distance of a case to its group mean; scale-invariant.

    Raises:
        ToylabError: if neither group varies, as with one case each.
    """
    check_nonempty(safe=safe, unsafe=unsafe)
    check_finite(safe=safe, unsafe=unsafe)
    if bool((safe == safe[0]).all() & (unsafe == unsafe[0]).all()):
        raise ToylabError(
            f"safe={len(safe)}, unsafe={len(unsafe)} cases: no group varies, so there is no spread to "
            "scale the distance by; give several cases that differ"
        )
    means = safe.mean(dim=0), unsafe.mean(dim=0)
    within = torch.cat([(cloud - mean).norm(dim=1) for cloud, mean in zip((safe, unsafe), means, strict=True)])
    return check_result_finite("safe, unsafe", (means[0] - means[1]).norm() / within.mean()).item()


def auc(high: Float[Tensor, " case"], low: Float[Tensor, " other"]) -> float:
    """Area under the ROC curve: P(high > low) + P(high = low) / 2; .5 is chance.

    Raises:
        ToylabError: for an empty group or NaN.
    """
    if not len(high) or not len(low):
        raise ToylabError(f"high={len(high)}, low={len(low)} cases: each group needs at least one")
    check_not_nan(high=high, low=low)
    ordered, high = low.double().sort().values, high.double().contiguous()
    below, up_to = (int(torch.searchsorted(ordered, high, right=right).sum()) for right in (False, True))
    return (below + up_to) / (2 * len(high) * len(low))


def top_share(activations: Float[Tensor, "case feature"]) -> float:
    """Fraction of variance explained by the first principal component; 0 if there is no variance."""
    check_nonempty(activations=activations)
    check_finite(activations=activations)
    if bool((activations == activations[0]).all()):
        return 0.0  # otherwise rounding of the mean would count as variance
    return top_energy(activations - activations.mean(dim=0))


def cosine_to(changes: Float[Tensor, "case feature"], direction: Float[Tensor, " feature"] | None = None) -> float:
    """Mean cosine similarity of changes to a direction, by default to their own mean.

    Zero vectors have cosine 0.
    """
    check_nonempty(changes=changes)
    check_finite(changes=changes)
    if direction is None:
        reference, precision = changes.mean(dim=0), torch.finfo(changes.dtype)
        if reference.norm() <= 8 * precision.eps * changes.norm(dim=1).max():  # the mean is rounding noise
            reference = torch.zeros_like(reference)
    else:
        check_finite(direction=direction)
        reference, precision = direction, torch.finfo(torch.result_type(changes, direction))
    return check_result_finite(
        "changes", torch.cosine_similarity(changes, reference[None], dim=1, eps=precision.tiny).mean()
    ).item()


def gradient_norms(function: Callable[[Tensor], Tensor], points: Float[Tensor, "case ..."]) -> Float[Tensor, " case"]:
    """Gradient norm of a scalar function at each point: its local Lipschitz constant.

    Args:
        function: from points (case, ...) to (case,); each output depends on its own case only.

    Raises:
        ToylabError: if a gradient is not finite.
    """
    check_finite(points=points)
    x = points.detach().clone().requires_grad_(True)
    out = function(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    check_finite(**{"function(points)": out, "the gradient of function": gradient})
    return check_result_finite("points", gradient.flatten(1).norm(dim=1))


def jacobian_norms(function: Callable[[Tensor], Tensor], points: Float[Tensor, "case ..."]) -> Float[Tensor, " case"]:
    """Spectral norm of the Jacobian of a vector function at each point: its local Lipschitz constant.

    Args:
        function: from points (case, ...) to (case, output); each output depends on its own case only.

    Raises:
        ToylabError: if a Jacobian is not finite.
    """
    check_finite(points=points)
    x = points.detach().clone().requires_grad_(True)
    out = function(x)
    jacobian = [torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(out.shape[1])]
    jacobian = torch.stack(jacobian, dim=1)
    check_finite(**{"function(points)": out, "the Jacobian of function": jacobian})
    float_type = torch.promote_types(jacobian.dtype, torch.float32)  # no SVD in half precision
    return torch.linalg.svdvals(jacobian.to(float_type))[:, 0].to(jacobian.dtype)
