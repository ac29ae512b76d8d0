"""Result types of the counting study."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from toylab.probes import ClassReadout, ProbeScore, Saturation
from toylab.settings import later_field
from toylab.studies.contextual_counting.exact import ExactCounting
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN
from toylab.verdicts.judgement import measured

COUNTED = "counted ones"
CLASSES = (
    *(COUNTED, "other regions' ones", "outside ones", "zeros"),
    *("own [", "own ]", "earlier brackets", "later brackets", "begin"),
)
"""Disjoint classes of keys for a label query, which cover all tokens."""
CONSTANT = ("begin", "own [", "own ]", "earlier brackets")
"""Bias classes whose number of tokens depends only on the label."""
VARYING = tuple(name for name in CLASSES if name not in (COUNTED, *CONSTANT))
"""Bias classes whose number of tokens varies between strings."""

OWN_BRACKETS, ALL_ONES, BIAS_TOKEN = "own brackets", "all ones", "the bias"
"""Sets of keys that are hidden in addition to single classes: the brackets of the region, all ones, the bias token."""
OUTSIDE_ONES = "outside ones"
BLOCKED = (COUNTED, OWN_BRACKETS, OUTSIDE_ONES, ALL_ONES)
"""Hidden keys that distinguish circuits."""

SIXTEEN_ZEROS, ADDED_REGION = "16 zeros", "a region"
"""Changes for claims on longer strings; neither changes a count."""

SOLVED = 0.9
"""Accuracy from which a region counts as solved."""

SLACK = 0.05
"""Margin above the best constant answer within which an accuracy counts as guessing."""


@dataclass(frozen=True, kw_only=True)
class NamedRegion:
    """The circuit that the probes identify for one label query."""

    circuit: str
    """One of `toylab.probes.CIRCUITS`."""
    bias: str
    """The bias class, or "mixed"; see `toylab.probes.name_bias`."""
    k: float
    """Weight of the bias in units of one counted one, from the mass on counted ones."""
    r2: float
    """R^2 of that fit, at least 0."""
    blocked: dict[str, float]
    """Accuracy with one class of keys hidden, for each class, "own brackets", "all ones" and, if there is one, "the
    bias"."""


