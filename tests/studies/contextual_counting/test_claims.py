"""Every claim on a made-up world in which no two numbers are equal: what it measures, of what, and its criterion."""

import math
from dataclasses import replace
from statistics import fmean, median

import pytest

from tests.studies.contextual_counting.world import CAUSAL, CONSTANT, DECLARED, ENCODINGS, NAMES, SEEDS, WORLD
from tests.studies.made_up import check_claim
from toylab.studies.contextual_counting.results import CLASSES, CountShift
from toylab.verdicts.claim import Conditions, judge_claims
from toylab.verdicts.decision import Plan

JUDGED = {one.id: one for one in judge_claims(DECLARED, WORLD, Plan.of(SEEDS))}


def accuracies(name: str) -> list[float]:
    return [sum(WORLD[name][seed].accuracy) / 4 for seed in SEEDS]


def share(passed) -> float:
    held = list(passed)
    return sum(held) / len(held)


def solves(name: str) -> tuple:
    return "share >= 0.9", share(a >= 0.9 for a in accuracies(name)), share(
        WORLD[name][seed].floor >= 0.9 for seed in SEEDS
    )  # fmt: skip


def unsolved(name: str) -> float:
    return share(a < 0.9 for a in accuracies(name))


def from_floor(name: str) -> float:
    """The median distance of the accuracy to that of the best constant guess."""
    return median(abs(accuracies(name)[seed] - WORLD[name][seed].floor) for seed in SEEDS)


def leads(name: str, other: str) -> list[float]:
    return [a - b for a, b in zip(accuracies(name), accuracies(other), strict=True)]


def least(*lists: list[float]) -> float:
    """The median over seeds of the smallest number of each."""
    return median(min(numbers) for numbers in zip(*lists, strict=True))


def of_solved(name: str, number, seeds=SEEDS, over=fmean) -> float:
    """The median over seeds that have a solved region of a number of these, in the mean or another way."""
    found = []
    for seed in seeds:
        held = [number(WORLD[name][seed], one) for one in WORLD[name][seed].circuits if one.accuracy >= 0.9]
        if held:
            found.append(over(held))
    return median(found)


def of_none(number, name="none") -> float:
    """The median over seeds in which some model without positions solved a region."""
    return median(number(WORLD[name][seed]) for seed in SEEDS if seed != 4)


def every(number, name="none") -> float:
    return median(number(WORLD[name][seed]) for seed in SEEDS)


def brackets(held: list[list[float]]) -> float:
    weights = [math.exp(score) for score in held[1]]
    return (weights[2] + weights[3] + weights[4]) / sum(weights)


def slopes(seed: int, law: str, names=CAUSAL) -> list[CountShift]:
    """Of solved counters, those that a law says will change by over .15; no last region beside an appended one."""
    found = []
    for name in names:
        model = WORLD[name][seed]
        for change in ("16 zeros", "a region"):
            for k in range(4):
                one, is_last = model.shifts[change][k], change == "a region" and k == 3
                counts = model.circuits[k].accuracy >= 0.9 and model.circuits[k].circuit == "counter"
                if counts and not is_last and abs(getattr(one, law) / one.before - 1) > 0.15:
                    found.append(one)
    return found


def law(name: str, answer: str) -> float:
    """The share of slopes that an answer to the question of a law is near to."""
    return median(
        share(abs(getattr(one, answer) / one.after - 1) <= 0.15 for one in slopes(seed, name)) for seed in SEEDS
    )


def kept(seed: int, biases) -> float | None:
    """Accuracy with 16 zeros more of solved counters that are lost without one of these biases."""
    found = []
    for name in CAUSAL:
        model = WORLD[name][seed]
        for k, one in enumerate(model.circuits):
            counts = one.accuracy >= 0.9 and one.circuit == "counter"
            if counts and one.bias in biases and one.blocked["the bias"] <= model.floor + 0.05:
                found.append(model.shifts["16 zeros"][k].accuracy)
    return fmean(found) if found else None


def over_zeros() -> float:
    return median(kept(seed, CONSTANT) - kept(seed, ("zeros",)) for seed in SEEDS)


def slow_lead(profile) -> float:
    slow = [k for k in range(6) if profile.frequencies[k] < 1 / 64]
    held = sum(abs(profile.planes[k]) for k in slow) / sum(abs(part) for part in profile.planes)
    return held - len(slow) / 6


ROTARY = [seed for seed in SEEDS if accuracies("rotary")[seed] >= 0.9]


