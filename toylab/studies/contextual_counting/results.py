"""What the jobs of the counting study measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from toylab.probes import ClassReadout, ProbeScore, Saturation
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN

COUNTED = "counted ones"
CLASSES = (
    *(COUNTED, "other regions' ones", "outside ones", "zeros"),
    *("own [", "own ]", "earlier brackets", "later brackets", "begin"),
)
"""What a key can be to a label query; together they are all tokens."""
CONSTANT = ("begin", "own [", "own ]", "earlier brackets")
"""Bias classes of which a string has a number that depends on the label alone."""
VARYING = tuple(name for name in CLASSES if name not in (COUNTED, *CONSTANT))
"""The other bias classes: their number changes from string to string."""

OWN_BRACKETS, ALL_ONES, BIAS_TOKEN = "own brackets", "all ones", "the bias"
"""What is blocked besides single classes: both brackets of the region, ones wherever they stand, the named bias."""
OUTSIDE_ONES = "outside ones"
BLOCKED = (COUNTED, OWN_BRACKETS, OUTSIDE_ONES, ALL_ONES)
"""What tells circuits apart."""

SIXTEEN_ZEROS, ADDED_REGION = "16 zeros", "a region"
"""What is appended where claims look at the answers to longer strings; no count changes."""

SOLVED = 0.9
"""Accuracy from which a region counts as solved."""

SLACK = 0.05
"""How far above the best constant answer an accuracy may lie and still show no knowledge."""


@dataclass(frozen=True, kw_only=True)
class NamedRegion:
    """What the probes make of one label query, such as one of a hand-written counter."""

    circuit: str
    """One of `toylab.probes.CIRCUITS`."""
    bias: str
    """The class that it compares with, or "mixed"; see `toylab.probes.name_bias`."""
    k: float
    """Weight of the bias in units of one counted one, from the mass on counted ones."""
    r2: float
    """Of that fit, 0 where it explains nothing."""
    blocked: dict[str, float]
    """Accuracy without each class, and without "own brackets", "all ones" and, where it is no mixture, "the bias"."""


@dataclass(frozen=True, kw_only=True)
class RegionCircuit(NamedRegion):
    """How one label query of a trained model answers."""

    accuracy: float
    """Share of correct counts, unedited."""
    share: float
    """Of the bias in the attention not on counted ones."""
    shares: dict[str, float]
    """Of every class but counted ones."""
    curve: dict[int, float]
    """By the true count, the mean mass on counted ones."""

    @property
    def solved(self) -> bool:
        """Whether the region counts as solved."""
        return self.accuracy >= SOLVED

    @property
    def counts(self) -> bool:
        """Whether the decoder counts, by attention on the ones."""
        return self.circuit == "counter"

    @property
    def largest(self) -> str:
        """The class with the most of the attention not on counted ones."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def without_next(self) -> float:
        """Accuracy without the class that is second in attention, counted ones left out."""
        return self.blocked.get(sorted(self.shares, key=self.shares.__getitem__)[-2], self.accuracy)

    @property
    def without_ones(self) -> float:
        """Accuracy without the counted ones."""
        return self.blocked[COUNTED]

    @property
    def without_bias(self) -> float | None:
        """Accuracy without the bias token; None where the bias is mixed."""
        return self.blocked.get(BIAS_TOKEN)

    def needs_bias(self, floor: float) -> bool:
        """Whether there is a bias token, and no accuracy above a floor without it."""
        return self.without_bias is not None and self.without_bias <= floor


@dataclass(frozen=True, kw_only=True)
class RegionReadout:
    """The logits of one label rebuilt from one value a class of keys: Golkar et al. 2024, equation 3."""

    two_values: ClassReadout
    """Of counted ones and of the largest class of bias tokens, as in the paper."""
    all_classes: ClassReadout
    """Of every class: shows what is left to differences within a class."""


@dataclass(frozen=True, kw_only=True)
class RegionProbe:
    """Is the region of a one linearly decodable? Accuracies as in `toylab.probes.ProbeScore`."""

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
    """Accuracy by region of a rotary model whose fast planes, slow planes or all planes no longer turn."""

    fast: list[float]
    slow: list[float]
    all: list[float]


@dataclass(frozen=True, kw_only=True)
class RotaryProfile:
    """The planes of a rotary encoder, fastest first."""

    planes: list[float]
    """What each adds to how much a one prefers brackets (their mean) to bits."""
    frequencies: list[float]
    """In radians a token."""
    stopped: StoppedPlanes

    def slow_share(self, longest: int) -> float:
        """The share of the score (absolute) from planes of less than one radian over so many tokens."""
        slow = [part for part, f in zip(self.planes, self.frequencies, strict=True) if f < 1 / longest]
        return sum(map(abs, slow)) / sum(map(abs, self.planes))

    def slow_lead(self, longest: int) -> float:
        """How far that share is above the share of planes that are slow, which random scores would have."""
        return self.slow_share(longest) - sum(f < 1 / longest for f in self.frequencies) / len(self.frequencies)


@dataclass(frozen=True, kw_only=True)
class CountShift:
    """What a change outside the regions, which changes no count, does to the answers of one label."""

    accuracy: float
    """After the change."""
    before: float
    """The slope of predicted against true counts before it."""
    after: float
    """That slope after it."""
    predicted: float
    """What the law n K / K' makes of the slope before, if all tokens of a class weigh the same."""
    by_place: float
    """The same, if tokens of a class weigh the same between the same two brackets."""

    def error(self, slope: float) -> float:
        """The relative error of a predicted slope; 1 where the model always answers none."""
        return abs(slope / self.after - 1) if self.after else 1.0


