"""The claims on steering vectors, of the paper and ours: gains, the last layer, the logit lens, paths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean

from toylab.studies.steering_vectors.claims_beyond import FREE, GAINS, beyond, of
from toylab.studies.steering_vectors.results import accuracy_at, gain_share, portion
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Claim, Conditions, Detail
from toylab.verdicts.criterion import above, at_least, at_most, between
from toylab.verdicts.judgement import threshold

ROUTES = "Through which readers the penultimate vector acts"


def claims(study: Settings) -> list[Claim]:
    """All claims for these settings."""
    vectors, guess = study.vectors, 1 / study.task.p  # the share of direct answers that are right by chance
    before, last = vectors[-2:]
    set_up = partial(Claim, place="our set-up", conditions=("base",))
    trained = partial(
        Claim,
        figure=GAINS,
    )
    weakest = partial(trained, conditions=("base", "full", *vectors))
    surely = partial(Claim, criterion=above(0))
    late = partial(surely, place="section 4, figure 1", figure=GAINS)
    first_token = partial(Claim, place="section 5, figure 3", conditions=(last,))
    lens = partial(Claim, figure="What each vector says")
    ranked = partial(lens, criterion=at_most(1), statistic="share")
    says = partial(ranked, place="section 5, figure 4", conditions=(last,))
    trap = partial(ranked, place="our control", conditions=("vector-learned",))
    change = partial(Claim, place="section 4, figure 2", conditions=("combine",))
    paths = partial(Claim, place="section 6, figure 5", conditions=("paths",), figure=ROUTES)
    our_paths = partial(paths, place="our question")
    share = "share of full training's gain at temperature 1"
    return [
        set_up(
            id="base-chain",
            kind="set-up",
            sentence="The skill is there before any reinforcement: given THINK, chains are right.",
            measure="greedy accuracy after the first phase, THINK prefixed,",
            quantity=lambda base: base.chain,
            criterion=at_least(0.97),
        ),
        set_up(
            id="base",
            kind="set-up",
            sentence="The base mostly answers directly, which is guessing.",
            measure=f"{FREE} (direct answers alone: {guess:.2f})",
            quantity=accuracy_at,
            criterion=between(threshold(guess, 0.03), threshold(guess, 0.12)),
            origin="computed: guessing, with .03 and .12",
            details=of("base", THINK_rate=lambda base: base.answers[1].thinks, bound_in_nats="pre_flight.bound"),
            figure=GAINS,
        ),
        trained(
            id="full-rl",
            kind="own",
            place="section 3, our baseline",
            sentence="Reinforcement learning of the whole model solves the task.",
            conditions=("full",),
            measure=FREE,
            quantity=accuracy_at,
            criterion=at_least(0.97),
        ),
        weakest(
            id="greedy",
            place="section 4",
            sentence="Decoded greedily, one trained vector after any one block is as good as training everything.",
            measure="greedy accuracy in the weakest layer",
            quantity=lambda base, full, *found: min(accuracy_at(one, 0) for one in found),
            criterion=at_least(0.95),
        ),
        trained(
            id="fraction-match",
            place="abstract, versions 1 to 3",
            sentence="Vectors after all blocks, trained together, match full training.",
            conditions=("base", "full", "joint"),
            measure=share,
            quantity=lambda base, full, joint: gain_share(base, joint, full),
            criterion=at_least(0.95),
            details={f"{share[:-1]}{t:g}": partial(_shares, names=(*vectors, "joint"), t=t) for t in (0, 0.7, 1)},
        ),
        weakest(
            id="fraction-large",
            place="abstract, version 4; section 4",
            sentence="One vector after any one block recovers a large portion of full training's gain.",
            measure=f"{share} in the weakest layer",
            quantity=lambda base, full, *found: min(gain_share(base, one, full) for one in found),
            criterion=at_least(0.5),
        ),
        late(
            id="depth-order",
            sentence="Late layers gain more than early ones.",
            conditions=("base", "full", vectors[0], last),
            measure=f"{share} in the last layer less that in the first",
            quantity=lambda base, full, first, last: gain_share(base, last, full) - gain_share(base, first, full),
        ),
        late(
            id="depth-joint",
            sentence="Vectors in all layers together gain more than one in the last.",
            conditions=("base", "full", last, "joint"),
            measure=f"{share} in all layers together less that in the last",
            quantity=lambda base, full, last, joint: gain_share(base, joint, full) - gain_share(base, last, full),
        ),
        first_token(
            id="prefix",
            sentence="Prefixing the opener to the base's answers recovers most of the last layer's gain (about 75 %).",
            conditions=("base", last),
            measure="gain of the prefix over that of the last layer's vector, temperature 1,",
            quantity=lambda base, vector: portion(accuracy_at(base), base.prefix[1].right, accuracy_at(vector)),
            criterion=between(0.6, 1.05),
        ),
        first_token(
            id="first-token",
            sentence="The last layer's vector substitutes the first token: there alone, it keeps most of its gain.",
            measure="share of its gain with the vector at the first generated position alone",
            quantity=lambda vector: vector.gain_at("first"),
            criterion=at_least(0.6),
            details=of(last, share_of_the_gain_by_place=lambda one: {at: one.gain_at(at) for at in one.places}),
        ),
        first_token(
            id="first-token-rest",
            asks="absence",
            sentence="Everywhere but at the first token, the last layer's vector does nothing.",
            measure="share of its gain with the vector everywhere but at the first generated position",
            quantity=lambda vector: vector.gain_at("all but first"),
            criterion=at_most(0.12),
        ),
        first_token(
            id="first-token-kl",
            sentence="What the last layer's vector changes in the distributions concentrates on the first token.",
            measure="share of KL(steered || base) at the first generated position",
            quantity=lambda vector: vector.kl_shares and vector.kl_shares[0],
            criterion=at_least(0.6),
            figure="Where the distributions change",
        ),
        surely(
            id="norm-temperature",
            kind="own",
            place="our question",
            sentence="Part of what a constant vector misses is heat: it lengthens the stream, and the final norm then "
            "flattens every later distribution.",
            conditions=(last, "full"),
            measure="share of the gap to full training that returns with the norm of the unsteered stream",
            quantity=lambda vector, full: portion(accuracy_at(vector), vector.clean_scale, accuracy_at(full)),
            details=of(last, accuracy_at_other_scales_of_the_vector="scaled"),
        ),
        says(
            id="logit-lens",
            sentence="The last layer's vector says the opener: THINK comes first in the logit lens.",
            measure="rank of THINK, raw vector, frozen unembedding,",
            quantity=lambda vector: vector.lens.THINK.rank,
            details={f"rank of THINK, {name}": Detail(name, "lens.THINK.rank") for name in vectors},
        ),
        says(
            id="logit-lens-rival",
            sentence="The last layer's vector silences the other opener: DIRECT comes last in the logit lens.",
            measure="rank of DIRECT counted from the last token, raw vector, frozen unembedding,",
            quantity=lambda vector: vector.lens.direct_from_last,
            details={f"rank of DIRECT, {name}": Detail(name, "lens.DIRECT.rank") for name in vectors},
        ),
        trap(
            id="lens-trap",
            kind="own",
            sentence="With a learned unembedding, too, the logit lens shows the opener first.",
            measure="rank of THINK, raw vector, learned unembedding,",
            quantity=lambda vector: vector.lens.THINK.rank,
            details=of("vector-learned", cosine="lens.THINK.cosine", THINK_over_DIRECT="lens.think_over_direct"),
        ),
        trap(
            id="lens-trap-rival",
            kind="own",
            sentence="With a learned unembedding, too, the logit lens shows the other opener last.",
            measure="rank of DIRECT counted from the last token, raw vector, learned unembedding,",
            quantity=lambda vector: vector.lens.direct_from_last,
            details=of("vector-learned", cosine="lens.DIRECT.cosine"),
        ),
        lens(
            id="suppression",
            place="section 5, figure 4 (dropped in version 4)",
            sentence="Vectors of all layers push down the tokens of the dialect that errs.",
            conditions=vectors,
            measure="share of layers whose vector has a lower mean cosine with the second dialect's digits",
            quantity=lambda *found: fmean(one.lens.second_dialect < one.lens.first_dialect for one in found),
            criterion=at_least(0.9),
        ),
        change(
            id="persistence",
            sentence="What a vector changes survives to the last layer, in one direction for all tokens.",
            measure="mean cosine of each token's change with the mean change, least over layers,",
            quantity=lambda combine: min(one.to_mean for one in combine.persisting),
            criterion=at_least(0.7),
            undecidable="random vectors of the same norm give .89 to .96, as much as trained ones",
        ),
        change(
            id="persistence-other",
            asks="absence",
            sentence="What a vector has changed, layers later, is not the vector that was trained there.",
            measure="mean cosine of each token's change with the vector of the measured layer, least over layers,",
            quantity=lambda combine: min(one.to_vector for one in combine.persisting),
            criterion=at_most(0.5),
            details=of("combine", cosines=lambda combine: [one.to_vector for one in combine.persisting]),
        ),
        paths(
            id="skip-attention",
            sentence="The penultimate vector does not need the last layer's attention.",
            measure="share of its gain when that attention does not see it",
            quantity=lambda paths: paths.kept("skip attention"),
            criterion=at_least(0.9),
            details=of("paths", share_of_the_gain=lambda one: {name: one.kept(name) for name in one.routes}),
        ),
        paths(
            id="penultimate-mlp",
            sentence="The penultimate vector acts through the last layer's MLP.",
            measure="share of its gain lost when that MLP does not see it",
            quantity=lambda paths: 1 - paths.kept("skip MLP"),
            criterion=at_least(0.15),
        ),
        our_paths(
            id="direct-route",
            kind="own",
            sentence="The penultimate vector acts through the unembedding, as the last layer's does.",
            measure="share of its gain when the unembedding does not see it",
            quantity=lambda paths: paths.kept("skip unembedding"),
            criterion=at_most(0.1),
        ),
        our_paths(
            id="forced-route",
            kind="own",
            sentence="There is a way through the last block: a vector that the unembedding never sees finds it.",
            measure="greedy accuracy of a penultimate vector trained 2.5 times as long with its direct route cut",
            quantity=lambda paths: paths.forced[0],
            criterion=at_least(0.95),
            details={**of("paths", accuracy="forced", norm="forced_norm"), **of(before, norm_of_the_free_one="norm")},
            figure="",
        ),
        *beyond(study),
    ]


def _shares(results: Conditions, names: Sequence[str], t: float | int) -> dict[str, dict[str, float]]:
    """By condition and seed, the share of full training's gain at a temperature."""
    base, full = results["base"], results["full"]
    return {
        name: {
            str(s): round(gain_share(base[s], found, full[s], t), 4) for s, found in results[name].items() if s in full
        }
        for name in names
    }