@dataclass(frozen=True, kw_only=True)
class RegionCircuit(NamedRegion):
    """The circuit of one label query of a trained model."""

    accuracy: float
    """Share of correct counts, unedited."""
    share: float
    """Share of the bias in the attention outside counted ones."""
    shares: dict[str, float]
    """Attention of every class except counted ones."""
    curve: dict[int, float]
    """Mean attention on counted ones, by true count."""

    @property
    def solved(self) -> bool:
        """Whether the region counts as solved."""
        return self.accuracy >= SOLVED

    @property
    def counts(self) -> bool:
        """Whether the decoder counts by attention on the ones."""
        return self.circuit == "counter"

    @property
    def largest(self) -> str:
        """The class with the most attention outside counted ones."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def without_next(self) -> float:
        """Accuracy with the class hidden that has the second-largest attention besides the counted ones."""
        return self.blocked.get(sorted(self.shares, key=self.shares.__getitem__)[-2], self.accuracy)

    @property
    def without_ones(self) -> float:
        """Accuracy without the counted ones."""
        return self.blocked[COUNTED]

    @property
    def without_bias(self) -> float | None:
        """Accuracy without the bias token; None if the bias is mixed."""
        return self.blocked.get(BIAS_TOKEN)

    def needs_bias(self, floor: float) -> bool:
        """Whether there is a bias token without which the accuracy is at the floor."""
        return self.without_bias is not None and self.without_bias <= floor


@dataclass(frozen=True, kw_only=True)
class RegionReadout:
    """Logits of one label rebuilt from one value per class of keys (Golkar et al. 2024, equation 3)."""

    two_values: ClassReadout
    """Values of counted ones and of the largest bias class, as in the paper."""
    all_classes: ClassReadout
    """Values of every class; the remaining error comes from differences between tokens of one class."""


@dataclass(frozen=True, kw_only=True)
class RegionProbe:
    """Score of a linear probe for the region of a one, as in `toylab.probes.ProbeScore`."""

    accuracy: float
    majority: float
    shuffled: float
    two_components: float
    """The share of the variance of ones in two principal components."""

    @classmethod
    def of(cls, score: ProbeScore, two_components: float) -> RegionProbe:
        """From the score of a probe."""
        return cls(**vars(score), two_components=two_components)


@dataclass(frozen=True, kw_only=True)
class RegionProbes:
    """Linear probes at two sites of the encoder."""

    attention_output: RegionProbe
    decoder_input: RegionProbe


@dataclass(frozen=True, kw_only=True)
class StoppedPlanes:
    """Accuracy by region of a rotary model with the rotation of fast, slow or all planes stopped."""

    fast: list[float]
    slow: list[float]
    all: list[float]


@dataclass(frozen=True, kw_only=True)
class RotaryProfile:
    """The planes of a rotary encoder, fastest first."""

    planes: list[float]
    """Contribution of each plane to the score of a one for brackets (their mean) minus bits."""
    frequencies: list[float]
    """Frequencies in radians per token."""
    stopped: StoppedPlanes

    def slow_share(self, longest: int) -> float:
        """The share of the absolute score in planes below one radian over `longest` tokens."""
        slow = [part for part, f in zip(self.planes, self.frequencies, strict=True) if f < 1 / longest]
        return sum(map(abs, slow)) / sum(map(abs, self.planes))

    def slow_lead(self, longest: int) -> float:
        """`slow_share` minus the fraction of planes that are slow, which is what random scores would give."""
        return self.slow_share(longest) - sum(f < 1 / longest for f in self.frequencies) / len(self.frequencies)


@dataclass(frozen=True, kw_only=True)
class CountShift:
    """The effect on one label's answers of a change outside the regions, which changes no count."""

    accuracy: float
    """Accuracy after the change."""
    before: float
    """Slope of predicted against true counts before the change."""
    after: float
    """Slope after the change."""
    predicted: float
    """Slope after the change that the law n K / K' predicts if all tokens of a class share one weight."""
    by_place: float
    """As `predicted`, but only tokens of a class between the same two brackets share one weight."""

    def error(self, slope: float) -> float:
        """The relative error of a predicted slope; 1 if the model always answers zero."""
        return abs(slope / self.after - 1) if self.after else 1.0


@dataclass(frozen=True, kw_only=True)
class OtherStrings:
    """Accuracy by label, and of the best constant answer, on strings of another kind."""

    accuracy: list[float]
    floor: float


@dataclass(frozen=True, kw_only=True)
class CountingExample:
    """One held-out string."""

    tokens: list[str]
    regions: list[int]
    """The region of each token, from 1 on; 0 outside."""
    counts: list[int]
    """The true count of each label; -100 for a label that the string lacks."""
    guessed: list[int]
    """The most likely count of each label."""
    encoder: list[list[float]]
    """Attention of the first head: query, key."""
    decoder: list[list[float]]
    """Attention of the first head: label, key."""


@dataclass(frozen=True, kw_only=True)
class UntrainedCounter:
    """Control: measurements of `CountingResult` on a model whose weight entries are randomly permuted."""

    probe: RegionProbes
    uniform: Saturation
    """The curve n / (n + K) fitted to uniform attention."""
    scores: list[list[float]] | None = None
    """Attention scores as in `CountingResult.scores`; encoders without positions only."""
    rotary: RotaryProfile | None = None


