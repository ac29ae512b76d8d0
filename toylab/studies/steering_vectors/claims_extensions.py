"""Claims beyond one vector in its own model: separability, transfer, combination, adaptive scale, prompt bit, features,
baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from toylab.studies.steering_vectors.results import accuracy_at
from toylab.studies.steering_vectors.separability import SeparabilityPoint, separability_conditions, separability_points
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Claim, ClaimDetail, Control
from toylab.verdicts.criterion import above, at_least, at_most, between
from toylab.verdicts.judgement import threshold

FREE_ACCURACY = "accuracy at temperature 1"
GAINS = "What each training reaches"
OUR_QUESTION = "our question"
SAME_SEED = "a difference within a seed between trainings on the same prompts"
ANY_ORDER = "the claim states an order without an effect size"
EFFECT = 0.05
"""Smallest difference of accuracy of interest."""
SMALLEST_EFFECT = f"a smallest effect of interest: {EFFECT:g}"
STEERS = 0.5
"""Share of full training's gain from which a vector counts as steering a base."""
CLOSE_ROWS = 0.8
"""Cosine of the openers' unembedding rows from which they count as close."""


def stats(condition: str, **numbers: str | Callable[[Any], Any]) -> dict[str, ClaimDetail]:
    """Details of one condition by name, with underscores for spaces."""
    return {name.replace("_", " "): ClaimDetail(condition, number) for name, number in numbers.items()}


