"""Linear probes with a majority baseline and a shuffled-label control."""

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
    """Accuracies on held-out sequences.

    Attributes:
        accuracy: accuracy of the probe.
        majority: accuracy of always predicting the most frequent training label.
        shuffled: accuracy of the same probe fitted to shuffled labels (control).
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
        features: activations, one row per token; standardised before fitting.
        labels: class of each token, 0, 1, 2 ...
        groups: sequence of each token; the split is by sequence.
        rng: splits the groups and shuffles the labels of the control.
        ridge: L2 penalty.
        steps: maximum L-BFGS iterations.

    Raises:
        ToylabError: for arrays of different lengths, fewer than two groups, negative labels, NaN or infinity.
    """
    check_same_length(features=features, labels=labels, groups=groups)
    check_finite(features=features, ridge=ridge)
    labels = as_whole("labels", labels, least=0).to(features.device)
    groups = as_whole("groups", groups).cpu().numpy()
    sequences = np.unique(groups)
    if len(sequences) < 2:
        raise ToylabError(
            f"groups={len(sequences)}: at least two sequences are needed, to fit on one and score on another"
        )
    training_sequences = rng.permutation(sequences)[: len(sequences) // 2]
    is_training = torch.from_numpy(np.isin(groups, training_sequences))
    features = features.detach().double()
    mean, std = features[is_training].mean(dim=0), features[is_training].std(dim=0, correction=0)
    varies = std > 1e-12 * features[is_training].abs().amax(dim=0)  # constant up to rounding: not a feature
    features = (features - mean) / torch.where(varies, std, torch.ones_like(std))
    classes = int(labels.max()) + 1
    test_labels = labels[~is_training]
    shuffled = labels[is_training][torch.from_numpy(rng.permutation(int(is_training.sum())))]
    majority = torch.bincount(labels[is_training], minlength=classes).argmax()

    def score(target: Tensor) -> float:
        weights = _fit(features[is_training], target, classes, ridge, steps)
        return (_scores(features[~is_training], weights).argmax(dim=1) == test_labels).double().mean().item()

    return ProbeScore(score(labels[is_training]), (test_labels == majority).double().mean().item(), score(shuffled))


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
