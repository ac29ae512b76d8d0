"""Numbers that several claims and figures read from the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from toylab.runs.study import Arms, Result
from toylab.studies.contextual_counting.measures import CLASSES, COUNTED, SOLVED
from toylab.verdicts.intervals import interval
from toylab.verdicts.judgement import each, mean

CONSTANT = ("begin", "own [", "own ]", "earlier brackets")
"""Bias classes of which a string has a number that depends on the label alone."""


VARYING = tuple(name for name in CLASSES if name not in (COUNTED, *CONSTANT))
"""The other bias classes: their number changes from string to string."""


def accuracy_over_regions(result: Result) -> float:
    """Over the regions."""
    return sum(result["accuracy"]) / len(result["accuracy"])


def solved_regions(result: Result, what: str = "circuits") -> list[Result]:
    """The circuits of the regions that a model solved, or what else was measured of each."""
    return [held for held, c in zip(result[what], result["circuits"], strict=True) if c["accuracy"] >= SOLVED]


def counters(arms: Arms) -> list[tuple[str, int, int, Result, Result]]:
    """Every solved region of a causal model that counts in the decoder: arm, seed, label, circuit, result."""
    return [
        (arm, seed, k, circuit, result)
        for arm, seeds in arms.items()
        if arm != "golden" and not arm.endswith("bidirectional")
        for seed, result in seeds.items()
        for k, circuit in enumerate(result["circuits"])
        if circuit["accuracy"] >= SOLVED and circuit["circuit"] == "counter"
    ]


def _largest(circuit: Result) -> str:
    return max(circuit["shares"], key=circuit["shares"].__getitem__)


def _blocked(found: dict[int, Result], name: str) -> dict[str, Any]:
    return each(found, lambda r: [c["blocked"][name] for c in r["circuits"]])


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _with_interval(values: dict[int, float]) -> str:
    if not values:
        return "not run"
    ends = interval(list(values.values()))
    return f"{mean(values.values()):.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _share(passed: list[bool]) -> str:
    ends = interval(passed)
    return f"{sum(passed)} of {len(passed)}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")
