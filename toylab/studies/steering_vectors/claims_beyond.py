"""Claims beyond one vector in its own model: transfer, combination, adaptive scale, prompt bit, features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from toylab.runs.study import Arms, Result
from toylab.studies.steering_vectors.quantities import FROM, accuracy_at, each_of, portion, swept
from toylab.verdicts.judgement import Judgement, each, over_seeds, shared_seeds, threshold


def _separability(arms: Arms, last: int, enough: float | int) -> list[Judgement]:
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


def _transfer(arms: Arms, last: int) -> list[Judgement]:
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


def _combine(arms: Arms, last: int) -> list[Judgement]:
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


def _adaptive(arms: Arms) -> list[Judgement]:
    found = arms.get("adaptive", {})
    return [
        over_seeds(
            "adaptive",
            {s: accuracy_at(r) - r["constant, as long"]["1"]["right"] for s, r in found.items()},
            lambda a: a >= 0.03,
            paper="section 10",
            statement="One vector with a scale that depends on the token beats a constant one.",
            bar="right answers at temperature 1, last layer but one, minus those of a vector trained as long, >= .03",
            details={
                "right": each(found, accuracy_at),
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


def _prompt_bit(arms: Arms, direct: float) -> list[Judgement]:
    """`direct`: the share right of always answering at once."""
    constant, gated = threshold(direct, 0.08), threshold(direct, 0.18)
    base, before, after = (arms.get(name, {}) for name in ("base-flag", "flag-before", "flag-last"))
    gate, scale, full = (arms.get(name, {}) for name in ("flag-gate", "flag-scale", "flag-full"))
    seeds = shared_seeds(arms, ("flag-before", "flag-last"))
    return [
        over_seeds(
            "prompt-bit-constant",
            {s: max(accuracy_at(before[s]), accuracy_at(after[s])) for s in seeds},
            lambda a: a <= constant,
            paper="our question",
            statement="Where the right opener depends on the prompt, a constant vector fails.",
            bar=f"right answers at temperature 1, better of the last two layers, <= {constant}",
            details={
                "base": each(base, accuracy_at),
                "always DIRECT": each(base, lambda r: r["prefix DIRECT"]["1"]["right"]),
            },
        ),
        over_seeds(
            "prompt-bit-gate",
            {s: accuracy_at(r) for s, r in gate.items()},
            lambda a: a >= gated,
            paper="our question",
            statement="Where the right opener depends on the prompt, a bounded, centred gate on one vector is enough.",
            bar=f"right answers at temperature 1, scale tanh(w . (rms(h) - mean) + b), >= {gated}",
            details={
                "unbounded scale": each(scale, accuracy_at),
                "THINK rate, all and flagged": each(
                    gate, lambda r: [r["answers"]["1"]["thinks"], r["answers"]["1"]["flagged_thinks"]]
                ),
            },
        ),
        over_seeds(
            "prompt-bit-full",
            {s: accuracy_at(r) for s, r in full.items()},
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


def _features(arms: Arms) -> list[Judgement]:
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


def _controls(arms: Arms) -> list[Judgement]:
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
