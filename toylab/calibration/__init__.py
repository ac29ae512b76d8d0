"""Calibration of detectors: hit rates on planted positives, false-alarm rates on controls and decoys, noise limits.

A detector scores its input and reports "found" at or above a threshold. Its cases are *planted positives*, in which the
mechanism is present by construction (handwritten, disguised, blended with noise), and *controls*, in which it is absent
by construction. Half of the cases select the best thresholds; hits and false alarms are reported on the held-out half.

    toylab calibrate                      # the table of all detectors
    toylab calibrate induction-head       # one detector: kinds of cases, operating curve, noise

Calibrate your own probe on the same cases: `calibrate(replace(detector("induction-head"), score_of=mine))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from toylab.console import ToylabError, align_columns, progress_bar, unknown_name
from toylab.runs.processes import ProcessPool
from toylab.settings import check_range
from toylab.tasks import stream
from toylab.verdicts.intervals import wilson_interval

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Noise levels of planted positives besides 0, as the share of noise: 1 is noise only."""


@dataclass(frozen=True)
class DetectorInput:
    """The input of a detector.

    Attributes:
        shown: the argument of `Detector.score_of`.
        task_accuracy: accuracy of the planted mechanism on its task, from 0 to 1; None if undefined.
    """

    shown: Any
    task_accuracy: float | None = None


PlantedPositive = Callable[[np.random.Generator, float], DetectorInput]
"""Maps a random generator and a noise level to a case with the mechanism."""
SampledControl = Callable[[np.random.Generator], DetectorInput]
"""Maps a random generator to a case without the mechanism."""


