"""The sentences of the contextual-counting paper, each with its bar, judged by what the jobs of the study measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from toylab.studies.contextual_counting.measures import CLASSES, COUNTED, SLACK, SOLVED
from toylab.verdicts.claim import Claim, each, mean, or_never, over_seeds
from toylab.verdicts.intervals import interval

Result = dict[str, Any]
Arms = dict[str, dict[int, Result]]

CONSTANT = ("begin", "own [", "own ]", "earlier brackets")
"""Bias classes of which a string has a number that depends on the label alone."""

VARYING = tuple(name for name in CLASSES if name not in (COUNTED, *CONSTANT))
"""The other bias classes: their number changes from string to string."""


def judge(arms: Arms, encodings: Sequence[str], longest: int) -> list[Claim]:
    """All claims; those whose arms were not run are open.

    Args:
        arms: by the name of an arm and the seed, what its job measured.
        encodings: those compared.
        longest: tokens of the strings on which models are judged.
    """
    none, rotary = arms.get("none", {}), arms.get("rotary", {})
    return [
        *_solved(none, rotary),
        _golden(arms.get("golden", {})),
        *_ordering(arms, encodings),
        *_plain(arms, encodings),
        *_mechanism(none, longest),
        *_foretold(arms, longest),
        *_other_circuits(arms, rotary, longest),
        *_cure(none, arms),
        *_emergence(arms),
        _ingredients(none, arms),
    ]


def mean_accuracy(result: Result) -> float:
    """Over the regions."""
    return sum(result["accuracy"]) / len(result["accuracy"])


def solved_regions(result: Result, what: str = "circuits") -> list[Result]:
    """The circuits of the regions that a model solved, or what else was measured of each."""
    return [held for held, c in zip(result[what], result["circuits"], strict=True) if c["accuracy"] >= SOLVED]


def _solved(none: dict[int, Result], rotary: dict[int, Result]) -> list[Claim]:
    def claim(id: str, found: dict[int, Result], what: str) -> Claim:
        return over_seeds(
            id,
            {s: mean_accuracy(r) for s, r in found.items()},
            lambda a: a >= SOLVED,
            share=0.9,
            paper="section 4, best models",
            statement=f"Models count in context: a causal encoder with {what} solves the task.",
            bar=f"share of seeds with a mean accuracy over regions >= {SOLVED} is >= .9",
            details={
                "floor (best constant guess)": each(found, lambda r: r["floor"]),
                "accuracy by region": each(found, lambda r: r["accuracy"]),
                "circuits": each(found, lambda r: _count(c["circuit"] for c in r["circuits"])),
                "CPU-seconds, measuring included": each(found, lambda r: r.get("cost", {}).get("cpu_seconds")),
            },
        )

    return [claim("solved", none, "no positions"), claim("solved-rotary", rotary, "rotary positions")]


def _golden(golden: dict[int, Result]) -> Claim:
    def right(result: Result) -> float:
        wanted = {"begin": "begin", "bracket": "own ["}
        named = all(
            region["circuit"] == "counter" and region["bias"] == wanted[bias]
            for bias, regions in result["named"].items()
            for region in regions
        )
        return float(result["errors"] == 0 and named)

    return over_seeds(
        "golden",
        {s: right(r) for s, r in golden.items()},
        lambda ok: ok == 1,
        paper="section 2, propositions 2.1 and 2.2",
        statement="The circuit exists: weights written by hand count without an error, and the probes name it rightly.",
        bar="no error in any count; circuit and bias token named as they were written",
        details={
            "counts asked": each(golden, lambda r: r["asked"]),
            "errors": each(golden, lambda r: r["errors"]),
        },
    )


# Which encoding -----------------------------------------------------------------------------------------------------


def _ordering(arms: Arms, encodings: Sequence[str]) -> list[Claim]:
    def means(name: str) -> dict[int, float]:
        return {seed: mean_accuracy(result) for seed, result in arms.get(name, {}).items()}

    causal = {name: means(name) for name in encodings}
    both = {name: means(f"{name}-bidirectional") for name in encodings}
    compared = set.intersection(*(set(found) for found in [*causal.values(), *both.values()]))
    table = {name: _with_interval(found) for name, found in causal.items()}
    table |= {f"{name}, bidirectional": _with_interval(found) for name, found in both.items()}
    gaps = {s: min(causal[name][s] - both[name][s] for name in encodings) for s in sorted(compared)}
    across = {
        s: min(causal[name][s] for name in encodings) - max(both[name][s] for name in encodings)
        for s in sorted(compared)
    }
    others = [name for name in encodings if name != "none"]
    # Rotary, the strongest rival, is trained on all seeds: those without the other encodings tell as much.
    lead = {
        s: own - max(causal[name][s] for name in others if s in causal[name])
        for s, own in causal["none"].items()
        if s in causal["rotary"]
    }
    chance = arms.get("none-bidirectional", {})
    return [
        over_seeds(
            "causal-helps",
            gaps,
            lambda gap: gap >= 0.2,
            paper="section 4, figure 2",
            statement="For every encoding, a causal encoder does much better than a bidirectional one.",
            bar="smallest lead over encodings >= .2 in the mean of seeds",
            details={"mean accuracy [95 % interval]": table},
        ),
        over_seeds(
            "causal-over-all",
            across,
            lambda gap: gap > 0,
            surely=True,
            paper="section 4, figure 2",
            statement="Every causal encoder does better than any bidirectional one.",
            bar="worst causal encoding minus best bidirectional one > 0 in the mean of seeds, its interval above 0",
            details={"mean accuracy [95 % interval]": table},
        ),
        over_seeds(
            "none-is-best",
            lead,
            lambda gap: gap > 0,
            surely=True,
            paper="section 4, abstract",
            statement="No positional encoding gives the best accuracy.",
            bar="mean lead over the best other causal encoding trained on the seed > 0, its interval above 0",
            details={"mean accuracy [95 % interval]": table},
        ),
        over_seeds(
            "bidirectional-chance",
            {s: abs(mean_accuracy(r) - r["floor"]) for s, r in chance.items()},
            lambda gap: gap <= 0.02 and all(r["permutation_gap"] < 1e-9 for r in chance.values()),
            paper="proposition 2.3",
            statement="Without positions a bidirectional model cannot tell regions apart: it guesses.",
            bar="mean distance from the best constant guess <= .02; same logits for permuted strings (1e-9, float64)",
            details={"largest change of a logit under permutation": each(chance, lambda r: r["permutation_gap"])},
        ),
    ]


def _plain(arms: Arms, encodings: Sequence[str]) -> list[Claim]:
    found = {name: arms.get(f"plain-{name}", {}) for name in encodings}
    if not any(found.values()):
        note = "not part of this run; add it with --parts encodings circuits plain, or --preset paper"
    else:
        note = ""

    def shares(of: Callable[[Result], bool]) -> dict[str, str]:
        return {name: _share([of(r) for r in seeds.values()]) for name, seeds in found.items() if seeds}

    regions = {name: [a >= SOLVED for r in seeds.values() for a in r["accuracy"]] for name, seeds in found.items()}
    details = {
        "share of seeds that solve it [Wilson]": shares(lambda r: mean_accuracy(r) >= SOLVED),
        "regions >= .9": {name: f"{sum(solved)} of {len(solved)}" for name, solved in regions.items() if solved},
        "share of seeds within .1 of the floor [Wilson]": shares(lambda r: mean_accuracy(r) <= r["floor"] + 0.1),
    }
    pairs = sorted(set(found["none"]) & set(found["rotary"]))
    lead = {s: mean_accuracy(found["rotary"][s]) - mean_accuracy(found["none"][s]) for s in pairs}
    return [
        over_seeds(
            "failure-rate",
            {s: float(mean_accuracy(r) >= SOLVED) for s, r in found["none"].items()},
            lambda solved: solved == 0,
            share=0.5,
            paper="section 4, figure 2",
            statement="In the plain set-up, training without positions is a lottery: most seeds do not solve the task.",
            bar=f"share of seeds with a mean accuracy below {SOLVED} is >= .5",
            details=details if any(regions.values()) else {},
            note=note,
        ),
        over_seeds(
            "rotary-is-easier",
            lead,
            lambda gap: gap > 0,
            surely=True,
            paper="section 4",
            statement="In the plain set-up, rotary positions train more reliably than none.",
            bar="mean accuracy of rotary minus none > 0 over paired seeds, its interval above 0",
            note=note,
        ),
    ]


# By which circuit ---------------------------------------------------------------------------------------------------


def _mechanism(none: dict[int, Result], longest: int) -> list[Claim]:
    good = {s: r for s, r in none.items() if solved_regions(r)}

    def counts(result: Result) -> float:
        return mean(
            float(c["blocked"]["counted ones"] <= result["floor"] + SLACK and c["k"] <= longest / 2)
            for c in solved_regions(result)
        )

    def compares(result: Result) -> float:
        return mean(
            float(c["bias"] != "mixed" and c["blocked"].get("the bias", 1.0) <= result["floor"] + SLACK)
            for c in solved_regions(result)
        )

    def probed(site: str, number: str) -> dict[str, Any]:
        return each(good, lambda r: r["probe"][site][number])

    return [
        over_seeds(
            "count-in-decoder",
            {s: counts(r) for s, r in good.items()},
            lambda share: share == 1,
            share=0.9,
            paper="section 4.2, figure 8",
            statement="Counting happens in the decoder's attention, on n ones beside a bias that weighs as K of them.",
            bar=f"in >= .9 of the seeds, every solved region is at the floor (+ {SLACK}) without its ones, and K <= "
            "half the longest string (uniform attention: nearly all of it)",
            details={
                "K of solved regions": each(good, lambda r: [c["k"] for c in solved_regions(r)]),
                "accuracy without the counted ones": each(
                    good, lambda r: [c["blocked"]["counted ones"] for c in solved_regions(r)]
                ),
                "floor": each(good, lambda r: r["floor"]),
            },
        ),
        over_seeds(
            "count-curve",
            {s: min(c["r2"] for c in solved_regions(r)) for s, r in good.items()},
            lambda r2: r2 >= 0.98,
            share=0.9,
            withdrawn="uniform attention reaches .99 as well, with a far larger K: it is K that tells",
            paper="section 4.2, figure 8",
            statement="The mass of the decoder's attention on n ones is n / (n + K).",
            bar="in >= .9 of the seeds, R^2 of that curve is >= .98 in every solved region",
            details={"R^2 of solved regions": each(good, lambda r: [c["r2"] for c in solved_regions(r)])},
        ),
        over_seeds(
            "bias-token",
            {s: compares(r) for s, r in good.items()},
            lambda share: share >= 0.9,
            paper="section 4.2",
            statement="Each region compares its ones with one kind of token, the bias token.",
            bar="mean share of solved regions that have >= .7 of the rest of their attention on one class, and are at "
            f"the floor (+ {SLACK}) without it, is >= .9",
            details={
                "bias by solved region": each(good, lambda r: [c["bias"] for c in solved_regions(r)]),
                "its share": each(good, lambda r: [c["share"] for c in solved_regions(r)]),
                "accuracy without it": each(good, lambda r: [c["blocked"].get("the bias") for c in solved_regions(r)]),
                "over all solved regions": _count(c["bias"] for r in good.values() for c in solved_regions(r)),
            },
        ),
        over_seeds(
            "two-values",
            {s: mean(x["two values"]["agreement"] for x in solved_regions(r, "readout")) for s, r in good.items()},
            lambda share: share >= 0.9,
            paper="section 4.2, equation 3",
            statement="Two values reproduce the answers: one for a counted one, one for a bias token.",
            bar="mean share of cases with the same likeliest count as the model >= .9, in solved regions",
            details={
                "KL in nats, two values": each(good, lambda r: [x["two values"]["kl"] for x in r["readout"]]),
                "KL in nats, one value a class": each(good, lambda r: [x["all classes"]["kl"] for x in r["readout"]]),
                "agreement, one value a class": each(
                    good, lambda r: [x["all classes"]["agreement"] for x in r["readout"]]
                ),
            },
        ),
        over_seeds(
            "region-probe",
            {s: r["probe"]["decoder input"]["accuracy"] for s, r in good.items()},
            lambda a: a >= 0.95,
            withdrawn="a linear probe of an encoder with random weights is right in .997 to 1 as well",
            paper="section 4.2, figures 7 and 9",
            statement="The encoder writes into every one which region it stands in.",
            bar="mean accuracy of a linear probe on ones at the decoder's input >= .95",
            details={
                "at the attention's output": probed("attention output", "accuracy"),
                "always the commonest region": probed("decoder input", "majority"),
                "shuffled labels": probed("decoder input", "shuffled"),
                "variance in two components, attention's output": probed("attention output", "two components"),
            },
        ),
        over_seeds(
            "reads-brackets",
            {s: _bracket_share(r["scores"]) for s, r in good.items()},
            lambda share: share >= 0.9,
            paper="section 4.2, figure 6",
            statement="In the encoder, ones attend to brackets and the begin token, and hardly to bits.",
            bar="mean attention on brackets and the begin token, at equal numbers of each token, >= .9",
            details={"scores of a one for 0, 1, [, ], BoS": each(good, lambda r: r["scores"][1])},
        ),
    ]


def _bracket_share(scores: list[list[float]]) -> float:
    """The attention of a one on brackets and the begin token if there were one token of each type."""
    weights = [math.exp(score - max(scores[1])) for score in scores[1]]
    return sum(weights[2:]) / sum(weights)


# What it foretells --------------------------------------------------------------------------------------------------


def counters(arms: Arms) -> list[tuple[str, int, int, Result, Result]]:
    """Every solved region of a causal model that counts in the decoder: arm, seed, label, circuit, result."""
    return [
        (arm, seed, k, circuit, result)
        for arm, seeds in arms.items()
        if arm != "golden" and not arm.endswith("bidirectional")
        for seed, result in seeds.items()
        for k, circuit in enumerate(result["circuits"])
        if circuit["accuracy"] >= SOLVED and circuit["circuit"] == "counter"
    ]


def _foretold(arms: Arms, longest: int) -> list[Claim]:
    found = counters(arms)
    few = "" if longest <= 64 else f"16 zeros are few beside strings of {longest}"

    def errors(law: str, change: str) -> dict[int, list[float]]:
        """By seed, the relative errors of the slope that a law foretells."""
        kept: dict[int, list[float]] = {}
        for _, seed, k, _, result in found:
            if change in result["shifts"]:
                one = result["shifts"][change][k]
                kept.setdefault(seed, []).append(abs(one[law] / one["after"] - 1) if one["after"] else 1.0)
        return kept

    def claim(id: str, law: str, statement: str) -> Claim:
        zeros, region = errors(law, "16 zeros"), errors(law, "a region")
        moved = {
            f"{arm}, seed {seed}, region {k + 1}, {circuit['bias']}, {change}": [
                round(result["shifts"][change][k][name], 3) for name in (law, "after")
            ]
            for arm, seed, k, circuit, result in found
            for change in ("16 zeros", "a region")
            if change in result["shifts"] and _moves(result["shifts"][change][k], law)
        }
        near = [abs(foretold / after - 1) <= 0.15 if after else False for foretold, after in moved.values()]
        misses = [
            change == "a region" and k + 1 == len(result["circuits"])
            for _, _, k, _, result in found
            for change, shifts in result["shifts"].items()
            if change in ("16 zeros", "a region")
            and abs(shifts[k][law] - shifts[k]["after"]) > 0.15 * shifts[k]["after"]
        ]
        return over_seeds(
            id,
            {s: mean(float(e <= 0.15) for e in errs + region.get(s, [])) for s, errs in zeros.items()},
            lambda share: share >= 0.9,
            paper="section 4.3; the law n K / K' is ours",
            statement=statement,
            bar="mean share of counting regions whose slope, once 16 zeros or an empty region were appended, is within "
            "15 % of the prediction, is >= .9",
            details={
                "mean relative error, 16 zeros": {str(s): round(mean(e), 4) for s, e in zeros.items()},
                "mean relative error, an empty region": {str(s): round(mean(e), 4) for s, e in region.items()},
                "within 15 %, of those foretold to change by 5 % or more": f"{sum(near)} of {len(near)}",
                "those: foretold, measured": moved,
                "misses that are last regions with one appended": f"{sum(misses)} of {len(misses)}",
            },
            note="a last region may take an appended one for its own, which no law of weights foretells",
        )

    def kept(names: Iterable[str], change: str) -> dict[int, float]:
        shares: dict[int, list[float]] = {}
        for _, seed, k, circuit, result in found:
            if circuit["bias"] in names and change in result["shifts"]:
                shares.setdefault(seed, []).append(result["shifts"][change][k]["accuracy"])
        return {seed: mean(values) for seed, values in shares.items()}

    return [
        claim(
            "ood-law", "predicted", "What a region compares with foretells its answers elsewhere: n becomes n K / K'."
        ),
        claim(
            "ood-law-by-place",
            "by_place",
            "The same, if K' is taken from tokens of the same class between the same brackets.",
        ),
        over_seeds(
            "constant-bias-keeps",
            kept(CONSTANT, "16 zeros"),
            lambda a: a >= 0.9,
            open_because=few,
            paper="section 4.3, figure 3",
            statement="Regions that compare with a token whose number never changes keep counting in longer strings.",
            bar="mean accuracy after 16 zeros were appended >= .9 (begin token, own or earlier brackets)",
            details={"begin token alone": {str(s): round(v, 4) for s, v in kept(("begin",), "16 zeros").items()}},
        ),
        over_seeds(
            "zeros-bias-falls",
            kept(("zeros",), "16 zeros"),
            lambda a: a <= 0.5,
            open_because=few,
            paper="section 4.3, figure 3",
            statement="Regions that compare with zeros miscount in longer strings.",
            bar="mean accuracy after 16 zeros were appended <= .5",
        ),
    ]


def _moves(shift: Result, law: str) -> bool:
    return abs(shift[law] / shift["before"] - 1) >= 0.05


# Other algorithms, same accuracy ------------------------------------------------------------------------------------


def _other_circuits(arms: Arms, rotary: dict[int, Result], longest: int) -> list[Claim]:
    mlp = {s: r for s, r in arms.get("encoder-mlp", {}).items() if solved_regions(r)}
    plain = {s: r for s, r in arms.get("plain-encoder-mlp", {}).items() if solved_regions(r)}
    turning = {s: r for s, r in rotary.items() if mean_accuracy(r) >= SOLVED}
    return [
        over_seeds(
            "encoder-mlp",
            {s: mean(_counting(found[s]) for found in (mlp, plain) if s in found) for s in sorted({*mlp, *plain})},
            lambda share: share <= 0.5,
            paper="our question",
            statement="With an MLP in the encoder, the same accuracy comes from another circuit.",
            bar="mean share of solved regions that count in the decoder <= .5, in our recipe and, where it was run, in "
            "the plain set-up",
            details={
                "circuits of solved regions, recipe": _count(
                    c["circuit"] for r in mlp.values() for c in solved_regions(r)
                ),
                "circuits of solved regions, plain": _count(
                    c["circuit"] for r in plain.values() for c in solved_regions(r)
                ),
                "accuracy, plain": each(plain, mean_accuracy),
                **{
                    f"without {what}, {title}": _blocked(found, what)
                    for title, found in (("recipe", mlp), ("plain", plain))
                    for what in ("counted ones", "own brackets", "outside ones", "all ones")
                },
            },
        ),
        over_seeds(
            "rotary-in-disguise",
            {s: mean(r["rotary"]["stopped"]["fast"]) / mean_accuracy(r) for s, r in turning.items()},
            lambda share: share >= 0.9,
            paper="appendix, figure 25",
            statement="Rotary models do without rotation: they live in planes that hardly turn over a string.",
            bar="mean share of the accuracy kept when planes of more than one radian a string stop turning >= .9",
            details={
                "kept when no plane turns": each(turning, lambda r: mean(r["rotary"]["stopped"]["all"])),
                "kept when only fast planes turn": each(turning, lambda r: mean(r["rotary"]["stopped"]["slow"])),
                "share of the score (absolute) from slow planes": each(turning, lambda r: _slow_share(r, longest)),
            },
        ),
    ]


def _counting(result: Result) -> float:
    """The share of the solved regions of a model that count in the decoder."""
    return mean(float(circuit["circuit"] == "counter") for circuit in solved_regions(result))


def _slow_share(result: Result, longest: int) -> float:
    """The share of a rotary score that comes from planes of less than one radian over the longest strings."""
    parts = list(zip(result["rotary"]["planes"], result["rotary"]["frequencies"], strict=True))
    return sum(abs(part) for part, f in parts if f < 1 / longest) / sum(abs(part) for part, _ in parts)


# The cure, and the recipe -------------------------------------------------------------------------------------------


def _cure(none: dict[int, Result], arms: Arms) -> list[Claim]:
    compared = {
        "varied strings": none,
        "varied, no auxiliary": arms.get("no-auxiliary", {}),
        "fixed strings": arms.get("fixed", {}),
    }

    def biases(found: dict[int, Result], names: Iterable[str]) -> dict[int, float]:
        good = {s: solved_regions(r) for s, r in found.items()}
        return {s: mean(float(_largest(c) in names) for c in regions) for s, regions in good.items() if regions}

    details = {
        f"largest bias class, {title}": _count(_largest(c) for r in found.values() for c in solved_regions(r))
        for title, found in compared.items()
    }
    details |= {
        f"mean accuracy elsewhere, {title}": {
            place: round(mean(a for r in found.values() for a in r["elsewhere"][place]["accuracy"]), 3)
            for place in next(iter(found.values()), {"elsewhere": {}})["elsewhere"]
        }
        for title, found in compared.items()
    }
    return [
        over_seeds(
            "cure",
            biases(none, VARYING),
            lambda share: share <= 0.05,
            paper="section 5, left open",
            statement="Strings of many lengths and numbers of regions in training cure biases that do not generalise.",
            bar="mean share of solved regions whose largest bias class varies from string to string <= .05",
            details=details,
        ),
        over_seeds(
            "cure-begin",
            biases(none, ("begin",)),
            lambda share: share >= 0.5,
            paper="section 5, left open",
            statement="They make the begin token the bias, as the one constant token.",
            bar="mean share of solved regions whose largest bias class is the begin token >= .5",
            note="brackets of the own and of earlier regions are as constant as the begin token, and nearer at hand",
        ),
    ]


def _emergence(arms: Arms) -> list[Claim]:
    def claim(id: str, arm: str, what: str) -> Claim:
        found = arms.get(arm, {})
        return over_seeds(
            id,
            {s: mean_accuracy(r) for s, r in found.items()},
            lambda a: a >= SOLVED,
            share=0.8,
            paper="our recipe",
            statement=f"With {what}, the circuit also forms when nothing about regions is taught.",
            bar=f"share of seeds without auxiliary loss with a mean accuracy >= {SOLVED} is >= .8",
            details={
                "steps to .9": each(found, lambda r: or_never(r["solved_at"])),
                "bias by region": each(found, lambda r: [c["bias"] for c in r["circuits"]]),
                "accuracy without own brackets": _blocked(found, "own brackets"),
                "accuracy without the counted ones": _blocked(found, "counted ones"),
            },
        )

    return [
        claim("emerges", "no-auxiliary", "no positions"),
        claim("emerges-rotary", "no-auxiliary-rotary", "rotary positions"),
        claim("emerges-slow-rotary", "no-auxiliary-slow-rotary", "rotary positions that turn a hundred times slower"),
    ]


INGREDIENTS = {
    "one-length": "one length",
    "one-number": "one number of regions",
    "no-logit-scale": "no logit scale",
    "default-head": "default head",
    "large-embeddings": "large embeddings",
    "large-queries": "large label queries",
    "no-auxiliary": "no auxiliary loss",
}


def _ingredients(none: dict[int, Result], arms: Arms) -> Claim:
    tried = {name: arms[name] for name in INGREDIENTS if arms.get(name)}
    whole = set(tried) == set(INGREDIENTS)
    seeds = set.intersection(*(set(found) for found in tried.values()), set(none)) if whole else set()
    full = {s: mean_accuracy(none[s]) for s in sorted(seeds)}
    least = {s: min(full[s] - mean_accuracy(found[s]) for found in tried.values()) for s in full}
    return over_seeds(
        "ingredients",
        least,
        lambda loss: loss > 0.02,
        paper="our recipe",
        statement="Every ingredient of the recipe is needed.",
        bar="leaving any one out costs > .02 of the mean accuracy (smallest loss over ingredients, mean of seeds)",
        details={
            "mean accuracy without": {
                INGREDIENTS[name]: _with_interval({s: mean_accuracy(r) for s, r in found.items()})
                for name, found in tried.items()
            },
            "seeds solved without": {
                INGREDIENTS[name]: f"{sum(mean_accuracy(r) >= SOLVED for r in found.values())} of {len(found)}"
                for name, found in tried.items()
            },
            "complete recipe": _with_interval({s: mean_accuracy(r) for s, r in none.items()}) if none else "not run",
        },
        note="" if whole else "not part of this run; add it with --parts encodings circuits ingredients",
    )


# Helpers ------------------------------------------------------------------------------------------------------------


def _largest(circuit: Result) -> str:
    return max(circuit["shares"], key=circuit["shares"].__getitem__)


def _blocked(found: dict[int, Result], name: str) -> dict[str, Any]:
    return each(found, lambda r: [c["blocked"][name] for c in r["circuits"]])


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _with_interval(values: dict[int, float]) -> str:
    if not values:
        return "not run"
    ends = interval(list(values.values()))
    return f"{mean(values.values()):.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _share(passed: list[bool]) -> str:
    ends = interval(passed)
    return f"{sum(passed)} of {len(passed)}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")
