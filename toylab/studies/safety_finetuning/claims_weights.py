"""Claims on the weights of safety fine-tuning, and the quantities and details that all claims share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from operator import attrgetter
from typing import Any

from toylab.studies.safety_finetuning.results import DECAYED, TITLES, TUNED, SafetyResult
from toylab.verdicts.claim import Claim, Conditions, Control, Detail
from toylab.verdicts.criterion import Criterion, above, at_least, at_most, between
from toylab.verdicts.decision import Plan
from toylab.verdicts.judgement import Judgement

TRIO = ("ssft", "dpo", "unlearning")
"""The three methods of the paper; "dpo" is the loss of its code."""
STRONG = TRIO[1:]
"""Those of which the paper says that they change a model most."""
CHANGES = {
    "": "default",
    "-decay": "weight decay",
    "-strong-decay": "twice that decay",
    "-wide": "MLP twice as wide",
    "-deep": "one layer more",
    "-long": "pre-training twice as long",
    "-smallest": "a quarter of the small rate",
    "-four-times": "fine-tuning four times as long",
    "-rank-1": "MLPs alone, at rank one",
}
"""Settings in which the null-space claim is judged, by the end of the names of their conditions."""
NULL_SHARE_FIGURE = "Where the change of the up-projection lies"


def null_space(no_regime: str) -> list[Claim]:
    """Where the change lies and points; `no_regime` says why the map of settings was not run."""
    return [
        Claim(
            id="null-space",
            place="section 4.2, figure 4",
            sentence="Fine-tuning changes the up-projections mostly in the left null space of their weights.",
            conditions=("control", *TRIO),
            measure="energy share there minus the larger of chance and the control's, least over methods and layers,",
            quantity=lambda control, *trio: min(one.excess(control) for one in trio),
            criterion=above(0.02),
            details={
                "chance": Detail("ssft", "last.up.chance"),
                "spread of chance": Detail("ssft", "last.up.spread"),
                "share by layer": of_each(lambda one: [layer.up.share for layer in one.weights], TUNED),
                "of what the change adds, SSFT": Detail("ssft", lambda ssft: asdict(ssft.last.added_null_share)),
            },
            note="chance is the share of the output space that is null, whatever was trained",
            figure=NULL_SHARE_FIGURE,
        ),
        *_with_control(
            Claim(
                id="null-direction",
                kind="own",
                place="our question",
                sentence="What the change of the down-projection writes for unsafe prompts points to NULL.",
                conditions=("ssft",),
                measure="cos^2 with the unembedding of NULL, last layer, at EOT,",
                quantity=attrgetter("last.toward_null.unsafe"),
                criterion=at_least(0.4),
                details={"by method": of_each("last.toward_null.unsafe", TUNED)},
                note="pre-training hardly ever writes NULL, so this alone puts the change of the down-projection "
                "outside its leading output directions",
            ),
            "In the control, the change of the down-projection does not point to NULL.",
            at_most(0.1),
        ),
        _BestCell(
            id="null-space-regime",
            kind="own",
            place="section 4.2, our question",
            sentence="There is a setting in which the null-space claim holds beyond chance and beyond the control.",
            conditions=tuple(f"{name}{suffix}" for suffix in CHANGES for name in ("control", "ssft", "unlearning")),
            measure="share over chance minus the larger of 1 and the control's, in the best cell of the map,",
            quantity=lambda own, control: None if no_regime else own.lift_beyond(control),
            criterion=above(0.05),
            figure=NULL_SHARE_FIGURE,
            undecidable=no_regime,
            note="a best of many cells is more than any of them would show on new seeds",
        ),
    ]


class _BestCell(Claim):
    """A claim on the setting and method with the largest mean over seeds, which follow from the results."""

    def judged(self, results: Conditions, plan: Plan, family: int = 1) -> Judgement:
        cells = {}
        for (suffix, setting), method in product(CHANGES.items(), ("ssft", "unlearning")):
            own, base = f"{method}{suffix}", f"base{suffix}" if results[f"base{suffix}"] else "base"
            details = {
                "over chance": Detail(own, "lift"),
                "leading direction alone": Detail(own, "top_lift"),
                "refuses unsafe": Detail(own, "behaviour.unsafe.refuses"),
                "base complies": Detail(base, "behaviour.least_compliance"),
            }
            cell = replace(self, conditions=(own, f"control{suffix}"), details=details)
            cells[f"{TITLES[method]}, {setting}"] = Claim.judged(cell, results, plan, family)
        measured = {name: cell.measured for name, cell in cells.items() if cell.seeds}
        best = max(measured, key=measured.get, default=next(iter(cells)))
        every = {"best cell": best, "cells": {name: cells[name].details for name in measured}} if measured else {}
        return replace(cells[best], details=cells[best].details | every)


def inputs(no_decay: str) -> list[Claim]:
    """Which inputs the change acts on; `no_decay` says why the second base was not run."""
    acts = partial(
        Claim,
        place="section 4.2, figure 4",
        measure="||dW a|| / ||W a|| in the last layer, unsafe over safe, least over methods,",
        quantity=least("last.effect.ratio"),
    )
    moves = partial(
        Claim,
        place="section 4.2, in another form",
        conditions=("ssft-decay",),
        undecidable=no_decay,
        note="beside the control, not beside chance: random inputs would lie there more than these ever do",
        figure="Unsafe inputs move to where the weights are weak",
    )
    return [
        *_with_control(
            acts(
                id="dw-on-unsafe",
                sentence="The change of the up-projection acts more on unsafe inputs than on safe ones.",
                conditions=STRONG,
                criterion=at_least(1.4),
                details={
                    "unsafe over safe": of_each("last.effect.ratio", TUNED),
                    "SSFT, every set": Detail("ssft", lambda ssft: asdict(ssft.last.effect)),
                },
            ),
            "The change of the control acts on unsafe inputs as on safe ones.",
            at_most(1.05),
        ),
        acts(
            id="dw-on-unsafe-ssft",
            sentence="Under SSFT, the change of the up-projection acts more on unsafe inputs.",
            conditions=("ssft",),
            criterion=at_least(1.15),
        ),
        *_with_control(
            moves(
                id="null-space-inputs",
                sentence="SSFT moves unsafe inputs of the last MLP to directions that its weights hardly read.",
                measure="energy of unsafe inputs outside the strong right directions, after over before, weight decay,",
                quantity=attrgetter("last.weak_inputs.ratio"),
                criterion=at_least(2.0),
                details={
                    "energy before, after, unsafe": of_each("last.weak_inputs.unsafe", DECAYED),
                    "energy before, after, safe": of_each("last.weak_inputs.safe", DECAYED),
                    "a random direction": Detail("ssft-decay", "last.weak_inputs_random"),
                },
            ),
            "The control does not move unsafe inputs to such directions.",
            at_most(1.3),
        ),
        *_with_control(
            moves(
                id="null-space-inputs-gain",
                sentence="After SSFT the last MLP reads unsafe inputs more weakly.",
                measure="relative change of ||W a|| / ||a|| of unsafe inputs, weight decay,",
                quantity=lambda one: one.last.gain.ratio - 1,
                criterion=at_most(-0.03),
                details={"gain before, after, unsafe": of_each("last.gain.unsafe", DECAYED)},
            ),
            "After the control, the last MLP reads unsafe inputs as before.",
            between(-0.03, 0.03),
        ),
    ]


def least(number: str) -> Callable[..., float]:
    """The smallest over the conditions."""
    return lambda *those: min(map(attrgetter(number), those))


def _with_control(claim: Claim, sentence: str, criterion: Criterion) -> list[Claim]:
    """A claim with the fine-tune on safe prompts as its control, and that the control does not show the same."""
    name = "control-decay" if claim.conditions[0].endswith("-decay") else "control"
    told = {"id": f"{claim.id}-control", "sentence": sentence, "criterion": criterion, "details": {}, "note": ""}
    twin = replace(claim, **told, conditions=(name,), kind="own", asks="absence")
    return [replace(claim, control=Control("the fine-tune on safe prompts alone", (name,), claim.quantity)), twin]


def of_each(
    number: str | Callable[[SafetyResult], Any], of: Mapping[str, str] = TITLES
) -> Callable[[Conditions], dict[str, Any]]:
    """A number of each seed, by condition."""
    return lambda results: {
        title: Detail(name, number).of(results[name]) for name, title in of.items() if results[name]
    }