@dataclass(frozen=True, kw_only=True)
class CountingResult:
    """Measurements of a trained model on held-out strings of maximum length with most regions."""

    steps: int
    """Training steps."""
    solved_at: int | None
    """The first evaluated step with the accuracy from which a task counts as solved; None if there was none."""
    accuracy: list[float]
    """Share of correct counts, by region."""
    floor: float
    """The accuracy of the best constant answer."""
    circuits: list[RegionCircuit]
    """The circuit of each region."""
    probe: RegionProbes
    example: CountingExample
    shifts: dict[str, list[CountShift]]
    """Shifts of each region by change, such as "16 zeros"; a change that exceeds the model's positions is omitted."""
    elsewhere: dict[str, OtherStrings]
    """Accuracy on other strings, by kind, such as "length 96"."""
    readout: list[RegionReadout] | None = None
    """Readout by region; None for a decoder with more than cross-attention."""
    scores: list[list[float]] | None = None
    """Attention score of every token type (query) for every other (key); encoders without positions only."""
    permutation_gap: float | None = None
    """Largest change of a logit under a permutation of tokens, in float64; encoders without positions only."""
    rotary: RotaryProfile | None = None
    untrained: UntrainedCounter | None = None
    """Control on random weights and uniform attention."""
    exact: ExactCounting | None = later_field(None)
    """Properties decided on all inputs of a family; the conditions that claims need."""
    encoding: str | None = later_field(None)
    """The positional encoding that the encoder behaves like, named from its activations."""

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over regions."""
        return sum(self.accuracy) / len(self.accuracy)

    @property
    def is_solved(self) -> bool:
        """Whether the mean accuracy counts as solved."""
        return self.mean_accuracy >= SOLVED

    @property
    def is_near_floor(self) -> bool:
        """Whether the mean accuracy is at most .1 above the accuracy of the best constant answer."""
        return self.mean_accuracy <= self.floor + 0.1

    @property
    def solved(self) -> list[RegionCircuit]:
        """The circuits of the solved regions."""
        return [circuit for circuit in self.circuits if circuit.solved]

    @property
    def solved_readouts(self) -> list[RegionReadout]:
        """Readouts of the solved regions."""
        return [readout for readout, circuit in zip(self.readout or [], self.circuits, strict=False) if circuit.solved]

    @property
    def scores_of_one(self) -> list[float]:
        """Attention scores of a one for every token type."""
        return measured(self.scores)[ONE]

    @property
    def bracket_share(self) -> float:
        """Attention of a one on brackets and the begin token, given one token of each type."""
        return attention_on_brackets(measured(self.scores))

    @property
    def agreement(self) -> float | None:
        """Share of predictions in which two values give the model's most likely count, in solved regions."""
        agreements = [readout.two_values.agreement for readout in self.solved_readouts]
        return sum(agreements) / len(agreements) if agreements else None

    def lead(self, other: CountingResult) -> float:
        """Mean accuracy minus the mean accuracy of another model."""
        return self.mean_accuracy - other.mean_accuracy

    def share(self, test: Callable[[RegionCircuit], bool]) -> float | None:
        """The share of solved regions that pass a test; None without any."""
        return self.over_solved(lambda region: float(test(region)))

    def over_solved(self, number: Callable[[RegionCircuit], float]) -> float | None:
        """The mean of a number over solved regions; None without any."""
        return sum(map(number, self.solved)) / len(self.solved) if self.solved else None

    def share_at_floor(self, accuracy: Callable[[RegionCircuit], float | None]) -> float | None:
        """The share of solved regions with an accuracy at the floor; an accuracy of None counts as above it."""
        return self.share(lambda region: (value := accuracy(region)) is not None and value <= self.floor + SLACK)

    def without(self, keys: str) -> list[float]:
        """Accuracy by region with these keys hidden from label queries."""
        return [circuit.blocked[keys] for circuit in self.circuits]

    def shifted(self, change: str) -> list[tuple[RegionCircuit, CountShift]]:
        """The solved regions that count in the decoder, with the effect of a change on each."""
        both = zip(self.circuits, self.shifts.get(change, []), strict=False)
        return [(circuit, shift) for circuit, shift in both if circuit.solved and circuit.counts]


def attention_on_brackets(scores: list[list[float]]) -> float:
    """Attention of a one on brackets and the begin token, from the scores, given one token of each type."""
    weights = [math.exp(score - max(scores[ONE])) for score in scores[ONE]]
    return sum(weights[token] for token in (OPEN, CLOSE, BEGIN)) / sum(weights)


@dataclass(frozen=True, kw_only=True)
class HandwrittenResult:
    """Measurements of the handwritten counters."""

    errors: int
    """Wrong counts, over lengths and numbers of regions."""
    asked: int
    """Number of counts tested."""
    named: dict[str, list[NamedRegion]]
    """Identified regions by the handwritten bias, "begin" or "bracket"."""

    @property
    def share_named_correctly(self) -> float:
        """Share of regions whose circuit and bias token are identified correctly."""
        written = {"begin": "begin", "bracket": "own ["}
        correct = [
            region.circuit == "counter" and region.bias == written[bias]
            for bias, regions in self.named.items()
            for region in regions
        ]
        return sum(correct) / len(correct)
