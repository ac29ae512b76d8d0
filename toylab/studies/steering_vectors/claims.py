"""The claims on steering vectors, of the paper and our own: gains, the last layer, the logit lens, paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from toylab.studies.steering_vectors.claims_exact import exact_claims
from toylab.studies.steering_vectors.claims_extensions import (
    ANY_ORDER,
    EFFECT,
    FREE_ACCURACY,
    GAINS,
    OUR_QUESTION,
    SAME_SEED,
    SMALLEST_EFFECT,
    extension_claims,
    stats,
)
from toylab.studies.steering_vectors.claims_paths import RANDOM, path_claims
from toylab.studies.steering_vectors.results import (
    BaseResult,
    FullResult,
    JointResult,
    LensReading,
    VectorResult,
    accuracy_at,
    fraction_of_way,
    gain_share,
    prefix_ratio,
    shares_of,
)
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Claim, ClaimDetail, Conditions, Control, Precondition
from toylab.verdicts.criterion import above, at_least, at_most, below, between
from toylab.verdicts.judgement import measured, threshold

GAIN_SHARE = "share of full training's gain at temperature 1"
PUBLISHED_SHARES = "on MATH500 1.02, on AMC23 .91 (computed from 2505.18706, table 1, as a replication quotes it)"
STEERS_LEARNED = Precondition(
    condition="vector-learned",
    test=lambda vector: accuracy_at(vector, 0) >= 0.9,
    otherwise="no vector steers a base with a learned unembedding here",
)


def claims(study: Settings) -> list[Claim]:
    """All claims for these settings."""
    ours = [*extension_claims(study), *exact_claims(study)]
    return [*_gains(study), *_last_layer(study), *_lens(study), *path_claims(study), *ours]


def _gains(study: Settings) -> list[Claim]:
    vectors, last = study.vectors, study.vectors[-1]
    guess = 1 / study.task.p  # accuracy of direct answers by chance
    set_up = partial(Claim, place="our set-up", kind="set-up", conditions=("base",), uncontrolled="the set-up")
    trained = partial(Claim, figure=GAINS)
    of_joint = partial(
        trained, measure=GAIN_SHARE, paper_number=PUBLISHED_SHARES,
        quantity=lambda base, full, joint: gain_share(base, joint, full),
    )  # fmt: skip
    ordered = partial(
        trained, place="section 4, figure 1", criterion=above(0), origin=ANY_ORDER, uncontrolled=SAME_SEED,
        note="all layers share one learning rate; the paper tunes it per layer",
    )  # fmt: skip
    return [
        set_up(
            id="base-chain",
            statement="The skill exists before reinforcement learning: with THINK prefixed, chains are correct.",
            measure="greedy accuracy after the first phase with THINK prefixed",
            quantity=lambda base: base.chain,
            criterion=at_least(0.97),
        ),
        set_up(
            id="base",
            statement="The base mostly answers directly, at the accuracy of guessing.",
            measure=f"{FREE_ACCURACY} (direct answers alone: {guess:.2f})",
            quantity=accuracy_at,
            criterion=between(threshold(guess, 0.03), threshold(guess, 0.12)),
            origin=f"computed: guessing, {guess:.2f}, with .03 and .12 (our pilot)",
            details=stats("base", THINK_rate=lambda base: base.answers[1].thinks, bound_in_nats="pre_flight.bound"),
            figure=GAINS,
        ),
        trained(
            id="full-rl",
            kind="own",
            place="section 3, our baseline",
            statement="Reinforcement learning of the whole model solves the task.",
            conditions=("full",),
            measure=FREE_ACCURACY,
            quantity=accuracy_at,
            criterion=at_least(0.97),
            control=Control("the base", ("base",), accuracy_at),
        ),
        trained(
            id="greedy",
            kind="own",
            asks="absence",
            place="our question, after section 4",
            statement="With greedy decoding, one trained vector after any single block matches full training.",
            conditions=("full", *vectors),
            measure="greedy accuracy of the weakest layer minus that of full training",
            quantity=lambda full, *results: min(accuracy_at(result, 0) for result in results) - accuracy_at(full, 0),
            criterion=at_least(-EFFECT),
            margin=EFFECT,
            origin=SMALLEST_EFFECT,
            control=Control(
                "the base", ("full", "base"), lambda full, base: accuracy_at(base, 0) - accuracy_at(full, 0)
            ),
        ),
        of_joint(
            id="fraction-match",
            asks="absence",
            conditions=("base", "full-converged", "joint-converged"),
            place="abstract, versions 1 to 3",
            statement="Vectors after all blocks, trained together, match full training.",
            criterion=at_least(1 - EFFECT),
            margin=EFFECT,
            origin=SMALLEST_EFFECT,
            control=Control("THINK prefixed to the base's answers", ("base", "full-converged"), prefix_ratio),
            undecidable="" if "converged" in study.parts else "not part of this run; add it with --parts converged",
            note=f"{study.converged.steps} steps of reinforcement learning each: at {study.rl.steps}, gains still rise",
            details={f"{GAIN_SHARE[:-1]}{t:g}": partial(_shares, names=(*vectors, "joint"), t=t) for t in (0, 0.7, 1)},
        ),
        of_joint(
            id="fraction-large",
            conditions=("base", "full", "joint"),
            place="abstract, version 4",
            statement="Vectors after all blocks, trained together, recover a large portion of full training's gain.",
            criterion=at_least(0.5),
            origin='half of the gain: our minimum for "a large portion"',
            control=Control(f"{RANDOM} after all blocks", ("base", "full", "joint"), _random_ratio),
            note="longer training is expected to raise it",
        ),
        trained(
            id="single-layer",
            place="section 4, figure 1",
            statement="A vector after almost any single block improves on the base.",
            conditions=("base", *vectors),
            measure=f"share of layers in which {FREE_ACCURACY} rises by more than {EFFECT:g}",
            quantity=lambda base, *results: _improvement(base, *map(accuracy_at, results)),
            criterion=at_least(0.9),
            origin="the paper: all layers but two, of 28",
            control=Control(
                RANDOM, ("base", *vectors), lambda base, *runs: _improvement(base, *(r.random_accuracy for r in runs))
            ),
            paper_number="all layers but two (a review of the paper)",
        ),
        ordered(
            id="depth-order",
            statement="Late layers gain more than early ones.",
            conditions=("base", "full", vectors[0], last),
            measure=f"{GAIN_SHARE} in the last layer minus that in the first",
            quantity=lambda base, full, first, last: gain_share(base, last, full) - gain_share(base, first, full),
        ),
        ordered(
            id="depth-joint",
            statement="Vectors in all layers together gain more than one vector in the last.",
            conditions=("base", "full", last, "joint"),
            measure=f"{GAIN_SHARE} in all layers together minus that in the last",
            quantity=lambda base, full, last, joint: gain_share(base, joint, full) - gain_share(base, last, full),
            untried="the sham takes the place of the last layer's vector, which the claim puts below the others",
        ),
    ]


def _last_layer(study: Settings) -> list[Claim]:
    last = study.vectors[-1]
    first_token = partial(Claim, place="section 6, figure 3", conditions=(last,))

    def by_place(place: str, words: str, other: str, where: str) -> dict[str, Any]:
        return {
            "measure": f"share of its gain with the vector {words}",
            "quantity": lambda vector: vector.gain_at(place),
            "control": Control(f"the vector {where}", (last,), lambda vector: vector.gain_at(other)),
        }

    first, rest = "only at the first generated position", "everywhere except at the first generated position"
    return [
        first_token(
            id="prefix",
            statement="Prefixing the opener to the base's answers recovers most of the last layer's gain.",
            conditions=("base", last),
            measure="ratio of the gain of the prefix to that of the last layer's vector, temperature 1,",
            quantity=prefix_ratio,
            criterion=at_least(0.6),
            origin="our pilot, around the paper's .75",
            control=Control("DIRECT prefixed instead", ("base", last), partial(prefix_ratio, opener="direct")),
            paper_number=".75 (a review of the paper); a replication found no gain on MATH500",
        ),
        first_token(
            id="first-token",
            statement="The last layer's vector substitutes the first token: applied only there, it keeps most gain.",
            **by_place("first", first, "all but first", rest),
            criterion=at_least(0.6),
            details=stats(
                last, share_of_the_gain_by_place=lambda vector: {at: vector.gain_at(at) for at in vector.places}
            ),
        ),
        first_token(
            id="first-token-rest",
            asks="absence",
            statement="Applied everywhere except at the first token, the last layer's vector has no effect.",
            **by_place("all but first", rest, "first", first),
            criterion=at_most(0.12),
            margin=0.12,
        ),
        first_token(
            id="first-token-kl",
            statement="The effect of the last layer's vector on the distributions concentrates on the first token.",
            measure="share of KL(steered || base) at the first generated position",
            quantity=lambda vector: vector.kl_shares and vector.kl_shares[0],
            criterion=at_least(0.6),
            control=Control(RANDOM, (last,), _random_kl_share),
            figure="Where the distributions change",
        ),
        Claim(
            id="norm-temperature",
            kind="own",
            place=OUR_QUESTION,
            statement="Part of the gap of a constant vector to full training is a higher effective temperature: it "
            "lengthens the residual stream, and the final norm then flattens all later distributions.",
            conditions=(last, "full"),
            measure="share of the gap to full training closed by restoring the norm of the unsteered stream",
            quantity=lambda vector, full: fraction_of_way(accuracy_at(vector), vector.clean_scale, accuracy_at(full)),
            criterion=above(0),
            origin=ANY_ORDER,
            control=Control(
                "three quarters of the vector, which lengthens the stream less",
                (last, "full"),
                lambda vector, full: fraction_of_way(vector.few.steered, vector.scaled[0.75], accuracy_at(full)),
            ),
            details=stats(last, accuracy_at_other_scales_of_the_vector="scaled"),
        ),
    ]


def _lens(study: Settings) -> list[Claim]:
    vectors, last = study.vectors, study.vectors[-1]
    lens = partial(Claim, figure="What each vector says")
    ranked = partial(lens, criterion=at_most(1), statistic="share", origin="the first rank of all tokens")
    says = partial(ranked, place="section 6, figure 4")
    trap = partial(ranked, place="our control", kind="own", needs=(STEERS_LEARNED,))

    def rank(name: str, token: str, unembedding: str) -> dict[str, Any]:
        read, words = {
            "THINK": (lambda lens: lens.THINK.rank, "rank of THINK"),
            "DIRECT": (lambda lens: lens.direct_from_last, "rank of DIRECT counted from the last token"),
        }[token]
        return {
            "conditions": (name,),
            "measure": f"{words}, raw vector, {unembedding} unembedding,",
            "quantity": lambda vector: read(vector.lens),
            "control": Control(RANDOM, (name,), lambda vector: read(vector.random_lens)),
        }

    return [
        says(
            id="logit-lens",
            statement="The last layer's vector promotes the opener: THINK ranks first in the logit lens.",
            **rank(last, "THINK", "frozen"),
            details={f"rank of THINK, {name}": ClaimDetail(name, "lens.THINK.rank") for name in vectors},
        ),
        says(
            id="logit-lens-rival",
            statement="The last layer's vector suppresses the other opener: DIRECT ranks last in the logit lens.",
            **rank(last, "DIRECT", "frozen"),
            details={f"rank of DIRECT, {name}": ClaimDetail(name, "lens.DIRECT.rank") for name in vectors},
        ),
        trap(
            id="lens-trap",
            statement="The opener also ranks first in the logit lens with a learned unembedding.",
            **rank("vector-learned", "THINK", "learned"),
            details=stats("vector-learned", cosine="lens.THINK.cosine", THINK_over_DIRECT="lens.think_over_direct"),
        ),
        trap(
            id="lens-trap-rival",
            statement="The other opener also ranks last in the logit lens with a learned unembedding.",
            **rank("vector-learned", "DIRECT", "learned"),
            details=stats("vector-learned", cosine="lens.DIRECT.cosine"),
        ),
        lens(
            id="suppression",
            place="section 6, figure 4 (dropped in version 4)",
            statement="Vectors of all layers suppress the tokens of the error-prone dialect.",
            conditions=vectors,
            measure="share of layers whose vector has a lower mean cosine with the second dialect's digits",
            quantity=lambda *results: _second_is_lower(r.lens for r in results),
            criterion=at_least(0.9),
            control=Control(RANDOM, vectors, lambda *results: _second_is_lower(r.random_lens for r in results)),
            note="that dialect is error-prone by construction, so the reward penalises it",
        ),
        lens(
            id="suppression-middle",
            place="abstract, versions 2 and 3",
            statement="Vectors of middle layers suppress the tokens of the error-prone dialect more than others do.",
            conditions=vectors,
            measure="mean cosine with the second dialect's digits minus the first's, middle layers minus outer layers,",
            quantity=lambda *results: (
                _dialect_lead(*results[1:-1]) - _dialect_lead(results[0], results[-1]) if len(results) > 2 else None
            ),
            criterion=below(0),
            origin=ANY_ORDER,
            uncontrolled=SAME_SEED,
            untried="the sham takes the place of the last layer's vector, one of the outer layers",
            undecidable="" if len(vectors) > 2 else "two layers have none in the middle",
        ),
    ]


def _random_ratio(base: BaseResult, full: FullResult, joint: JointResult) -> float | None:
    random = joint.random_accuracy
    return None if random is None else fraction_of_way(accuracy_at(base), random, accuracy_at(full))


def _improvement(base: BaseResult, *accuracies: float | None) -> float | None:
    return None if None in accuracies else fmean(measured(a) - accuracy_at(base) > EFFECT for a in accuracies)


def _second_is_lower(lenses: Iterable[LensReading]) -> float:
    return fmean(lens.second_dialect < lens.first_dialect for lens in lenses)


def _dialect_lead(*vectors: VectorResult) -> float:
    return fmean(vector.lens.second_dialect - vector.lens.first_dialect for vector in vectors)


def _random_kl_share(vector: VectorResult) -> float | None:
    shares = shares_of(measured(vector.random_kl))
    return shares[0] if shares else None


def _shares(results: Conditions, names: Sequence[str], t: float | int) -> dict[str, dict[str, float]]:
    """By condition and seed, the share of full training's gain at a temperature."""
    base, full = results["base"], results["full"]
    return {
        name: {str(s): round(gain_share(base[s], r, full[s], t), 4) for s, r in results[name].items() if s in full}
        for name in names
    }