def extension_claims(study: Settings) -> list[Claim]:
    """The extension claims at these settings."""
    last, least, direct = study.last, study.least_shift, (1 + 1 / study.task.p) / 2  # accuracy of direct answers
    our_claim = partial(Claim, place=OUR_QUESTION, kind="own")
    separable = partial(our_claim, conditions=separability_conditions(study), figure="When a vector can steer")
    carried = partial(our_claim, criterion=at_least(0.75))
    relative_gain = "relative to that of the model's own vector, last layer,"
    together = partial(Claim, conditions=("combine",))
    scaled = partial(Claim, conditions=("adaptive",))
    place = partial(
        scaled, place="section 10", criterion=above(0), statistic="share", origin=ANY_ORDER,
        figure="How much of its vector each token gets",
    )  # fmt: skip
    random_scale = "a scale from a random direction"
    last_flagged = Control("a constant vector, last layer", ("flag-last",), accuracy_at)
    at_random = "a random vector of the same norm"
    flagged = partial(our_claim, figure="Where the correct opener depends on the prompt")
    dropped = partial(Claim, place="section 8 (dropped in version 4)", criterion=above(0))
    feature = partial(dropped, conditions=("features",))
    baseline = partial(Claim, place="our control", kind="own", conditions=("baselines",), figure=GAINS)
    useless = partial(
        baseline, asks="absence", criterion=at_most(EFFECT), margin=EFFECT, origin=SMALLEST_EFFECT,
        control=Control("the trained vector", ("baselines",), lambda result: result.gain),
    )  # fmt: skip
    return [
        separable(
            id="separability",
            statement="A vector can only choose between openers with distinct unembedding rows.",
            measure="share recovered at the largest cosine of the openers' rows minus that at the smallest",
            quantity=lambda *results: _share_difference(separability_points(*results)),
            criterion=at_most(-0.3),
            uncontrolled="the base with the most distinct rows is the reference of the difference",
            note=f"not measured unless the largest cosine is at least {CLOSE_ROWS:g}",
        ),
        separable(
            id="pre-flight",
            statement="The pre-flight check predicts which bases a vector can steer.",
            measure=f"share of bases in which a bound of at least {least:g} nats coincides with a recovered share of "
            f"at least {STEERS:g}, and a lower bound with a lower share,",
            quantity=lambda *results: _prediction_rate(separability_points(*results), least),
            criterion=at_least(0.9),
            control=Control(
                "one prediction for all bases",
                separability_conditions(study),
                lambda *results: _majority_share(separability_points(*results)),
            ),
        ),
        Claim(
            id="transfer-family",
            place="section 9, table 1",
            statement="Vectors transfer within a family: the parent's vector works in a further trained child.",
            conditions=("family",),
            measure="ratio of the gain of the parent's vector in the child to that of the child's own",
            quantity=lambda family: family.carried,
            criterion=at_least(0.7),
            control=Control(at_random, ("family",), lambda family: family.carried_at_random),
            details=stats("family", back="carried_back", cosine="cosine", relative_change_of_weights="weight_change"),
        ),
        carried(
            id="transfer-seeds",
            statement="Vectors transfer to models of other seeds that share the unembedding.",
            conditions=("transfer-from",),
            measure=f"gain of the other seed's vector {relative_gain}",
            quantity=lambda other: other.share(last),
            control=Control(at_random, ("transfer-from",), lambda other: other.share(last, "random")),
            details=stats(
                "transfer-from",
                last_layer_but_one=lambda other: other.share(last - 1),
                cosine=lambda other: other.layers[last].cosine,
            ),
        ),
        carried(
            id="transfer-apart",
            asks="absence",
            place="our control",
            statement="Without a mapping, vectors do not transfer to a model with another unembedding.",
            conditions=("transfer-apart",),
            measure=f"gain of the other model's vector {relative_gain}",
            quantity=lambda transfer: transfer.share(last),
            criterion=at_most(0.35),
            margin=0.35,
            population="seeds: unembedding, initial weights and data",
            control=Control("the mapped vector", ("transfer-apart",), lambda transfer: transfer.share(last, "mapped")),
            details=stats("transfer-apart", cosine=lambda transfer: transfer.layers[last].cosine),
        ),
        carried(
            id="transfer-mapped",
            statement="Mapped to the direction of equal logits under the other unembedding, a vector transfers.",
            conditions=("transfer-apart",),
            measure=f"gain of the mapped vector {relative_gain}",
            quantity=lambda transfer: transfer.share(last, "mapped"),
            population="seeds: unembedding, initial weights and data",
            control=Control("the unmapped vector", ("transfer-apart",), lambda transfer: transfer.share(last)),
        ),
        together(
            id="combine",
            place="appendix D, figure 13",
            statement="Separately trained vectors add up.",
            measure="accuracy of two together minus that of the better one alone, mean over pairs,",
            quantity=lambda combine: combine.pair_gain(1),
            criterion=above(0),
            origin="the paper: better than either",
            uncontrolled="a difference within a seed, to the better vector alone",
            details=stats("combine", accuracy_by_layers_and_scale="by_layers_and_scale"),
        ),
        together(
            id="combine-halved",
            kind="own",
            asks="absence",
            place="our control",
            statement="Separately trained vectors are equivalent: two halved vectors together match a single one.",
            measure="accuracy of two halves together minus that of the better one alone, mean over pairs,",
            quantity=lambda combine: combine.pair_gain(0.5),
            criterion=at_least(-0.08),
            margin=0.08,
            control=Control("both in full", ("combine",), lambda combine: combine.pair_gain(1)),
        ),
        scaled(
            id="adaptive",
            kind="own",
            place="our question, after section 10",
            statement="A vector with a token-dependent scale outperforms a constant one.",
            measure=f"{FREE_ACCURACY}, penultimate layer, minus that of a vector trained for as many steps,",
            quantity=lambda adaptive: accuracy_at(adaptive) - adaptive.constant[1].accuracy,
            criterion=at_least(0.03),
            uncontrolled=SAME_SEED,
            details=stats("adaptive", accuracy=accuracy_at, SEP_alone="sep_alone", all_but_SEP="all_but_sep"),
            figure=GAINS,
        ),
        place(
            id="adaptive-place",
            statement="A token-dependent scale concentrates on the position of the decision.",
            measure="norm of the added vector at SEP minus the largest at any other kind of position",
            quantity=lambda adaptive: adaptive.scales.sep_lead,
            control=Control(random_scale, ("adaptive",), lambda result: result.random_scales.sep_lead),
            details=stats(
                "adaptive", **{name: f"scales.{name}" for name in ("BOS", "digits", "SEP", "opener", "chain")}
            ),
        ),
        place(
            id="adaptive-content",
            statement="A token-dependent scale concentrates on the content of the prompt.",
            measure="norm of the added vector at the digits of the prompt minus that at the generated chain",
            quantity=lambda adaptive: adaptive.scales.content_lead,
            control=Control(random_scale, ("adaptive",), lambda result: result.random_scales.content_lead),
        ),
        flagged(
            id="prompt-bit-constant",
            asks="absence",
            statement="If the correct opener depends on the prompt, a constant vector fails.",
            conditions=("flag-before", "flag-last"),
            measure=f"{FREE_ACCURACY}, better of the last two layers,",
            quantity=lambda before, last: max(accuracy_at(before), accuracy_at(last)),
            criterion=at_most(threshold(direct, 0.08)),
            margin=0.08,
            origin=f"computed: direct answers alone, {direct:.2f}, and .08 (our pilot)",
            control=Control("full training", ("flag-full",), accuracy_at),
            details=stats("base-flag", base=accuracy_at, always_DIRECT=lambda base: base.prefix_direct[1].accuracy),
        ),
        flagged(
            id="prompt-bit-gate",
            statement="If the correct opener depends on the prompt, a bounded, centred gate on one vector suffices.",
            conditions=("flag-gate",),
            measure=f"{FREE_ACCURACY}, scale tanh(w . (rms(h) - mean) + b),",
            quantity=accuracy_at,
            criterion=at_least(threshold(direct, 0.18)),
            origin=f"computed: direct answers alone, {direct:.2f}, and .18 (our pilot)",
            control=last_flagged,
            details={
                **stats("flag-scale", unbounded_scale=accuracy_at),
                **stats("flag-gate", answers=lambda gate: asdict(gate.answers[1])),
            },
        ),
        flagged(
            id="prompt-bit-full",
            place="our baseline",
            statement="Full training learns the correct opener if it depends on the prompt.",
            conditions=("flag-full",),
            measure=FREE_ACCURACY,
            quantity=accuracy_at,
            criterion=at_least(0.95),
            control=Control("the base", ("base-flag",), accuracy_at),
        ),
        our_claim(
            id="prompt-bit-mlp",
            place="our question, after section 7",
            statement="If the correct opener depends on the prompt, the gated penultimate vector acts through the MLP.",
            conditions=("flag-gate",),
            measure="accuracy lost when the vector is hidden from the last MLP",
            quantity=lambda gate: gate.lost("skip MLP"),
            criterion=at_least(0.05),
            control=Control("a constant vector, which fails", ("flag-before",), lambda result: result.lost("skip MLP")),
            details=stats("flag-gate", accuracy_by_route="routes"),
        ),
        feature(
            id="features",
            statement="A sparse autoencoder of steered differences has a feature associated with correct answers.",
            measure="firing rate in correct minus wrong answers, minus the same with permuted answers,",
            quantity=lambda features: features.difference.beyond_chance,
            uncontrolled="the value for permuted answers is subtracted",
            details=stats("features", features=asdict),
        ),
        feature(
            id="features-format",
            kind="own",
            place="our question, after section 8",
            statement="That feature predicts correctness beyond the format of an answer.",
            measure="firing rate in correct minus wrong answers, minus the larger of the same differences in the rate "
            "of opening with THINK and of a complete chain,",
            quantity=lambda features: features.difference.beyond_format,
            uncontrolled="the value for the format is subtracted",
        ),
        feature(
            id="difference-sae",
            statement="Differences to the base reveal a feature of correct answers better than plain activations do.",
            measure="AUC of the best feature of differences minus that of plain steered activations",
            quantity=lambda features: features.difference.auc - features.plain.auc,
            uncontrolled="a difference within a seed, on the same answers",
        ),
        useless(
            id="random-vector",
            statement="Random vectors of the same norm gain nothing.",
            measure="mean gain of ten random vectors at temperature 1, last layer,",
            quantity=lambda result: fmean(result.random_vectors) - result.base,
        ),
        useless(
            id="random-reward",
            statement="A vector trained on a random reward does not change accuracy.",
            measure="gain at temperature 1, last layer,",
            quantity=lambda result: result.random_reward.accuracy[1] - result.base,
            criterion=between(-EFFECT, EFFECT),
            details=stats(
                "baselines",
                baselines=lambda result: {name: asdict(baseline) for name, baseline in result.named.items()},
            ),
        ),
        baseline(
            id="same-vector",
            statement="Training on other prompts yields the same vector.",
            measure="cosine of the two vectors",
            quantity=lambda result: result.another_run.cosine,
            criterion=at_least(0.95),
            control=Control("a run on a random reward", ("baselines",), lambda result: result.random_reward.cosine),
            figure="",
        ),
        useless(
            id="difference-of-means",
            statement="The difference of mean states after THINK and DIRECT does not steer: it encodes the last token.",
            measure="gain at temperature 1, last layer, same norm,",
            quantity=lambda result: result.difference_of_means.accuracy[1] - result.base,
        ),
        baseline(
            id="logit-bias",
            statement="Adding the mean logit shift at SEP everywhere outperforms the vector.",
            measure=f"{FREE_ACCURACY} minus that of the vector",
            quantity=lambda result: result.logit_bias.accuracy[1] - result.steered,
            criterion=above(0),
            origin=ANY_ORDER,
            uncontrolled="a difference within a seed, on the same prompts",
        ),
    ]


def _share_difference(points: Sequence[SeparabilityPoint]) -> float | None:
    return points[-1].share - points[0].share if points[-1].cosine >= CLOSE_ROWS else None


def _majority_share(points: Sequence[SeparabilityPoint]) -> float | None:
    """The share of bases in the majority class."""
    steers = [point.share >= STEERS for point in points]
    return max(fmean(steers), 1 - fmean(steers)) if len(points) > 1 else None


def _prediction_rate(points: Sequence[SeparabilityPoint], least: float | int) -> float | None:
    agrees = [(point.share >= STEERS) == (point.bound >= least) for point in points]
    return fmean(agrees) if len(points) > 1 else None