@dataclass(frozen=True, kw_only=True)
class OtherStrings:
    """Accuracy by label, and that of the best constant answer, on strings of another kind."""

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
    """The likeliest count of each label."""
    encoder: list[list[float]]
    """Attention of the first head: query, key."""
    decoder: list[list[float]]
    """Attention of the first head: label, key."""


@dataclass(frozen=True, kw_only=True)
class UntrainedCounter:
    """The same measurements where nothing is learned: of a model with the entries of its weights in random order."""

    probe: RegionProbes
    uniform: Saturation
    """The curve n / (n + K) fitted to attention that is the same on every token, from the true counts."""
    scores: list[list[float]] | None = None
    """Of encoders without positions."""
    rotary: RotaryProfile | None = None


@dataclass(frozen=True, kw_only=True)
class CountingResult:
    """What is measured of a trained model, on held-out strings of the greatest length with most regions."""

    steps: int
    """Steps of training."""
    solved_at: int | None
    """The first evaluated step with the accuracy from which a task counts as solved; None if there was none."""
    accuracy: list[float]
    """Share of correct counts, by region."""
    floor: float
    """The accuracy of the best constant answer."""
    circuits: list[RegionCircuit]
    """By region."""
    probe: RegionProbes
    example: CountingExample
    shifts: dict[str, list[CountShift]]
    """By what was appended, such as "16 zeros", each region; without changes for which a model has no positions."""
    elsewhere: dict[str, OtherStrings]
    """By what differs, such as "length 96"."""
    readout: list[RegionReadout] | None = None
    """By region; none for a decoder that is more than its cross-attention."""
    scores: list[list[float]] | None = None
    """Score of every type of token (query) for every other (key) in the encoder; of encoders without positions."""
    permutation_gap: float | None = None
    """The largest change of a logit when tokens are shuffled, in float64; of encoders without positions."""
    rotary: RotaryProfile | None = None
    untrained: UntrainedCounter | None = None
    """What random weights and uniform attention show."""

    @property
    def mean_accuracy(self) -> float:
        """Over the regions."""
        return sum(self.accuracy) / len(self.accuracy)

    @property
    def is_solved(self) -> bool:
        """Whether the mean accuracy counts as solved."""
        return self.mean_accuracy >= SOLVED

    @property
    def is_near_floor(self) -> bool:
        """Whether the mean accuracy is at most .1 above that of the best constant answer."""
        return self.mean_accuracy <= self.floor + 0.1

    @property
    def solved(self) -> list[RegionCircuit]:
        """The circuits of the solved regions."""
        return [circuit for circuit in self.circuits if circuit.solved]

    @property
    def solved_readouts(self) -> list[RegionReadout]:
        """Of the solved regions."""
        return [one for one, circuit in zip(self.readout or [], self.circuits, strict=False) if circuit.solved]

    @property
    def scores_of_one(self) -> list[float]:
        """Scores of a one for every type of token."""
        return self.scores[ONE]

    @property
    def bracket_share(self) -> float:
        """The attention of a one on brackets and the begin token if there were one token of each type."""
        return attention_on_brackets(self.scores)

    @property
    def agreement(self) -> float | None:
        """Share of cases with the same likeliest count by two values and by the model, in solved regions."""
        held = [one.two_values.agreement for one in self.solved_readouts]
        return sum(held) / len(held) if held else None

    def lead(self, other: CountingResult) -> float:
        """In mean accuracy over another model."""
        return self.mean_accuracy - other.mean_accuracy

    def share(self, test: Callable[[RegionCircuit], bool]) -> float | None:
        """Of the solved regions; None without any."""
        return self.over_solved(lambda region: float(test(region)))

    def over_solved(self, number: Callable[[RegionCircuit], float]) -> float | None:
        """The mean over the solved regions; None without any."""
        return sum(map(number, self.solved)) / len(self.solved) if self.solved else None

    def share_at_floor(self, accuracy: Callable[[RegionCircuit], float | None]) -> float | None:
        """Of the solved regions, with an accuracy that shows no knowledge; None counts as none of these."""
        return self.share(lambda region: (got := accuracy(region)) is not None and got <= self.floor + SLACK)

    def without(self, keys: str) -> list[float]:
        """Accuracy by region where label queries cannot see these keys."""
        return [circuit.blocked[keys] for circuit in self.circuits]

    def shifted(self, change: str) -> list[tuple[RegionCircuit, CountShift]]:
        """The solved regions that count in the decoder, with what a change does to each."""
        both = zip(self.circuits, self.shifts.get(change, []), strict=False)
        return [(circuit, shift) for circuit, shift in both if circuit.solved and circuit.counts]


def attention_on_brackets(scores: list[list[float]]) -> float:
    """That of a one on brackets and the begin token, from the scores of types of tokens, at equal numbers of each."""
    weights = [math.exp(score - max(scores[ONE])) for score in scores[ONE]]
    return sum(weights[token] for token in (OPEN, CLOSE, BEGIN)) / sum(weights)


@dataclass(frozen=True, kw_only=True)
class HandwrittenResult:
    """What is measured of hand-written counters."""

    errors: int
    """Wrong counts, over lengths and numbers of regions."""
    asked: int
    """Counts asked."""
    named: dict[str, list[NamedRegion]]
    """By the bias that was written, "begin" or "bracket", each region."""

    @property
    def share_named_correctly(self) -> float:
        """Share of regions with the circuit and the bias token that were written."""
        written = {"begin": "begin", "bracket": "own ["}
        correct = [
            region.circuit == "counter" and region.bias == written[bias]
            for bias, regions in self.named.items()
            for region in regions
        ]
        return sum(correct) / len(correct)
