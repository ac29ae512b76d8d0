"""Claims on the weight change as a whole: its norm, its rank, the effect of its null-space part on activations, and
the null-space measure of the paper's released script."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from toylab.studies.safety_finetuning.claims_weights import (
    REFUSING,
    SAFETY_QUESTION,
    STRONG_METHODS,
    beside_safe_alone,
    of_each,
)
from toylab.studies.safety_finetuning.results import TAUGHT, TUNED, SafetyResult
from toylab.verdicts.claim import Claim, ClaimDetail, Control
from toylab.verdicts.criterion import above, at_least, at_most, between
from toylab.verdicts.judgement import measured


def extent() -> list[Claim]:
    """Claims on the size and rank of the weight change."""
    return [
        Claim(
            id="small-change",
            asks="absence",
            place="abstract and section 4",
            statement="SSFT, DPO (as published) and unlearning change the MLP weights only slightly.",
            conditions=REFUSING,
            measure="relative norm of the change of the most changed MLP, maximum over methods,",
            quantity=lambda *trio: max(result.size for result in trio),
            criterion=at_most(0.25),
            margin=0.25,
            origin="a smallest effect of interest: a change of a quarter of the norm leaves a cosine of .97 to the "
            "weights before",
            control=Control(
                "pre-training, from the initial weights",
                ("base",),
                lambda base: max(base.pretraining),
            ),
            details={"size": of_each("size", TUNED)},
        ),
        Claim(
            id="few-directions",
            kind="own",
            place=f"{SAFETY_QUESTION}, after section 4.2",
            statement="The changes of SSFT, DPO (as published) and unlearning have few singular directions.",
            conditions=REFUSING,
            measure="stable rank of the change, mean over matrices and layers, maximum over methods,",
            quantity=lambda *trio: max(result.stable_rank for result in trio),
            criterion=at_most(6.0),
            control=beside_safe_alone(attrgetter("stable_rank")),
            details={
                "stable rank": of_each("stable_rank", TUNED),
                "a random change of the size of SSFT's": ClaimDetail("ssft", "randomised.stable_rank"),
            },
        ),
    ]


def fresh(lacking: str) -> list[Claim]:
    """Claims on tasks drawn with each seed; `lacking` is the reason why they were not run."""
    of_fresh = partial(
        Claim,
        kind="own",
        population="seeds: triples and bijections of the task, initial weights and data",
        conditions=("ssft-fresh",),
        undecidable=lacking,
    )
    return [
        of_fresh(
            id="refuse-fresh",
            place=f"{SAFETY_QUESTION}, after section 3.2",
            statement="SSFT teaches the model to refuse unsafe prompts of tasks drawn with each seed.",
            measure="share of NULL in free-running answers to unsafe prompts",
            quantity=attrgetter("behaviour.unsafe.refuses"),
            criterion=at_least(0.98),
            control=Control("before fine-tuning", ("base-fresh",), attrgetter("behaviour.unsafe.refuses")),
        ),
        of_fresh(
            id="null-space-fresh",
            place=f"{SAFETY_QUESTION}, after section 4.2",
            statement="On tasks drawn with each seed, SSFT changes the up-projections mostly in the left null space of "
            "their weights.",
            measure="energy share there minus chance, minimum over layers,",
            quantity=_above_chance,
            criterion=above(0.02),
            control=Control(
                "a random change of the same size", ("ssft-fresh",), lambda ssft: _above_chance(ssft.randomised)
            ),
        ),
    ]


def _above_chance(tuned: SafetyResult) -> float:
    return min(layer.up.share - layer.up.chance for layer in measured(tuned.weights))


def null_part() -> Claim:
    """The claim on the effect of the null-space part of the change on activations."""
    return Claim(
        id="null-part-clusters",
        place="abstract and section 4.1",
        statement="The null-space part of the up-projections' change causes the separation of safe and unsafe prompts.",
        conditions=STRONG_METHODS,
        measure="ratio of the separation without that part to that of the whole change, last layer, larger of DPO and "
        "unlearning,",
        quantity=lambda *strong: max(map(_without_null, strong)),
        criterion=at_most(0.5),
        origin="a smallest effect of interest: half of the separation",
        control=Control(
            "without the other part instead, smaller of the two",
            STRONG_METHODS,
            lambda *strong: min(result.part_separations.up_in_the_null_space / result.separation for result in strong),
        ),
        details={"without the null-space part": of_each(_without_null, TAUGHT)},
        note="attention, biases and down-projections keep their fine-tuned weights",
    )


def moved() -> Claim:
    """The claim on jailbreaks whose activations are moved towards those of unsafe prompts."""
    return Claim(
        id="jailbreak-moved",
        place="section 5, figure 6",
        statement="Moved towards the activations of unsafe prompts, jailbreaks are refused.",
        conditions=("ssft",),
        measure="share of NULL in answers to mixed text, after the shift minus before, last layer,",
        quantity=lambda ssft: measured(ssft.moved).unsafe - measured(ssft.moved).before,
        criterion=at_least(0.1),
        origin="a smallest effect of interest: a tenth of the answers, set after seeds 0 to 5 were seen",
        control=Control(
            "a random shift of the same norm",
            ("ssft",),
            lambda ssft: measured(ssft.moved).random - measured(ssft.moved).before,
        ),
    )


def released() -> list[Claim]:
    """Claims on the released measure of the null space."""
    of_ssft = partial(Claim, kind="own", place="our question, on the paper's code", conditions=("ssft",))
    sine = "mean sine of leading left directions of the tuned up-projection and the span of those before, last layer,"
    return [
        of_ssft(
            id="released-columns",
            asks="absence",
            statement="The released null-space measure, applied to columns as intended, does not distinguish SSFT from "
            "a random change of the same size.",
            measure=f"{sine} ratio to that of random changes, minus 1,",
            quantity=lambda ssft: _over_random(ssft, ssft),
            criterion=between(-0.25, 0.25),
            margin=0.25,
            origin="our pilot: a quarter, chosen over .2 after seeds 0 to 5 were seen",
            control=Control(
                "the larger change of unlearning, relative to random changes of SSFT's size",
                ("ssft", "unlearning"),
                _over_random,
            ),
            details={"sine": of_each("released_sine.columns.own", TUNED)},
            note="the measure depends on the size of the change, not on its directions",
        ),
        of_ssft(
            id="released-rows",
            statement="The released null-space measure, applied to rows as in its script, varies between random "
            "changes of the same size.",
            measure=f"{sine} rows instead of directions, ratio of standard deviation to mean over 20 random changes,",
            quantity=attrgetter("released_sine.rows.noise"),
            criterion=at_least(0.13),
            control=Control("the measure on columns", ("ssft",), attrgetter("released_sine.columns.noise")),
            details={
                "sine": of_each("released_sine.rows.own", TUNED),
                "standard deviations above random changes": of_each("released_sine.rows.deviation", TUNED),
            },
            note="rows mix all left directions, including the arbitrary directions of the null space",
            untried="it is a property of the measure, which any change of the weights shows",
        ),
    ]


def _without_null(tuned: SafetyResult) -> float:
    return measured(tuned.part_separations).up_in_the_column_space / tuned.separation


def _over_random(ssft: SafetyResult, tuned: SafetyResult) -> float:
    """The released measure on columns, divided by its mean over random changes of SSFT's size, minus 1."""
    return measured(tuned.released_sine).columns.own / measured(ssft.released_sine).columns.random - 1
