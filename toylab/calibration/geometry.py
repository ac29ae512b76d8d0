"""Cases for the detectors on weights and activations: null-space changes, clusters, token substitution, SAE features.

Planted positives have the shapes of the studies' models, for example an up-projection of 4 d by d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from toylab.calibration import Detector, DetectorInput, PlantedPositive, SampledControl
from toylab.probes import (
    compare_features,
    contrast_cosine,
    fit_autoencoder,
    left_singular_directions,
    null_share,
    separation,
)


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm()


# Null spaces ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangedWeight:
    """A weight and its change."""

    change: Float[Tensor, "output input"]
    weight: Float[Tensor, "output input"]


def null_space_score(shown: ChangedWeight) -> float:
    """Energy share of the change in the left null space over the share of a random change (lift; 1 by chance)."""
    return null_share(shown.change, shown.weight, draws=2).lift


def _weight(rng: np.random.Generator) -> Tensor:
    width = int(rng.choice([16, 32, 64]))
    return _normal(rng, 4 * width, width) @ torch.diag(torch.from_numpy(rng.uniform(0.2, 1, width)))


def _change(rng: np.random.Generator, weight: Tensor, rank: int) -> Tensor:
    return _unit(_normal(rng, len(weight), rank) @ _normal(rng, rank, weight.shape[1]))


def _into_null_space(rank: Callable[[int], int]) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        weight = _weight(rng)
        change = _change(rng, weight, rank(weight.shape[1]))
        directions = left_singular_directions(weight)
        inside = _unit(change - directions @ (directions.T @ change))
        noisy = (1 - noise) * inside + noise * _change(rng, weight, rank(weight.shape[1]))
        return DetectorInput(ChangedWeight(noisy, weight))

    return plant


def _changed_weight(make: Callable[[np.random.Generator, Tensor], Tensor]) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        weight = _weight(rng)
        return DetectorInput(ChangedWeight(make(rng, weight), weight))

    return control


def _in_column_space(rng: np.random.Generator, weight: Tensor) -> Tensor:
    return weight @ _normal(rng, weight.shape[1], weight.shape[1])


# Clusters ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationClouds:
    """Two groups of activations."""

    first: Float[Tensor, "case feature"]
    second: Float[Tensor, "other feature"]


def cluster_score(shown: ActivationClouds) -> float:
    """Distance between the means over the mean distance of a case to its group's mean."""
    return separation(shown.first, shown.second)


def _cloud(rng: np.random.Generator) -> Tensor:
    """Cases with a random covariance whose variance is concentrated in a few directions."""
    width, cases = int(rng.choice([16, 64, 256])), int(rng.integers(100, 300))
    spread = torch.from_numpy(np.exp(rng.normal(0, 0.7, width)))
    return _normal(rng, 2 * cases, width) * spread @ torch.linalg.qr(_normal(rng, width, width))[0]


