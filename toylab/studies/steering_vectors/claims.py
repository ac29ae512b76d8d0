"""The sentences on steering vectors, each with its bar, judged by what the jobs of the study measured."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from toylab.runs.study import Arms, Result
from toylab.studies.steering_vectors.claims_beyond import (
    _adaptive,
    _combine,
    _controls,
    _features,
    _prompt_bit,
    _separability,
    _transfer,
)
from toylab.studies.steering_vectors.quantities import accuracy_at, each_of, fractions, portion, vector_arms
from toylab.verdicts.judgement import Judgement, each, over_seeds, shared_seeds, threshold


def judge(arms: Arms, last: int, guess: float, enough: float | int) -> list[Judgement]:
    """All claims; those whose arms were not run are open.

    Args:
        arms: by the name of an arm and the seed, what its job measured.
        last: the last layer.
        guess: the share of direct answers that are right by chance.
        enough: nats of the pre-flight bound from which a vector should be able to move the opener.
    """
    return [
        *_bases(arms, guess),
        *_gains(arms, last),
        *_last_layer(arms, last),
        *_lens(arms, last),
        *_paths(arms, last),
        *_separability(arms, last, enough),
        *_transfer(arms, last),
        *_combine(arms, last),
        *_adaptive(arms),
        *_prompt_bit(arms, (1 + guess) / 2),
        *_features(arms),
        *_controls(arms),
    ]


# Bases and gains -----------------------------------------------------------------------------------------------------


def _bases(arms: Arms, guess: float) -> list[Judgement]:
    low, high = threshold(guess, 0.03), threshold(guess, 0.12)
    base = arms.get("base", {})
    return [
        over_seeds(
            "base-chain",
            {s: r["chain"] for s, r in base.items()},
            lambda a: a >= 0.97,
            paper="our set-up",
            statement="The skill is there before any reinforcement: given THINK, chains are right.",
            bar="right greedy answers after the first phase, THINK prefixed, >= .97",
        ),
        over_seeds(
            "base",
            {s: accuracy_at(r) for s, r in base.items()},
            lambda a: low <= a <= high,
            paper="our set-up",
            statement="The base mostly answers directly, which is guessing.",
            bar=f"right answers at temperature 1 from {low} to {high} (direct answers alone: {guess:.2f})",
            details={
                "greedy": each(base, lambda r: accuracy_at(r, 0)),
                "direct answers alone": each(base, lambda r: r["direct"]["1"]["right"]),
                "THINK rate": each(base, lambda r: r["answers"]["1"]["thinks"]),
                "bound of the pre-flight check, nats": each(base, lambda r: r["pre-flight"]["bound"]),
            },
        ),
    ]


def _gains(arms: Arms, last: int) -> list[Judgement]:
    names = [name for name in (*vector_arms(last), "joint") if arms.get(name)]
    seeds = shared_seeds(arms, ("base", "full", *vector_arms(last)))
    joint, full = fractions(arms, "joint"), arms.get("full", {})
    by_layer = {name: fractions(arms, name) for name in vector_arms(last)}
    order = {
        s: min(by_layer[f"vector-{last}"][s] - by_layer["vector-0"][s], joint[s] - by_layer[f"vector-{last}"][s])
        for s in seeds
        if s in joint
    }
    tables = {
        f"share of full training's gain, temperature {t}": {
            name: each(fractions(arms, name, t), lambda x: x) for name in names
        }
        for t in (0, 0.7, 1)
    }
    return [
        over_seeds(
            "full-rl",
            {s: accuracy_at(r) for s, r in full.items()},
            lambda a: a >= 0.97,
            paper="section 3, our baseline",
            statement="Reinforcement learning of the whole model solves the task.",
            bar="right answers at temperature 1 >= .97",
        ),
        over_seeds(
            "greedy",
            {s: min(accuracy_at(arms[name][s], 0) for name in vector_arms(last)) for s in seeds},
            lambda a: a >= 0.95,
            paper="section 4",
            statement="Decoded greedily, one trained vector after any one block is as good as training everything.",
            bar="right greedy answers in the weakest layer >= .95",
        ),
        over_seeds(
            "fraction-match",
            joint,
            lambda a: a >= 0.95,
            paper="abstract, versions 1 to 3",
            statement="Vectors after all blocks, trained together, match full training.",
            bar="share of full training's gain at temperature 1 >= .95",
            details=tables,
        ),
        over_seeds(
            "fraction-large",
            {s: min(by_layer[name][s] for name in vector_arms(last)) for s in seeds},
            lambda a: a >= 0.5,
            paper="abstract, version 4; section 4",
            statement="One vector after any one block recovers a large portion of full training's gain.",
            bar="share of full training's gain at temperature 1 in the weakest layer >= .5",
        ),
        over_seeds(
            "depth-order",
            order,
            lambda a: a > 0,
            surely=True,
            paper="section 4, figure 1",
            statement="Late layers gain more than early ones, and all together most.",
            bar="fraction of the last minus the first layer, and of all minus the last, the smaller one, > 0, surely",
        ),
    ]


# The last layer ------------------------------------------------------------------------------------------------------


def _last_layer(arms: Arms, last: int) -> list[Judgement]:
    vector, base, full = arms.get(f"vector-{last}", {}), arms.get("base", {}), arms.get("full", {})
    seeds = shared_seeds(arms, ("base", f"vector-{last}"))

    def of_gain(place: str) -> dict[int, float]:
        return {
            s: portion(vector[s]["few"]["base"], vector[s]["places"][place], vector[s]["few"]["steered"]) for s in seeds
        }

    places = {place: each(of_gain(place), lambda x: x) for place in (vector[seeds[0]]["places"] if seeds else ())}
    kl = {s: vector[s]["kl"][0] / sum(vector[s]["kl"]) for s in seeds if sum(vector[s]["kl"]) > 0}
    return [
        over_seeds(
            "prefix",
            {s: portion(accuracy_at(base[s]), base[s]["prefix"]["1"]["right"], accuracy_at(vector[s])) for s in seeds},
            lambda a: 0.6 <= a <= 1.05,
            paper="section 5, figure 3",
            statement="Prefixing the opener to the base's answers recovers most of the last layer's gain (about 75 %).",
            bar="gain of the prefix over that of the last layer's vector, temperature 1, from .6 to 1.05",
        ),
        over_seeds(
            "first-token",
            of_gain("first"),
            lambda a: a >= 0.6,
            paper="section 5, figure 3",
            statement="The last layer's vector substitutes the first token: there alone, it keeps most of its gain.",
            bar="share of its gain with the vector at the first generated position alone >= .6",
            details={"share of the gain by place": places},
        ),
        over_seeds(
            "first-token-rest",
            of_gain("all but first"),
            lambda a: a <= 0.12,
            paper="section 5, figure 3",
            statement="Everywhere but at the first token, the last layer's vector does nothing.",
            bar="share of its gain with the vector everywhere but at the first generated position <= .12",
        ),
        over_seeds(
            "first-token-kl",
            kl,
            lambda a: a >= 0.6,
            paper="section 5, figure 3",
            statement="What the last layer's vector changes in the distributions concentrates on the first token.",
            bar="share of KL(steered || base) at the first generated position >= .6",
        ),
        over_seeds(
            "norm-temperature",
            {
                s: portion(accuracy_at(vector[s]), vector[s]["clean scale"], accuracy_at(full[s]))
                for s in shared_seeds(arms, ("full", f"vector-{last}"))
            },
            lambda a: a > 0,
            surely=True,
            paper="our question",
            statement="Part of what a constant vector misses is heat: it lengthens the stream, and the final norm then "
            "flattens every later distribution.",
            bar="share of the gap to full training that returns with the norm of the unsteered stream > 0, surely",
            details={"right at other scales of the vector": each_of(vector, "scaled")},
        ),
    ]


def _lens(arms: Arms, last: int) -> list[Judgement]:
    vector, learned = arms.get(f"vector-{last}", {}), arms.get("vector-learned", {})
    layers = [name for name in vector_arms(last) if arms.get(name)]

    def shown(lens: Result, vocabulary: int) -> float:
        return float(lens["THINK"]["rank"] == 1 and lens["DIRECT"]["rank"] == vocabulary)

    seeds = shared_seeds(arms, vector_arms(last))
    return [
        over_seeds(
            "logit-lens",
            {s: shown(r["lens"], len(r["lens"]["all"])) for s, r in vector.items()},
            lambda a: a == 1,
            share=0.8,
            paper="section 5, figure 4",
            statement="The last layer's vector says the opener: THINK comes first in the logit lens, DIRECT last.",
            bar="share of seeds in which this is so, raw vector, frozen unembedding, >= .8",
            details={
                "ranks of THINK and DIRECT by layer": {
                    name: each(arms[name], lambda r: [r["lens"][t]["rank"] for t in ("THINK", "DIRECT")])
                    for name in layers
                }
            },
        ),
        over_seeds(
            "lens-trap",
            {s: shown(r["lens"], len(r["lens"]["all"])) for s, r in learned.items()},
            lambda a: a == 1,
            share=0.8,
            paper="our control",
            statement="With a learned unembedding, too, the logit lens shows the opener first.",
            bar="share of seeds in which this is so, raw vector, learned unembedding, >= .8",
            details={
                "lens": {
                    str(s): {n: r["lens"][n] for n in ("THINK", "DIRECT", "THINK over DIRECT")}
                    for s, r in learned.items()
                }
            },
        ),
        over_seeds(
            "suppression",
            {
                s: fmean(arms[n][s]["lens"]["second dialect"] < arms[n][s]["lens"]["first dialect"] for n in layers)
                for s in seeds
            },
            lambda a: a >= 0.9,
            paper="section 5, figure 4 (dropped in version 4)",
            statement="Vectors of all layers push down the tokens of the dialect that errs.",
            bar="share of layers whose vector has a lower mean cosine with the second dialect's digits >= .9",
        ),
        over_seeds(
            "persistence",
            {s: _least(r["persistence"], "to mean") for s, r in arms.get("combine", {}).items()},
            lambda a: a >= 0.7,
            withdrawn="random vectors of the same norm give .89 to .96, as much as trained ones",
            paper="section 4, figure 2",
            statement="What a vector changes survives to the last layer, in one direction for all tokens.",
            bar="mean cosine of each token's change with the mean change, least over layers, >= .7",
        ),
        over_seeds(
            "persistence-other",
            {s: _least(r["persistence"], "to vector") for s, r in arms.get("combine", {}).items()},
            lambda a: a <= 0.5,
            paper="section 4, figure 2",
            statement="What a vector has changed, layers later, is not the vector that was trained there.",
            bar="mean cosine of each token's change with the vector of the measured layer, least over layers, <= .5",
            details={"cosines": each_of(arms.get("combine", {}), "persistence")},
        ),
    ]


def _least(table: Mapping[str, Mapping[str, Mapping[str, float]]], name: str) -> float:
    return min((cell[name] for row in table.values() for cell in row.values()), default=0.0)


# Paths ---------------------------------------------------------------------------------------------------------------


def _paths(arms: Arms, last: int) -> list[Judgement]:
    paths = arms.get("paths", {})
    seeds = sorted(paths)

    def kept(route: str) -> dict[int, float]:
        return {s: portion(r["base"], r["routes"][route], r["steered"]) for s, r in paths.items()}

    table = {route: each(kept(route), lambda x: x) for route in (paths[seeds[0]]["routes"] if seeds else ())}
    return [
        over_seeds(
            "skip-attention",
            kept("skip attention"),
            lambda a: a >= 0.9,
            paper="section 6, figure 5",
            statement="The penultimate vector does not need the last layer's attention.",
            bar="share of its gain when that attention does not see it >= .9",
            details={"share of the gain kept": table},
        ),
        over_seeds(
            "penultimate-mlp",
            {s: 1 - share for s, share in kept("skip MLP").items()},
            lambda a: a >= 0.15,
            surely=True,
            paper="section 6, figure 5",
            statement="The penultimate vector acts through the last layer's MLP.",
            bar="share of its gain lost when that MLP does not see it >= .15, surely",
        ),
        over_seeds(
            "direct-route",
            kept("skip unembedding"),
            lambda a: a <= 0.1,
            paper="our question",
            statement="The penultimate vector acts through the unembedding, as the last layer's does.",
            bar="share of its gain when the unembedding does not see it <= .1",
        ),
        over_seeds(
            "forced-route",
            {s: paths[s]["forced"]["0"] for s in seeds},
            lambda a: a >= 0.95,
            paper="our question",
            statement="There is a way through the last block: a vector that the unembedding never sees finds it.",
            bar="right greedy answers of a penultimate vector trained with its direct route cut, 2.5 times as long, "
            ">= .95",
            details={
                "temperature 1": each(paths, lambda r: r["forced"]["1"]),
                "norm, forced": each(paths, lambda r: r["forced norm"]),
                "norm, free": each(arms.get(f"vector-{last - 1}", {}), lambda r: r["norm"]),
            },
        ),
    ]
