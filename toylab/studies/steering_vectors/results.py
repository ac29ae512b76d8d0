"""Results of the jobs of the steering-vector study. Accuracies are shares of correct answers on held-out prompts.

Tables of answers are keyed by temperature: 0 (greedy), .7 and 1. Layers are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from toylab.model.steering import PreFlight
from toylab.proofs.exact import Exact
from toylab.settings import later_field
from toylab.studies.steering_vectors.attention_change import AttentionChange
from toylab.studies.steering_vectors.data import AnswerShares
from toylab.studies.steering_vectors.exact_results import ExactAnswers
from toylab.verdicts.judgement import measured

Temperatures = dict[float | int, AnswerShares]
"""Answer statistics by temperature."""


@dataclass(frozen=True, kw_only=True)
class AnsweringResult:
    """A result with answer statistics."""

    answers: Temperatures
    exact: ExactAnswers | None = later_field(None)


def accuracy_at(result: AnsweringResult, temperature: float | int = 1) -> float:
    """Accuracy of a condition at a temperature."""
    return result.answers[temperature].accuracy


def fraction_of_way(start: float, value: float, end: float) -> float:
    """(value - start) / (end - start); 0 if start and end are equal."""
    return (value - start) / (end - start) if abs(end - start) > 1e-6 else 0.0


def prefix_ratio(base: BaseResult, trained: AnsweringResult, opener: Literal["prefix", "direct"] = "prefix") -> float:
    """Gain of a prefixed opener divided by the gain of a trained model."""
    return fraction_of_way(accuracy_at(base), getattr(base, opener)[1].accuracy, accuracy_at(trained))


def gain_share(
    base: AnsweringResult, condition: AnsweringResult, full: AnsweringResult, temperature: float | int = 1
) -> float:
    """Gain of a condition over the base, as a share of the gain of full training."""
    return fraction_of_way(*(accuracy_at(result, temperature) for result in (base, condition, full)))


def shares_of(parts: Sequence[float]) -> list[float] | None:
    """Each part over the sum; None if the sum is 0."""
    total = sum(parts)
    return [part / total for part in parts] if total > 0 else None


# Bases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BaseResult(AnsweringResult):
    """The base model, before steering."""

    chain: float
    """Greedy accuracy after the first phase of pre-training, with THINK prefixed to the answer."""
    prefix: Temperatures
    """Answers with THINK prefixed."""
    direct: Temperatures
    """Answers with DIRECT prefixed, at temperature 1, on half of the prompts."""
    pre_flight: PreFlight
    prefix_direct: Temperatures | None = None
    """Answers with DIRECT prefixed, at temperatures 0 and 1, on all prompts; flagged task only."""


# Training on a base --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TokenReading:
    """One token in the logit lens of a direction: cosine with its unembedding row, and rank (1 is the highest)."""

    cosine: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class LensReading:
    """The logit lens of a direction; marker tokens keep their names in the vocabulary."""

    THINK: TokenReading
    DIRECT: TokenReading
    ANS: TokenReading
    think_over_direct: float
    """Cosine with the difference of the unembedding rows of THINK and DIRECT."""
    first_dialect: float
    """Mean cosine with the digits of the dialect without errors."""
    second_dialect: float
    all: list[float]
    """Cosine with each token of the vocabulary."""

    @property
    def direct_from_last(self) -> int:
        """The rank of DIRECT from the bottom: 1 is the lowest cosine."""
        return len(self.all) + 1 - self.DIRECT.rank


@dataclass(frozen=True, kw_only=True)
class SteeredPair:
    """Accuracy at temperature 1 on half of the prompts, without and with the vector."""

    base: float
    steered: float


@dataclass(frozen=True, kw_only=True)
class VectorResult(AnsweringResult):
    """One steering vector after one layer."""

    norm: float
    kl: list[float]
    """KL(steered || base) in nats at each generated position, on answers of the steered model."""
    lens: LensReading
    """Logit lens of the vector itself."""
    difference_lens: LensReading
    """Logit lens of the mean change of the last layer's residual stream."""
    random_lens: LensReading | None = None
    """Logit lens of a random vector of the same norm."""
    random_kl: list[float] | None = None
    """`kl` of that random vector."""
    random_accuracy: float | None = None
    """Accuracy at temperature 1 with that random vector; None if not measured."""
    places: dict[str, float] | None = None
    """Accuracy at temperature 1 with the vector at some positions only (`measures.accuracy_by_place`); last two
    layers."""
    few: SteeredPair | None = None
    """Accuracy on the prompts of `places`; last two layers."""
    clean_scale: float | None = None
    """Accuracy at temperature 1 with the final norm's scale of the unsteered stream; last layer."""
    scaled: dict[float | int, float] | None = None
    """Accuracy at temperature 1 by factor of the vector; last layer."""

    @property
    def kl_shares(self) -> list[float] | None:
        """Share of the total KL at each generated position; None if the total is 0."""
        return shares_of(self.kl)

    def gain_at(self, place: str) -> float:
        """Share of the vector's gain with the vector at one place only."""
        few = measured(self.few)
        return fraction_of_way(few.base, measured(self.places)[place], few.steered)


