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
ANY_ORDER = "an order: the claim names no size"
EFFECT = 0.05
"""The least difference of accuracy that matters to us."""
SMALLEST_EFFECT = f"a smallest effect of interest: {EFFECT:g}"
STEERS = 0.5
"""The least share of full training's gain with which a vector counts as steering a base."""
CLOSE_ROWS = 0.8
"""The least cosine of the openers' rows with which they count as close."""
SAE = "waits for an autoencoder that explains as much as that of sae-lens at the same budget"


def stats(condition: str, **numbers: str | Callable[[Any], Any]) -> dict[str, ClaimDetail]:
    """Details of one condition by their names, in which underscores stand for spaces."""
    return {name.replace("_", " "): ClaimDetail(condition, number) for name, number in numbers.items()}


def extension_claims(study: Settings) -> list[Claim]:
    """These claims for these settings."""
    last, enough, direct = study.last, study.least_shift, (1 + 1 / study.task.p) / 2  # accuracy of direct answers
    ours = partial(Claim, place=OUR_QUESTION, kind="own")
    separable = partial(ours, conditions=separability_conditions(study), figure="When a vector can steer")
    carried = partial(ours, criterion=at_least(0.75))
    own = "over that of one's own, last layer,"
    together = partial(Claim, conditions=("combine",))
    scaled = partial(Claim, conditions=("adaptive",))
    last_flagged = Control("a constant vector, last layer", ("flag-last",), accuracy_at)
    at_random = "a random vector of the same norm"
    flagged = partial(ours, figure="Where the right opener depends on the prompt")
    dropped = partial(Claim, place="section 8 (dropped in version 4)", criterion=above(0))
    feature = partial(dropped, conditions=("features",))
    baseline = partial(Claim, place="our control", kind="own", conditions=("baselines",), figure=GAINS)
    useless = partial(
        baseline, asks="absence", criterion=at_most(EFFECT), margin=EFFECT, origin=SMALLEST_EFFECT,
        control=Control("the trained vector", ("baselines",), lambda found: found.gain),
    )  # fmt: skip
    return [
        separable(
            id="separability",
            statement="A vector can only choose between openers that the unembedding tells apart.",
            measure="share recovered at the largest cosine of the openers' rows minus that at the smallest",
            quantity=lambda *found: _fall(separability_points(*found)),
            criterion=at_most(-0.3),
            uncontrolled="the base with the most different rows is the other side of the difference",
            note=f"not measured where no two rows are close enough, with a cosine of at least {CLOSE_ROWS:g}",
        ),
        separable(
            id="pre-flight",
            statement="The pre-flight check predicts which bases a vector can steer.",
            measure=f"share of bases in which a bound of at least {enough:g} nats goes with a share of at least "
            f"{STEERS:g}, and a lower one with less,",
            quantity=lambda *found: _predicted(separability_points(*found), enough),
            criterion=at_least(0.9),
            control=Control(
                "one answer for all", separability_conditions(study), lambda *found: _alike(separability_points(*found))
            ),
        ),
        Claim(
            id="transfer-family",
            place="section 9, table 1",
            statement="Vectors carry over within a family: the parent's works in a child trained further.",
            conditions=("family",),
            measure="gain of the parent's vector in the child over that of the child's own",
            quantity=lambda family: family.carried,
            criterion=at_least(0.7),
            control=Control(at_random, ("family",), lambda family: family.carried_at_random),
            details=stats("family", back="carried_back", cosine="cosine", relative_change_of_weights="weight_change"),
        ),
        carried(
            id="transfer-seeds",
            statement="Vectors carry over to models of other seeds, if these share the unembedding.",
            conditions=("transfer-from",),
            measure=f"gain of the other seed's vector {own}",
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
            statement="To a model with another unembedding vectors do not carry over as they are.",
            conditions=("transfer-apart",),
            measure=f"gain of the other model's vector {own}",
            quantity=lambda apart: apart.share(last),
            criterion=at_most(0.35),
            margin=0.35,
            population="seeds: unembedding, initial weights and data",
            control=Control("the mapped vector", ("transfer-apart",), lambda apart: apart.share(last, "mapped")),
            details=stats("transfer-apart", cosine=lambda apart: apart.layers[last].cosine),
        ),
        carried(
            id="transfer-mapped",
            statement="Mapped to the direction that the other unembedding reads alike, a vector carries over.",
            conditions=("transfer-apart",),
            measure=f"gain of the mapped vector {own}",
            quantity=lambda apart: apart.share(last, "mapped"),
            population="seeds: unembedding, initial weights and data",
            control=Control("the vector as it is", ("transfer-apart",), lambda apart: apart.share(last)),
        ),
        together(
            id="combine",
            place="appendix D, figure 13",
            statement="Vectors that were trained apart add up.",
            measure="accuracy of two together less that of the better one alone, mean over pairs,",
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
            statement="Vectors trained apart say the same: halved, two together are as good as one.",
            measure="accuracy of two halves together less that of the better one alone, mean over pairs,",
            quantity=lambda combine: combine.pair_gain(0.5),
            criterion=at_least(-0.08),
            margin=0.08,
            control=Control("both in full", ("combine",), lambda combine: combine.pair_gain(1)),
        ),
        scaled(
            id="adaptive",
            kind="own",
            place="our question, after section 10",
            statement="One vector with a scale that depends on the token beats a constant one.",
            measure=f"{FREE_ACCURACY}, last layer but one, less that of a vector trained as long,",
            quantity=lambda adaptive: accuracy_at(adaptive) - adaptive.constant[1].accuracy,
            criterion=at_least(0.03),
            uncontrolled=SAME_SEED,
            details=stats("adaptive", accuracy=accuracy_at, SEP_alone="sep_alone", all_but_SEP="all_but_sep"),
            figure=GAINS,
        ),
        scaled(
            id="adaptive-place",
            place="section 10",
            statement="A scale that depends on the token concentrates where a decision falls.",
            measure="size of what is added at SEP less the largest at any other kind of position",
            quantity=lambda adaptive: adaptive.scales.sep_lead,
            criterion=at_least(0),
            statistic="share",
            origin=ANY_ORDER,
            control=Control("a random direction read", ("adaptive",), lambda one: one.random_scales.sep_lead),
            details=stats(
                "adaptive", **{name: f"scales.{name}" for name in ("BOS", "digits", "SEP", "opener", "chain")}
            ),
            figure="How much of its vector each token gets",
        ),
        flagged(
            id="prompt-bit-constant",
            asks="absence",
            statement="Where the right opener depends on the prompt, a constant vector fails.",
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
            statement="Where the right opener depends on the prompt, a bounded, centred gate on one vector is enough.",
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
            statement="Full training finds the right opener where it depends on the prompt.",
            conditions=("flag-full",),
            measure=FREE_ACCURACY,
            quantity=accuracy_at,
            criterion=at_least(0.95),
            control=Control("the base", ("base-flag",), accuracy_at),
        ),
        ours(
            id="prompt-bit-mlp",
            place="our question, after section 7",
            statement="Where the right opener depends on the prompt, the gated penultimate vector acts through the "
            "MLP.",
            conditions=("flag-gate",),
            measure="accuracy lost when the last MLP does not see it",
            quantity=lambda gate: gate.lost("skip MLP"),
            criterion=at_least(0.05),
            control=Control("a constant vector, which fails", ("flag-before",), lambda one: one.lost("skip MLP")),
            details=stats("flag-gate", accuracy_by_route="routes"),
        ),
        feature(
            id="features",
            statement="A sparse autoencoder of the steered differences has a feature that goes with correct answers.",
            measure="difference in how often it fires in correct and wrong answers, less that of chance (permuted),",
            quantity=lambda features: features.difference.beyond_chance,
            uncontrolled="what permuted answers give is subtracted",
            details=stats("features", features=asdict),
        ),
        feature(
            id="features-format",
            kind="own",
            place="our question, after section 8",
            statement="That feature tells more than the format of an answer does.",
            measure="difference in how often it fires in correct and wrong answers, less the larger of those in how "
            "often they open with THINK and in how often the chain is whole,",
            quantity=lambda features: features.difference.beyond_format,
            uncontrolled="what the format gives is subtracted",
            undecidable=SAE,
        ),
        feature(
            id="difference-sae",
            statement="A feature of right answers shows better in differences to the base than in plain activations.",
            measure="AUC of the best feature of differences less that of plain steered activations",
            quantity=lambda features: features.difference.auc - features.plain.auc,
            uncontrolled="a difference within a seed, on the same answers",
            undecidable=SAE,
        ),
        useless(
            id="random-vector",
            statement="Random vectors of the same norm gain nothing.",
            measure="mean gain of ten draws at temperature 1, last layer,",
            quantity=lambda found: fmean(found.random_vectors) - found.base,
        ),
        useless(
            id="random-reward",
            statement="A vector trained on a random reward neither gains nor loses.",
            measure="gain at temperature 1, last layer,",
            quantity=lambda found: found.random_reward.accuracy[1] - found.base,
            criterion=between(-EFFECT, EFFECT),
            details=stats(
                "baselines", baselines=lambda found: {name: asdict(one) for name, one in found.named.items()}
            ),
        ),
        baseline(
            id="same-vector",
            statement="Another run on other prompts finds the same vector.",
            measure="cosine of the two",
            quantity=lambda found: found.another_run.cosine,
            criterion=at_least(0.95),
            control=Control("a run on a random reward", ("baselines",), lambda found: found.random_reward.cosine),
            figure="",
        ),
        useless(
            id="difference-of-means",
            statement="The mean state after THINK less that after DIRECT does not steer: it says what was said last.",
            measure="gain at temperature 1, last layer, same norm,",
            quantity=lambda found: found.difference_of_means.accuracy[1] - found.base,
        ),
        baseline(
            id="logit-bias",
            statement="The mean shift of the logits at SEP, added everywhere instead of the vector, does better.",
            measure=f"{FREE_ACCURACY} less that of the vector",
            quantity=lambda found: found.logit_bias.accuracy[1] - found.steered,
            criterion=above(0),
            origin=ANY_ORDER,
            uncontrolled="a difference within a seed, on the same prompts",
        ),
    ]


def _fall(points: Sequence[SeparabilityPoint]) -> float | None:
    return points[-1].share - points[0].share if points[-1].cosine >= CLOSE_ROWS else None


def _alike(points: Sequence[SeparabilityPoint]) -> float | None:
    """The share of bases on the side on which most are."""
    moved = [one.share >= STEERS for one in points]
    return max(fmean(moved), 1 - fmean(moved)) if len(points) > 1 else None


def _predicted(points: Sequence[SeparabilityPoint], enough: float | int) -> float | None:
    right = [(one.share >= STEERS) == (one.bound >= enough) for one in points]
    return fmean(right) if len(points) > 1 else None
