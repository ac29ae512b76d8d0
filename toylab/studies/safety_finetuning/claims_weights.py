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
from toylab.verdicts.judgement import measured, nan_mean

REFUSING = ("ssft", "dpo", "unlearning")
"""The three methods of the paper; "dpo" is the loss of its code."""
STRONG_METHODS = REFUSING[1:]
"""The methods that change a model most according to the paper."""
CHANGE_TITLES = {
    "": "default",
    "-decay": "weight decay",
    "-strong-decay": "twice that decay",
    "-wide": "MLP twice as wide",
    "-deep": "one layer more",
    "-long": "pre-training twice as long",
    "-smallest": "a quarter of the small rate",
    "-four-times": "fine-tuning four times as long",
    "-rank-1": "rank-one change of the MLPs only",
}
"""Settings in which the null-space claim is judged, by suffix of the condition name."""
REGIMES = {
    f"{method}{end}": f"{TITLES[method]}, {setting}"
    for end, setting in CHANGE_TITLES.items()
    for method in ("ssft", "unlearning")
}
"""Cells of the map (setting and method) with their titles; each setting has a control."""
NULL_SHARE_FIGURE = "Where the change of the up-projection lies"
TAU_FIGURE = "How far activations tell safe prompts from unsafe ones"
SAFETY_QUESTION = "our question"
ORDER_ONLY = "the claim states an order without an effect size"
READ_OFF = "in the last layer (figure 3, read off to 3 % of its axis)"
SAFE_ALONE = "the fine-tune on safe prompts alone"
PAIRED = "a difference within a seed between trainings on the same prompts"
CONSTANT_ANSWER = "a fine-tune on the same prompts towards one repeated letter instead of a refusal"


def activation_claims() -> list[Claim]:
    """Claims on the separation of safe and unsafe activations, and on the sensitivity of answers to prompts."""
    separation_claim = partial(Claim, place="section 4.1, figure 3", figure=TAU_FIGURE)
    over = "ratio of the separation of safe and unsafe prompts after and before, last layer,"
    constant = Control(CONSTANT_ANSWER, ("base", "constant"), _separation_ratio)
    moves = partial(Claim, place="section 4.3, figure 5", figure="How much the answer moves with the prompt")
    return [
        Claim(
            conditions=("ssft",),
            id="jailbreak-near-safe",
            place="section 5, figure 6",
            statement="A jailbreak succeeds on prompts whose activations lie closer to those of safe prompts.",
            measure="AUC of tau, complied against refused prompts, mixed text under SSFT, last layer,",
            quantity=attrgetter("nearness.competing_text.auc"),
            criterion=at_least(0.8),
            control=Control(
                "the activations of the base, before any safety training",
                ("ssft",),
                attrgetter("nearness_before.competing_text.auc"),
            ),
            needs=(
                Precondition(condition="ssft", test=_has_auc, otherwise="fewer than 5 complied or refused prompts"),
            ),
            details={
                "tau, complied and refused": ClaimDetail("ssft", lambda ssft: asdict(ssft.nearness.competing_text)),
                "AUC, unseen unsafe text": ClaimDetail("ssft", "nearness.mismatched_text.auc"),
                "AUC, one safe and one unsafe operator": ClaimDetail("ssft", "nearness.competing_task.auc"),
            },
            figure=TAU_FIGURE,
        ),
        separation_claim(
            id="clusters",
            statement="DPO and unlearning strongly separate the activations of safe and unsafe prompts.",
            conditions=("base", *STRONG_METHODS),
            measure=f"{over} smaller of DPO and unlearning,",
            quantity=lambda base, *strong: min(_separation_ratio(base, result) for result in strong),
            criterion=at_least(4.0),
            control=constant,
            paper_number=f"tau of safe / unsafe: before .55 / -.1, DPO 38 / -25, unlearning 53 / -43 {READ_OFF}",
            details={
                "separation by layer": of_each(
                    lambda result: [layer.separation for layer in measured(result.clusters)]
                ),
                "AUC of tau": of_each(lambda result: measured(result.clusters)[-1].auc),
                "AUC of tau, operators M alone": of_each(lambda result: measured(result.clusters)[-1].auc_matched),
                "variance in one component": of_each(lambda result: asdict(measured(result.clusters)[-1].top_share)),
            },
        ),
        separation_claim(
            id="clusters-order",
            statement="SSFT separates safe and unsafe prompts less than DPO and unlearning.",
            conditions=("base", *REFUSING),
            measure=f"{over} smaller of DPO and unlearning minus SSFT,",
            quantity=lambda base, ssft, *strong: (
                min(_separation_ratio(base, result) for result in strong) - _separation_ratio(base, ssft)
            ),
            criterion=above(0.0),
            origin=ORDER_ONLY,
            uncontrolled=PAIRED,
            paper_number=f"tau of safe / unsafe: SSFT 1.9 / -.9, DPO 38 / -25, unlearning 53 / -43 {READ_OFF}",
        ),
        separation_claim(
            id="clusters-ssft",
            statement="SSFT also increases the separation of safe and unsafe prompts.",
            conditions=("base", "ssft"),
            measure=f"{over} SSFT,",
            quantity=_separation_ratio,
            criterion=at_least(1.3),
            control=constant,
            paper_number=f"tau of safe / unsafe: before .55 / -.1, SSFT 1.9 / -.9 {READ_OFF}",
        ),
        moves(
            id="sensitivity",
            statement="After DPO and unlearning, answers are far less sensitive to the embeddings of unsafe prompts "
            "than to those of safe prompts.",
            conditions=STRONG_METHODS,
            measure="gradient norm of the largest logit, ratio of unsafe to safe prompts, larger of the two methods,",
            quantity=lambda *strong: max(result.sensitivity.ratio for result in strong),
            criterion=at_most(0.3),
            control=Control(CONSTANT_ANSWER, ("constant",), attrgetter("sensitivity.ratio")),
            details={
                "safe": of_each(_safe_gradient),
                "unsafe": of_each(lambda result: nan_mean(measured(result.sensitivity).unsafe.gradient)),
                "unsafe over safe, whole Jacobian": of_each("sensitivity.jacobian_ratio"),
            },
        ),
        moves(
            id="sensitivity-safe",
            statement="After DPO and unlearning, answers are more sensitive to embeddings of safe prompts than before.",
            conditions=("base", *STRONG_METHODS),
            measure="gradient norm of the largest logit on safe prompts, ratio to before, smaller of the two methods,",
            quantity=lambda base, *strong: min(map(_safe_gradient, strong)) / _safe_gradient(base),
            criterion=above(1.0),
            origin=ORDER_ONLY,
            control=Control(
                SAFE_ALONE, ("base", "control"), lambda base, one: _safe_gradient(one) / _safe_gradient(base)
            ),
        ),
    ]


