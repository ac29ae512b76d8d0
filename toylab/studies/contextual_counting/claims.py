"""The claims of the contextual-counting paper and our own, with conditions, quantities, criteria and controls.

Claims on the circuits of trained models are in `claims_circuits`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from toylab.studies.contextual_counting import pooled
from toylab.studies.contextual_counting.claims_circuits import circuit_claims, details_by_condition, without_keys
from toylab.studies.contextual_counting.results import COUNTED, OWN_BRACKETS, SLACK, SOLVED, CountingResult
from toylab.verdicts.claim import Claim, ClaimDetail, Conditions, Control
from toylab.verdicts.criterion import above, at_least, at_most, below

ANY_LEAD = "the smallest effect of interest: any lead"
CONTROLLED = "the quantity is itself a difference from a control"
CONSTRUCTION = "an exact construction, refuted by a single wrong count"
REGIONS = "of 12 regions above .5 (3 seeds, length 512; figure 2, digitised)"
CEILING = 256
"""String length from which the best encodings no longer reach full accuracy."""


def claims(
    encodings: Sequence[str], causal: Sequence[str], longest: int, parts: Collection[str], width: int
) -> list[Claim]:
    """All claims.

    Args:
        encodings: the compared positional encodings.
        causal: conditions with a causal encoder.
        longest: length in tokens of the evaluated strings.
        parts: groups of conditions trained besides the main ones.
        width: dimensions of the encoder's states, and so of learned positions.
    """
    pairs = tuple(name for encoding in encodings for name in (encoding, f"{encoding}-bidirectional"))
    ingredients = ("one-length", "one-number", "no-logit-scale", "default-head", "large-embeddings", "large-queries")
    ingredients += ("no-auxiliary",)
    add = "not part of this run; add it with --parts encodings circuits no-begin"
    counts = "Models count in context: a causal encoder with"
    untaught = "the circuit also forms without the auxiliary loss on regions."
    best = partial(_solves, place="section 4, best models", figure="Which encoding")
    forms = partial(_solves, kind="own", place="our recipe", figure="Plateaus of all seeds")
    golden = partial(
        Claim,
        kind="set-up",
        conditions=("golden",),
        criterion=at_least(1.0),
        statistic="share",
        origin="the paper: an exact construction",
        uncontrolled=CONSTRUCTION,
    )
    of_encodings = partial(
        Claim,
        place="section 4, figure 2",
        conditions=pairs,
        uncontrolled=CONTROLLED,
        details={"mean accuracy [95 % interval]": details_by_condition(pairs, "mean_accuracy")},
        figure="Which encoding",
    )
    unordered = partial(
        Claim, kind="set-up", asks="absence", place="proposition 2.3", conditions=("none-bidirectional",)
    )
    plain_names = [f"plain-{name}" for name in encodings]
    no_plain = "" if "plain" in parts else f"{add} plain, or --preset paper"
    plain = partial(Claim, undecidable=no_plain, figure="Plateaus of all seeds")
    return [
        best("solved", "none", statement=f"{counts} no positions solves the task.", paper_number=f"4 {REGIONS}"),
        best(
            "solved-rotary",
            "rotary",
            statement=f"{counts} rotary positions solves the task.",
            paper_number=f"4 with a begin token, 11 without, {REGIONS}",
        ),
        golden(
            id="golden",
            place="section 2, propositions 2.1 and 2.2",
            statement="The circuit exists: handwritten weights count without error.",
            measure="share of counts that are correct",
            quantity=lambda golden: 1 - golden.errors / golden.asked,
            details={"counts asked": ClaimDetail("golden", "asked"), "errors": ClaimDetail("golden", "errors")},
        ),
        golden(
            id="golden-named",
            place="our check of the probes",
            statement="The probes identify the circuit and the bias token of handwritten weights.",
            measure="share of regions whose circuit and bias token are identified correctly",
            quantity=lambda golden: golden.share_named_correctly,
        ),
        of_encodings(
            id="causal-helps",
            statement="For every encoding, a causal encoder is much more accurate than a bidirectional one.",
            measure="mean accuracy of causal minus bidirectional, minimum over encodings,",
            quantity=lambda *models: min(map(CountingResult.lead, models[::2], models[1::2])),
            criterion=at_least(0.2),
            paper_number=".07 (none .07, learned .07, rotary .14: medians of 12 regions with a begin token; figure 2, "
            "digitised)",
        ),
        of_encodings(
            id="causal-over-all",
            statement="Every causal encoder is more accurate than any bidirectional one.",
            measure="mean accuracy of the worst causal encoding minus that of the best bidirectional one",
            quantity=lambda *models: min(causal.lead(both) for causal in models[::2] for both in models[1::2]),
            criterion=above(0.0),
            origin=ANY_LEAD,
            paper_number="-.07 (none .10, rotary bidirectional .17: medians; figure 2, digitised)",
        ),
        of_encodings(
            id="none-is-best",
            place="section 4, abstract",
            statement="No positional encoding gives the best accuracy.",
            conditions=("none", "rotary"),
            optional=tuple(name for name in encodings if name not in ("none", "rotary")),
            measure="mean accuracy minus that of the best other causal encoding of the same seed",
            quantity=lambda none, *others: min(none.lead(other) for other in others if other),
            criterion=above(0.0),
            origin=ANY_LEAD,
            paper_number="-.001 (best regions .953 and .954; figure 2, digitised)",
            undecidable="" if longest >= CEILING else f"at a length of {longest} the best encodings are at the ceiling",
        ),
        unordered(
            id="bidirectional-chance",
            statement="Without positions a bidirectional model cannot distinguish regions: it guesses.",
            measure="absolute difference of mean accuracy and the best constant guess",
            quantity=_above_floor,
            criterion=at_most(0.02),
            margin=0.02,
            origin="computed: the best constant guess plus .02",
            control=Control("a causal encoder", ("none",), _above_floor),
            paper_number=".001 (median .030, guessing .031; figure 2, digitised)",
            figure="Which encoding",
        ),
        unordered(
            id="permutation-invariant",
            statement="Without positions, the logits of a bidirectional model are invariant to permutations.",
            measure="largest change of a logit under a permutation of tokens, in float64,",
            quantity=lambda both: both.permutation_gap,
            criterion=below(1e-9),
            statistic="share",
            origin="computed: rounding in float64",
            control=Control("a causal encoder", ("none",), lambda none: none.permutation_gap),
            details={"change": ClaimDetail("none-bidirectional", "permutation_gap")},
        ),
        Claim(
            id="encoding-named",
            kind="set-up",
            place="our check of the probes",
            statement="The probe of positions names the encoding of every trained encoder.",
            conditions=pairs,
            measure="share of encoders, causal and bidirectional, whose encoding is named correctly",
            quantity=partial(_share_named, pairs),
            criterion=at_least(0.9),
            origin="one error in ten encoders",
            control=Control("one name for all encoders", (), lambda: 1 / len(encodings)),
            details={
                "named": partial(
                    Conditions.by_condition, names=pairs, number=lambda models: [m.encoding for m in models]
                )
            },
        ),
        *_bidirectional_claims(encodings, longest, width),
        plain(
            id="failure-rate",
            asks="absence",
            place="section 4, figure 2",
            statement="In the plain set-up without positions, most seeds do not solve the task.",
            conditions=("plain-none",),
            measure="mean accuracy over regions",
            quantity=attrgetter("mean_accuracy"),
            criterion=below(SOLVED),
            statistic="share",
            origin="the paper: most seeds",
            control=Control("our recipe", ("none",), attrgetter("mean_accuracy")),
            paper_number=f"all but 4 {REGIONS}",
            details={
                "seeds that solve it [Wilson]": details_by_condition(plain_names, "is_solved"),
                "regions >= .9": details_by_condition(plain_names, pooled.regions_solved),
                "seeds within .1 of the floor [Wilson]": details_by_condition(plain_names, "is_near_floor"),
            },
        ),
        plain(
            id="rotary-is-easier",
            place="section 4, abstract",
            statement="In the plain set-up without a begin token, rotary positions train more reliably than none.",
            conditions=("plain-rotary-no-begin", "plain-none-no-begin"),
            measure="mean accuracy of rotary minus none",
            quantity=CountingResult.lead,
            criterion=above(0.0),
            origin=ANY_LEAD,
            uncontrolled=CONTROLLED,
            paper_number=f"11 against 5 {REGIONS}; with a begin token 4 against 4",
            undecidable="" if "no-begin" in parts else add,
        ),
        *circuit_claims(causal, longest, no_plain),
        forms("emerges", "no-auxiliary", statement=f"With no positions, {untaught}"),
        forms("emerges-rotary", "no-auxiliary-rotary", statement=f"With rotary positions, {untaught}"),
        forms(
            "emerges-slow-rotary",
            "no-auxiliary-slow-rotary",
            statement=f"With rotary positions of a hundredth of the usual frequencies, {untaught}",
        ),
        Claim(
            id="ingredients",
            kind="own",
            place="our recipe",
            statement="Every ingredient of the recipe is needed.",
            conditions=("none", *ingredients),
            measure="loss of mean accuracy without one ingredient, minimum over ingredients,",
            quantity=lambda full, *ablated: min(full.lead(model) for model in ablated),
            criterion=above(0.02),
            uncontrolled=CONTROLLED,
            details={
                "mean accuracy, whole and without": details_by_condition(("none", *ingredients), "mean_accuracy"),
                "seeds solved without": details_by_condition(ingredients, "is_solved"),
            },
            undecidable="" if {"circuits", "ingredients"} <= {*parts} else f"{add} ingredients",
        ),
    ]


def _bidirectional_claims(encodings: Sequence[str], longest: int, width: int) -> list[Claim]:
    """Claims that positions do not replace the causal mask of the encoder."""

    def bidirectional(name: str, excluded: str = "", **texts: Any) -> Claim:
        add = f"not part of this run; add it with --encodings {' '.join([*encodings, name])}"
        return Claim(
            id=f"bidirectional-{name}",
            asks="absence",
            conditions=(f"{name}-bidirectional",),
            undecidable=excluded if name in encodings else add,
            figure="Which encoding",
            **texts,
        )

    def guesses(name: str, positions: str, paper_number: str) -> Claim:
        return bidirectional(
            name,
            place="section 2, remark 2.5",
            statement=f"With {positions} positions a bidirectional encoder cannot distinguish before from after: it "
            "guesses.",
            measure="absolute difference of mean accuracy and the best constant guess",
            quantity=_above_floor,
            criterion=at_most(SLACK),
            margin=SLACK,
            origin="computed: the best constant guess plus .05",
            control=Control("a causal encoder", (name,), _above_floor),
            paper_number=paper_number,
        )

    return [
        guesses("rotary", "rotary", "accuracy .125 to .237 (12 regions, guessing .031; figure 2, digitised)"),
        guesses("alibi", "ALiBi", "accuracy .039 to .056 (medians by slope; largest .162, guessing .031; digitised)"),
        bidirectional(
            "learned",
            # Only positions of fewer dimensions than tokens are in question; the string starts with the begin token.
            "" if width <= longest else f"learned positions of width {width} cover strings of {longest + 1} tokens",
            place="section 2, proposition 2.4",
            statement="Learned positions of fewer dimensions than the string has tokens do not replace the causal "
            "mask: a bidirectional encoder does not solve the task.",
            measure="mean accuracy over regions",
            quantity=attrgetter("mean_accuracy"),
            criterion=below(SOLVED),
            statistic="share",
            origin="the threshold of a solved task",
            control=Control("a causal encoder without positions", ("none",), attrgetter("mean_accuracy")),
            paper_number="medians .069 with a begin token, .050 without (figure 2, digitised)",
        ),
    ]


def _above_floor(model: CountingResult) -> float:
    """Absolute difference of mean accuracy and the best constant answer."""
    return abs(model.mean_accuracy - model.floor)


def _share_named(conditions: Sequence[str], *models: CountingResult) -> float | None:
    """The share of models whose encoding is named as in their condition; None for runs of an older version."""
    if any(model.encoding is None for model in models):
        return None
    trained = [name.removesuffix("-bidirectional") for name in conditions]
    return sum(model.encoding == name for model, name in zip(models, trained, strict=True)) / len(models)


def _solves(id: str, name: str, **texts: Any) -> Claim:
    """The claim that models of a condition learn the task."""
    return Claim(
        id=id,
        conditions=(name,),
        measure="mean accuracy over regions",
        quantity=attrgetter("mean_accuracy"),
        criterion=at_least(SOLVED),
        statistic="share",
        control=Control("best constant answer", (name,), attrgetter("floor")),
        details={
            "floor (best constant guess)": ClaimDetail(name, "floor"),
            "steps to .9": ClaimDetail(name, "solved_at", never=True),
            "accuracy by region": ClaimDetail(name, "accuracy"),
            "circuits": ClaimDetail(name, lambda model: [c.circuit for c in model.circuits]),
            "bias by region": ClaimDetail(name, lambda model: [c.bias for c in model.circuits]),
            **{f"accuracy without {keys}": without_keys(name, keys) for keys in (OWN_BRACKETS, COUNTED)},
        },
        **texts,
    )
