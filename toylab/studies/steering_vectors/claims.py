"""The sentences on steering vectors, each with its bar, judged by what the jobs of the study measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from toylab.verdicts.claim import Claim, each, over_seeds, shared_seeds, threshold

Result = dict[str, Any]
Arms = dict[str, dict[int, Result]]

FROM = "transfer-from-"
"""How the arm begins that puts another seed's vectors into a model; that seed follows."""


def judge(arms: Arms, last: int, guess: float, enough: float | int) -> list[Claim]:
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


def accuracy(result: Result, temperature: float | int = 1) -> float:
    """The share of right answers of an arm."""
    return result["answers"][f"{temperature:g}"]["right"]


def fractions(arms: Arms, name: str, temperature: float | int = 1) -> dict[int, float]:
    """By seed, the share of full training's gain over the base that an arm reaches."""
    return {
        s: portion(
            accuracy(arms["base"][s], temperature),
            accuracy(arms[name][s], temperature),
            accuracy(arms["full"][s], temperature),
        )
        for s in shared_seeds(arms, ("base", "full", name))
    }


def portion(start: float, value: float, end: float) -> float:
    """How much of the way from start to end a value has gone; 0 where there is no way."""
    return (value - start) / (end - start) if abs(end - start) > 1e-6 else 0.0


def vector_arms(last: int) -> list[str]:
    """The names of the jobs that train one vector."""
    return [f"vector-{layer}" for layer in range(last + 1)]


# Bases and gains -----------------------------------------------------------------------------------------------------


def _bases(arms: Arms, guess: float) -> list[Claim]:
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
            {s: accuracy(r) for s, r in base.items()},
            lambda a: low <= a <= high,
            paper="our set-up",
            statement="The base mostly answers directly, which is guessing.",
            bar=f"right answers at temperature 1 from {low} to {high} (direct answers alone: {guess:.2f})",
            details={
                "greedy": each(base, lambda r: accuracy(r, 0)),
                "direct answers alone": each(base, lambda r: r["direct"]["1"]["right"]),
                "THINK rate": each(base, lambda r: r["answers"]["1"]["thinks"]),
                "bound of the pre-flight check, nats": each(base, lambda r: r["pre-flight"]["bound"]),
            },
        ),
    ]


