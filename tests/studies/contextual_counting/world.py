"""A made-up world of results of the counting study, in which no two numbers are equal, and the claims on it."""

import random
from dataclasses import replace

from tests.studies.made_up import Between, made_up, number
from toylab.studies.contextual_counting.claims import claims
from toylab.studies.contextual_counting.claims_exact import exact_claims
from toylab.studies.contextual_counting.results import (
    CLASSES,
    CountingResult,
    CountShift,
    HandwrittenResult,
    NamedRegion,
    RegionCircuit,
    UntrainedCounter,
)
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.tasks import ContextualCounting
from toylab.verdicts.claim import Conditions

SEEDS = range(6)
ENCODINGS = ("none", "rotary", "alibi", "learned", "sinusoidal")
PARTS = ("encodings", "circuits", "no-begin", "plain", "ingredients")
NAMES = tuple(ContextualCountingStudy(encodings=ENCODINGS, parts=PARTS).conditions())
CAUSAL = tuple(name for name in NAMES if not name.endswith("bidirectional"))
LONGEST = 64
CONSTANT = ("begin", "own [", "own ]", "earlier brackets")
BIASES = (*CONSTANT, "zeros", "zeros", "zeros", "outside ones", "mixed")
CIRCUITS = ("counter", "counter", "counter", "copy", "complement")


def region(path: str, least: float) -> RegionCircuit:
    """A label of a model, of which every class has another share and another accuracy when it is blocked."""
    draw = random.Random(path)
    bias = draw.choice(BIASES)
    shares = {name: number(f"{path}.share.{name}", 0, 0.2) for name in CLASSES[1:]}
    if bias != "mixed":
        shares[bias] = number(f"{path}.share", 0.7, 0.9)
    blocked = {name: number(f"{path}.without.{name}", 0.1, 0.6) for name in (*CLASSES, "own brackets", "all ones")}
    if bias != "mixed":
        blocked["the bias"] = number(f"{path}.without", 0, 0.4)
    given = {"circuit": draw.choice(CIRCUITS), "bias": bias, "shares": shares, "blocked": blocked}
    return made_up(RegionCircuit, path, given | {"k": Between(1, 60), "accuracy": Between(least, 1)})


def shift(path: str) -> CountShift:
    """The effect of a change, which laws predict more or less well."""
    before, after = number(f"{path}.before", 0.8, 1.2), number(f"{path}.after", 0.6, 1.1)
    near, nearer = number(f"{path}.near", 0.8, 1.2), number(f"{path}.nearer", 0.85, 1.15)
    return CountShift(
        accuracy=number(path), before=before, after=after, predicted=after * near, by_place=after * nearer
    )


def scores(path: str) -> list[list[float]]:
    return [[number(f"{path}.{query}.{key}", -2, 2) for key in range(5)] for query in range(5)]


def made(name: str, seed: int) -> CountingResult:
    path = f"{name}.{seed}"
    lost = name == "none" and seed == 4  # no region is solved
    circuits = [region(f"{path}.region {k}", 0.85 if k else 0.91) for k in range(4)]
    if lost:
        circuits = [replace(one, accuracy=one.accuracy / 2) for one in circuits]
    given = {
        "accuracy": Between(0.7, 1.1),
        "floor": Between(0.2, 0.3),
        "circuits": circuits,
        "shifts": {change: [shift(f"{path}.{change}.{k}") for k in range(4)] for change in ("16 zeros", "a region")},
        "planes": [number(f"{path}.plane {k}", -1, 1) for k in range(6)],
        "frequencies": [number(f"{path}.turn {k}", 0, 0.03) for k in range(6)],
        "scores": scores(path),
        "encoding": name.removesuffix("-bidirectional") if number(f"{path}.named") < 0.7 else "relative",
        "inputs": 1000,
        "holds": lambda path: int(number(path, 700, 1000)),
        "permuted.holds": lambda path: min(1000, int(number(path, 800, 1100))),
        "mirrored.holds": lambda path: min(1000, int(number(path, 800, 1100))),
    }
    found = made_up(CountingResult, path, given)
    more = {"planes": [number(f"{path}.shuffled {k}", -1, 1) for k in range(6)], "scores": scores(f"{path}.shuffled")}
    return replace(found, untrained=made_up(UntrainedCounter, f"{path}.untrained", given | more))


def golden(seed: int) -> HandwrittenResult:
    def named(bias: str, k: int) -> NamedRegion:
        right = number(f"golden.{seed}.{bias}.{k}") < 0.9
        told = {"begin": "begin", "bracket": "own ["}[bias] if right else "zeros"
        return NamedRegion(circuit="counter", bias=told, k=number(f"{seed}.{bias}.{k}"), r2=1.0, blocked={})

    regions = {bias: [named(bias, k) for k in range(4)] for bias in ("begin", "bracket")}
    return HandwrittenResult(errors=seed // 4, asked=100 + seed, named=regions)


WORLD = Conditions({name: {seed: made(name, seed) for seed in SEEDS} for name in NAMES})
WORLD["golden"] = {seed: golden(seed) for seed in SEEDS}
DECLARED = claims(ENCODINGS, CAUSAL, LONGEST, PARTS, 32) + exact_claims(ContextualCounting(length=(24, 64)), ENCODINGS)
