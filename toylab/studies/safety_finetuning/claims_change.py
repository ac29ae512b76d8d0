"""Claims on the change of the weights as a whole: its size, its rank, the clusters that its null-space part yields, and
what the null-space measure that was released with the paper can tell."""

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
from toylab.verdicts.criterion import at_least, at_most, between


def extent() -> list[Claim]:
    """How much of the weights is changed."""
    return [
        Claim(
            id="small-change",
            asks="absence",
            place="abstract and section 4",
            statement="SSFT, DPO (as published) and unlearning change the weights of the MLPs by little.",
            conditions=REFUSING,
            measure="norm of the change over that of the weights, in the MLP changed most, largest over methods,",
            quantity=lambda *trio: max(one.size for one in trio),
            criterion=at_most(0.25),
            margin=0.25,
            origin="a smallest effect of interest: up to a quarter of their norm, weights keep a cosine of .97 with "
            "those before",
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
            measure="stable rank of the change, mean over matrices and layers, largest over methods,",
            quantity=lambda *trio: max(one.stable_rank for one in trio),
            criterion=at_most(6.0),
            control=beside_safe_alone(attrgetter("stable_rank")),
            details={
                "stable rank": of_each("stable_rank", TUNED),
                "a random change of the size of SSFT's": ClaimDetail("ssft", "randomised.stable_rank"),
            },
        ),
    ]


def null_part() -> Claim:
    """What the null-space part of the change does to activations."""
    return Claim(
        id="null-part-clusters",
        place="abstract and section 4.1",
        statement="The null-space part of the up-projections' change is what drives safe and unsafe prompts apart.",
        conditions=STRONG_METHODS,
        measure="separation with that part taken away over that of the whole change, last layer, larger of DPO and "
        "unlearning,",
        quantity=lambda *strong: max(map(_without_null, strong)),
        criterion=at_most(0.5),
        origin="a smallest effect of interest: half of the separation",
        control=Control(
            "the other part taken away instead, smaller of the two",
            STRONG_METHODS,
            lambda *strong: min(one.part_separations.up_in_the_null_space / one.separation for one in strong),
        ),
        details={"without the null-space part": of_each(_without_null, TAUGHT)},
        note="all else stays tuned: attention, biases and down-projections",
    )


def released() -> list[Claim]:
    """What the released measure of the null space tells."""
    of_ssft = partial(Claim, kind="own", place="our question, on the paper's code", conditions=("ssft",))
    own = "mean sine of leading left directions of the tuned up-projection and the span of those before, last layer,"
    return [
        of_ssft(
            id="released-columns",
            asks="absence",
            statement="The released null-space measure, taken of columns as is meant, does not tell SSFT from a random "
            "change of the same size.",
            measure=f"{own} over that of random changes, minus 1,",
            quantity=lambda ssft: _over_random(ssft, ssft),
            criterion=between(-0.25, 0.25),
            margin=0.25,
            origin="a smallest effect of interest: a quarter",
            control=Control(
                "the larger change of unlearning, over random changes of SSFT's size",
                ("ssft", "unlearning"),
                _over_random,
            ),
            details={"sine": of_each("released_sine.columns.own", TUNED)},
            note="it follows the size of the change, whatever its directions",
        ),
        of_ssft(
            id="released-rows",
            statement="The released null-space measure, taken of rows as in its script, differs from one random "
            "change to the next of the same size.",
            measure=f"{own} rows in the place of directions, standard deviation over 20 random changes over mean,",
            quantity=attrgetter("released_sine.rows.noise"),
            criterion=at_least(0.13),
            control=Control("the same of columns", ("ssft",), attrgetter("released_sine.columns.noise")),
            details={
                "sine": of_each("released_sine.rows.own", TUNED),
                "standard deviations above random changes": of_each("released_sine.rows.deviation", TUNED),
            },
            note="rows mix all left directions, those of the null space among them, which are arbitrary",
        ),
    ]


def _without_null(one: SafetyResult) -> float:
    return one.part_separations.up_in_the_column_space / one.separation


def _over_random(ssft: SafetyResult, one: SafetyResult) -> float:
    """The released measure of columns, over that of random changes of the size of SSFT's."""
    return one.released_sine.columns.own / ssft.released_sine.columns.random - 1
