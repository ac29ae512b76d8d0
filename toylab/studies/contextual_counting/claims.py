"""The sentences of the contextual-counting paper, each with its bar, judged by what the jobs of the study measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from toylab.runs.study import Arms, Result
from toylab.studies.contextual_counting.claims_mechanism import _foretold, _mechanism, _other_circuits
from toylab.studies.contextual_counting.measures import SOLVED
from toylab.studies.contextual_counting.quantities import (
    VARYING,
    _blocked,
    _count,
    _largest,
    _share,
    _with_interval,
    accuracy_over_regions,
    solved_regions,
)
from toylab.verdicts.judgement import Judgement, each, mean, or_never, over_seeds


def judge(arms: Arms, encodings: Sequence[str], longest: int) -> list[Judgement]:
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


def _solved(none: dict[int, Result], rotary: dict[int, Result]) -> list[Judgement]:
    def claim(id: str, found: dict[int, Result], what: str) -> Judgement:
        return over_seeds(
            id,
            {s: accuracy_over_regions(r) for s, r in found.items()},
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


def _golden(golden: dict[int, Result]) -> Judgement:
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


def _ordering(arms: Arms, encodings: Sequence[str]) -> list[Judgement]:
    def means(name: str) -> dict[int, float]:
        return {seed: accuracy_over_regions(result) for seed, result in arms.get(name, {}).items()}

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
            {s: abs(accuracy_over_regions(r) - r["floor"]) for s, r in chance.items()},
            lambda gap: gap <= 0.02 and all(r["permutation_gap"] < 1e-9 for r in chance.values()),
            paper="proposition 2.3",
            statement="Without positions a bidirectional model cannot tell regions apart: it guesses.",
            bar="mean distance from the best constant guess <= .02; same logits for permuted strings (1e-9, float64)",
            details={"largest change of a logit under permutation": each(chance, lambda r: r["permutation_gap"])},
        ),
    ]


def _plain(arms: Arms, encodings: Sequence[str]) -> list[Judgement]:
    found = {name: arms.get(f"plain-{name}", {}) for name in encodings}
    if not any(found.values()):
        note = "not part of this run; add it with --parts encodings circuits plain, or --preset paper"
    else:
        note = ""

    def shares(of: Callable[[Result], bool]) -> dict[str, str]:
        return {name: _share([of(r) for r in seeds.values()]) for name, seeds in found.items() if seeds}

    regions = {name: [a >= SOLVED for r in seeds.values() for a in r["accuracy"]] for name, seeds in found.items()}
    details = {
        "share of seeds that solve it [Wilson]": shares(lambda r: accuracy_over_regions(r) >= SOLVED),
        "regions >= .9": {name: f"{sum(solved)} of {len(solved)}" for name, solved in regions.items() if solved},
        "share of seeds within .1 of the floor [Wilson]": shares(
            lambda r: accuracy_over_regions(r) <= r["floor"] + 0.1
        ),
    }
    pairs = sorted(set(found["none"]) & set(found["rotary"]))
    lead = {s: accuracy_over_regions(found["rotary"][s]) - accuracy_over_regions(found["none"][s]) for s in pairs}
    return [
        over_seeds(
            "failure-rate",
            {s: float(accuracy_over_regions(r) >= SOLVED) for s, r in found["none"].items()},
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


# The cure, and the recipe -------------------------------------------------------------------------------------------


def _cure(none: dict[int, Result], arms: Arms) -> list[Judgement]:
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


def _emergence(arms: Arms) -> list[Judgement]:
    def claim(id: str, arm: str, what: str) -> Judgement:
        found = arms.get(arm, {})
        return over_seeds(
            id,
            {s: accuracy_over_regions(r) for s, r in found.items()},
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


def _ingredients(none: dict[int, Result], arms: Arms) -> Judgement:
    tried = {name: arms[name] for name in INGREDIENTS if arms.get(name)}
    whole = set(tried) == set(INGREDIENTS)
    seeds = set.intersection(*(set(found) for found in tried.values()), set(none)) if whole else set()
    full = {s: accuracy_over_regions(none[s]) for s in sorted(seeds)}
    least = {s: min(full[s] - accuracy_over_regions(found[s]) for found in tried.values()) for s in full}
    return over_seeds(
        "ingredients",
        least,
        lambda loss: loss > 0.02,
        paper="our recipe",
        statement="Every ingredient of the recipe is needed.",
        bar="leaving any one out costs > .02 of the mean accuracy (smallest loss over ingredients, mean of seeds)",
        details={
            "mean accuracy without": {
                INGREDIENTS[name]: _with_interval({s: accuracy_over_regions(r) for s, r in found.items()})
                for name, found in tried.items()
            },
            "seeds solved without": {
                INGREDIENTS[name]: f"{sum(accuracy_over_regions(r) >= SOLVED for r in found.values())} of {len(found)}"
                for name, found in tried.items()
            },
            "complete recipe": _with_interval({s: accuracy_over_regions(r) for s, r in none.items()})
            if none
            else "not run",
        },
        note="" if whole else "not part of this run; add it with --parts encodings circuits ingredients",
    )