@dataclass(frozen=True)
class Detector:
    """A probe with its threshold, and the cases for its calibration.

    Attributes:
        name: in kebab case.
        question: the question that it answers.
        score: definition of the score, in words.
        score_of: maps the input to the score; higher means more evidence for the mechanism.
        threshold: the lowest score at which it reports "found".
        planted_positives: kinds of cases with the mechanism.
        controls: kinds of cases without the mechanism.
        decoys: kinds without the mechanism that this detector is known to accept; reported separately.
    """

    name: str
    question: str
    score: str
    score_of: Callable[[Any], float]
    threshold: float
    planted_positives: Mapping[str, PlantedPositive]
    controls: Mapping[str, SampledControl]
    decoys: Mapping[str, SampledControl] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One case with its score.

    Attributes:
        group: "plant" (planted positive), "control" or "deceiver" (decoy).
        kind: kind of case within the group.
        noise: noise level of a planted positive.
        held_out: whether the case was held out from selecting the threshold.
        score: the detector's score.
        task_accuracy: see `DetectorInput`.
    """

    group: str
    kind: str
    noise: float
    held_out: bool
    score: float
    task_accuracy: float | None


@dataclass(frozen=True)
class Rate:
    """A count out of a total."""

    count: int
    of: int

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else math.nan

    def __str__(self) -> str:
        """With the 95 % interval in percent."""
        if not self.of:
            return "-"
        low, high = wilson_interval(self.count, self.of)
        return f"{self.count}/{self.of} [{100 * low:.0f}-{100 * high:.0f}]"


@dataclass(frozen=True)
class Calibration:
    """All cases of one detector, with the resulting rates."""

    detector: Detector
    cases: tuple[Case, ...]

    def rate(self, threshold: float | None = None, **attributes: Any) -> Rate:
        """The share of cases with these attributes at or above a threshold, by default the detector's."""
        threshold = self.detector.threshold if threshold is None else threshold
        scores = [case.score for case in self.cases if all(getattr(case, k) == v for k, v in attributes.items())]
        return Rate(sum(score >= threshold for score in scores), len(scores))

    @property
    def hits(self) -> Rate:
        """The hit rate on held-out planted positives without noise."""
        return self.rate(group="plant", noise=0.0, held_out=True)

    @property
    def false_alarms(self) -> Rate:
        """The false-alarm rate on held-out controls."""
        return self.rate(group="control", held_out=True)

    @property
    def best_bars(self) -> tuple[float, float]:
        """The range of best thresholds on the cases that are not held out, excluding the lower end.

        The best thresholds maximise hit rate without noise minus false-alarm rate.
        """
        scores = sorted({c.score for c in self.cases if not c.held_out and c.noise == 0 and c.group != "deceiver"})
        gain = {
            threshold: self.rate(threshold, group="plant", noise=0.0, held_out=False).share
            - self.rate(threshold, group="control", held_out=False).share
            for threshold in scores
        }
        best = max(gain, key=gain.__getitem__)  # the lowest of tied thresholds
        last = best
        for threshold in scores[scores.index(best) :]:
            if gain[threshold] < gain[best]:
                break
            last = threshold
        below = scores.index(best) - 1
        return (scores[below] if below >= 0 else -math.inf), last

    @property
    def levels(self) -> list[float]:
        """The noise levels of planted positives."""
        return sorted({case.noise for case in self.cases})

    def mean_accuracy(self, noise: float) -> float | None:
        """Mean task accuracy of planted positives at a noise level."""
        accuracies = [
            c.task_accuracy
            for c in self.cases
            if c.group == "plant" and c.noise == noise and c.task_accuracy is not None
        ]
        return sum(accuracies) / len(accuracies) if accuracies else None

    @property
    def breaking_noise(self) -> float | None:
        """The lowest noise level at which less than half of the planted positives are found; None if there is none."""
        return next((x for x in self.levels if self.rate(group="plant", noise=x).share < 0.5), None)

    @property
    def failing_noise(self) -> float | None:
        """The lowest noise level at which mean task accuracy is below one half; None if unknown or never."""
        accuracy_by_noise = {noise: self.mean_accuracy(noise) for noise in self.levels}
        return next((noise for noise, share in accuracy_by_noise.items() if share is not None and share < 0.5), None)

    def __str__(self) -> str:
        detector = self.detector
        low, high = self.best_bars
        lines = [
            f"{detector.name}: {detector.question}",
            f"threshold {detector.threshold:g}; score: {detector.score}",
            f"best thresholds on the selection half of the cases: above {low:.3f}, up to {high:.3f}; held-out half:",
            f"hits {self.hits} %, false alarms {self.false_alarms} %",
            "",
        ]
        lines.append(f"{'all cases':<11} {'kind':<36} {'found [%]':<16} lowest to highest score")
        for group in ("plant", "control", "deceiver"):
            for kind in dict.fromkeys(case.kind for case in self.cases if case.group == group):
                scores = [c.score for c in self.cases if c.group == group and c.kind == kind and c.noise == 0]
                found_rate = self.rate(group=group, kind=kind, noise=0.0)
                lines.append(f"{group:<11} {kind:<36} {found_rate!s:<16} {min(scores):.3f} to {max(scores):.3f}")
        lines += ["", "noise   found [%]         task accuracy"]
        for noise in self.levels:
            accuracy = self.mean_accuracy(noise)
            accuracy_text = "-" if accuracy is None else f"{accuracy:.2f}"
            lines.append(f"{100 * noise:>4.0f} %  {self.rate(group='plant', noise=noise)!s:<16} {accuracy_text}")
        lines += ["", "cutoff  hits [%]          false alarms [%]"]
        scores = sorted(c.score for c in self.cases if c.held_out and c.noise == 0 and c.group != "deceiver")
        for threshold in sorted({*np.quantile(scores, np.linspace(0, 1, 9)).round(3).tolist(), detector.threshold}):
            hits, alarms = (
                self.rate(threshold, group="plant", noise=0.0, held_out=True),
                self.rate(threshold, group="control", held_out=True),
            )
            lines.append(
                f"{threshold:>6.3f}  {hits!s:<16}  {alarms}"
                + ("   <- in use" if threshold == detector.threshold else "")
            )
        return "\n".join(lines)


