"""A top-k sparse autoencoder, and permutation tests of its features that correct for the number of features.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), section 2.3; features of
correct and incorrect generations as in Sinii et al. 2025 (arXiv 2509.06608).
NaN and infinity raise `ToylabError`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.probes.checks import as_mask, check_finite, check_nonempty, check_result_finite, check_same_length
from toylab.settings import check_range, torch_seed


class SparseAutoencoder(nn.Module):
    """Top-k autoencoder: x = b + sum over the k largest features of activation times direction.

    Args:
        width: dimension of the activations.
        features: dictionary size.
        k: maximum number of active features per case.
        generator: of the initial directions; the encoder is initialised to the transposed decoder.

    Raises:
        ToylabError: for k outside 1 .. features.
    """

    def __init__(self, width: int, features: int, k: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_range("at most the number of features", k=k, least=1, most=features)
        self.k = k
        directions = nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
        self.decoder = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.clone())
        self.threshold = nn.Parameter(torch.zeros(features))
        self.centre = nn.Parameter(torch.zeros(width))

    def encode(self, x: Float[Tensor, "case width"]) -> Float[Tensor, "case feature"]:
        """Feature activations: nonnegative, at most k of them positive."""
        check_finite(x=x)
        return self._codes(x)

    def _codes(self, x: Float[Tensor, "case width"]) -> Float[Tensor, "case feature"]:
        preactivations = (x - self.centre) @ self.encoder.T + self.threshold
        top = preactivations.topk(self.k, dim=1)
        return torch.zeros_like(preactivations).scatter(1, top.indices, top.values.relu())

    def forward(self, x: Float[Tensor, "case width"]) -> Float[Tensor, "case width"]:
        return self._codes(x) @ nn.functional.normalize(self.decoder, dim=1) + self.centre


def fit_autoencoder(
    activations: Float[Tensor, "case width"],
    features: int = 96,
    k: int = 4,
    steps: int = 600,
    rows: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> SparseAutoencoder:
    """Train a sparse autoencoder with Adam and linear decay of the learning rate.

    Activations are scaled to unit variance for training; the returned model takes unscaled ones. Half-precision
    activations give a float32 model.

    Raises:
        ToylabError: for empty activations, settings out of range, or divergence.
    """
    check_nonempty(activations=activations)
    check_finite(activations=activations, learning_rate=learning_rate)
    check_range(rows=rows, least=1)
    check_range(steps=steps, least=0)
    generator = torch.Generator().manual_seed(torch_seed(seed, "sparse autoencoder"))
    x = _at_least_single(activations.detach())
    scale = (x - x.mean(dim=0)).square().mean().sqrt()
    scale = torch.where(scale > 0, scale, 1)
    model = SparseAutoencoder(x.shape[1], features, k, generator).to(x.device, x.dtype)
    with torch.no_grad():
        model.centre.copy_(x.mean(dim=0) / scale)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        batch = x[torch.randint(len(x), (rows,), generator=generator)] / scale
        loss = (model(batch) - batch).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # rescale to the units of the activations
        model.centre.mul_(scale)
        model.threshold.mul_(scale)
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise ToylabError(f"learning_rate={learning_rate}: the training diverges; choose a lower one")
    return model


def _at_least_single(x: Tensor) -> Tensor:
    """Half precision converted to float32, since sums of squares overflow."""
    return x if x.dtype == torch.float64 else x.float()


@torch.no_grad()
def explained_variance(model: nn.Module, activations: Float[Tensor, "case width"]) -> float:
    """1 - mean squared error / variance: 1 for perfect reconstruction, 0 for predicting the mean.

    Raises:
        ToylabError: for activations without variance.
    """
    check_nonempty(activations=activations)
    check_finite(activations=activations)
    if bool((activations == activations[0]).all()):
        raise ToylabError(f"activations: all {len(activations)} are the same, so there is no variance to explain")
    x = _at_least_single(activations)
    reconstruction = model(activations)
    check_finite(**{"model(activations)": reconstruction})
    error = (_at_least_single(reconstruction) - x).square().sum()
    return 1 - check_result_finite("activations", error / (x - x.mean(dim=0)).square().sum()).item()


@torch.no_grad()
def dead_share(model: SparseAutoencoder, activations: Float[Tensor, "case width"]) -> float:
    """Fraction of features that are active in no case."""
    check_nonempty(activations=activations)
    check_finite(activations=activations)
    codes = model.encode(activations)
    check_finite(**{"model.codes(activations)": codes})
    return 1 - (codes > 0).any(dim=0).float().mean().item()


@dataclass(frozen=True)
class FeatureTest:
    """The feature that best discriminates two groups, with a permutation threshold for the maximum over features.

    Attributes:
        feature: index of the feature.
        inside, outside: in each group, the fraction of cases in which the feature is active.
        difference: inside - outside; the largest absolute difference of all features.
        chance: 95th percentile, over permutations of the groups, of the largest absolute difference of any feature.
        agreement: fraction of cases in which the feature equals the indicator, or its negation if that is larger;
            None without an indicator.
    """

    feature: int
    inside: float
    outside: float
    difference: float
    chance: float
    agreement: float | None


CaseMask = Bool[Tensor | np.ndarray, " case"] | Integer[Tensor | np.ndarray, " case"]
"""Booleans, or integers 0 and 1."""


def compare_features(
    fires: Bool[Tensor, "case feature"] | Integer[Tensor, "case feature"],
    group: CaseMask,
    indicator: CaseMask | None = None,
    permutations: int = 200,
    seed: int = 0,
) -> FeatureTest:
    """Find the feature that best discriminates a group from the rest, with a permutation test and a trivial baseline.

    Args:
        fires: whether each feature is active at any position of each case.
        group: mask of the cases in the group, such as correct generations.
        indicator: a trivial feature that may discriminate the groups as well, such as the opening token.

    Raises:
        ToylabError: if one of the groups is empty, or for a mask with values other than 0 and 1.
    """
    check_nonempty(fires=fires)
    check_range(permutations=permutations, least=1)
    fires, group = as_mask("fires", fires), as_mask("group", group).to(fires.device)
    check_same_length(fires=fires, group=group)
    if indicator is not None:
        indicator = as_mask("indicator", indicator).to(fires.device)
        check_same_length(fires=fires, indicator=indicator)
    if group.all() or not group.any():
        raise ToylabError(f"group: {int(group.sum())} of {len(group)} cases; both groups need some")
    active = fires.double()

    def differences(inside: Bool[Tensor, " case"]) -> Float[Tensor, " feature"]:
        return active[inside].mean(dim=0) - active[~inside].mean(dim=0)

    generator = torch.Generator().manual_seed(torch_seed(seed, "permutations"))
    permuted = torch.stack(
        [differences(group[torch.randperm(len(group), generator=generator)]).abs().max() for _ in range(permutations)]
    )
    observed = differences(group)
    best = int(observed.abs().argmax())
    agreement = None if indicator is None else (fires[:, best] == indicator).double().mean().item()
    return FeatureTest(
        feature=best,
        inside=active[group, best].mean().item(),
        outside=active[~group, best].mean().item(),
        difference=observed[best].item(),
        chance=permuted.quantile(0.95).item(),
        agreement=None if agreement is None else max(agreement, 1 - agreement),
    )