def fast_stopped(name: str, seeds) -> float:
    found = []
    for seed in seeds:
        found.append(fmean(WORLD[name][seed].rotary.stopped.fast) / accuracies(name)[seed])
    return median(found)


def is_counter(_, one) -> bool:
    return one.circuit == "counter"


def second(one) -> str:
    """The class with the most attention but one."""
    held = sorted((share, name) for name, share in one.shares.items())
    return held[-2][1]


def largest(one) -> str:
    return max((share, name) for name, share in one.shares.items())[1]


def varies(_, one) -> bool:
    return largest(one) in ("other regions' ones", "outside ones", "zeros", "later brackets")


def begins(_, one) -> bool:
    return largest(one) == "begin"


def held(name: str, question: str) -> list[float]:
    """The share of a thousand inputs on which a property holds, by seed."""
    return [getattr(WORLD[name][seed].exact, question).holds / 1000 for seed in SEEDS]


def all_held(name: str, question: str) -> float:
    return share(one == 1 for one in held(name, question))


def exactly(name: str, question: str, other: str, of_other: str = "") -> tuple:
    """A share of inputs, and the same of another condition or of another question."""
    return "median >= 0.9", median(held(name, question)), median(held(other, of_other or question))


PAIRS = [(one, f"{one}-bidirectional") for one in ENCODINGS]
LEFT_OUT = (
    *("one-length", "one-number", "no-logit-scale", "default-head", "large-embeddings", "large-queries"),
    "no-auxiliary",
)
EXPECTED = {
    "solved": solves("none"),
    "solved-rotary": solves("rotary"),
    "golden": ("share >= 1", 4 / 6, None),
    "golden-named": ("share >= 1", share(
        all(one.bias == told for bias, told in (("begin", "begin"), ("bracket", "own [")) for one in held.named[bias])
        for held in WORLD["golden"].values()
    ), None),
    "causal-helps": ("median >= 0.2", least(*(leads(*pair) for pair in PAIRS)), None),
    "causal-over-all": ("median > 0", least(*(leads(one, both) for one, _ in PAIRS for _, both in PAIRS)), None),
    "none-is-best": ("median > 0", least(*(leads("none", other) for other in ENCODINGS[1:])), None),
    "bidirectional-chance": ("median <= 0.02", from_floor("none-bidirectional"), from_floor("none")),
    "permutation-invariant": ("share < 1e-09", 0, 0),
    "encoding-named": (
        "median >= 0.9",
        median(fmean(WORLD[n][seed].encoding == pair[0] for pair in PAIRS for n in pair) for seed in SEEDS),
        1 / 5,
    ),
    "bidirectional-rotary": ("median <= 0.05", from_floor("rotary-bidirectional"), from_floor("rotary")),
    "bidirectional-alibi": ("median <= 0.05", from_floor("alibi-bidirectional"), from_floor("alibi")),
    "bidirectional-learned": ("share < 0.9", unsolved("learned-bidirectional"), unsolved("none")),
    "failure-rate": ("share < 0.9", unsolved("plain-none"), unsolved("none")),
    "rotary-is-easier": ("median > 0", median(leads("plain-rotary-no-begin", "plain-none-no-begin")), None),
    "count-in-decoder": (
        "median <= 32",
        of_solved("none", lambda _, one: one.k, over=median),
        every(lambda none: none.untrained.uniform.k),
    ),
    "count-needs-ones": (
        "median <= 0.05",
        of_solved("none", lambda none, one: one.blocked["counted ones"] - none.floor),
        of_solved("none", lambda none, one: one.blocked["outside ones"] - none.floor),
    ),
    "count-curve": (
        "median >= 0.98", of_solved("none", lambda _, one: one.r2), every(lambda r: r.untrained.uniform.r2),
    ),
    "bias-token": (
        "median >= 0.9",
        of_solved("none", lambda none, one: one.blocked.get("the bias", 9) <= none.floor + 0.05),
        of_solved("none", lambda none, one: one.blocked[second(one)] <= none.floor + 0.05),
    ),
    "two-values": (
        "median >= 0.9",
        of_none(lambda none: fmean(
            told.two_values.agreement
            for told, one in zip(none.readout, none.circuits, strict=True) if one.accuracy >= 0.9
        )),
        every(lambda none: none.floor),
    ),
    "region-probe": (
        "median >= 0.95",
        of_none(lambda none: none.probe.decoder_input.accuracy),
        every(lambda none: none.untrained.probe.decoder_input.accuracy),
    ),
    "reads-brackets": (
        "median >= 0.9",
        of_none(lambda none: brackets(none.scores)),
        every(lambda none: brackets(none.untrained.scores)),
    ),
    "ood-law": ("median >= 0.9", law("predicted", "predicted"), law("predicted", "before")),
    "ood-law-by-place": ("median >= 0.9", law("by_place", "by_place"), law("by_place", "before")),
    "bias-decides": ("median >= 0.1", over_zeros(), None),
    "constant-bias-keeps": (
        "median >= 0.9",
        median(kept(seed, CONSTANT) for seed in SEEDS),
        median(kept(seed, ("zeros",)) for seed in SEEDS),
    ),
    "zeros-bias-falls": (
        "median <= 0.5",
        median(kept(seed, ("zeros",)) for seed in SEEDS),
        median(kept(seed, CONSTANT) for seed in SEEDS),
    ),
    "encoder-mlp": ("median <= 0.5", of_solved("encoder-mlp", is_counter), of_solved("none", is_counter)),
    "plain-encoder-mlp": (
        "median <= 0.5", of_solved("plain-encoder-mlp", is_counter), of_solved("plain-none", is_counter)
    ),
    "rotary-in-disguise": (
        "median >= 0.2",
        median(slow_lead(WORLD["rotary"][seed].rotary) for seed in ROTARY),
        every(lambda model: slow_lead(model.untrained.rotary), "rotary"),
    ),
    "rotary-stopped": (
        "median >= 0.9", fast_stopped("rotary", ROTARY), fast_stopped("rotary-bidirectional", SEEDS)
    ),
    "cure": ("median <= 0.05", of_solved("no-auxiliary", varies), of_solved("fixed", varies)),
    "cure-begin": ("median >= 0.5", of_solved("no-auxiliary", begins), of_solved("fixed", begins)),
    "emerges": solves("no-auxiliary"),
    "emerges-rotary": solves("no-auxiliary-rotary"),
    "emerges-slow-rotary": solves("no-auxiliary-slow-rotary"),
    "ingredients": ("median > 0.02", least(*(leads("none", name) for name in LEFT_OUT)), None),
    "exact-bracketings": exactly("none", "bracketings", "none-bidirectional"),
    "exact-bracketings-rotary": exactly("rotary", "bracketings", "none-bidirectional"),
    "exact-short": exactly("none", "short", "none-bidirectional"),
    "exact-own-ones": exactly("none", "own_ones", "none", "own_ones_untrained"),
    "exact-one-fewer": exactly("none", "one_fewer", "none", "other_hidden"),
    "exact-permutations": ("share >= 1", all_held("none-bidirectional", "permuted"), all_held("none", "permuted")),
    "exact-mirror-alibi": ("share >= 1", all_held("alibi-bidirectional", "mirrored"), all_held("alibi", "mirrored")),
    "exact-mirror-rotary": ("share >= 1", all_held("rotary-bidirectional", "mirrored"), all_held("rotary", "mirrored")),
}  # fmt: skip
"""By claim: the statistic and the criterion, what is measured, and what the control scores."""
SET_UP = {
    *("golden", "golden-named", "bidirectional-chance", "permutation-invariant", "encoding-named"),
    *("exact-permutations", "exact-mirror-alibi"),
}
OWN = {
    *("ood-law", "ood-law-by-place", "encoder-mlp", "plain-encoder-mlp", "rotary-stopped", "cure", "cure-begin"),
    *("emerges", "emerges-rotary", "emerges-slow-rotary", "ingredients", "exact-bracketings"),
    *("exact-bracketings-rotary", "exact-short", "exact-own-ones", "exact-one-fewer", "exact-mirror-rotary"),
}
ABSENCE = {
    *("bidirectional-chance", "permutation-invariant", "failure-rate", "count-needs-ones", "zeros-bias-falls"),
    *("encoder-mlp", "plain-encoder-mlp", "rotary-stopped", "cure"),
    *("bidirectional-rotary", "bidirectional-alibi", "bidirectional-learned"),
    *("exact-permutations", "exact-mirror-alibi", "exact-mirror-rotary"),
}


