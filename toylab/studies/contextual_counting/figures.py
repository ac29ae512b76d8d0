"""The figures of the contextual-counting study, from what its jobs measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from toylab.report import canvas, figures
from toylab.report.page import Picture
from toylab.runs.store import curves_of
from toylab.runs.study import Arms, Job, by_arm
from toylab.studies.contextual_counting.measures import SOLVED
from toylab.studies.contextual_counting.quantities import accuracy_over_regions, counters, solved_regions

CountingResults = dict[Job, dict[str, Any]]

ENCODINGS = {
    "none": "no positions",
    "rotary": "rotary",
    "alibi": "ALiBi",
    "learned": "learned",
    "sinusoidal": "sinusoidal",
}


def draw(results: CountingResults, out: Path, encodings: Sequence[str], longest: int) -> list[Picture]:
    """All figures for which there are results."""
    arms = by_arm(results)
    drawn = [
        _draw_attention(arms),
        _draw_encodings(arms, encodings),
        _draw_mass(arms),
        _draw_slopes(arms),
        _draw_biases(arms),
        _draw_blocked(arms),
        _draw_plateaus(results, out),
        _draw_planes(arms, longest),
    ]
    return [picture for picture in drawn if picture is not None]


def _draw_attention(arms: Arms) -> Picture | None:
    none = arms.get("none", {})
    if not none:
        return None
    seed = max(none, key=lambda s: accuracy_over_regions(none[s]))
    example = none[seed]["example"]
    tokens, labels = example["tokens"], [f"region {k + 1}" for k in range(len(example["decoder"]))]
    wide = 0.26 * len(tokens) + 1.2
    figure, axes = canvas.sheet(wide, wide + 2.2, rows=2, height_ratios=[len(tokens), len(labels) + 3])
    links = [
        (query, key)
        for query, region in enumerate(example["regions"])
        for key in range(query)
        if region and tokens[query] == "1" and tokens[key] in "[]"
    ]
    figures.attention(
        np.array(example["encoder"]), tokens, links=np.array(links), title=f"encoder, seed {seed}", ax=axes[0, 0]
    )
    ones = [
        (region - 1, key)
        for key, region in enumerate(example["regions"])
        if region and tokens[key] == "1" and region <= len(labels)
    ]
    figures.attention(
        np.array(example["decoder"]),
        tokens,
        queries=[
            f"{label}: {count}, model {guess}" if count >= 0 else f"{label}: none"
            for label, count, guess in zip(labels, example["counts"], example["guessed"], strict=True)
        ],
        links=np.array(ones),
        title="decoder: each region's count, and the model's",
        ax=axes[1, 0],
    )
    return Picture(
        "The counting circuit",
        "A held-out string in the model without positions. Top: in the encoder, ones read the brackets before them "
        "(squares), and so know their region. Bottom: each label query reads the ones of its region (squares) and a "
        "token to compare them with. The attention that ones get, n / (n + K), tells how many they are.",
        canvas.svg(figure),
        ("reads-brackets",),
    )


def _draw_encodings(arms: Arms, encodings: Sequence[str]) -> Picture | None:
    groups, floor = {}, None
    for name in encodings:
        for arm, what in ((name, "causal"), (f"{name}-bidirectional", "bidirectional")):
            found = arms.get(arm, {})
            if found:
                floor = fmean(r["floor"] for r in found.values())
                title = f"{ENCODINGS[name]}, {what}"
                groups[title] = {"one region of one seed": [a for r in found.values() for a in r["accuracy"]]}
                groups[title]["mean of a seed"] = [accuracy_over_regions(r) for r in found.values()]
    if not groups:
        return None
    ax = figures.by_seed(groups, xlabel="share of counts that are right, held-out strings", chance=floor)
    return Picture(
        "Which encoding",
        "Accuracy by positional encoding. Circles are single regions, squares the means of seeds; strokes are means. "
        "The dotted line is the best constant guess.",
        canvas.svg(ax.figure),
        ("solved", "solved-rotary", "causal-helps", "causal-over-all", "none-is-best", "bidirectional-chance"),
    )


def _draw_mass(arms: Arms) -> Picture | None:
    found = [(a, s, k, c) for a, s, k, c, _ in counters({n: arms.get(n, {}) for n in ("none", "rotary")})]
    if not found:
        return None
    figure, axes = canvas.sheet(8.4, 3.2, columns=2)
    for ax, arm in zip(axes[0], ("none", "rotary"), strict=True):
        lines = [(c["k"], c["curve"]) for a, _, _, c in found if a == arm]
        points = [(int(n) / k, mass) for k, curve in lines for n, mass in curve.items()]
        figures.saturation(points, title=f"{ENCODINGS[arm]}: {len(lines)} solved regions", ax=ax)
    return Picture(
        "Attention as a counter",
        "Mean attention on the n ones of a region, for every solved region of every seed, against n in units of the "
        "fitted K of that region. A region that counts in the attention falls on the dashed curve, x / (x + 1).",
        canvas.svg(figure),
        ("count-in-decoder", "count-curve"),
    )


def _draw_slopes(arms: Arms) -> Picture | None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for _, _, k, _, result in counters(arms):
        for change, shifts in result["shifts"].items():
            kind = "an empty region appended" if change == "a region" else "zeros appended (8, 16, 32)"
            groups.setdefault(kind, []).append((shifts[k]["by_place"], shifts[k]["after"]))
    if not groups:
        return None
    ax = figures.agreement(
        groups, xlabel="slope foretold from the attention, K / K'", ylabel="slope measured: answer against true count"
    )
    return Picture(
        "Foretold and measured",
        "Each point is a solved region of a causal model on strings with something appended that changes no count. "
        "Where it compares with a token of which there are now more, it counts too little, by as much as the law says. "
        "Points far below the line at a slope near 1 are last regions that take the new one for their own.",
        canvas.svg(ax.figure),
        ("ood-law", "ood-law-by-place"),
    )


def _draw_biases(arms: Arms) -> Picture | None:
    rows = {
        "varied strings": arms.get("none", {}),
        "varied, rotary": arms.get("rotary", {}),
        "varied, no auxiliary loss": arms.get("no-auxiliary", {}),
        "fixed strings": arms.get("fixed", {}),
        "plain set-up": arms.get("plain-none", {}),
        "plain set-up, rotary": arms.get("plain-rotary", {}),
    }
    shares = {}
    for title, found in rows.items():
        regions = [c["shares"] for r in found.values() for c in solved_regions(r)]
        if regions:
            shares[f"{title} ({len(regions)})"] = {n: fmean(s[n] for s in regions) for n in regions[0]}
    if not shares:
        return None
    ax = figures.stacked(shares, xlabel="share of the attention that is not on counted ones")
    return Picture(
        "What they compare with",
        "Mean over solved regions (their number in brackets) of the classes of tokens that label queries read besides "
        "the ones they count. The number of begin tokens, own and earlier brackets is fixed for a label; that of the "
        "others changes from string to string.",
        canvas.svg(ax.figure),
        ("bias-token", "cure", "cure-begin"),
    )


def _draw_blocked(arms: Arms) -> Picture | None:
    groups = {}
    tests = {
        "counted ones": "without the ones of the region",
        "own brackets": "without its own brackets",
        "outside ones": "without ones outside all regions",
    }
    floor = None
    for arm, title in (
        ("none", "no MLP"),
        ("encoder-mlp", "MLP in the encoder"),
        ("plain-encoder-mlp", "MLP, plain set-up"),
    ):
        regions = [c for r in arms.get(arm, {}).values() for c in solved_regions(r)]
        if regions:
            floor = fmean(r["floor"] for r in arms[arm].values())
            groups[f"{title}: unedited"] = {"one region of one seed": [c["accuracy"] for c in regions]}
            for name, what in tests.items():
                groups[f"{title}: {what}"] = {"one region of one seed": [c["blocked"][name] for c in regions]}
    if not groups:
        return None
    _, axes = canvas.sheet(8.4, 0.32 * len(groups) + 1.2)
    ax = figures.by_seed(groups, xlabel="share of counts that are right", chance=floor, ax=axes[0, 0])
    return Picture(
        "What each region needs",
        "What each solved region loses when label queries cannot see one class of tokens. A counter needs the ones; a "
        "model that copies would find the count in the region's own brackets, and do without the ones.",
        canvas.svg(ax.figure),
        ("encoder-mlp",),
    )


def _draw_plateaus(results: CountingResults, out: Path) -> Picture | None:
    arms = {
        "none": "no positions",
        "no-auxiliary": "no auxiliary loss",
        "rotary": "rotary",
        "no-auxiliary-rotary": "rotary, no auxiliary loss",
        "no-auxiliary-slow-rotary": "slow rotary, no auxiliary loss",
        "plain-none": "plain set-up",
        "plain-rotary": "plain set-up, rotary",
    }
    kept = {}
    for arm, title in arms.items():
        if lines := curves_of(results, out, arm):
            kept[title] = lines
    if not kept:
        return None
    rows = (len(kept) + 1) // 2
    figure, axes = canvas.sheet(8.4, 2.5 * rows, columns=2, rows=rows)
    for ax, (title, lines) in zip(axes.flat, kept.items(), strict=False):
        figures.curves(lines, ylabel="accuracy", bar=SOLVED, title=title, legend=False, ax=ax)
    for ax in axes.flat[len(kept) :]:
        ax.set_axis_off()
    return Picture(
        "Plateaus of all seeds",
        "Accuracy on held-out strings, mean over regions, while training; a line a seed. The grey line is the bar.",
        canvas.svg(figure),
        ("failure-rate", "rotary-is-easier", "emerges", "emerges-rotary", "emerges-slow-rotary"),
    )


def _draw_planes(arms: Arms, longest: int) -> Picture | None:
    turning = {s: r for s, r in arms.get("rotary", {}).items() if accuracy_over_regions(r) >= SOLVED}
    if not turning:
        return None
    profiles = {f"seed {s}": r["rotary"]["planes"] for s, r in turning.items()}
    frequencies = next(iter(turning.values()))["rotary"]["frequencies"]
    ax = figures.planes(profiles, frequencies, ylabel="score of brackets over bits, for a one", span=longest)
    return Picture(
        "Rotary in disguise",
        "What each rotary plane adds to how much ones prefer brackets to bits, in models that solve the task; fast "
        f"planes left. Right of the line a plane turns by less than one radian over {longest} tokens.",
        canvas.svg(ax.figure),
        ("rotary-in-disguise",),
    )
