"""Linear probes with their controls: is a label linearly decodable at this site, or does any label look so?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.probes.checks import as_whole, check_finite, check_same_length


@dataclass(frozen=True)
class ProbeScore:
    """Accuracies of a linear probe on sequences that it was not fitted on.

    Attributes:
        accuracy: of the probe.
        majority: of always answering the commonest label: the floor.
        shuffled: of a probe fitted in the same way to labels that were shuffled: what the fitting alone brings.
    """

    accuracy: float
    majority: float
    shuffled: float


def linear_probe(
    features: Float[Tensor, "token feature"],
    labels: Integer[Tensor | np.ndarray, " token"] | Bool[Tensor | np.ndarray, " token"],
    groups: Integer[Tensor | np.ndarray, " token"],
    rng: np.random.Generator,
    *,
    ridge: float = 1e-4,
    steps: int = 60,
) -> ProbeScore:
    """Fit a multinomial logistic regression on half of the groups and score it on the other half.

    Args:
        features: one row a token, from the site that is asked about. They are standardised, so scale does not matter.
        labels: 0, 1, 2 ...
        groups: the sequence of each token; tokens of one sequence never stand on both sides.
        rng: decides the halves and shuffles the control.
        ridge: weight of the squared coefficients in the loss.
        steps: of L-BFGS.

    Raises:
        ValueError: for arrays of different lengths, fewer than two groups, labels below 0, NaN or infinity.
    """
    check_same_length(features=features, labels=labels, groups=groups)
    check_finite(features=features, ridge=ridge)
    labels = as_whole("labels", labels, least=0).to(features.device)
    groups = as_whole("groups", groups).cpu().numpy()
    names = np.unique(groups)
    if len(names) < 2:
        raise ToylabError(f"groups={len(names)}: at least two sequences are needed, to fit on one and score on another")
    fitted_on = rng.permutation(names)[: len(names) // 2]
    fit = torch.from_numpy(np.isin(groups, fitted_on))
    features = features.detach().double()
    mean, std = features[fit].mean(dim=0), features[fit].std(dim=0, correction=0)
    varies = std > 1e-12 * features[fit].abs().amax(dim=0)  # or rounding of the mean would be taken for a feature
    features = (features - mean) / torch.where(varies, std, torch.ones_like(std))
    classes = int(labels.max()) + 1
    held = labels[~fit]
    shuffled = labels[fit][torch.from_numpy(rng.permutation(int(fit.sum())))]
    common = torch.bincount(labels[fit], minlength=classes).argmax()

    def score(target: Tensor) -> float:
        weights = _fit(features[fit], target, classes, ridge, steps)
        return (_scores(features[~fit], weights).argmax(dim=1) == held).double().mean().item()

    return ProbeScore(score(labels[fit]), (held == common).double().mean().item(), score(shuffled))


def _fit(features: Tensor, labels: Tensor, classes: int, ridge: float, steps: int) -> Tensor:
    weights = features.new_zeros(features.shape[1] + 1, classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(_scores(features, weights), labels) + ridge * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


def _scores(features: Tensor, weights: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]
