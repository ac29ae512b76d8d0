"""Cases for the detector of counting circuits: handwritten label queries that count, copy or subtract, and controls
that respond to blocked keys in other ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toylab.calibration import Detector, DetectorInput, PlantedPositive, SampledControl
from toylab.calibration.counting import _counter, _strings
from toylab.probes import block_keys, name_circuit
from toylab.studies.contextual_counting.measures import constant_accuracy, find_circuits, key_classes
from toylab.studies.contextual_counting.results import COUNTED


@dataclass(frozen=True)
class BlockedAccuracies:
    """Accuracies with each class of keys blocked, and the planted circuit; None in a control."""

    accuracy: float
    blocked: Mapping[str, float]
    floor: float
    circuit: str | None = None


def circuit_score(shown: BlockedAccuracies) -> float:
    """1 minus the smallest slack at which `name_circuit` returns the planted circuit (in a control, any circuit)."""
    accepted = ("counter", "copy", "complement") if shown.circuit is None else (shown.circuit,)
    for slack in np.linspace(0, 1, 201):
        if name_circuit(shown.accuracy, shown.blocked, shown.floor, slack=float(slack)) in accepted:
            return 1 - float(slack)
    return 0.0


def _circuit_of_counter(bias: Literal["begin", "bracket"]) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        strings = _strings(rng)
        circuits = find_circuits(_counter(rng, strings, noise, bias), strings)
        measured_circuit = circuits[int(rng.integers(len(circuits)))]
        return DetectorInput(
            BlockedAccuracies(
                measured_circuit.accuracy,
                _three_classes(measured_circuit.blocked),
                constant_accuracy(strings),
                "counter",
            ),
            measured_circuit.accuracy,
        )

    return plant


def _three_classes(blocked: Mapping[str, float]) -> dict[str, float]:
    return {
        "counted": blocked[COUNTED],
        "own brackets": blocked["own brackets"],
        "outside ones": blocked["outside ones"],
    }


Reader = Callable[["ReaderKeys", Tensor], Float[Tensor, " batch"]]
"""Maps the unblocked keys and the true counts, which some readers copy, to the reader's answers."""


@dataclass(frozen=True)
class ReaderKeys:
    """Keys of a label query: masks by class, noise on the scores, and the mask of unblocked keys."""

    classes: Mapping[str, Bool[Tensor, "batch key"]]
    jitter: Float[Tensor, "batch key"]
    open: Bool[Tensor, "batch key"]

    def mass(self, weights: Mapping[str, float], name: str) -> Float[Tensor, " batch"]:
        """Attention on one class, with the given softmax weight per key of each class and nearly 0 elsewhere."""
        key_weights = sum((self.classes[key].double() * weight for key, weight in weights.items()), torch.tensor(1e-9))
        scores = block_keys(~self.open[:, None])((key_weights.log() + self.jitter)[:, None, None])
        pattern = scores.softmax(dim=-1)[:, 0, 0]
        return (pattern * self.classes[name]).sum(dim=1)


HALF_COUNT = 10.0


def _count_by_mass(keys: ReaderKeys, name: str) -> Float[Tensor, " batch"]:
    share = keys.mass({name: 1.0, "begin": HALF_COUNT}, name).clamp(max=1 - 1e-6)
    return HALF_COUNT * share / (1 - share)


def _reads_counter(keys: ReaderKeys, counts: Tensor) -> Tensor:
    return _count_by_mass(keys, COUNTED)


def _reads_copy(keys: ReaderKeys, counts: Tensor) -> Tensor:
    """The closing bracket stores the count."""
    return keys.mass({"own ]": 1e6, "begin": 1.0}, "own ]") * counts


def _reads_complement(keys: ReaderKeys, counts: Tensor) -> Tensor:
    """Counts the ones outside the region and subtracts them from a known total."""
    outside = keys.classes["outside ones"].sum(dim=1)
    return counts + outside - _count_by_mass(keys, "outside ones")


def _redundant(first: Reader, second: Reader) -> Reader:
    """Two redundant circuits: the second answers if ones of the region are blocked for the first."""

    def read(keys: ReaderKeys, counts: Tensor) -> Tensor:
        is_blocked = (keys.classes[COUNTED] & ~keys.open).any(dim=1)
        return torch.where(is_blocked, second(keys, counts), first(keys, counts))

    return read


def _reads_nothing(keys: ReaderKeys, counts: Tensor) -> Tensor:
    return torch.full_like(counts, counts.mode().values.item())


def _reads_written_in_ones(keys: ReaderKeys, counts: Tensor) -> Tensor:
    """The encoder has written the count into every one of the region: a copy, not a count."""
    share = keys.mass({COUNTED: 1e6, "begin": 1.0}, COUNTED)
    return share * counts


def _blocked_reader_input(
    rng: np.random.Generator, reader: Reader, circuit: str | None, noise: float = 0.0
) -> DetectorInput:
    strings = _strings(rng)
    label = int(rng.integers(strings.counts.shape[1]))
    classes = {name: mask[:, label] for name, mask in key_classes(strings).items()}
    counts = strings.counts[:, label].double()
    jitter = noise * 3 * torch.from_numpy(rng.standard_normal(tuple(strings.tokens.shape)))

    def accuracy_with_blocked(*blocked: str) -> float:
        blocked_keys = sum((classes[name] for name in blocked), torch.zeros_like(classes[COUNTED]))
        answers = reader(ReaderKeys(classes, jitter, ~blocked_keys), counts).round()
        return (answers == counts).double().mean().item()

    accuracy = accuracy_with_blocked()
    blocked_accuracies = {
        "counted": accuracy_with_blocked(COUNTED),
        "own brackets": accuracy_with_blocked("own [", "own ]"),
        "outside ones": accuracy_with_blocked("outside ones"),
    }
    chance = counts.long().bincount().max().item() / len(counts)
    return DetectorInput(BlockedAccuracies(accuracy, blocked_accuracies, chance, circuit), accuracy)


def _reader(reader: Reader, circuit: str) -> PlantedPositive:
    return lambda rng, noise: _blocked_reader_input(rng, reader, circuit, noise)


def _no_circuit(reader: Reader) -> SampledControl:
    return lambda rng: _blocked_reader_input(rng, reader, None)


def _random_counter(rng: np.random.Generator) -> DetectorInput:
    """The counter with all weights replaced by noise."""
    case_input = _circuit_of_counter("begin")(rng, 1.0)
    return replace(case_input, shown=replace(case_input.shown, circuit=None))


DETECTORS = {
    "circuit": Detector(
        name="circuit",
        question="does a label query count, copy or subtract?",
        score="1 minus the smallest slack on accuracies at which a circuit is named",
        score_of=circuit_score,
        threshold=0.95,
        planted_positives={
            "a counter with begin": _circuit_of_counter("begin"),
            "a counter with brackets": _circuit_of_counter("bracket"),
            "reads by counting": _reader(_reads_counter, "counter"),
            "reads by copying": _reader(_reads_copy, "copy"),
            "reads by subtracting": _reader(_reads_complement, "complement"),
        },
        controls={
            "counts or copies": _no_circuit(_redundant(_reads_counter, _reads_copy)),
            "counts or subtracts": _no_circuit(_redundant(_reads_counter, _reads_complement)),
            "always the commonest count": _no_circuit(_reads_nothing),
            "noise for weights": _random_counter,
        },
        decoys={"copies from the ones themselves": _no_circuit(_reads_written_in_ones)},
    )
}