@dataclass(frozen=True, kw_only=True)
class FullResult(AnsweringResult):
    """Reinforcement learning of the whole model."""


@dataclass(frozen=True, kw_only=True)
class JointResult(AnsweringResult):
    """Jointly trained vectors after all layers, and their norms."""

    norms: list[float]
    random_accuracy: float | None = None
    """Accuracy at temperature 1 with random vectors of the same norms; None if not measured."""


@dataclass(frozen=True, kw_only=True)
class TokenScales:
    """Mean absolute size of the addition with a token-wise scale (scale times the vector's norm), by position type."""

    BOS: float
    digits: float
    SEP: float
    opener: float
    chain: float
    sep_signed: float
    """Signed mean, like `opener_signed` and `chain_signed`; the sign is chosen so that SEP is positive."""
    opener_signed: float
    chain_signed: float
    by_position: list[float]
    """Signed mean at each position of prompt and answer."""

    @property
    def sep_lead(self) -> float:
        """Size at SEP minus the largest size at any other position type."""
        return self.SEP - max(self.BOS, self.digits, self.opener, self.chain)

    @property
    def content_lead(self) -> float:
        """Size at the digits of the prompt minus the size at the generated chain."""
        return self.digits - self.chain


@dataclass(frozen=True, kw_only=True)
class AdaptiveResult(AnsweringResult):
    """One vector with a token-wise scale, after the second-to-last layer."""

    constant: Temperatures
    """Answers with a constant vector trained for the same number of steps."""
    scales: TokenScales
    sep_alone: float
    """Accuracy at temperature 1 with the addition at SEP only, on half of the prompts."""
    all_but_sep: float
    """Accuracy at temperature 1 with the addition everywhere except SEP, on half of the prompts."""
    random_scales: TokenScales | None = None
    """`scales` of a control whose scale reads a random direction of the same norm."""


@dataclass(frozen=True, kw_only=True)
class FlagResult(AnsweringResult):
    """One training on the flagged task, whose correct opener depends on the prompt."""

    routes: dict[str, float] | None = None
    """Accuracy at temperature 1 with the addition hidden from some readers (`measures.skipped_readers`); gate and
    vector after the second-to-last layer."""
    steered: float | None = None
    """Accuracy on the prompts of `routes` with nothing hidden."""

    def lost(self, route: str) -> float:
        """Accuracy lost by hiding the vector from some readers."""
        return measured(self.steered) - measured(self.routes)[route]


# Analysis of trained vectors -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """An intervention that replaces the trained vector."""

    accuracy: dict[float | int, float]
    """Accuracy by temperature."""
    cosine: float | None = None
    """Cosine with the trained vector; None if the baseline is not a vector."""
    norm: float | None = None
    """Norm; None if equal to the norm of the trained vector."""


@dataclass(frozen=True, kw_only=True)
class BaselinesResult:
    """Baselines of the last layer's vector, on half of the prompts."""

    base: float
    """Accuracy at temperature 1, like `steered` and `random_vectors`."""
    steered: float
    random_vectors: list[float]
    """Accuracies with vectors in random directions, of the same norm."""
    random_reward: Baseline
    """A vector trained on random rewards with a mean equal to the accuracy of the base."""
    minus: Baseline
    """The vector with the opposite sign."""
    difference_of_means: Baseline
    """Mean residual stream after THINK minus mean after DIRECT, rescaled to the same norm."""
    logit_bias: Baseline
    """The mean shift of the logits at SEP, added at every position."""
    another_run: Baseline
    """A vector trained on other rollouts."""

    @property
    def gain(self) -> float:
        """Accuracy gain of the trained vector over the base."""
        return self.steered - self.base

    @property
    def named(self) -> dict[str, Baseline]:
        """Baselines by their names in figures."""
        names = ("random reward", "minus the vector", "difference of means", "logit bias")
        baselines = (self.random_reward, self.minus, self.difference_of_means, self.logit_bias)
        return dict(zip(names, baselines, strict=True))