def test_every_claim_stands_in_the_table():
    assert [one.id for one in DECLARED] == list(EXPECTED)


@pytest.mark.parametrize("claim", DECLARED, ids=lambda claim: claim.id)
def test_a_claim_measures_what_it_says_and_is_decided_by_its_threshold(claim):
    check_claim(claim, JUDGED[claim.id], EXPECTED[claim.id], OWN, ABSENCE, SET_UP)


def test_guessing_is_that_on_the_strings_of_the_same_models():
    held = {one.id: one for one in DECLARED}
    for id in ("solved", "solved-rotary", "emerges", "emerges-rotary", "emerges-slow-rotary"):
        assert held[id].control.conditions == held[id].conditions
    assert held["permutation-invariant"].control.conditions == ("none",)


def test_the_largest_change_of_a_logit_is_kept_beside_the_verdict():
    found = JUDGED["permutation-invariant"].details["change"]
    assert found == {str(s): pytest.approx(WORLD["none-bidirectional"][s].permutation_gap, rel=1e-3) for s in SEEDS}
    still = {seed: replace(one, permutation_gap=1e-15) for seed, one in WORLD["none-bidirectional"].items()}
    world = Conditions(WORLD | {"none-bidirectional": still})
    assert {c.id: c for c in judge_claims(DECLARED, world, Plan.of(SEEDS))}["permutation-invariant"].measured == 1