def null_space_claims(no_regime: str) -> list[Claim]:
    """Claims on the null space; `no_regime` is the reason why the map of settings was not run."""
    names = tuple(f"{method}{end}" for end in CHANGE_TITLES for method in ("control", "ssft", "unlearning"))

    def best(*results: SafetyResult, random: bool = False) -> float:
        by_condition = dict(zip(names, results, strict=True))
        pairs = [(by_condition[name], by_condition[_control_of(name)]) for name in REGIMES]
        return max((own.randomised if random else own).lift_beyond(control) for own, control in pairs)

    return [
        Claim(
            id="null-space",
            place="section 4.2, figure 4",
            statement="Fine-tuning changes the up-projections mostly in the left null space of their weights.",
            conditions=("control", *REFUSING),
            measure="energy share there minus the larger of chance and control, minimum over methods and layers,",
            quantity=lambda control, *trio: min(result.excess(control) for result in trio),
            criterion=above(0.02),
            control=Control(
                "a random change of the same size",
                ("control", *REFUSING),
                lambda control, *trio: min(result.randomised.excess(control) for result in trio),
            ),
            details={
                "chance": ClaimDetail("ssft", "last.up.chance"),
                "spread of chance": ClaimDetail("ssft", "last.up.spread"),
                "share by layer": of_each(lambda result: [layer.up.share for layer in measured(result.weights)], TUNED),
                "leading direction over chance": of_each("top_lift", TUNED),
                "of what the change adds, SSFT": ClaimDetail("ssft", lambda ssft: asdict(ssft.last.added_null_share)),
            },
            note="chance is the dimension of the null space over that of the output space",
            figure=NULL_SHARE_FIGURE,
        ),
        Claim(
            id="null-direction",
            kind="own",
            place=SAFETY_QUESTION,
            statement="On unsafe prompts, the output of the down-projection's change points towards NULL.",
            conditions=("ssft",),
            measure="cos^2 with the unembedding of NULL, last layer, at EOT,",
            quantity=attrgetter("last.toward_null.unsafe"),
            criterion=at_least(0.4),
            control=beside_safe_alone(attrgetter("last.toward_null.unsafe")),
            details={"by method": of_each("last.toward_null.unsafe", TUNED)},
            note="NULL is rare in pre-training, which alone places the change outside the leading directions",
        ),
        Claim(
            id="null-space-regime",
            kind="own",
            place="section 4.2, our question",
            statement="In some setting, the share of the null space exceeds both chance and the control.",
            conditions=names,
            measure="ratio of share to chance, minus the larger of 1 and the control's ratio, best cell of the map,",
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
            note="the best of many cells is biased upwards compared with a cell chosen in advance",
        ),
    ]