@dataclass(frozen=True, kw_only=True)
class PathsResult:
    """Path patching of the vector of the second-to-last layer: accuracy at temperature 1 on half of the prompts."""

    routes: dict[str, float]
    """Accuracy by the readers from which the vector is hidden (`measures.skipped_readers`)."""
    base: float
    steered: float
    forced: dict[float | int, float]
    """Accuracy by temperature, on all prompts, of a vector trained while hidden from the unembedding."""
    forced_norm: float
    free: dict[float | int, float] | None = None
    """Accuracy by temperature of a vector trained as long at the same rate, without hiding."""
    attention: AttentionChange | None = None
    exact: dict[str, Exact] | None = later_field(None)
    """Prompts whose opener the vector changes, by the readers from which it is hidden (`exact.PATHS`)."""

    def kept(self, route: str) -> float:
        """Share of its gain that the vector keeps when it is hidden from some readers."""
        return fraction_of_way(self.base, self.routes[route], self.steered)


@dataclass(frozen=True, kw_only=True)
class LayerCombination:
    """Separately trained vectors, added jointly: accuracy at temperature 1 by common scale."""

    layers: list[int]
    accuracy: dict[float | int, float]


@dataclass(frozen=True, kw_only=True)
class Persistence:
    """Mean cosine of each token's change in a later layer with the mean change, and with the vector trained there."""

    to_mean: float
    to_vector: float


PersistenceByLayer = dict[int, dict[int, Persistence]]
"""Persistence by the layer of the vector, and by the later layer."""


def of_all_layers(persistence: PersistenceByLayer) -> list[Persistence]:
    """Persistence of each vector in each later layer."""
    return [entry for later in persistence.values() for entry in later.values()]


@dataclass(frozen=True, kw_only=True)
class CombineResult:
    """Combinations of vectors of several layers, and the persistence of each vector in later layers."""

    alone: dict[int, float]
    """Accuracy at temperature 1 of a single vector, by layer."""
    combined: list[LayerCombination]
    """All pairs of layers, and all layers."""
    persistence: PersistenceByLayer
    cosines: dict[str, float]
    """Cosines of pairs of vectors, by their layers."""
    random_persistence: PersistenceByLayer | None = None
    """Persistence of random vectors of the same norms."""

    @property
    def by_layers_and_scale(self) -> dict[str, float]:
        """Accuracy of every combination and scale."""
        return {
            f"{combination.layers} times {x:g}": value
            for combination in self.combined
            for x, value in combination.accuracy.items()
        }

    def pair_gain(self, scale: float | int) -> float:
        """Accuracy of two vectors minus the accuracy of the better one alone, mean over pairs."""
        pairs = [pair for pair in self.combined if len(pair.layers) == 2]
        return fmean(pair.accuracy[scale] - max(self.alone[layer] for layer in pair.layers) for pair in pairs)


@dataclass(frozen=True, kw_only=True)
class FeatureResult:
    """The feature of a sparse autoencoder that best separates correct from incorrect answers: selected on one half of
    the answers, evaluated on the other. See `toylab.probes.sae`."""

    feature: int
    inside: float
    """Share of correct answers in which the feature fires."""
    outside: float
    """Share of incorrect answers in which the feature fires."""
    difference: float
    """Inside minus outside."""
    chance: float
    """Absolute difference by chance: 95th percentile over permutations of the labels."""
    agreement: float | None
    """Share of answers in which the feature and an opening THINK agree, or disagree if that is more frequent."""
    explained_variance: float
    dead: float
    """Share of features that never fire."""
    trivial_difference: float
    """Absolute difference for the indicator "the answer opens with THINK"."""
    format_difference: float
    """Absolute difference for the indicator "the chain has all steps"."""
    auc: float

    @property
    def beyond_chance(self) -> float:
        """Absolute difference minus the absolute difference by chance."""
        return abs(self.difference) - self.chance

    @property
    def beyond_format(self) -> float:
        """Absolute difference minus the larger of `trivial_difference` and `format_difference`."""
        return abs(self.difference) - max(self.trivial_difference, self.format_difference)


@dataclass(frozen=True, kw_only=True)
class FeaturesResult:
    """Features of the steered model's last-layer residual stream, and of that stream minus the base model's."""

    plain: FeatureResult
    difference: FeatureResult
