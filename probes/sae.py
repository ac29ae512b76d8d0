"""A top-k sparse autoencoder, and tests of its features against the luck of looking at many.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), section 2.3; features of
correct and incorrect generations as in Sinii et al. 2025 (arXiv 2509.06608), with the controls that a search needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from toylab.names import ToylabError, torch_seed


class SparseAutoencoder(nn.Module):
    """x = b + sum of the k features that answer most, each times its direction.

    Args:
        width: of the activations.
        features: in the dictionary.
        k: that may be active at once.
        generator: of the initial directions; the encoder starts as the decoder's transpose.

    Raises:
        ValueError: for k outside 1 .. features.
    """

    def __init__(self, width: int, features: int, k: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not 1 <= k <= features:
            raise ToylabError(f"k={k}: must be from 1 to features={features}")
        self.k = k
        directions = nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
        self.decoder = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.clone())
        self.threshold = nn.Parameter(torch.zeros(features))
        self.centre = nn.Parameter(torch.zeros(width))

    def codes(self, x: Float[Tensor, "case width"]) -> Float[Tensor, "case feature"]:
        """How strongly each feature is active: 0 or more, at most k of them above 0."""
        answers = (x - self.centre) @ self.encoder.T + self.threshold
        top = answers.topk(self.k, dim=1)
        return torch.zeros_like(answers).scatter(1, top.indices, top.values.relu())

    def forward(self, x: Float[Tensor, "case width"]) -> Float[Tensor, "case width"]:
        return self.codes(x) @ nn.functional.normalize(self.decoder, dim=1) + self.centre


def fit_autoencoder(
    activations: Float[Tensor, "case width"],
    features: int = 96,
    k: int = 4,
    steps: int = 600,
    rows: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> SparseAutoencoder:
    """Train on activations, scaled to a mean square of 1 while training; the result takes them as they are.

    Raises:
        ValueError: without activations.
    """
    if not len(activations):
        raise ToylabError("activations: at least one row is needed")
    generator = torch.Generator().manual_seed(torch_seed(seed))
    x = activations.detach()
    scale = (x - x.mean(dim=0)).square().mean().sqrt().clamp(min=1e-12)
    model = SparseAutoencoder(x.shape[1], features, k, generator).to(x.dtype)
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
    with torch.no_grad():  # undo the scale: codes and centre in the units of the activations
        model.centre.mul_(scale)
        model.threshold.mul_(scale)
    return model


@torch.no_grad()
def explained_variance(model: nn.Module, activations: Float[Tensor, "case width"]) -> float:
    """1 minus the mean square error over the variance: 1 for a perfect copy, 0 for the mean alone."""
    error = (model(activations) - activations).square().sum()
    return 1 - (error / (activations - activations.mean(dim=0)).square().sum()).item()


@torch.no_grad()
def dead_share(model: SparseAutoencoder, activations: Float[Tensor, "case width"]) -> float:
    """The share of features that are never active."""
    return 1 - (model.codes(activations) > 0).any(dim=0).float().mean().item()


@dataclass(frozen=True)
class FeatureTest:
    """The feature that tells two groups apart best, and what chance makes of the best of so many.

    Attributes:
        feature: its number.
        inside, outside: the share of each group in which it fires.
        difference: inside - outside, in size the largest of all features.
        chance: the largest size of the difference that any feature reaches with the groups mixed up: the 95th
            percentile over the permutations.
        agreement: the share of cases in which the feature and the trivial indicator say the same, or the opposite if
            that is more; None without an indicator.
    """

    feature: int
    inside: float
    outside: float
    difference: float
    chance: float
    agreement: float | None


def compare_features(
    fires: Bool[Tensor, "case feature"],
    group: Bool[Tensor, " case"],
    indicator: Bool[Tensor, " case"] | None = None,
    permutations: int = 200,
    seed: int = 0,
) -> FeatureTest:
    """Look for the feature that tells a group from the rest, with the controls that such a search needs.

    Args:
        fires: whether each feature is active anywhere in each case.
        group: the cases to tell from the others, such as correct generations.
        indicator: something trivial that tells them apart as well, such as the route that was taken.

    Raises:
        ValueError: if one of the two groups is empty.
    """
    if group.all() or not group.any():
        raise ToylabError(f"group: {int(group.sum())} of {len(group)} cases; both groups need some")
    active = fires.double()

    def differences(inside: Bool[Tensor, " case"]) -> Float[Tensor, " feature"]:
        return active[inside].mean(dim=0) - active[~inside].mean(dim=0)

    generator = torch.Generator().manual_seed(torch_seed(seed))
    mixed = torch.stack(
        [differences(group[torch.randperm(len(group), generator=generator)]).abs().max() for _ in range(permutations)]
    )
    found = differences(group)
    best = int(found.abs().argmax())
    same = None if indicator is None else (fires[:, best] == indicator).double().mean().item()
    return FeatureTest(
        feature=best,
        inside=active[group, best].mean().item(),
        outside=active[~group, best].mean().item(),
        difference=found[best].item(),
        chance=mixed.quantile(0.95).item(),
        agreement=None if same is None else max(same, 1 - same),
    )
