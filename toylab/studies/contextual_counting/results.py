"""What the jobs of the counting study measure, and the numbers that several claims and figures read from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from toylab.probes import ProbeScore, Readout
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

NEAR = 0.15
"""Greatest relative error of a predicted slope that counts as a hit."""

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

    two_values: Readout
    """Of counted ones and of the largest class of bias tokens, as in the paper."""
    all_classes: Readout
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


@dataclass(frozen=True, kw_only=True)
class Shift:
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


Law = Callable[[Shift], float]
"""The slope that is predicted."""


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
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
    shifts: dict[str, list[Shift]]
    """By what was appended, such as "16 zeros", each region; without changes for which a model has no positions."""
    elsewhere: dict[str, Elsewhere]
    """By what differs, such as "length 96"."""
    readout: list[RegionReadout] | None = None
    """By region; none for a decoder that is more than its cross-attention."""
    scores: list[list[float]] | None = None
    """Score of every type of token (query) for every other (key) in the encoder; of encoders without positions."""
    permutation_gap: float | None = None
    """The largest change of a logit when tokens are shuffled, in float64; of bidirectional ones without positions."""
    rotary: RotaryProfile | None = None

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
        weights = [math.exp(score - max(self.scores_of_one)) for score in self.scores_of_one]
        return sum(weights[token] for token in (OPEN, CLOSE, BEGIN)) / sum(weights)

    @property
    def agreement(self) -> float | None:
        """Share of cases with the same likeliest count by two values and by the model, in solved regions."""
        held = [one.two_values.agreement for one in self.solved_readouts]
        return sum(held) / len(held) if held else None

    def lead(self, other: CountingResult) -> float:
        """In mean accuracy over another model."""
        return self.mean_accuracy - other.mean_accuracy

    def share(self, test: Callable[[RegionCircuit], bool]) -> float:
        """Of the solved regions, of which there must be some."""
        return sum(map(test, self.solved)) / len(self.solved)

    def without(self, keys: str) -> list[float]:
        """Accuracy by region where label queries cannot see these keys."""
        return [circuit.blocked[keys] for circuit in self.circuits]

    def shifted(self, change: str) -> list[tuple[RegionCircuit, Shift]]:
        """The solved regions that count in the decoder, with what a change does to each."""
        both = zip(self.circuits, self.shifts.get(change, []), strict=False)
        return [(circuit, shift) for circuit, shift in both if circuit.solved and circuit.counts]


Models = Iterable[CountingResult | None]
"""Of several conditions, None where a condition lacks the seed."""


def counting_regions(models: Models, change: str) -> list[tuple[RegionCircuit, Shift]]:
    """The solved regions that count in the decoder, with what a change does to each."""
    return [one for model in models if model for one in model.shifted(change)]


def prediction_error(models: Models, law: Law, change: str) -> float | None:
    """Mean relative error of the slopes that a law predicts for counting regions; None if there are none."""
    errors = [shift.error(law(shift)) for _, shift in counting_regions(models, change)]
    return sum(errors) / len(errors) if errors else None


def hits(models: Models, law: Law, least: float = 0.0) -> list[bool]:
    """Whether a law predicts each slope of counting regions, once 16 zeros or an empty region were appended.

    Args:
        least: the least relative change of the slope that must be predicted.
    """
    held = list(models)
    shifts = [shift for change in (SIXTEEN_ZEROS, ADDED_REGION) for _, shift in counting_regions(held, change)]
    return [shift.error(law(shift)) <= NEAR for shift in shifts if abs(law(shift) / shift.before - 1) >= least]


def share_predicted(*models: CountingResult | None, law: Law) -> float | None:
    """The share of these slopes that a law predicts; None where no counting region could meet 16 zeros."""
    found = hits(models, law)
    return sum(found) / len(found) if counting_regions(models, SIXTEEN_ZEROS) else None


def accuracy_kept(*models: CountingResult | None, biases: Collection[str]) -> float | None:
    """Accuracy after 16 zeros were appended, of counting regions with one of these biases."""
    held = [shift.accuracy for region, shift in counting_regions(models, SIXTEEN_ZEROS) if region.bias in biases]
    return sum(held) / len(held) if held else None


def counting_share(*models: CountingResult | None) -> float | None:
    """Share of solved regions that count in the decoder, mean over the models that solved a region."""
    shares = [model.share(lambda region: region.counts) for model in models if model and model.solved]
    return sum(shares) / len(shares) if shares else None


def near(models: Models, law: Law) -> str:
    """How many slopes a law predicts, of those that it predicts to change by 5 % or more."""
    found = hits(models, law, least=0.05)
    return f"{sum(found)} of {len(found)}"


def regions_solved(models: Models) -> str:
    """How many regions are solved; without an interval, since regions of a model are no independent samples."""
    found = [region.solved for model in models for region in model.circuits]
    return f"{sum(found)} of {len(found)}"


def bias_names(models: Models) -> dict[str, int]:
    """How many solved regions have each class as the largest bias."""
    return dict(Counter(region.largest for model in models for region in model.solved).most_common())


def circuit_names(models: Models) -> dict[str, int]:
    """How many solved regions have each circuit."""
    return dict(Counter(region.circuit for model in models for region in model.solved).most_common())


def accuracy_elsewhere(models: Models) -> dict[str, float]:
    """Mean accuracy by what differs from the strings on which models are judged."""
    held: dict[str, list[float]] = {}
    for model in models:
        for name, one in model.elsewhere.items():
            held.setdefault(name, []).extend(one.accuracy)
    return {name: sum(shares) / len(shares) for name, shares in held.items()}


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """What is measured of hand-written counters."""

    errors: int
    """Wrong counts, over lengths and numbers of regions."""
    asked: int
    """Counts asked."""
    named: dict[str, list[NamedRegion]]
    """By the bias that was written, "begin" or "bracket", each region."""

    @property
    def named_correctly(self) -> float:
        """Share of regions with the circuit and the bias token that were written."""
        written = {"begin": "begin", "bracket": "own ["}
        correct = [
            region.circuit == "counter" and region.bias == written[bias]
            for bias, regions in self.named.items()
            for region in regions
        ]
        return sum(correct) / len(correct)
