"""The figures of the steering study, from what its jobs measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from toylab.report import canvas, figures
from toylab.report.page import Picture, picture, pictures, require_measured
from toylab.studies.steering_vectors.results import Temperatures
from toylab.studies.steering_vectors.separability import separability_sweep
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Conditions

Rows = dict[str, dict[str, list[float]]]


def draw(results: Conditions, study: Settings) -> list[Picture]:
    """All figures for which there are results."""
    return pictures(
        (_draw_gains, results, study),
        (_draw_lens, results, study),
        (_draw_kl, results, study),
        (_draw_routes, results),
        (_draw_separability, results, study),
        (_draw_scales, results, study),
        (_draw_flag, results),
    )


def _draw_gains(results: Conditions, study: Settings) -> Picture:
    base = require_measured(results["base"]).values()
    rows = _answers(results, {"base": "base"})
    rows["THINK prefixed"] = _temperatures(one.prefix for one in base)
    rows |= _answers(results, {name: f"vector, {layer}" for name, layer in _vectors(results, study).items()})
    scaled = f"token-wise scale, layer {study.last - 1}"
    rows |= _answers(results, {"joint": "vectors, all layers", "adaptive": scaled, "full": "full training"})
    baselines = list(results["baselines"].values())
    for name, first in baselines[0].named.items() if baselines else ():
        rows[name] = {f"T = {t:g}": [one.named[name].accuracy[t] for one in baselines] for t in first.accuracy}
    if baselines:
        rows["random vectors (mean)"] = {"T = 1": [fmean(one.random_vectors) for one in baselines]}
    return picture(
        "What each training reaches",
        f"Share of right answers on prompts never seen, {_seeds(results['base'])}, one point a seed, by the "
        "temperature of decoding. The lower rows are baselines at the last layer.",
        figures.plot_by_seed(rows, xlabel="right answers", chance=1 / study.task.p),
    )


def _draw_lens(results: Conditions, study: Settings) -> Picture:
    shown = require_measured(_vectors(results, study))
    rows = {f"vector, {title}": _mean(one.lens.all for one in results[name].values()) for name, title in shown.items()}
    for name, title in shown.items():
        rows[f"last stream, {title}"] = _mean(one.difference_lens.all for one in results[name].values())
    if results["vector-learned"]:
        rows["learned unembedding"] = _mean(one.lens.all for one in results["vector-learned"].values())
    return picture(
        "What each vector says",
        "Cosine with each token's row of the unembedding, the final norm's gain folded in; mean over "
        f"{_seeds(*map(results.get, shown))}. Upper rows: the raw vector; below: the mean change of the last layer's "
        "stream.",
        figures.plot_heatmap(rows, study.task.vocabulary, xlabel="token"),
    )


def _draw_kl(results: Conditions, study: Settings) -> Picture:
    shown = require_measured(_vectors(results, study))
    groups = {}
    for name, title in shown.items():
        shares = _mean(one.kl_shares for one in results[name].values() if one.kl_shares)
        groups[title] = (list(range(len(shares))), shares)
    ax = canvas.new_axes(5.4, 3.0)
    return picture(
        "Where the distributions change",
        "KL(steered || base) at each position of what the steered model writes, as a share of its sum; mean over "
        f"{_seeds(*map(results.get, shown))}.",
        figures.plot_dose_response(
            groups, xlabel="generated position (0: the opener)", ylabel="share of the KL", ax=ax
        ),
    )


def _draw_routes(results: Conditions) -> Picture:
    paths = list(require_measured(results["paths"]).values())
    rows = {name: {"kept": [max(-0.03, min(1.03, one.kept(name))) for one in paths]} for name in paths[0].routes}
    ax = figures.plot_by_seed(rows, xlabel="share of the penultimate vector's gain that is kept")
    ax.get_legend().remove()
    return picture(
        "Through which readers the penultimate vector acts",
        f"Some readers of the last block do not see it; one point a seed ({_seeds(results['paths'])}), temperature "
        "1. What lies beyond the axis stands at its edge.",
        ax,
    )


def _draw_separability(results: Conditions, study: Settings) -> Picture:
    sweeps = separability_sweep(results, study)
    require_measured([held for held in sweeps.values() if len(held) > 1])
    figure, axes = canvas.new_figure(8.0, 3.0, columns=2)
    by_cosine = {f"seed {s}": ([one.cosine for one in held], [one.share for one in held]) for s, held in sweeps.items()}
    by_bound = {}
    for seed, held in sweeps.items():
        along = sorted(held, key=lambda one: one.bound)
        by_bound[f"seed {seed}"] = ([one.bound for one in along], [one.share for one in along])
    share = "share of the gain"
    figures.plot_dose_response(by_cosine, xlabel="cosine of the openers' rows", ylabel=share, ax=axes[0, 0])
    figures.plot_dose_response(by_bound, xlabel="bound of the check, nats", ylabel=share, mark=3, ax=axes[0, 1])
    for ax in axes.flat:
        if len(sweeps) > 5:  # so many names would cover the lines
            ax.get_legend().remove()
    return picture(
        "When a vector can steer",
        "Share of full training's gain that the last layer's vector recovers, in bases whose unembedding tells the two "
        "openers apart well or badly; a line a seed. Right: against what the pre-flight check foretells; dotted: where "
        "it refuses.",
        figure,
    )


def _draw_scales(results: Conditions, study: Settings) -> Picture:
    steps = range(1, study.task.length + 1)
    columns = ["BOS", "x0", *(f"a{t}" for t in steps), "SEP", "THINK", *(f"s{t}" for t in steps), "ANS", "y"]
    rows = {f"seed {seed}": one.scales.by_position for seed, one in require_measured(results["adaptive"]).items()}
    shown = columns[: len(next(iter(rows.values())))]
    return picture(
        "How much of its vector each token gets",
        "Mean scale times the vector's norm over held-out prompts and what the model writes to them, the sign chosen "
        "so that SEP is positive. Hatched: negative.",
        figures.plot_heatmap(rows, shown, xlabel="token"),
    )


def _draw_flag(results: Conditions) -> Picture:
    names = {
        "base-flag": "base",
        "flag-before": "vector, last layer but one",
        "flag-last": "vector, last layer",
        "flag-scale": "token-wise scale",
        "flag-gate": "bounded, centred gate",
        "flag-full": "full training",
    }
    return picture(
        "Where the right opener depends on the prompt",
        f"Share of right answers, {_seeds(require_measured(results['base-flag']))}, one point a seed.",
        figures.plot_by_seed(_answers(results, names), xlabel="right answers"),
    )


def _vectors(results: Conditions, study: Settings) -> dict[str, str]:
    """The conditions of one vector for which there are results, with the title of each."""
    return {name: f"layer {layer}" for layer, name in enumerate(study.vectors) if results[name]}


def _answers(results: Conditions, titles: Mapping[str, str]) -> Rows:
    """By title, accuracy of each seed by temperature; of conditions for which there are results."""
    return {
        title: _temperatures(one.answers for one in results[name].values())
        for name, title in titles.items()
        if results[name]
    }


def _temperatures(found: Iterable[Temperatures]) -> dict[str, list[float]]:
    held = list(found)
    return {f"T = {t:g}": [one[t].accuracy for one in held] for t in held[0]}


def _mean(rows: Iterable[list[float]]) -> list[float]:
    """Over rows, by column."""
    return [fmean(column) for column in zip(*rows, strict=True)]


def _seeds(*found: Mapping[int, Any]) -> str:
    """How many seeds there are results of, in words."""
    count = len(set().union(*found))
    return f"{count} seed{'s' if count != 1 else ''}"