def _two_clusters(outliers: bool, line: bool) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        cloud = _cloud(rng)
        half, size = len(cloud) // 2, cloud.norm(dim=1).mean()
        offset = _unit(_normal(rng, cloud.shape[1])) * size * float(rng.uniform(1, 3))
        if line:
            cloud = 0.1 * cloud + offset * _normal(rng, len(cloud), 1) * 0.3
        if outliers:
            cloud[:: half // 5] *= 5
        first, second = cloud[:half], cloud[half:] + offset
        both = torch.cat([first, second])
        # Noise swaps cases between the groups; at 100 % the labels carry no information.
        swapped = torch.from_numpy(rng.random(half) < noise / 2)
        return DetectorInput(
            ActivationClouds(
                torch.where(swapped[:, None], both[half : 2 * half], both[:half]),
                torch.where(swapped[:, None], both[:half], both[half : 2 * half]),
            )
        )

    return plant


def _same_cloud(make: Callable[[np.random.Generator, Tensor], tuple[Tensor, Tensor]]) -> SampledControl:
    return lambda rng: DetectorInput(ActivationClouds(*make(rng, _cloud(rng))))


def _halves(rng: np.random.Generator, cloud: Tensor) -> tuple[Tensor, Tensor]:
    return cloud[: len(cloud) // 2], cloud[len(cloud) // 2 :]


def _wider(rng: np.random.Generator, cloud: Tensor) -> tuple[Tensor, Tensor]:
    first, second = _halves(rng, cloud)
    return first, float(rng.uniform(2, 5)) * second


def _with_outliers(rng: np.random.Generator, cloud: Tensor) -> tuple[Tensor, Tensor]:
    first, second = _halves(rng, cloud)
    second = second.clone()
    second[: len(second) // 20] *= 10
    return first, second


def _two_inside(rng: np.random.Generator, cloud: Tensor) -> tuple[Tensor, Tensor]:
    """Two clusters, each split evenly between the groups: clusters that do not match the labels."""
    cloud = cloud.clone()
    cloud[::2] += _unit(_normal(rng, cloud.shape[1])) * cloud.norm(dim=1).mean() * 2
    return _halves(rng, cloud)


# Token substitution --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SteeringDirection:
    """A vector added to the residual stream, the unembedding rows, and the two competing tokens."""

    direction: Float[Tensor, " width"]
    rows: Float[Tensor, "vocab width"]
    token: int
    competitor: int


def substitution_score(shown: SteeringDirection) -> float:
    """Cosine with the unembedding row of the token minus the row of its competitor."""
    return contrast_cosine(shown.direction, shown.rows, shown.token, shown.competitor).item()


def _rows(rng: np.random.Generator, alike: bool = False) -> Tensor:
    """Unembedding rows: orthonormal as in the steering study or, if `alike`, with a large common component."""
    width, vocab = int(rng.choice([32, 64, 128])), int(rng.integers(10, 30))
    if alike:
        return _normal(rng, vocab, width) + 2 * _normal(rng, 1, width)
    return torch.linalg.qr(_normal(rng, width, vocab))[0].T.contiguous()


def _swaps(alike: bool, other_tokens: bool) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        rows = _rows(rng, alike)
        swap = _unit(rows[0] - rows[1])
        if other_tokens:  # the direction also raises other tokens slightly
            swap = _unit(swap + 0.3 * _unit(_normal(rng, len(rows)) @ rows))
        return DetectorInput(
            SteeringDirection((1 - noise) * swap + noise * _unit(_normal(rng, rows.shape[1])), rows, 0, 1)
        )

    return plant


def _no_swap(make: Callable[[np.random.Generator, Tensor], Tensor], alike: bool = False) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        rows = _rows(rng, alike)
        return DetectorInput(SteeringDirection(make(rng, rows), rows, 0, 1))

    return control


def _other_tokens(rng: np.random.Generator, rows: Tensor) -> Tensor:
    return _unit(rows[2] - rows[3]) + 0.3 * _unit(_normal(rng, rows.shape[1]))


# Features of a sparse autoencoder ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupedActivations:
    """Activations of cases, the group to detect, and a trivial indicator that may predict it."""

    activations: Float[Tensor, "case width"]
    group: Bool[Tensor, " case"]
    indicator: Bool[Tensor, " case"]


def feature_score(shown: GroupedActivations) -> float:
    """Difference of the best feature over the difference by chance, among cases with the same indicator.

    The autoencoder is fitted on one half of the cases, and its features are compared on the other half. A feature that
    only reproduces the indicator shows no difference among cases with the same indicator.
    """
    half = len(shown.activations) // 2
    model = fit_autoencoder(shown.activations[:half].float(), features=48, k=4, steps=150)
    fires, group = model.encode(shown.activations[half:].float()) > 0, shown.group[half:]
    ratios = []
    for with_indicator in (shown.indicator[half:], ~shown.indicator[half:]):
        if bool(group[with_indicator].any()) and not bool(group[with_indicator].all()):
            test = compare_features(fires[with_indicator], group[with_indicator])
            ratios.append(abs(test.difference) / max(test.chance, 1e-9))
    return sum(ratios) / len(ratios) if ratios else 0.0


def _sparse(rng: np.random.Generator, cases: int, extra: Tensor | None = None) -> Tensor:
    """Sparse combinations of random directions; `extra` marks the cases with an additional active direction."""
    width, direction_count = 32, 24
    directions = F.normalize(_normal(rng, direction_count + 1, width), dim=1)
    codes = torch.from_numpy(
        (rng.random((cases, direction_count)) < 0.1) * rng.uniform(0.5, 1.5, (cases, direction_count))
    )
    x = codes @ directions[:direction_count] + 0.03 * _normal(rng, cases, width)
    if extra is not None:
        x = x + extra[:, None] * directions[direction_count] * 1.5
    return x


CASES = 1600


def _feature_marks_group(inside: float, outside: float) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        group = torch.from_numpy(rng.random(CASES) < 0.5)
        rates = torch.where(group, (1 - noise) * inside + noise * outside, outside)
        active = torch.from_numpy(rng.random(CASES)) < rates
        return DetectorInput(
            GroupedActivations(_sparse(rng, CASES, active), group, torch.from_numpy(rng.random(CASES) < 0.5))
        )

    return plant


def _no_feature(make: Callable[[np.random.Generator, Tensor], Tensor]) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        group = torch.from_numpy(rng.random(CASES) < rng.uniform(0.2, 0.8))
        return DetectorInput(GroupedActivations(make(rng, group), group, torch.from_numpy(rng.random(CASES) < 0.5)))

    return control


def _larger(rng: np.random.Generator, group: Tensor) -> Tensor:
    """Activations that are scaled by 1.1 in the group, so that no feature fires more often there."""
    return _sparse(rng, CASES) * torch.where(group, 1.1, 1.0)[:, None]


def _indicator(rng: np.random.Generator) -> DetectorInput:
    """A feature that fires exactly where the trivial indicator is true; the group is correlated with the indicator."""
    indicator = torch.from_numpy(rng.random(CASES) < 0.5)
    group = indicator ^ torch.from_numpy(rng.random(CASES) < 0.1)
    return DetectorInput(GroupedActivations(_sparse(rng, CASES, indicator), group, indicator))


_ALL = (
    Detector(
        name="null-space-lift",
        question="does a weight change lie in the left null space of the weight?",
        score="its energy share there over the share of a random change",
        score_of=null_space_score,
        threshold=1.25,
        planted_positives={
            "of full rank": _into_null_space(lambda width: width),
            "of rank 4": _into_null_space(lambda width: 4),
            "of rank 1": _into_null_space(lambda width: 1),
        },
        controls={
            "random, of full rank": _changed_weight(lambda rng, w: _change(rng, w, w.shape[1])),
            "random, of rank 4": _changed_weight(lambda rng, w: _change(rng, w, 4)),
            "random, of rank 1": _changed_weight(lambda rng, w: _change(rng, w, 1)),
            "the weight, scaled": _changed_weight(lambda rng, w: 0.1 * w),
            "in the column space": _changed_weight(_in_column_space),
        },
    ),
    Detector(
        name="cluster-separation",
        question="are two groups of activations separated?",
        score="distance between the means over the mean distance of a case to its group's mean",
        score_of=cluster_score,
        threshold=0.5,
        planted_positives={
            "two clouds": _two_clusters(False, False),
            "with outliers": _two_clusters(True, False),
            "along a line": _two_clusters(False, True),
        },
        controls={
            "one cloud, halved": _same_cloud(_halves),
            "one of them wider": _same_cloud(_wider),
            "one with outliers": _same_cloud(_with_outliers),
            "clusters that are not the groups": _same_cloud(_two_inside),
        },
    ),
    Detector(
        name="first-token-substitution",
        question="does a direction raise one token over its competitor?",
        score="cosine with the difference of their unembedding rows",
        score_of=substitution_score,
        threshold=0.6,
        planted_positives={
            "orthonormal rows": _swaps(False, False),
            "rows with a common part": _swaps(True, False),
            "other tokens move too": _swaps(False, True),
        },
        controls={
            "a random direction": _no_swap(lambda rng, rows: _normal(rng, rows.shape[1])),
            "both tokens raised": _no_swap(lambda rng, rows: rows[0] + rows[1]),
            "all tokens raised": _no_swap(lambda rng, rows: rows.sum(dim=0), alike=True),
            "other tokens swapped": _no_swap(_other_tokens),
            "swapped the other way": _no_swap(lambda rng, rows: rows[1] - rows[0]),
        },
    ),
    Detector(
        name="sae-feature",
        question="does a feature of a sparse autoencoder separate a group of cases from the rest?",
        score="difference in firing rate over the largest difference of any feature by chance",
        score_of=feature_score,
        threshold=1.2,
        planted_positives={
            "fires in 70 % against 10 %": _feature_marks_group(0.7, 0.1),
            "fires in 50 % against 10 %": _feature_marks_group(0.5, 0.1),
            "fires in 40 % against 80 %": _feature_marks_group(0.4, 0.8),
        },
        controls={
            "no difference": _no_feature(lambda rng, group: _sparse(rng, CASES)),
            "activations a little larger": _no_feature(_larger),
            "no structure": _no_feature(lambda rng, group: _normal(rng, CASES, 32)),
            "the trivial indicator": _indicator,
        },
    ),
)

DETECTORS = {detector.name: detector for detector in _ALL}
