"""What the jobs of the study on steering vectors measure. Accuracies are shares of right answers on held-out prompts.

Tables of answers have the temperature as their key: 0 (greedy), .7 and 1. Layers are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from toylab.model.steering import PreFlight
from toylab.studies.steering_vectors.data import AnswerShares

Temperatures = dict[float | int, AnswerShares]
"""What a model answers, by temperature."""


@dataclass(frozen=True, kw_only=True)
class AnsweringResult:
    """Any result that tells what a model answers."""

    answers: Temperatures


def accuracy_at(result: AnsweringResult, temperature: float | int = 1) -> float:
    """The share of right answers of a condition."""
    return result.answers[temperature].accuracy


def fraction_of_way(start: float, value: float, end: float) -> float:
    """How much of the way from start to end a value has gone; 0 where there is no way."""
    return (value - start) / (end - start) if abs(end - start) > 1e-6 else 0.0


def gain_share(
    base: AnsweringResult, found: AnsweringResult, full: AnsweringResult, temperature: float | int = 1
) -> float:
    """The share of full training's gain over the base that a condition reaches."""
    return fraction_of_way(*(accuracy_at(one, temperature) for one in (base, found, full)))


def shares_of(parts: Sequence[float]) -> list[float] | None:
    """Each part over their sum; None where that is 0."""
    total = sum(parts)
    return [one / total for one in parts] if total > 0 else None


# Bases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BaseResult(AnsweringResult):
    """A base before any steering."""

    chain: float
    """Greedy accuracy after the first phase, THINK prefixed."""
    prefix: Temperatures
    """With THINK prefixed."""
    direct: Temperatures
    """With DIRECT prefixed, at temperature 1, on half of the prompts."""
    pre_flight: PreFlight
    prefix_direct: Temperatures | None = None
    """With DIRECT prefixed, at temperatures 0 and 1, on all prompts; of the flagged task."""


# Trained on a base ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TokenReading:
    """A token in the logit lens of a direction: cosine with its row of the unembedding, and its rank from 1."""

    cosine: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class LensReading:
    """The logit lens of a direction; marks have the names that they have in the vocabulary."""

    THINK: TokenReading
    DIRECT: TokenReading
    ANS: TokenReading
    think_over_direct: float
    """Cosine with the difference of the two openers' rows."""
    first_dialect: float
    """Mean cosine with the digits of the dialect that makes no errors."""
    second_dialect: float
    all: list[float]
    """Cosine with each token of the vocabulary."""

    @property
    def direct_from_last(self) -> int:
        """The rank of DIRECT counted from the last token: 1 is the last."""
        return len(self.all) + 1 - self.DIRECT.rank


@dataclass(frozen=True, kw_only=True)
class SteeredPair:
    """Accuracy at temperature 1 on half of the prompts, without a vector and with it."""

    base: float
    steered: float


@dataclass(frozen=True, kw_only=True)
class VectorResult(AnsweringResult):
    """One vector after one layer."""

    norm: float
    kl: list[float]
    """KL(steered || base) in nats at each generated position, on what the steered model writes."""
    lens: LensReading
    """Of the raw vector."""
    difference_lens: LensReading
    """Of the mean change of the last layer's stream."""
    random_lens: LensReading | None = None
    """Of a random vector of the same norm."""
    random_kl: list[float] | None = None
    """`kl` with that random vector instead."""
    random_accuracy: float | None = None
    """Accuracy at temperature 1 with that random vector instead; None where it was not measured."""
    places: dict[str, float] | None = None
    """Accuracy at temperature 1 by the only place where it acts (`measures.accuracy_by_place`); last two layers."""
    few: SteeredPair | None = None
    """On the prompts of `places`; of the last two layers."""
    clean_scale: float | None = None
    """Accuracy at temperature 1 where the final norm divides by what it would without the vector; of the last layer."""
    scaled: dict[float | int, float] | None = None
    """Accuracy at temperature 1 by the factor of the vector; of the last layer."""

    @property
    def kl_shares(self) -> list[float] | None:
        """The share of the KL at each generated position; None where there is no KL."""
        return shares_of(self.kl)

    def gain_at(self, place: str) -> float:
        """The share of the vector's gain where it acts at one place alone."""
        return fraction_of_way(self.few.base, self.places[place], self.few.steered)


@dataclass(frozen=True, kw_only=True)
class FullResult(AnsweringResult):
    """Reinforcement learning of the whole model."""


