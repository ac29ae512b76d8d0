"""The figures of the steering study, from what its jobs measured."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from toylab.report import canvas, figures
from toylab.report.page import Picture
from toylab.runs.study import Arms
from toylab.studies.steering_vectors.quantities import portion, swept, vector_arms
from toylab.tasks import Reasoning

TEMPERATURES = ("0", "0.7", "1")


def draw(arms: Arms, task: Reasoning, last: int) -> list[Picture]:
    """All figures for which there are results."""
    drawn = [
        _draw_gains(arms, task, last),
        _draw_lens(arms, task, last),
        _draw_kl(arms, last),
        _draw_routes(arms),
        _draw_separability(arms, last),
        _draw_scales(arms, task),
        _draw_flag(arms),
    ]
    return [picture for picture in drawn if picture is not None]


def _draw_gains(arms: Arms, task: Reasoning, last: int) -> Picture | None:
    base = arms.get("base", {})
    if not base:
        return None
    rows: dict[str, dict[str, list[float]]] = {
        "base": _temperatures(r["answers"] for r in base.values()),
        "THINK prefixed": _temperatures(r["prefix"] for r in base.values()),
    }
    names = {name: f"vector, layer {k}" for k, name in enumerate(vector_arms(last))}
    names |= {
        "joint": "vectors, all layers",
        "adaptive": f"token-wise scale, layer {last - 1}",
        "full": "full training",
    }
    for name, title in names.items():
        if arms.get(name):
            rows[title] = _temperatures(r["answers"] for r in arms[name].values())
    baselines = list(arms.get("baselines", {}).values())
    for name in ("random reward", "minus", "difference of means", "logit bias") if baselines else ():
        rows[name if name != "minus" else "minus the vector"] = {
            f"T = {t}": [r[name][t] for r in baselines] for t in TEMPERATURES
        }
    if baselines:
        rows["random vectors (mean)"] = {"T = 1": [fmean(r["random vectors"]) for r in baselines]}
    figure, axes = canvas.sheet(8.4, 0.42 * len(rows) + 1.3)
    figures.by_seed(rows, xlabel="right answers", chance=1 / task.p, ax=axes[0, 0])
    return Picture(
        "What each training reaches",
        f"Share of right answers on prompts never seen, {_seeds(arms, ['base'])}, one point a seed, by the temperature "
        "of decoding. The lower rows are baselines at the last layer.",
        canvas.svg(figure),
        (
            "base",
            "full-rl",
            "greedy",
            "fraction-match",
            "fraction-large",
            "depth-order",
            "adaptive",
            "random-vector",
            "random-reward",
            "difference-of-means",
            "logit-bias",
        ),
    )


def _temperatures(found: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    held = list(found)
    return {f"T = {t}": [one[t]["right"] for one in held] for t in TEMPERATURES}


def _draw_lens(arms: Arms, task: Reasoning, last: int) -> Picture | None:
    shown = [name for name in vector_arms(last) if arms.get(name)]
    if not shown:
        return None
    rows = {}
    for lens, title in (("lens", "vector"), ("difference lens", "last stream")):
        for name in shown:
            cosines = [r[lens]["all"] for r in arms[name].values()]
            rows[f"{title}, layer {name[-1]}"] = [fmean(column) for column in zip(*cosines, strict=True)]
    if arms.get("vector-learned"):
        cosines = [r["lens"]["all"] for r in arms["vector-learned"].values()]
        rows["learned unembedding"] = [fmean(column) for column in zip(*cosines, strict=True)]
    figure, axes = canvas.sheet(9.0, 0.3 * len(rows) + 1.4)
    figures.shades(rows, task.vocabulary, xlabel="token", ax=axes[0, 0])
    return Picture(
        "What each vector says",
        "Cosine with each token's row of the unembedding, the final norm's gain folded in; mean over "
        f"{_seeds(arms, shown)}. Upper rows: the raw vector; below: the mean change of the last layer's stream.",
        canvas.svg(figure),
        ("logit-lens", "lens-trap", "suppression"),
    )


def _draw_kl(arms: Arms, last: int) -> Picture | None:
    shown = [name for name in vector_arms(last) if arms.get(name)]
    if not shown:
        return None
    figure, axes = canvas.sheet(5.4, 3.0)
    groups = {}
    for name in shown:
        kl = [[x / sum(r["kl"]) for x in r["kl"]] for r in arms[name].values() if sum(r["kl"]) > 0]
        groups[f"layer {name[-1]}"] = (
            list(range(len(kl[0]) if kl else 0)),
            [fmean(column) for column in zip(*kl, strict=True)],
        )
    figures.responses(groups, xlabel="generated position (0: the opener)", ylabel="share of the KL", ax=axes[0, 0])
    return Picture(
        "Where the distributions change",
        "KL(steered || base) at each position of what the steered model writes, as a share of its sum; mean over "
        f"{_seeds(arms, shown)}.",
        canvas.svg(figure),
        ("first-token-kl",),
    )


def _draw_routes(arms: Arms) -> Picture | None:
    paths = arms.get("paths", {})
    if not paths:
        return None
    rows = {
        route: {
            "kept": [
                max(-0.03, min(1.03, portion(r["base"], r["routes"][route], r["steered"]))) for r in paths.values()
            ]
        }
        for route in next(iter(paths.values()))["routes"]
    }
    figure, axes = canvas.sheet(7.0, 0.42 * len(rows) + 1.2)
    ax = figures.by_seed(rows, xlabel="share of the penultimate vector's gain that is kept", ax=axes[0, 0])
    ax.get_legend().remove()
    return Picture(
        "Through which readers the penultimate vector acts",
        f"Some readers of the last block do not see it; one point a seed ({_seeds(arms, ['paths'])}), temperature 1. "
        "What lies beyond the axis stands at its edge.",
        canvas.svg(figure),
        ("skip-attention", "penultimate-mlp", "direct-route"),
    )


def _draw_separability(arms: Arms, last: int) -> Picture | None:
    points = swept(arms, last)
    if not points:
        return None
    figure, axes = canvas.sheet(8.0, 3.0, columns=2)
    by_cosine = {f"seed {s}": ([p[0] for p in held], [p[2] for p in held]) for s, held in points.items()}
    by_bound = {
        f"seed {s}": (
            [p[1] for p in sorted(held, key=lambda p: p[1])],
            [p[2] for p in sorted(held, key=lambda p: p[1])],
        )
        for s, held in points.items()
    }
    share = "share of the gain"
    figures.responses(by_cosine, xlabel="cosine of the openers' rows", ylabel=share, ax=axes[0, 0])
    figures.responses(by_bound, xlabel="bound of the check, nats", ylabel=share, mark=3, ax=axes[0, 1])
    for ax in axes.flat:
        if len(points) > 5:  # so many names would cover the lines
            ax.get_legend().remove()
    return Picture(
        "When a vector can steer",
        "Share of full training's gain that the last layer's vector recovers, in bases whose unembedding tells the two "
        "openers apart well or badly; a line a seed. Right: against what the pre-flight check foretells; dotted: where "
        "it refuses.",
        canvas.svg(figure),
        ("separability", "pre-flight"),
    )


def _draw_scales(arms: Arms, task: Reasoning) -> Picture | None:
    found = arms.get("adaptive", {})
    if not found:
        return None
    digits = [f"a{t}" for t in range(1, task.length + 1)]
    states = [f"s{t}" for t in range(1, task.length + 1)]
    columns = ["BOS", "x0", *digits, "SEP", "THINK", *states, "ANS", "y"]
    rows = {f"seed {s}": r["scales"]["by position"] for s, r in found.items()}
    figure, axes = canvas.sheet(0.42 * len(columns) + 1.6, 0.3 * len(rows) + 1.3)
    figures.shades(rows, columns[: len(next(iter(rows.values())))], xlabel="token", ax=axes[0, 0])
    return Picture(
        "How much of its vector each token gets",
        "Mean scale times the vector's norm over held-out prompts and what the model writes to them, the sign chosen "
        "so that SEP is positive. Hatched: negative.",
        canvas.svg(figure),
        ("adaptive-place",),
    )


def _draw_flag(arms: Arms) -> Picture | None:
    if not arms.get("base-flag"):
        return None
    names = {
        "base-flag": "base",
        "flag-before": "vector, last layer but one",
        "flag-last": "vector, last layer",
        "flag-scale": "token-wise scale",
        "flag-gate": "bounded, centred gate",
        "flag-full": "full training",
    }
    rows = {
        title: _temperatures(r["answers"] for r in arms[name].values())
        for name, title in names.items()
        if arms.get(name)
    }
    figure, axes = canvas.sheet(7.6, 0.42 * len(rows) + 1.3)
    figures.by_seed(rows, xlabel="right answers", ax=axes[0, 0])
    return Picture(
        "Where the right opener depends on the prompt",
        f"Share of right answers, {_seeds(arms, ['base-flag'])}, one point a seed.",
        canvas.svg(figure),
        ("prompt-bit-constant", "prompt-bit-gate", "prompt-bit-full"),
    )


def _seeds(arms: Arms, names: Iterable[str]) -> str:
    count = len({seed for name in names for seed in arms.get(name, {})})
    return f"{count} seed{'s' if count != 1 else ''}"
