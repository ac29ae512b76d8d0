"""Claims on activations and weights after safety fine-tuning, and the quantities and details that all claims share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from typing import Any

from toylab.studies.safety_finetuning.results import DECAYED, TITLES, TUNED, SafetyResult
from toylab.verdicts.claim import Claim, ClaimDetail, Conditions, Control, Precondition
from toylab.verdicts.criterion import above, at_least, at_most
from toylab.verdicts.judgement import nan_mean

REFUSING = ("ssft", "dpo", "unlearning")
"""The three methods of the paper; "dpo" is the loss of its code."""
STRONG_METHODS = REFUSING[1:]
"""Those of which the paper says that they change a model most."""
CHANGE_TITLES = {
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
REGIMES = {
    f"{method}{end}": f"{TITLES[method]}, {setting}"
    for end, setting in CHANGE_TITLES.items()
    for method in ("ssft", "unlearning")
}
"""Settings and methods, the cells of the map, with their titles; each setting has a control."""
NULL_SHARE_FIGURE = "Where the change of the up-projection lies"
TAU_FIGURE = "How far activations tell safe prompts from unsafe ones"
SAFETY_QUESTION = "our question"
ORDER_ONLY = "an order: the claim names no size"
READ_OFF = "in the last layer (figure 3, read off to 3 % of its axis)"
SAFE_ALONE = "the fine-tune on safe prompts alone"
PAIRED = "a difference within a seed between trainings on the same prompts"
UNTIL_MEASURED = (
    "waits for a fine-tune on the same prompts towards one repeated letter: without any refusal, it may show the same"
)


def activation_claims() -> list[Claim]:
    """How far safe prompts lie from unsafe ones, and how much the answer moves with either."""
    apart = partial(Claim, place="section 4.1, figure 3", figure=TAU_FIGURE)
    over = "separation of safe and unsafe prompts over that before, last layer,"
    safe_alone = Control(SAFE_ALONE, ("base", "control"), _apart)
    moves = partial(Claim, place="section 4.3, figure 5", figure="How much the answer moves with the prompt")
    return [
        Claim(
            conditions=("ssft",),
            id="jailbreak-near-safe",
            place="section 5, figure 6",
            statement="A jailbreak works on the prompts whose activations lie nearer to safe ones.",
            measure="AUC of tau, prompts complied with against refused, mixed text under SSFT, last layer,",
            quantity=attrgetter("nearness.competing_text.auc"),
            criterion=at_least(0.8),
            control=Control(
                "the activations of the base, before any safety training",
                ("ssft",),
                attrgetter("nearness_before.competing_text.auc"),
            ),
            needs=(Precondition(condition="ssft", test=_has_auc, otherwise="too few prompts of either kind to tell"),),
            details={
                "tau, complied and refused": ClaimDetail("ssft", lambda ssft: asdict(ssft.nearness.competing_text)),
                "AUC, unseen unsafe text": ClaimDetail("ssft", "nearness.mismatched_text.auc"),
                "AUC, one safe and one unsafe operator": ClaimDetail("ssft", "nearness.competing_task.auc"),
            },
            figure=TAU_FIGURE,
        ),
        apart(
            id="clusters",
            statement="DPO and unlearning drive safe and unsafe prompts far apart.",
            conditions=("base", *STRONG_METHODS),
            measure=f"{over} weaker of DPO and unlearning,",
            quantity=lambda base, *strong: min(_apart(base, one) for one in strong),
            criterion=at_least(4.0),
            control=safe_alone,
            paper_number=f"tau of safe / unsafe: before .55 / -.1, DPO 38 / -25, unlearning 53 / -43 {READ_OFF}",
            details={
                "separation by layer": of_each(lambda one: [layer.separation for layer in one.clusters]),
                "AUC of tau": of_each(lambda one: one.clusters[-1].auc),
                "AUC of tau, operators M alone": of_each(lambda one: one.clusters[-1].auc_matched),
                "variance in one component": of_each(lambda one: asdict(one.clusters[-1].top_share)),
            },
        ),
        apart(
            id="clusters-order",
            statement="SSFT drives safe and unsafe prompts apart less than DPO and unlearning.",
            conditions=("base", *REFUSING),
            measure=f"{over} weaker of DPO and unlearning minus SSFT,",
            quantity=lambda base, ssft, *strong: min(_apart(base, one) for one in strong) - _apart(base, ssft),
            criterion=above(0.0),
            origin=ORDER_ONLY,
            uncontrolled=PAIRED,
            paper_number=f"tau of safe / unsafe: SSFT 1.9 / -.9, DPO 38 / -25, unlearning 53 / -43 {READ_OFF}",
        ),
        apart(
            id="clusters-ssft",
            statement="SSFT, too, drives safe and unsafe prompts apart, a little.",
            conditions=("base", "ssft"),
            measure=f"{over} SSFT,",
            quantity=_apart,
            criterion=at_least(1.3),
            control=safe_alone,
            paper_number=f"tau of safe / unsafe: before .55 / -.1, SSFT 1.9 / -.9 {READ_OFF}",
            undecidable=UNTIL_MEASURED,
        ),
        moves(
            id="sensitivity",
            statement="After DPO and unlearning the answer moves far less with an unsafe prompt's embeddings than with "
            "a safe one's.",
            conditions=STRONG_METHODS,
            measure="gradient norm of the largest logit, unsafe over safe, in the larger of the two,",
            quantity=lambda *strong: max(one.sensitivity.ratio for one in strong),
            criterion=at_most(0.3),
            control=beside_safe_alone(attrgetter("sensitivity.ratio")),
            details={
                "safe": of_each(_safe_gradient),
                "unsafe": of_each(lambda one: nan_mean(one.sensitivity.unsafe.gradient)),
                "unsafe over safe, whole Jacobian": of_each("sensitivity.jacobian_ratio"),
            },
        ),
        moves(
            id="sensitivity-safe",
            statement="After DPO and unlearning the answer moves more with a safe prompt's embeddings than before.",
            conditions=("base", *STRONG_METHODS),
            measure="gradient norm of the largest logit on safe prompts over that before, smaller of the two,",
            quantity=lambda base, *strong: min(map(_safe_gradient, strong)) / _safe_gradient(base),
            criterion=above(1.0),
            origin=ORDER_ONLY,
            control=Control(
                SAFE_ALONE, ("base", "control"), lambda base, one: _safe_gradient(one) / _safe_gradient(base)
            ),
        ),
    ]


def null_space_claims(no_regime: str) -> list[Claim]:
    """Where the change lies and points; `no_regime` says why the map of settings was not run."""
    names = tuple(f"{method}{end}" for end in CHANGE_TITLES for method in ("control", "ssft", "unlearning"))

    def best(*found: SafetyResult, random: bool = False) -> float:
        held = dict(zip(names, found, strict=True))
        pairs = [(held[name], held[_control_of(name)]) for name in REGIMES]
        return max((own.randomised if random else own).lift_beyond(control) for own, control in pairs)

    return [
        Claim(
            id="null-space",
            place="section 4.2, figure 4",
            statement="Fine-tuning changes the up-projections mostly in the left null space of their weights.",
            conditions=("control", *REFUSING),
            measure="energy share there minus the larger of chance and the control's, least over methods and layers,",
            quantity=lambda control, *trio: min(one.excess(control) for one in trio),
            criterion=above(0.02),
            control=Control(
                "a random change of the same size",
                ("control", *REFUSING),
                lambda control, *trio: min(one.randomised.excess(control) for one in trio),
            ),
            details={
                "chance": ClaimDetail("ssft", "last.up.chance"),
                "spread of chance": ClaimDetail("ssft", "last.up.spread"),
                "share by layer": of_each(lambda one: [layer.up.share for layer in one.weights], TUNED),
                "leading direction over chance": of_each("top_lift", TUNED),
                "of what the change adds, SSFT": ClaimDetail("ssft", lambda ssft: asdict(ssft.last.added_null_share)),
            },
            note="chance is the share of the output space that is null, whatever was trained",
            figure=NULL_SHARE_FIGURE,
        ),
        Claim(
            id="null-direction",
            kind="own",
            place=SAFETY_QUESTION,
            statement="What the change of the down-projection writes for unsafe prompts points to NULL.",
            conditions=("ssft",),
            measure="cos^2 with the unembedding of NULL, last layer, at EOT,",
            quantity=attrgetter("last.toward_null.unsafe"),
            criterion=at_least(0.4),
            control=beside_safe_alone(attrgetter("last.toward_null.unsafe")),
            details={"by method": of_each("last.toward_null.unsafe", TUNED)},
            note="pre-training hardly ever writes NULL: this alone puts the change outside the leading directions",
        ),
        Claim(
            id="null-space-regime",
            kind="own",
            place="section 4.2, our question",
            statement="There is a setting in which the null-space claim holds beyond chance and beyond the control.",
            conditions=names,
            measure="share over chance minus the larger of 1 and the control's, in the best cell of the map,",
            quantity=best,
            criterion=above(0.05),
            control=Control("the best cell of random changes of the same sizes", names, partial(best, random=True)),
            details={
                "share over chance": of_each("lift", REGIMES),
                "leading direction alone": of_each("top_lift", REGIMES),
                "refuses unsafe": of_each("behaviour.unsafe.refuses", REGIMES),
            },
            figure=NULL_SHARE_FIGURE,
            undecidable=no_regime,
            note="the best of many cells is more than one chosen in advance would show",
        ),
    ]


def input_claims(no_decay: str) -> list[Claim]:
    """Which inputs the change acts on; `no_decay` says why the second base was not run."""
    ratio = attrgetter("last.relative_change.ratio")
    acts = partial(
        Claim,
        place="section 4.2, figure 4",
        measure="||dW a|| / ||W a|| in the last layer, unsafe over safe, least over methods,",
        quantity=smallest("last.relative_change.ratio"),
        control=beside_safe_alone(ratio),
        undecidable=UNTIL_MEASURED,
    )
    moves = partial(
        Claim,
        kind="own",
        place="our question, after section 4.2",
        conditions=("ssft-decay",),
        undecidable=no_decay,
        origin="our pilot, which chose this form among four cuts",
        note="beside the control, not beside chance: random inputs would lie there more than these ever do",
        figure="Unsafe inputs move to where the weights are weak",
    )
    weak = attrgetter("last.weak_inputs.ratio")
    return [
        acts(
            id="dw-on-unsafe",
            statement="The change of the up-projection acts more on unsafe inputs than on safe ones.",
            conditions=STRONG_METHODS,
            criterion=at_least(1.4),
            details={
                "unsafe over safe": of_each("last.relative_change.ratio", TUNED),
                "random changes of the same size": of_each("randomised.last.relative_change.ratio", TUNED),
                "SSFT, every set": ClaimDetail("ssft", lambda ssft: asdict(ssft.last.relative_change)),
            },
        ),
        acts(
            id="dw-on-unsafe-ssft",
            statement="Under SSFT, the change of the up-projection acts more on unsafe inputs.",
            conditions=("ssft",),
            criterion=at_least(1.15),
        ),
        moves(
            id="null-space-inputs",
            statement="SSFT moves unsafe inputs of the last MLP to directions that its weights hardly read.",
            measure="energy of unsafe inputs outside the strong right directions, after over before, weight decay,",
            quantity=weak,
            criterion=at_least(2.0),
            control=beside_safe_alone(weak, "-decay"),
            details={
                "energy before, after, unsafe": of_each("last.weak_inputs.unsafe", DECAYED),
                "energy before, after, safe": of_each("last.weak_inputs.safe", DECAYED),
                "a random direction": ClaimDetail("ssft-decay", "last.weak_inputs_random"),
            },
        ),
        moves(
            id="null-space-inputs-gain",
            statement="After SSFT the last MLP reads unsafe inputs more weakly.",
            measure="relative change of ||W a|| / ||a|| of unsafe inputs, weight decay,",
            quantity=_gain_change,
            criterion=at_most(-0.03),
            control=beside_safe_alone(_gain_change, "-decay"),
            details={"gain before, after, unsafe": of_each("last.amplification.unsafe", DECAYED)},
        ),
    ]


def smallest(number: str) -> Callable[..., float]:
    """The smallest over the conditions."""
    return lambda *those: min(map(attrgetter(number), those))


def beside_safe_alone(quantity: Callable[[SafetyResult], float], end: str = "") -> Control:
    """The same of the fine-tune on safe prompts; of the base with weight decay for the end "-decay"."""
    return Control(SAFE_ALONE, (f"control{end}",), quantity)


def _control_of(name: str) -> str:
    """The condition of the control of a cell of the map."""
    return name.replace("ssft", "control").replace("unlearning", "control")


def _apart(base: SafetyResult, one: SafetyResult) -> float:
    return one.separation / base.separation


def _safe_gradient(one: SafetyResult) -> float:
    return nan_mean(one.sensitivity.safe.gradient)


def _has_auc(ssft: SafetyResult) -> bool:
    return ssft.nearness.competing_text.auc is not None


def _gain_change(one: SafetyResult) -> float:
    return one.last.amplification.ratio - 1


def of_each(
    number: str | Callable[[SafetyResult], Any], of: Mapping[str, str] = TITLES
) -> Callable[[Conditions], dict[str, Any]]:
    """A number of each seed, by condition."""
    return lambda results: {
        title: ClaimDetail(name, number).of(results[name]) for name, title in of.items() if results[name]
    }