def _gains(arms: Arms, last: int) -> list[Claim]:
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
            {s: accuracy(r) for s, r in full.items()},
            lambda a: a >= 0.97,
            paper="section 3, our baseline",
            statement="Reinforcement learning of the whole model solves the task.",
            bar="right answers at temperature 1 >= .97",
        ),
        over_seeds(
            "greedy",
            {s: min(accuracy(arms[name][s], 0) for name in vector_arms(last)) for s in seeds},
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


def _last_layer(arms: Arms, last: int) -> list[Claim]:
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
            {s: portion(accuracy(base[s]), base[s]["prefix"]["1"]["right"], accuracy(vector[s])) for s in seeds},
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
                s: portion(accuracy(vector[s]), vector[s]["clean scale"], accuracy(full[s]))
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


def each_of(found: Mapping[int, Result], name: str) -> dict[str, Any]:
    """A table that each seed's result holds."""
    return {str(seed): result[name] for seed, result in found.items() if name in result}


def _lens(arms: Arms, last: int) -> list[Claim]:
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


def _paths(arms: Arms, last: int) -> list[Claim]:
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


# When it works -------------------------------------------------------------------------------------------------------


def swept(arms: Arms, last: int) -> dict[int, list[tuple[float, float, float]]]:
    """By seed: cosine of the openers' rows, bound of the pre-flight check in nats, share of the gain that the last
    layer's vector recovers; sorted by cosine, the learned unembedding included."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for s in shared_seeds(arms, ("base", "full", f"vector-{last}")):
        end = accuracy(arms["full"][s])
        held = [(arms["base"][s]["pre-flight"], arms["base"][s], accuracy(arms[f"vector-{last}"][s]))]
        for name, results in arms.items():
            if name.startswith("cosine-") and s in results:
                held.append((results[s]["pre-flight"], results[s], results[s]["vector"]["1"]["right"]))
        if s in arms.get("vector-learned", {}) and s in arms.get("base-learned", {}):
            base = arms["base-learned"][s]
            held.append((base["pre-flight"], base, accuracy(arms["vector-learned"][s])))
        found[s] = sorted((check["cosine"], check["bound"], portion(accuracy(base), a, end)) for check, base, a in held)
    return {s: points for s, points in found.items() if len(points) > 1}


def _separability(arms: Arms, last: int, enough: float | int) -> list[Claim]:
    points = swept(arms, last)
    rounded = {str(s): [[round(x, 3) for x in point] for point in held] for s, held in points.items()}
    return [
        over_seeds(
            "separability",
            {s: held[-1][2] - held[0][2] for s, held in points.items()},
            lambda a: a <= -0.3,
            open_because="" if all(held[-1][0] >= 0.8 for held in points.values()) else "no two rows are close enough",
            paper="our question",
            statement="A vector can only choose between openers that the unembedding tells apart.",
            bar="share recovered at the largest cosine of the openers' rows minus that at the smallest <= -.3",
            details={"cosine, bound in nats, share of the gain": rounded},
        ),
        over_seeds(
            "pre-flight",
            {s: fmean((share >= 0.5) == (bound >= enough) for _, bound, share in held) for s, held in points.items()},
            lambda a: a >= 0.9,
            paper="our question",
            statement="The pre-flight check foretells which bases a vector can steer.",
            bar=f"share of bases in which a bound of at least {enough:g} nats goes with a share of at least .5, and a "
            "lower one with less, >= .9",
        ),
    ]


def _transfer(arms: Arms, last: int) -> list[Claim]:
    family, apart = arms.get("family", {}), arms.get("transfer-apart", {})
    between = {s: r for name, found in arms.items() if name.startswith(FROM) for s, r in found.items()}

    def carried(found: dict[int, Result], how: str, layer: int = last) -> dict[int, float]:
        return {s: portion(r["base"], r[str(layer)][how], r[str(layer)]["own"]) for s, r in found.items()}

    return [
        over_seeds(
            "transfer-family",
            {s: portion(r["base"], r["of the parent"], r["own"]) for s, r in family.items()},
            lambda a: a >= 0.7,
            paper="section 9, table 1",
            statement="Vectors carry over within a family: the parent's works in a child trained further on other "
            "styles.",
            bar="gain of the parent's vector in the child over that of the child's own >= .7",
            details={
                "back": each(
                    family,
                    lambda r: portion(r["parent"], r["parent with that of the child"], r["parent, own"]),
                ),
                "cosine": each(family, lambda r: r["cosine"]),
                "relative change of the weights": each(family, lambda r: r["weight change"]),
            },
        ),
        over_seeds(
            "transfer-seeds",
            carried(between, "raw"),
            lambda a: a >= 0.75,
            paper="our question",
            statement="Vectors carry over to models of other seeds, if these share the unembedding.",
            bar="gain of the other seed's vector over that of one's own, last layer, >= .75",
            details={
                "last layer but one": each(carried(between, "raw", last - 1), lambda x: x),
                "cosine": each(between, lambda r: r[str(last)]["cosine"]),
            },
        ),
        over_seeds(
            "transfer-apart",
            carried(apart, "raw"),
            lambda a: a <= 0.35,
            paper="our control",
            statement="To a model with another unembedding vectors do not carry over as they are.",
            bar="gain of the other model's vector over that of one's own, last layer, <= .35",
            details={"cosine": each(apart, lambda r: r[str(last)]["cosine"])},
        ),
        over_seeds(
            "transfer-mapped",
            carried(apart, "mapped"),
            lambda a: a >= 0.75,
            paper="our question",
            statement="Mapped to the direction that the other unembedding reads alike, a vector carries over.",
            bar="gain of the mapped vector over that of one's own, last layer, >= .75",
        ),
    ]


def _combine(arms: Arms, last: int) -> list[Claim]:
    found = arms.get("combine", {})

    def over_best(scale: Callable[[int], str]) -> dict[int, float]:
        return {
            s: fmean(
                cell[scale(len(chosen.split("+")))] - max(r["alone"][layer] for layer in chosen.split("+"))
                for chosen, cell in r["combined"].items()
                if chosen.count("+") == 1
            )
            for s, r in found.items()
        }

    table = {str(s): r["combined"] for s, r in found.items()}
    return [
        over_seeds(
            "combine",
            over_best(lambda n: "1"),
            lambda a: a > 0,
            paper="appendix D, figure 13",
            statement="Vectors that were trained apart add up.",
            bar="right answers of two together minus the better one alone, mean over pairs, > 0",
            details={"right answers by pair and scale": table},
        ),
        over_seeds(
            "combine-halved",
            over_best(lambda n: f"{1 / n:g}"),
            lambda a: a >= -0.08,
            paper="our control",
            statement="Vectors trained apart say the same: halved, two together are as good as one.",
            bar="the same with both halved >= -.08",
        ),
    ]


def _adaptive(arms: Arms) -> list[Claim]:
    found = arms.get("adaptive", {})
    return [
        over_seeds(
            "adaptive",
            {s: accuracy(r) - r["constant, as long"]["1"]["right"] for s, r in found.items()},
            lambda a: a >= 0.03,
            paper="section 10",
            statement="One vector with a scale that depends on the token beats a constant one.",
            bar="right answers at temperature 1, last layer but one, minus those of a vector trained as long, >= .03",
            details={
                "right": each(found, accuracy),
                "SEP alone": each(found, lambda r: r["SEP alone"]),
                "all but SEP": each(found, lambda r: r["all but SEP"]),
            },
        ),
        over_seeds(
            "adaptive-place",
            {
                s: float(r["scales"]["SEP"] == max(r["scales"][k] for k in ("digits", "SEP", "opener", "chain")))
                for s, r in found.items()
            },
            lambda a: a == 1,
            share=0.8,
            paper="section 10",
            statement="A scale that depends on the token concentrates where a decision falls.",
            bar="share of seeds in which it is largest at SEP, in size, of all kinds of position but BOS, >= .8",
            details={
                "mean size": {
                    str(s): {k: v for k, v in r["scales"].items() if k != "by position"} for s, r in found.items()
                }
            },
        ),
    ]


def _prompt_bit(arms: Arms, direct: float) -> list[Claim]:
    """`direct`: the share right of always answering at once."""
    constant, gated = threshold(direct, 0.08), threshold(direct, 0.18)
    base, before, after = (arms.get(name, {}) for name in ("base-flag", "flag-before", "flag-last"))
    gate, scale, full = (arms.get(name, {}) for name in ("flag-gate", "flag-scale", "flag-full"))
    seeds = shared_seeds(arms, ("flag-before", "flag-last"))
    return [
        over_seeds(
            "prompt-bit-constant",
            {s: max(accuracy(before[s]), accuracy(after[s])) for s in seeds},
            lambda a: a <= constant,
            paper="our question",
            statement="Where the right opener depends on the prompt, a constant vector fails.",
            bar=f"right answers at temperature 1, better of the last two layers, <= {constant}",
            details={
                "base": each(base, accuracy),
                "always DIRECT": each(base, lambda r: r["prefix DIRECT"]["1"]["right"]),
            },
        ),
        over_seeds(
            "prompt-bit-gate",
            {s: accuracy(r) for s, r in gate.items()},
            lambda a: a >= gated,
            paper="our question",
            statement="Where the right opener depends on the prompt, a bounded, centred gate on one vector is enough.",
            bar=f"right answers at temperature 1, scale tanh(w . (rms(h) - mean) + b), >= {gated}",
            details={
                "unbounded scale": each(scale, accuracy),
                "THINK rate, all and flagged": each(
                    gate, lambda r: [r["answers"]["1"]["thinks"], r["answers"]["1"]["flagged_thinks"]]
                ),
            },
        ),
        over_seeds(
            "prompt-bit-full",
            {s: accuracy(r) for s, r in full.items()},
            lambda a: a >= 0.95,
            paper="our baseline",
            statement="Full training finds the right opener where it depends on the prompt.",
            bar="right answers at temperature 1 >= .95",
        ),
        over_seeds(
            "prompt-bit-mlp",
            {s: r["steered"] - r["routes"]["skip MLP"] for s, r in before.items()},
            lambda a: a >= 0.05,
            paper="section 6, figure 5, on our task",
            statement="Where the right opener depends on the prompt, the penultimate vector acts through the MLP.",
            bar="right answers lost when the last MLP does not see it >= .05",
            details={"right by route": each_of(before, "routes")},
        ),
    ]


def _features(arms: Arms) -> list[Claim]:
    found = arms.get("features", {})
    return [
        over_seeds(
            "features",
            {
                s: abs(r["difference"]["difference"])
                - max(r["difference"][name] for name in ("chance", "trivial difference", "format difference"))
                for s, r in found.items()
            },
            lambda a: a > 0,
            surely=True,
            paper="section 8 (dropped in version 4)",
            statement="A sparse autoencoder of the steered differences has a feature of right answers.",
            bar="difference in how often it fires in right and wrong answers, minus the largest of chance (permuted), "
            "of the difference in how often they open with THINK, and of that in how often the chain is whole, > 0, "
            "surely",
            details={str(s): {k: _few(v) for k, v in r.items()} for s, r in found.items()},
        ),
        over_seeds(
            "difference-sae",
            {s: r["difference"]["auc"] - r["plain"]["auc"] for s, r in found.items()},
            lambda a: a > 0,
            surely=True,
            paper="section 8 (dropped in version 4)",
            statement="A feature of right answers shows better in differences to the base than in plain activations.",
            bar="AUC of the best feature of differences minus that of plain steered activations > 0, surely",
        ),
    ]


def _few(table: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in table.items()}


def _controls(arms: Arms) -> list[Claim]:
    found = arms.get("baselines", {})
    seeds = sorted(found)
    others = {
        name: each(
            {s: r for s, r in found.items() if name in r}, lambda r, n=name: [r[n][t] for t in ("0", "0.7", "1")]
        )
        for name in ("random reward", "minus", "difference of means", "logit bias", "another run")
    }
    return [
        over_seeds(
            "random-vector",
            {s: fmean(found[s]["random vectors"]) - found[s]["base"] for s in seeds},
            lambda a: a <= 0.05,
            paper="our control",
            statement="Random vectors of the same norm gain nothing.",
            bar="mean gain of ten draws at temperature 1, last layer, <= .05",
        ),
        over_seeds(
            "random-reward",
            {s: found[s]["random reward"]["1"] - found[s]["base"] for s in seeds},
            lambda a: a <= 0.05,
            paper="our control",
            statement="A vector trained on a random reward gains nothing, in the mean.",
            bar="gain at temperature 1, last layer, <= .05",
            details={
                "right at temperatures 0, .7 and 1": others,
                "cosine with the trained vector": each(found, lambda r: r["random reward"]["cosine"]),
                "norm": each(found, lambda r: r["random reward"]["norm"]),
            },
        ),
        over_seeds(
            "same-vector",
            {s: found[s]["another run"]["cosine"] for s in seeds if "another run" in found[s]},
            lambda a: a >= 0.95,
            paper="our control",
            statement="Another run on other prompts finds the same vector.",
            bar="cosine of the two >= .95",
        ),
        over_seeds(
            "difference-of-means",
            {s: found[s]["difference of means"]["1"] - found[s]["base"] for s in seeds},
            lambda a: a <= 0.05,
            paper="our control",
            statement="The difference of mean states after THINK and after DIRECT does not steer: it says what was "
            "said last.",
            bar="gain at temperature 1, last layer, same norm, <= .05",
            details={"cosine with the trained vector": each(found, lambda r: r["difference of means"]["cosine"])},
        ),
        over_seeds(
            "logit-bias",
            {s: found[s]["logit bias"]["1"] - found[s]["steered"] for s in seeds},
            lambda a: a > 0,
            surely=True,
            paper="our control",
            statement="The mean shift of the logits at SEP, added everywhere instead of the vector, does better.",
            bar="right answers at temperature 1 minus those of the vector > 0, surely",
        ),
    ]
