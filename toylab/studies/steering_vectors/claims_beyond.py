"""Claims beyond one vector in its own model: separability, transfer, combination, adaptive scale, prompt bit, features,
baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from toylab.studies.steering_vectors.results import accuracy_at
from toylab.studies.steering_vectors.separability import SweepPoint, swept, swept_conditions
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Claim, Detail
from toylab.verdicts.criterion import above, at_least, at_most
from toylab.verdicts.judgement import threshold

FREE = "accuracy at temperature 1"
GAINS = "What each training reaches"


def of(condition: str, **numbers: str | Callable[[Any], Any]) -> dict[str, Detail]:
    """Details of one condition by their names, in which underscores stand for spaces."""
    return {name.replace("_", " "): Detail(condition, number) for name, number in numbers.items()}


def beyond(study: Settings) -> list[Claim]:
    """These claims for these settings."""
    last, enough, direct = study.last, study.least_shift, (1 + 1 / study.task.p) / 2  # accuracy of direct answers
    ours = partial(Claim, place="our question")
    separable = partial(ours, conditions=swept_conditions(study), figure="When a vector can steer")
    carried = partial(ours, criterion=at_least(0.75))
    own = "over that of one's own, last layer,"
    together = partial(Claim, conditions=("combine",))
    scaled = partial(Claim, place="section 10", conditions=("adaptive",))
    flagged = partial(ours, figure="Where the right opener depends on the prompt")
    dropped = partial(Claim, place="section 8 (dropped in version 4)", criterion=above(0))
    feature = partial(dropped, conditions=("features",))
    baseline = partial(Claim, place="our control", conditions=("baselines",), figure=GAINS)
    useless = partial(baseline, criterion=at_most(0.05))
    return [
        separable(
            id="separability",
            kind="own",
            sentence="A vector can only choose between openers that the unembedding tells apart.",
            measure="share recovered at the largest cosine of the openers' rows minus that at the smallest",
            quantity=lambda *found: _fall(swept(*found)),
            criterion=at_most(-0.3),
            note="open where no two rows are close enough, with a cosine of at least .8",
        ),
        separable(
            id="pre-flight",
            kind="own",
            sentence="The pre-flight check foretells which bases a vector can steer.",
            measure=f"share of bases in which a bound of at least {enough:g} nats goes with a share of at least .5, "
            "and a lower one with less,",
            quantity=lambda *found: _predicted(swept(*found), enough),
            criterion=at_least(0.9),
        ),
        Claim(
            id="transfer-family",
            place="section 9, table 1",
            sentence="Vectors carry over within a family: the parent's works in a child trained further.",
            conditions=("family",),
            measure="gain of the parent's vector in the child over that of the child's own",
            quantity=lambda family: family.carried,
            criterion=at_least(0.7),
            details=of("family", back="carried_back", cosine="cosine", relative_change_of_weights="weight_change"),
        ),
        carried(
            id="transfer-seeds",
            kind="own",
            sentence="Vectors carry over to models of other seeds, if these share the unembedding.",
            conditions=("transfer-from",),
            measure=f"gain of the other seed's vector {own}",
            quantity=lambda other: other.raw_share(last),
            details=of(
                "transfer-from",
                last_layer_but_one=lambda other: other.raw_share(last - 1),
                cosine=lambda other: other.layers[last].cosine,
            ),
        ),
        carried(
            id="transfer-apart",
            kind="own",
            asks="absence",
            place="our control",
            sentence="To a model with another unembedding vectors do not carry over as they are.",
            conditions=("transfer-apart",),
            measure=f"gain of the other model's vector {own}",
            quantity=lambda apart: apart.raw_share(last),
            criterion=at_most(0.35),
            details=of("transfer-apart", cosine=lambda apart: apart.layers[last].cosine),
        ),
        carried(
            id="transfer-mapped",
            kind="own",
            sentence="Mapped to the direction that the other unembedding reads alike, a vector carries over.",
            conditions=("transfer-apart",),
            measure=f"gain of the mapped vector {own}",
            quantity=lambda apart: apart.mapped_share(last),
        ),
        together(
            id="combine",
            place="appendix D, figure 13",
            sentence="Vectors that were trained apart add up.",
            measure="accuracy of two together less that of the better one alone, mean over pairs,",
            quantity=lambda combine: combine.pair_gain(1),
            criterion=above(0),
            details=of("combine", accuracy_by_layers_and_scale="by_layers_and_scale"),
        ),
        together(
            id="combine-halved",
            kind="own",
            place="our control",
            sentence="Vectors trained apart say the same: halved, two together are as good as one.",
            measure="accuracy of two halves together less that of the better one alone, mean over pairs,",
            quantity=lambda combine: combine.pair_gain(0.5),
            criterion=at_least(-0.08),
        ),
        scaled(
            id="adaptive",
            sentence="One vector with a scale that depends on the token beats a constant one.",
            measure=f"{FREE}, last layer but one, less that of a vector trained as long,",
            quantity=lambda adaptive: accuracy_at(adaptive) - adaptive.constant[1].right,
            criterion=at_least(0.03),
            details=of("adaptive", accuracy=accuracy_at, SEP_alone="sep_alone", all_but_SEP="all_but_sep"),
            figure=GAINS,
        ),
        scaled(
            id="adaptive-place",
            sentence="A scale that depends on the token concentrates where a decision falls.",
            measure="size of what is added at SEP less the largest at any other kind of position but BOS",
            quantity=lambda adaptive: adaptive.scales.sep_lead,
            criterion=at_least(0),
            statistic="share",
            details=of("adaptive", **{name: f"scales.{name}" for name in ("BOS", "digits", "SEP", "opener", "chain")}),
            figure="How much of its vector each token gets",
        ),
        flagged(
            id="prompt-bit-constant",
            kind="own",
            asks="absence",
            sentence="Where the right opener depends on the prompt, a constant vector fails.",
            conditions=("flag-before", "flag-last"),
            measure=f"{FREE}, better of the last two layers,",
            quantity=lambda before, last: max(accuracy_at(before), accuracy_at(last)),
            criterion=at_most(threshold(direct, 0.08)),
            details=of("base-flag", base=accuracy_at, always_DIRECT=lambda base: base.prefix_direct[1].right),
        ),
        flagged(
            id="prompt-bit-gate",
            kind="own",
            sentence="Where the right opener depends on the prompt, a bounded, centred gate on one vector is enough.",
            conditions=("flag-gate",),
            measure=f"{FREE}, scale tanh(w . (rms(h) - mean) + b),",
            quantity=accuracy_at,
            criterion=at_least(threshold(direct, 0.18)),
            details={
                **of("flag-scale", unbounded_scale=accuracy_at),
                **of("flag-gate", answers=lambda gate: asdict(gate.answers[1])),
            },
        ),
        flagged(
            id="prompt-bit-full",
            kind="own",
            place="our baseline",
            sentence="Full training finds the right opener where it depends on the prompt.",
            conditions=("flag-full",),
            measure=FREE,
            quantity=accuracy_at,
            criterion=at_least(0.95),
        ),
        Claim(
            id="prompt-bit-mlp",
            place="section 6, figure 5, on our task",
            sentence="Where the right opener depends on the prompt, the penultimate vector acts through the MLP.",
            conditions=("flag-before",),
            measure="accuracy lost when the last MLP does not see it",
            quantity=lambda before: before.lost("skip MLP"),
            criterion=at_least(0.05),
            details=of("flag-before", accuracy_by_route="routes"),
        ),
        feature(
            id="features",
            sentence="A sparse autoencoder of the steered differences has a feature of right answers.",
            measure="difference in how often it fires in right and wrong answers, less the largest of chance "
            "(permuted), of the difference in how often they open with THINK, and in how often the chain is whole,",
            quantity=lambda features: features.difference.lead,
            details=of("features", features=asdict),
        ),
        feature(
            id="difference-sae",
            sentence="A feature of right answers shows better in differences to the base than in plain activations.",
            measure="AUC of the best feature of differences less that of plain steered activations",
            quantity=lambda features: features.difference.auc - features.plain.auc,
        ),
        useless(
            id="random-vector",
            kind="own",
            asks="absence",
            sentence="Random vectors of the same norm gain nothing.",
            measure="mean gain of ten draws at temperature 1, last layer,",
            quantity=lambda found: fmean(found.random_vectors) - found.base,
        ),
        useless(
            id="random-reward",
            kind="own",
            asks="absence",
            sentence="A vector trained on a random reward gains nothing, on average.",
            measure="gain at temperature 1, last layer,",
            quantity=lambda found: found.random_reward.right[1] - found.base,
            details=of("baselines", baselines=lambda found: {name: asdict(one) for name, one in found.named.items()}),
        ),
        baseline(
            id="same-vector",
            kind="own",
            sentence="Another run on other prompts finds the same vector.",
            measure="cosine of the two",
            quantity=lambda found: found.another_run.cosine if found.another_run else None,
            criterion=at_least(0.95),
            figure="",
        ),
        useless(
            id="difference-of-means",
            kind="own",
            asks="absence",
            sentence="The mean state after THINK less that after DIRECT does not steer: it says what was said last.",
            measure="gain at temperature 1, last layer, same norm,",
            quantity=lambda found: found.difference_of_means.right[1] - found.base,
        ),
        baseline(
            id="logit-bias",
            kind="own",
            sentence="The mean shift of the logits at SEP, added everywhere instead of the vector, does better.",
            measure=f"{FREE} less that of the vector",
            quantity=lambda found: found.logit_bias.right[1] - found.steered,
            criterion=above(0),
        ),
    ]


def _fall(points: Sequence[SweepPoint]) -> float | None:
    return points[-1].share - points[0].share if points[-1].cosine >= 0.8 else None


def _predicted(points: Sequence[SweepPoint], enough: float | int) -> float | None:
    right = [(one.share >= 0.5) == (one.bound >= enough) for one in points]
    return fmean(right) if len(points) > 1 else None