def input_claims(no_decay: str) -> list[Claim]:
    """Claims on the inputs that the change acts on; `no_decay` is the reason why the second base was not run."""
    ratio = attrgetter("last.relative_change.ratio")
    acts = partial(
        Claim,
        place="section 4.2, figure 4",
        measure="||dW a|| / ||W a|| in the last layer, ratio of unsafe to safe prompts, minimum over methods,",
        quantity=smallest("last.relative_change.ratio"),
        control=Control(CONSTANT_ANSWER, ("constant",), ratio),
    )
    moves = partial(
        Claim,
        kind="own",
        place="our question, after section 4.2",
        conditions=("ssft-decay",),
        undecidable=no_decay,
        origin="our pilot, which selected this cut among four",
        note="compare with the control, not with chance: random inputs have more energy there than any of these",
        figure="Unsafe inputs move to where the weights are weak",
    )
    weak = attrgetter("last.weak_inputs.ratio")
    return [
        acts(
            id="dw-on-unsafe",
            statement="The change of the up-projection acts more strongly on unsafe than on safe inputs.",
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
            statement="Under SSFT, the change of the up-projection acts more strongly on unsafe inputs.",
            conditions=("ssft",),
            criterion=at_least(1.15),
        ),
        moves(
            id="null-space-inputs",
            statement="SSFT shifts unsafe inputs of the last MLP to directions in which its weights have little gain.",
            measure="energy of unsafe inputs outside the leading right directions, ratio after/before, weight decay,",
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
            statement="After SSFT the last MLP amplifies unsafe inputs less.",
            measure="relative change of ||W a|| / ||a|| of unsafe inputs, weight decay,",
            quantity=_gain_change,
            criterion=at_most(-0.03),
            control=beside_safe_alone(_gain_change, "-decay"),
            details={"gain before, after, unsafe": of_each("last.amplification.unsafe", DECAYED)},
        ),
    ]


def smallest(number: str) -> Callable[..., float]:
    """The minimum of an attribute over conditions."""
    return lambda *results: min(map(attrgetter(number), results))


def beside_safe_alone(quantity: Callable[[SafetyResult], float], end: str = "") -> Control:
    """The same measurement on the fine-tune on safe prompts only; `end="-decay"` for the base with weight decay."""
    return Control(SAFE_ALONE, (f"control{end}",), quantity)


def _control_of(name: str) -> str:
    """The control condition of a cell of the map."""
    return name.replace("ssft", "control").replace("unlearning", "control")


def _separation_ratio(base: SafetyResult, tuned: SafetyResult) -> float:
    return tuned.separation / base.separation


def _safe_gradient(tuned: SafetyResult) -> float:
    return nan_mean(measured(tuned.sensitivity).safe.gradient)


def _has_auc(ssft: SafetyResult) -> bool:
    return measured(measured(ssft.nearness).competing_text).auc is not None


def _gain_change(tuned: SafetyResult) -> float:
    return tuned.last.amplification.ratio - 1


def of_each(
    number: str | Callable[[SafetyResult], Any], of: Mapping[str, str] = TITLES
) -> Callable[[Conditions], dict[str, Any]]:
    """A number per seed, by condition."""
    return lambda results: {
        title: ClaimDetail(name, number).of(results[name]) for name, title in of.items() if results[name]
    }
