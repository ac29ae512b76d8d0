"""Claims of the counting study on circuits: where models count, their bias token, and predictions for other strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from statistics import median
from typing import Any

from toylab.studies.contextual_counting import pooled
from toylab.studies.contextual_counting.results import (
    ADDED_REGION,
    BLOCKED,
    CONSTANT,
    COUNTED,
    OUTSIDE_ONES,
    SIXTEEN_ZEROS,
    SLACK,
    VARYING,
    CountingResult,
    UntrainedCounter,
    attention_on_brackets,
)
from toylab.verdicts.claim import Claim, ClaimDetail, Conditions, Control, Precondition
from toylab.verdicts.criterion import at_least, at_most
from toylab.verdicts.intervals import mean_in_words
from toylab.verdicts.judgement import measured, nan_mean

SOME_SOLVED = Precondition(condition="none", test=lambda r: bool(r.solved), otherwise="no model solved a region here")
UNSUPERVISED = Precondition(condition="no-auxiliary", test=SOME_SOLVED.test, otherwise=SOME_SOLVED.otherwise)
ROTARY = Precondition(condition="rotary", test=lambda r: r.is_solved, otherwise="no rotary model solved the task here")

COUNTING = partial(CountingResult.share, test=lambda region: region.counts)
VARYING_BIAS = partial(CountingResult.share, test=lambda region: region.largest in VARYING)
BEGIN_BIAS = partial(CountingResult.share, test=lambda region: region.largest == "begin")
"""Shares of solved regions."""


def circuit_claims(causal: Sequence[str], longest: int, no_plain: str) -> list[Claim]:
    """All claims on circuits.

    Args:
        causal: conditions with a causal encoder.
        longest: length in tokens of the evaluated strings.
        no_plain: the reason why the plain set-up is not part of the run; empty if it is.
    """
    strings = ("none", "no-auxiliary", "fixed")
    of_none = partial(Claim, conditions=("none",), needs=(SOME_SOLVED,))
    in_decoder = partial(of_none, place="section 4.2, figure 8", figure="Attention as a counter")
    varied_training = partial(
        Claim,
        kind="own",
        place="section 5, left open",
        conditions=("no-auxiliary",),
        needs=(UNSUPERVISED,),
        figure="What they compare with",
    )
    all_models = partial(Claim, conditions=(), optional=tuple(causal))
    appended = partial(
        all_models,
        place="section 4.3, figure 3",
        undecidable="" if longest <= 64 else f"16 zeros change strings of length {longest} too little",
    )
    region_accuracy = partial(appended, measure="accuracy of these regions after 16 zeros were appended")
    of_constant, of_zeros = (partial(pooled.accuracy_kept, biases=names) for names in (CONSTANT, ("zeros",)))
    rotary_planes = partial(
        Claim, place="appendix, figure 25", conditions=("rotary",), needs=(ROTARY,), figure="Rotary in disguise"
    )
    return [
        in_decoder(
            id="count-in-decoder",
            statement="The decoder counts by attention: n counted ones compete with a bias that weighs K ones.",
            measure="K in counted ones, median over solved regions,",
            quantity=lambda none: median(region.k for region in none.solved),
            criterion=at_most(longest / 2),
            origin="computed: half of the longest string",
            control=_untrained_control("uniform attention", "none", lambda untrained: untrained.uniform.k),
            paper_number="28 (length 512, mean count 28; figure 8, by eye)",
            details={"K of solved regions": _of_solved("k")},
        ),
        in_decoder(
            id="count-needs-ones",
            asks="absence",
            statement="Without attention to the ones of its region, a label query guesses.",
            measure="accuracy without the counted ones minus the best constant guess, mean over solved regions,",
            quantity=partial(_above_floor, keys=COUNTED),
            criterion=at_most(SLACK),
            margin=SLACK,
            origin="computed: the best constant guess plus .05",
            control=Control("without the ones outside regions", ("none",), partial(_above_floor, keys=OUTSIDE_ONES)),
            details={"accuracy without them": _of_solved("without_ones"), "floor": ClaimDetail("none", "floor")},
        ),
        in_decoder(
            id="count-curve",
            statement="The decoder's attention mass on n ones is n / (n + K).",
            measure="R^2 of that curve, mean over solved regions,",
            quantity=lambda none: none.over_solved(lambda region: region.r2),
            criterion=at_least(0.98),
            control=_untrained_control("uniform attention", "none", lambda untrained: untrained.uniform.r2),
            details={"R^2 of solved regions": _of_solved("r2")},
        ),
        of_none(
            id="bias-token",
            place="section 4.2",
            statement="Each region compares its ones with one kind of token, the bias token.",
            measure=f"share of solved regions with a bias token and accuracy at the floor (+ {SLACK}) without it,",
            quantity=lambda none: none.share_at_floor(lambda region: region.without_bias),
            criterion=at_least(0.9),
            control=Control(
                "without the class second in attention",
                ("none",),
                lambda none: none.share_at_floor(lambda region: region.without_next),
            ),
            details={
                "bias by solved region": _of_solved("bias"),
                "its share": _of_solved("share"),
                "accuracy without it": _of_solved("without_bias"),
            },
            note="a bias token has at least .7 of the attention that is not on counted ones",
            figure="What they compare with",
        ),
        of_none(
            id="two-values",
            place="section 4.2, equation 3",
            statement="Two value vectors reproduce the answers: one for counted ones, one for bias tokens.",
            measure="share of predictions with the model's most likely count, in solved regions,",
            quantity=lambda none: none.agreement,
            criterion=at_least(0.9),
            control=Control("best constant answer", ("none",), attrgetter("floor")),
            details={
                "KL in nats, two values": ClaimDetail("none", lambda r: [x.two_values.kl for x in r.readout or ()]),
                "KL in nats, one value per class": ClaimDetail(
                    "none", lambda r: [x.all_classes.kl for x in r.readout or ()]
                ),
            },
            note="a region with a mixed bias has more than two values, and may never agree",
        ),
        of_none(
            id="region-probe",
            place="section 4.2, figures 7 and 9",
            statement="The encoder's state at every one encodes its region.",
            measure="accuracy of a linear probe on ones at the decoder's input",
            quantity=lambda none: none.probe.decoder_input.accuracy,
            criterion=at_least(0.95),
            control=_untrained_control(
                "random weights", "none", lambda untrained: untrained.probe.decoder_input.accuracy
            ),
            details={
                "at the attention's output": ClaimDetail("none", "probe.attention_output.accuracy"),
                "majority class": ClaimDetail("none", "probe.decoder_input.majority"),
                "shuffled labels": ClaimDetail("none", "probe.decoder_input.shuffled"),
                "variance in two components": ClaimDetail("none", "probe.attention_output.two_components"),
            },
        ),
        of_none(
            id="reads-brackets",
            place="section 4.2, figure 6",
            statement="In the encoder, ones attend to brackets and the begin token, and little to bits.",
            measure="attention of a one on brackets and the begin token, for equal numbers of each token,",
            quantity=lambda none: none.bracket_share,
            criterion=at_least(0.9),
            control=_untrained_control(
                "random weights", "none", lambda untrained: attention_on_brackets(measured(untrained.scores))
            ),
            paper_number="1.000 (from the scores of figure 6)",
            details={"scores of a one for 0, 1, [, ], BoS": ClaimDetail("none", "scores_of_one")},
            figure="The counting circuit",
        ),
        *(_law(id, causal, sentence, attrgetter(path)) for id, path, sentence in PREDICTIONS),
        appended(
            id="bias-decides",
            statement="Out-of-distribution accuracy depends on the bias token: it is kept if its number is constant.",
            measure="accuracy with 16 zeros appended, of regions with a bias of constant number minus zeros as bias,",
            quantity=pooled.lead_of_constant,
            criterion=at_least(0.1),
            origin="the smallest effect of interest: a tenth of the counts",
            uncontrolled="the quantity is a difference between regions of the same seed",
            paper_number="at length 300, .99 with a begin token; without, 2 of 11 rotary regions above .75 (figure 3)",
        ),
        region_accuracy(
            id="constant-bias-keeps",
            statement="Regions with a bias token of constant number keep counting correctly in longer strings.",
            quantity=of_constant,
            criterion=at_least(0.9),
            control=Control("regions with zeros as bias", tuple(causal), of_zeros),
            paper_number=".988 to .996 (4 regions with a begin token, length 300; figure 3, digitised)",
            details={
                "begin token only": details_by_condition(
                    causal, lambda models: pooled.accuracy_kept(*models, biases=("begin",))
                )
            },
        ),
        region_accuracy(
            id="zeros-bias-falls",
            asks="absence",
            statement="Regions with zeros as bias miscount in longer strings.",
            quantity=of_zeros,
            criterion=at_most(0.5),
            control=Control("regions with a bias token of constant number", tuple(causal), of_constant),
        ),
        _mlp("encoder-mlp", "none", "our recipe"),
        _mlp("plain-encoder-mlp", "plain-none", "the plain set-up", undecidable=no_plain),
        rotary_planes(
            id="rotary-in-disguise",
            statement="Rotary models attend by planes that hardly rotate over a string.",
            measure="share of the score in planes below one radian per string, minus the share of such planes,",
            quantity=lambda model: model.rotary.slow_lead(longest),
            criterion=at_least(0.2),
            origin="the smallest effect of interest: .2 above the share of such planes",
            control=_untrained_control(
                "random weights", "rotary", lambda untrained: measured(untrained.rotary).slow_lead(longest)
            ),
            paper_number="planes 0 to 12 of 32 add about 0 to the score, the slowest 8.8 (figure 25)",
            details={
                "share of the score from slow planes": ClaimDetail(
                    "rotary", lambda model: model.rotary.slow_share(longest)
                )
            },
        ),
        rotary_planes(
            id="rotary-stopped",
            kind="own",
            asks="absence",
            statement="Rotary models do not need rotation.",
            measure="ratio of accuracy with and without stopping planes of more than one radian per string",
            quantity=_kept_without_rotation,
            criterion=at_least(0.9),
            margin=0.1,
            control=Control(
                "bidirectional, where positions come from rotation", ("rotary-bidirectional",), _kept_without_rotation
            ),
            details={
                "accuracy without rotation": ClaimDetail("rotary", lambda model: nan_mean(model.rotary.stopped.all)),
                "accuracy with only fast planes rotating": ClaimDetail(
                    "rotary", lambda model: nan_mean(model.rotary.stopped.slow)
                ),
            },
        ),
        varied_training(
            id="cure",
            asks="absence",
            statement="Training on varied lengths and numbers of regions prevents biases that do not generalise.",
            measure="share of solved regions whose largest bias class varies in number between strings",
            quantity=VARYING_BIAS,
            criterion=at_most(0.05),
            margin=0.05,
            control=Control("trained on one length and number of regions", ("fixed",), VARYING_BIAS),
            details={
                "largest bias class": details_by_condition(strings, pooled.bias_names),
                "mean accuracy elsewhere": details_by_condition(strings, pooled.accuracy_elsewhere),
            },
        ),
        varied_training(
            id="cure-begin",
            statement="Training on varied strings makes the begin token the bias, as the token of constant number.",
            measure="share of solved regions whose largest bias class is the begin token",
            quantity=BEGIN_BIAS,
            criterion=at_least(0.5),
            control=Control("trained on one length and number of regions", ("fixed",), BEGIN_BIAS),
            note="brackets of the own and earlier regions are as constant in number as the begin token, and closer",
        ),
    ]


PREDICTIONS = (
    ("ood-law", "predicted", "The bias of a region predicts its answers on changed strings: n becomes n K / K'."),
    (
        "ood-law-by-place",
        "by_place",
        "The bias of a region predicts its answers on changed strings, with K' by class and position of tokens.",
    ),
)
"""Claim id, attribute of a shift, statement."""


def _law(id: str, causal: Sequence[str], sentence: str, law: pooled.Law) -> Claim:
    """The claim that a law predicts the slope correctly wherever it predicts a change of slope."""
    return Claim(
        id=id,
        kind="own",
        place="section 4.3; the law n K / K' is ours",
        statement=sentence,
        conditions=(),
        optional=tuple(causal),
        measure=f"share of slopes within {pooled.TOLERANCE:.0%} of the prediction with 16 zeros or an empty region "
        "appended, over counting regions for which the law predicts a larger change than that,",
        quantity=partial(pooled.share_predicted, law=law),
        criterion=at_least(0.9),
        control=Control(
            "predicting no change", tuple(causal), partial(pooled.share_predicted, law=law, answer=attrgetter("before"))
        ),
        details={
            f"mean relative error, {change} appended": details_by_condition(
                causal, partial(pooled.prediction_error, law=law, change=change)
            )
            for change in (SIXTEEN_ZEROS, ADDED_REGION)
        },
        note="the last region may attend to an appended region as its own, and is excluded for that change",
        figure="Predicted and measured",
    )


def _mlp(name: str, without_mlp: str, where: str, undecidable: str = "") -> Claim:
    """The claim that a model with an MLP in the encoder does not count in the decoder."""
    return Claim(
        id=name,
        kind="own",
        asks="absence",
        place="our question",
        statement=f"With an MLP in the encoder, another circuit reaches the same accuracy, in {where}.",
        conditions=(name,),
        measure="share of solved regions that count in the decoder",
        quantity=COUNTING,
        criterion=at_most(0.5),
        control=Control("without the MLP", (without_mlp,), COUNTING),
        details={
            "circuits of solved regions": details_by_condition((name,), pooled.circuit_names),
            "accuracy": ClaimDetail(name, "mean_accuracy"),
            **{f"without {keys}": without_keys(name, keys) for keys in BLOCKED},
        },
        undecidable=undecidable,
        figure="What each region needs",
    )


def _untrained_control(control_name: str, name: str, number: Callable[[UntrainedCounter], float]) -> Control:
    """A control that takes the number from the untrained model of the same job; None if the run did not measure it."""
    return Control(control_name, (name,), lambda model: model.untrained and number(model.untrained))


def _kept_without_rotation(model: CountingResult) -> float:
    """Accuracy with the rotation of fast planes stopped, divided by the unedited accuracy."""
    return nan_mean(measured(model.rotary).stopped.fast) / model.mean_accuracy


def _above_floor(model: CountingResult, keys: str) -> float | None:
    """Accuracy of solved regions with `keys` hidden, minus the accuracy of the best constant answer."""
    return model.over_solved(lambda region: region.blocked[keys] - model.floor)


def details_by_condition(
    names: Sequence[str], number: str | Callable[..., Any]
) -> Callable[[Conditions], dict[str, Any]]:
    """For each condition, a function of all its models, or the mean of an attribute and its interval in words."""
    summary = (
        (lambda models: mean_in_words([getattr(m, number) for m in models])) if isinstance(number, str) else number
    )
    return partial(Conditions.by_condition, names=names, number=summary)


def without_keys(name: str, keys: str) -> ClaimDetail:
    """Accuracy by region with these keys hidden from label queries."""
    return ClaimDetail(name, partial(CountingResult.without, keys=keys))


def _of_solved(number: str) -> ClaimDetail:
    """An attribute of each solved region of the models without positions."""
    return ClaimDetail("none", lambda none: [getattr(region, number) for region in none.solved])