def calibrate(
    detector: Detector, *, seed: int = 0, each: int = 10, levels: Sequence[float] = LEVELS, progress: bool = False
) -> Calibration:
    """Calibrate a detector on generated cases with known ground truth.

    Args:
        seed: seed of all cases; each case has its own random stream, so adding cases does not change others.
        each: number of cases of each kind of planted positive, control and decoy. Every second case is held out from
            the choice of the threshold. Each noise level has half as many planted positives of each kind.
        levels: noise levels of planted positives, besides 0.
        progress: whether to show a progress bar.

    Raises:
        ToylabError: for fewer than two cases per kind, or a score that is NaN.
    """
    check_range("one case per kind selects the threshold, another is held out", each=each, least=2)
    plan: list[tuple[str, str, float, int]] = []
    for noise in (0.0, *levels):
        repeats = each if noise == 0 else max(1, each // 2)
        plan += [("plant", kind, noise, number) for kind in detector.planted_positives for number in range(repeats)]
    kinds_without = {"control": detector.controls, "deceiver": detector.decoys}
    for group, kinds in kinds_without.items():
        plan += [(group, kind, 0.0, number) for kind in kinds for number in range(each)]
    cases = []
    for group, kind, noise, number in progress_bar(
        plan, desc=detector.name, disable=None if progress else True, leave=False
    ):
        rng = stream(seed, f"{detector.name}, {group}, {kind}, {noise}, {number}")
        case_input = (
            detector.planted_positives[kind](rng, noise) if group == "plant" else kinds_without[group][kind](rng)
        )
        score = float(detector.score_of(case_input.shown)) + 0.0  # no -0
        if math.isnan(score):
            raise ToylabError(
                f"{detector.name}: scores nan on a {group} of the kind {kind!r}; a score must be a number"
            )
        cases.append(Case(group, kind, noise, number % 2 == 1, score, case_input.task_accuracy))
    return Calibration(detector, tuple(cases))


def calibrate_all(names: Sequence[str], seed: int = 0, each: int = 10, workers: int = 2) -> list[Calibration]:
    """Calibrate detectors by name, in parallel processes of one thread (in this process for one worker).

    Raises:
        ToylabError: for an unknown name.
    """
    known = [detector(name) for name in names]  # reject unknown names before any computation
    if workers == 1:
        return [calibrate(known_detector, seed=seed, each=each, progress=True) for known_detector in known]
    with ProcessPool(min(workers, len(names)), ()) as pool:
        jobs = {pool.submit(_cases, name, seed, each): name for name in names}
        finished = progress_bar(as_completed(jobs), total=len(jobs), desc="probes", disable=None, leave=False)
        done = {jobs[job]: job.result() for job in finished}
    return [Calibration(known_detector, done[known_detector.name]) for known_detector in known]


def _cases(name: str, seed: int, each: int) -> tuple[Case, ...]:
    return calibrate(detector(name), seed=seed, each=each).cases


_HOMES = {
    "iteration-head": "attention",
    "induction-head": "attention",
    "region-probe": "counting",
    "bias-token": "counting",
    "circuit": "circuits",
    "null-space-lift": "geometry",
    "cluster-separation": "geometry",
    "first-token-substitution": "geometry",
    "sae-feature": "geometry",
    "positions": "positions",
}


def detectors() -> dict[str, Detector]:
    """All detectors of toylab by name."""
    return {name: detector(name) for name in _HOMES}


def detector_names() -> tuple[str, ...]:
    """The names of all detectors of toylab."""
    return tuple(_HOMES)


def detector(name: str) -> Detector:
    """One detector of toylab.

    Raises:
        ToylabError: for an unknown name; the message suggests the nearest one.
    """
    if name not in _HOMES:
        raise unknown_name("probe", name, _HOMES)
    return import_module(f"toylab.calibration.{_HOMES[name]}").DETECTORS[name]


def calibration_table(calibrations: Sequence[Calibration]) -> str:
    """One line per detector: threshold in use ("cutoff"), range of best thresholds, hits and false alarms with 95 %
    intervals in percent, and noise limit.

    "noise" is the lowest level at which less than half of the planted positives are found.
    """
    head = ("probe", "cutoff", "best", "hits", "false alarms", "noise")
    rows: list[tuple[str, ...]] = [head]
    for calibration in calibrations:
        low, high = calibration.best_bars
        rows.append(
            (
                calibration.detector.name,
                f"{calibration.detector.threshold:g}",
                f"{low:.2f}-{high:.2f}",
                str(calibration.hits),
                str(calibration.false_alarms),
                _percent(calibration.breaking_noise),
            )
        )
    return align_columns(rows)


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """The calibration in JSON form."""
    return {
        "probe": calibration.detector.name,
        "asks": calibration.detector.question,
        "score": calibration.detector.score,
        "bar": calibration.detector.threshold,
        "best_bars": list(calibration.best_bars),
        "hits": _interval(calibration.hits),
        "false_alarms": _interval(calibration.false_alarms),
        "noise_that_breaks_it": calibration.breaking_noise,
        "noise_that_breaks_the_plants": calibration.failing_noise,
        "cases": [asdict(case) for case in calibration.cases],
    }


def _interval(rate: Rate) -> dict[str, int | float]:
    low, high = wilson_interval(rate.count, rate.of)
    return {"count": rate.count, "of": rate.of, "low": low, "high": high}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