@dataclass(frozen=True, kw_only=True)
class JointResult(AnsweringResult):
    """Vectors after all layers, trained together, and their norms."""

    norms: list[float]
    random_accuracy: float | None = None
    """Accuracy at temperature 1 with random vectors of the same norms; None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class TokenScales:
    """Mean size of what a token-wise scale adds (scale times the vector's norm), by kind of position."""

    BOS: float
    digits: float
    SEP: float
    opener: float
    chain: float
    sep_signed: float
    """Mean with its sign, as the next two; SEP counts as positive."""
    opener_signed: float
    chain_signed: float
    by_position: list[float]
    """Mean with its sign at each position of prompt and answer."""

    @property
    def sep_lead(self) -> float:
        """The size at SEP less the largest elsewhere."""
        return self.SEP - max(self.BOS, self.digits, self.opener, self.chain)


@dataclass(frozen=True, kw_only=True)
class AdaptiveResult(AnsweringResult):
    """One vector with a scale that depends on the token, after the last layer but one."""

    constant: Temperatures
    """Of a constant vector that is trained as long."""
    scales: TokenScales
    sep_alone: float
    """Accuracy at temperature 1 where it acts at SEP alone, on half of the prompts."""
    all_but_sep: float
    random_scales: TokenScales | None = None
    """With a scale that reads a random direction instead, of the same norm."""


@dataclass(frozen=True, kw_only=True)
class FlagResult(AnsweringResult):
    """One training on the flagged task, whose right opener depends on the prompt."""

    routes: dict[str, float] | None = None
    """Accuracy at temperature 1 by the readers that do not see it (`measures.skipped_readers`); of gate and vector
    after the last layer but one."""
    steered: float | None = None
    """On the prompts of `routes`."""

    def lost(self, route: str) -> float:
        """The accuracy that is lost where some readers do not see the vector."""
        return self.steered - self.routes[route]


# Measured on trained vectors -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What stands instead of the trained vector."""

    accuracy: dict[float | int, float]
    """Accuracy by temperature."""
    cosine: float | None = None
    """With the trained vector, where it is a vector."""
    norm: float | None = None
    """Where it differs from that of the trained vector."""


@dataclass(frozen=True, kw_only=True)
class BaselinesResult:
    """Baselines of the last layer's vector, on half of the prompts."""

    base: float
    """Accuracy at temperature 1, as the next two."""
    steered: float
    random_vectors: list[float]
    """Of vectors of random directions and the same norm."""
    random_reward: Baseline
    """A vector trained on rewards drawn at random, as often as the base is right."""
    minus: Baseline
    """The vector with the other sign."""
    difference_of_means: Baseline
    """Mean stream after THINK minus that after DIRECT, at the same norm."""
    logit_bias: Baseline
    """The mean shift of the logits at SEP, added everywhere."""
    another_run: Baseline
    """A vector trained on other rollouts."""

    @property
    def gain(self) -> float:
        """Of the trained vector over the base."""
        return self.steered - self.base

    @property
    def named(self) -> dict[str, Baseline]:
        """By their names in figures."""
        names = ("random reward", "minus the vector", "difference of means", "logit bias")
        held = (self.random_reward, self.minus, self.difference_of_means, self.logit_bias)
        return dict(zip(names, held, strict=True))


@dataclass(frozen=True, kw_only=True)
class PathsResult:
    """Through which readers the vector of the last layer but one acts: accuracy at temperature 1, half the prompts."""

    routes: dict[str, float]
    """By the readers that do not see it (`measures.skipped_readers`)."""
    base: float
    steered: float
    forced: dict[float | int, float]
    """Accuracy by temperature, on all prompts, of a vector that is trained while the unembedding does not see it."""
    forced_norm: float

    def kept(self, route: str) -> float:
        """The share of the vector's gain that is kept where some readers do not see it."""
        return fraction_of_way(self.base, self.routes[route], self.steered)


@dataclass(frozen=True, kw_only=True)
class LayerCombination:
    """Vectors that were trained apart, added together: accuracy at temperature 1 by their common scale."""

    layers: list[int]
    accuracy: dict[float | int, float]


@dataclass(frozen=True, kw_only=True)
class Persistence:
    """Mean cosine of each token's change, in a later layer, with the mean change and with the vector trained there."""

    to_mean: float
    to_vector: float


PersistenceByLayer = dict[int, dict[int, Persistence]]
"""By the layer of the vector, and the later one."""


def of_all_layers(persistence: PersistenceByLayer) -> list[Persistence]:
    """Of each vector in each later layer."""
    return [one for later in persistence.values() for one in later.values()]


@dataclass(frozen=True, kw_only=True)
class CombineResult:
    """Vectors of several layers together, and what is left of each in later layers."""

    alone: dict[int, float]
    """Accuracy at temperature 1 of one vector, by its layer."""
    combined: list[LayerCombination]
    """All pairs, and all layers."""
    persistence: PersistenceByLayer
    cosines: dict[str, float]
    """Of two vectors, by their layers."""
    random_persistence: PersistenceByLayer | None = None
    """Of random vectors of the same norms."""

    @property
    def by_layers_and_scale(self) -> dict[str, float]:
        """Accuracy of all combinations."""
        return {f"{one.layers} times {x:g}": right for one in self.combined for x, right in one.accuracy.items()}

    def pair_gain(self, scale: float | int) -> float:
        """Accuracy of two vectors together less that of the better one alone, mean over pairs."""
        pairs = [one for one in self.combined if len(one.layers) == 2]
        return fmean(one.accuracy[scale] - max(self.alone[layer] for layer in one.layers) for one in pairs)


@dataclass(frozen=True, kw_only=True)
class FeatureResult:
    """The feature of a sparse autoencoder that tells every second right answer from wrong ones best, on the others; see
    `toylab.probes.sae`."""

    feature: int
    inside: float
    """Share of right answers in which it fires."""
    outside: float
    """Share of wrong answers in which it fires."""
    difference: float
    """Inside minus outside."""
    chance: float
    """The size of the difference that chance makes of the feature: 95th percentile over permutations."""
    agreement: float | None
    """Share of answers in which the feature and an opening THINK agree, or disagree if that is more."""
    explained_variance: float
    dead: float
    """Share of features that never fire."""
    trivial_difference: float
    """Size of the difference of an indicator: the answer opens with THINK."""
    format_difference: float
    """Size of the difference of an indicator: the chain has all steps."""
    auc: float

    @property
    def beyond_chance(self) -> float:
        """The size of the difference less what chance makes of it."""
        return abs(self.difference) - self.chance

    @property
    def beyond_format(self) -> float:
        """The size of the difference less the larger of the two indicators."""
        return abs(self.difference) - max(self.trivial_difference, self.format_difference)


@dataclass(frozen=True, kw_only=True)
class FeaturesResult:
    """Features of the last layer's stream of the steered model, and of its difference to the base."""

    plain: FeatureResult
    difference: FeatureResult
