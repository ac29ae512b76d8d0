"""Claims on what the change of a vector becomes in later layers, and through which readers it acts."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from statistics import fmean
from typing import Any

from toylab.studies.steering_vectors.claims_extensions import EFFECT, OUR_QUESTION, SMALLEST_EFFECT, stats
from toylab.studies.steering_vectors.results import LensReading, PersistenceByLayer, accuracy_at, of_all_layers
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Claim, Control
from toylab.verdicts.criterion import at_least, at_most
from toylab.verdicts.judgement import measured

RANDOM = "random vectors of the same norm"
ROUTES = "Through which readers the penultimate vector acts"


def path_claims(study: Settings) -> list[Claim]:
    """All claims on paths."""
    before = study.vectors[-2]
    change = partial(Claim, place="section 5, figure 2", conditions=("combine",))
    paths = partial(Claim, place="section 7, figure 5", conditions=("paths",), figure=ROUTES)
    upweights = partial(
        Claim,
        place="abstract and section 7",
        conditions=(before,),
        criterion=at_least(0.3),
        origin="our pilot: 2.4 standard deviations of the cosine of a random direction",
        figure="What each vector says",
    )
    our_claim = partial(paths, place=OUR_QUESTION, kind="own")

    def kept_by(other: str, name: str, lost: bool = False) -> Control:
        return Control(name, ("paths",), lambda paths: 1 - paths.kept(other) if lost else paths.kept(other))

    return [
        change(
            id="persistence",
            statement="The change caused by a vector persists to the last layer, in one direction for all tokens.",
            measure="mean cosine of each token's change with the mean change, minimum over layers,",
            quantity=lambda combine: _least_persistence(combine.persistence),
            criterion=at_least(0.7),
            control=Control(RANDOM, ("combine",), lambda combine: _least_persistence(combine.random_persistence)),
        ),
        change(
            id="persistence-other",
            asks="absence",
            statement="The change caused by a vector differs, in later layers, from the vector trained there.",
            measure="mean cosine of each token's change with the vector of the measured layer, mean over layers,",
            quantity=lambda combine: fmean(entry.to_vector for entry in of_all_layers(combine.persistence)),
            criterion=at_most(0.5),
            margin=0.5,
            control=Control(
                "the mean change instead of that vector",
                ("combine",),
                lambda combine: fmean(entry.to_mean for entry in of_all_layers(combine.persistence)),
            ),
            details=stats("combine", cosines=lambda result: [x.to_vector for x in of_all_layers(result.persistence)]),
        ),
        paths(
            id="skip-attention",
            asks="absence",
            statement="The penultimate vector does not need the last layer's attention.",
            measure="share of its gain when hidden from that attention",
            quantity=lambda paths: paths.kept("skip attention"),
            criterion=at_least(0.9),
            margin=0.1,
            control=kept_by("skip unembedding", "hidden from the unembedding"),
            details=stats("paths", share_of_the_gain=lambda paths: {name: paths.kept(name) for name in paths.routes}),
        ),
        paths(
            id="penultimate-mlp",
            statement="The penultimate vector acts through the last layer's MLP.",
            measure="share of its gain lost when hidden from that MLP",
            quantity=lambda paths: 1 - paths.kept("skip MLP"),
            criterion=at_least(0.15),
            control=kept_by("skip attention", "hidden from the attention", lost=True),
        ),
        paths(
            id="attention-unchanged",
            asks="absence",
            place="abstract and section 7",
            statement="The penultimate vector leaves the attention patterns of the last layer largely unchanged.",
            measure="total variation distance of attention patterns with and without the vector, last layer,",
            quantity=attrgetter("attention.steered"),
            criterion=at_most(0.1),
            margin=0.1,
            origin="a smallest effect of interest: a tenth of the attention moves",
            control=Control("between prompts", ("paths",), attrgetter("attention.other_prompts")),
            figure="",
        ),
        upweights(
            id="process-words",
            statement="The penultimate vector up-weights process words: THINK.",
            **_above_average("THINK", before),
        ),
        upweights(
            id="structure-symbols",
            statement="The penultimate vector up-weights structure symbols: ANS.",
            **_above_average("ANS", before),
            note="here ANS also ends chains early, which the reward penalises",
        ),
        our_claim(
            id="direct-route",
            asks="absence",
            statement="The penultimate vector acts through the unembedding, as the last layer's does.",
            measure="share of its gain when hidden from the unembedding",
            quantity=lambda paths: paths.kept("skip unembedding"),
            criterion=at_most(0.1),
            margin=0.1,
            control=kept_by("skip attention", "hidden from the attention"),
        ),
        our_claim(
            id="forced-route",
            asks="absence",
            statement="Trained hidden from the unembedding, a penultimate vector acts through the last block alone, as "
            "well as an unrestricted one.",
            measure="greedy accuracy of a penultimate vector without its direct path minus that of one with it",
            quantity=lambda paths: paths.forced[0] - measured(paths.free)[0],
            criterion=at_least(-EFFECT),
            margin=EFFECT,
            origin=SMALLEST_EFFECT,
            control=Control(
                "the base", ("paths", "base"), lambda paths, base: accuracy_at(base, 0) - measured(paths.free)[0]
            ),
            details=stats("paths", accuracy="forced", norm="forced_norm") | stats(before, norm_of_the_free_one="norm"),
            note="both are trained 2.5 times as long as other vectors, at three times their rate",
            figure="",
        ),
    ]


def _above_average(token: str, condition: str) -> dict[str, Any]:
    """Measure, quantity and control of a token in the logit lens of the vector."""

    def lead(lens: LensReading | None) -> float:
        return getattr(measured(lens), token).cosine - fmean(measured(lens).all)

    return {
        "measure": f"cosine of the raw vector with the unembedding of {token}, minus the mean over all tokens,",
        "quantity": lambda vector: lead(vector.lens),
        "control": Control(RANDOM, (condition,), lambda vector: lead(vector.random_lens)),
    }


def _least_persistence(persistence: PersistenceByLayer) -> float:
    return min(entry.to_mean for entry in of_all_layers(persistence))