def test_models_that_solved_nothing_are_not_asked_how():
    assert 0 < len(ROTARY) < 6
    asked = {one.id: list(JUDGED[one.id].seeds) for one in DECLARED if one.needs}
    of_rotary = {"rotary-in-disguise", "rotary-stopped"}
    assert {tuple(asked.pop(id)) for id in of_rotary} == {tuple(ROTARY)}
    assert asked.pop("cure") == asked.pop("cure-begin") == list(SEEDS)
    assert set(map(tuple, asked.values())) == {(0, 1, 2, 3, 5)}
    assert {"count-in-decoder", "count-needs-ones", "count-curve", "bias-token", "region-probe"} <= set(asked)


def test_conditions_that_lack_a_seed_are_left_out_of_what_is_pooled():
    def over(**conditions) -> dict:
        world = Conditions({name.replace("_", "-"): held for name, held in conditions.items()})
        return {one.id: one for one in judge_claims(DECLARED, world, Plan.of(SEEDS))}

    none, alibi = WORLD["none"], WORLD["alibi"]
    found = over(none={0: none[0], 1: none[1]}, alibi={1: alibi[1], 2: alibi[2]})
    expected = {}
    for seed, names in ((0, ["none"]), (1, ["none", "alibi"]), (2, ["alibi"])):
        if held := slopes(seed, "by_place", names):
            expected[str(seed)] = share(abs(one.by_place / one.after - 1) <= 0.15 for one in held)
    assert len(expected) > 1
    assert found["ood-law-by-place"].details["by seed"] == pytest.approx(expected, abs=1e-4)
    best = over(none={0: none[0]}, rotary={0: WORLD["rotary"][0]}, fixed={0: WORLD["fixed"][0]})["none-is-best"]
    assert best.measured == pytest.approx(leads("none", "rotary")[0], rel=1e-3)


def test_a_mixed_bias_counts_by_its_largest_class():
    first = WORLD["no-auxiliary"][0]
    shares = dict(zip(CLASSES[1:], (0.1, 0.11, 0.12, 0.13, 0.14, 0.05, 0.06, 0.29), strict=True))
    circuits = [replace(one, accuracy=0.95, bias="mixed", shares=shares) for one in first.circuits]
    world = Conditions(WORLD | {"no-auxiliary": {0: replace(first, circuits=circuits)}})
    found = {one.id: one.measured for one in judge_claims(DECLARED, world, Plan.of(SEEDS))}
    assert (found["cure-begin"], found["cure"]) == (1, 0)


def test_runs_from_before_controls_were_measured_can_be_judged():
    bare = {name: {seed: replace(one, untrained=None) for seed, one in WORLD[name].items()} for name in NAMES}
    found = {one.id: one for one in judge_claims(DECLARED, Conditions(WORLD | bare), Plan.of(SEEDS))}
    for id in ("count-in-decoder", "count-curve", "region-probe", "reads-brackets", "rotary-in-disguise"):
        assert found[id].control.measured is None
        assert found[id].verdict == "undecided"


def test_runs_from_before_all_inputs_were_decided_lack_these_verdicts_alone():
    bare = {
        name: {seed: replace(one, exact=None, encoding=None) for seed, one in WORLD[name].items()} for name in NAMES
    }
    found = {one.id: one for one in judge_claims(DECLARED, Conditions(WORLD | bare), Plan.of(SEEDS))}
    missing = {id for id, one in found.items() if one.verdict == "not run"}
    assert missing == {"encoding-named", *(claim.id for claim in DECLARED if claim.exact)}
