"""The figures of the steering study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from toylab.model.steering import load_steering
from toylab.report import canvas, figures
from toylab.report.live import LivePanel
from toylab.report.page import Picture, picture, pictures, require_measured
from toylab.runs.store import metric_curves, models_of_condition
from toylab.runs.study import Job
from toylab.studies.steering_vectors.results import Temperatures
from toylab.studies.steering_vectors.separability import separability_sweep
from toylab.studies.steering_vectors.settings import Settings
from toylab.survey import strongest_head
from toylab.tasks import decode, held_out
from toylab.verdicts.claim import Conditions

Rows = dict[str, dict[str, list[float]]]


def draw(results: Conditions, study: Settings, out: Path) -> list[Picture]:
    """All figures that have results."""
    return pictures(
        (_draw_gains, results, study),
        (_draw_budgets, results, study, out),
        (_draw_lens, results, study),
        (_draw_kl, results, study),
        (_draw_routes, results),
        (_draw_separability, results, study),
        (_draw_scales, results, study),
        (_draw_flag, results),
    )


def live(study: Settings, results: Conditions, out: Path) -> LivePanel | None:
    """The base models with their trained vectors, on prompts of the reader."""
    task, trained = study.task, results.shared("base", *study.vectors)
    models = models_of_condition(out, "base", trained)
    files = {
        (f"seed {seed}", layer): Job(name, seed).folder(out) / "vector.safetensors"
        for layer, name in enumerate(study.vectors)
        for seed in trained
    }
    if not models or not all(file.exists() for file in files.values()):
        return None
    vectors: dict[str, dict[str, Any]] = {title: {} for title in models}
    for (title, layer), file in files.items():
        addition = load_steering(file, models[title]).additions[str(layer)]
        vectors[title][f"blocks.{layer}.resid_post"] = addition.get_parameter("vector").detach()
    batch = held_out(task, study.seeds[0], 64)
    prompts = [" ".join(decode(task, row[1 : task.prompt - 1])) for row in batch.tokens[:4].tolist()]
    return LivePanel(
        task=task,
        caption="Type x0 and the steps: the base opens with DIRECT and guesses; with the vector it opens with THINK "
        "and writes the chain. Greedy decoding. Red squares: the step that the next state needs.",
        claim="first-token",
        examples=[(prompt, prompt) for prompt in prompts],
        models=models,
        start={title: "{}.{}".format(*strongest_head(model, batch, "carry")) for title, model in models.items()},
        vectors=vectors,
    )


def _draw_gains(results: Conditions, study: Settings) -> Picture:
    base = require_measured(results["base"]).values()
    rows = _answers(results, {"base": "base"})
    rows["THINK prefixed"] = _temperatures(result.prefix for result in base)
    rows |= _answers(results, {name: f"vector, {layer}" for name, layer in _vectors(results, study).items()})
    scaled = f"token-wise scale, layer {study.last - 1}"
    rows |= _answers(results, {"joint": "vectors, all layers", "adaptive": scaled, "full": "full training"})
    longer = f", {study.converged.steps} steps"
    rows |= _answers(
        results, {"joint-converged": f"vectors, all layers{longer}", "full-converged": f"full training{longer}"}
    )
    baselines = list(results["baselines"].values())
    for name, first_baseline in baselines[0].named.items() if baselines else ():
        rows[name] = {
            f"T = {t:g}": [result.named[name].accuracy[t] for result in baselines] for t in first_baseline.accuracy
        }
    if baselines:
        rows["random vectors (mean)"] = {"T = 1": [fmean(result.random_vectors) for result in baselines]}
    return picture(
        "What each training reaches",
        f"Accuracy on held-out prompts by decoding temperature, {_seeds(results['base'])}. One point per seed; "
        "vertical lines are means, while the claims judge medians or shares of seeds. Lower rows: baselines at the "
        "last layer.",
        figures.plot_by_seed(rows, xlabel="accuracy", chance=1 / study.task.p),
    )


def _draw_budgets(results: Conditions, study: Settings, out: Path) -> Picture:
    titles = {"full-converged": "whole model", "joint-converged": "vectors, all layers"}
    titles |= {study.vectors[-1]: f"vector, layer {study.last}", study.vectors[0]: "vector, layer 0"}
    panels = {
        title: metric_curves(results, out, name, metric="reward") for name, title in titles.items() if results[name]
    }
    return picture(
        "Where the number of steps decides",
        "Mean reward of sampled answers during reinforcement learning, one line per seed; the axes of steps differ. "
        "Curves that still rise at their end say that a share of full training's gain depends on the number of steps.",
        figures.plot_panels(require_measured(panels), ylabel="reward of sampled answers"),
    )


def _draw_lens(results: Conditions, study: Settings) -> Picture:
    titles = require_measured(_vectors(results, study))
    rows = {
        f"vector, {title}": _mean(result.lens.all for result in results[name].values())
        for name, title in titles.items()
    }
    for name, title in titles.items():
        rows[f"last stream, {title}"] = _mean(result.difference_lens.all for result in results[name].values())
    if results["vector-learned"]:
        rows["learned unembedding"] = _mean(result.lens.all for result in results["vector-learned"].values())
    return picture(
        "What each vector says",
        "Cosine with each token's unembedding row, including the gain of the final norm; mean over "
        f"{_seeds(*map(results.__getitem__, titles))}. Upper rows: the raw vector; lower rows: the mean change of the "
        "last layer's residual stream.",
        figures.plot_heatmap(rows, study.task.vocabulary, xlabel="token"),
    )


def _draw_kl(results: Conditions, study: Settings) -> Picture:
    titles = require_measured(_vectors(results, study))
    groups = {}
    for name, title in titles.items():
        shares = _mean(result.kl_shares for result in results[name].values() if result.kl_shares)
        groups[title] = (list(range(len(shares))), shares)
    ax = canvas.new_axes(5.4, 3.0)
    return picture(
        "Where the distributions change",
        "KL(steered || base) at each position generated by the steered model, as a share of its sum; mean over "
        f"{_seeds(*map(results.__getitem__, titles))}.",
        figures.plot_dose_response(
            groups, xlabel="generated position (0: the opener)", ylabel="share of the KL", ax=ax
        ),
    )


def _draw_routes(results: Conditions) -> Picture:
    paths = list(require_measured(results["paths"]).values())
    rows = {name: {"kept": [max(-0.03, min(1.03, result.kept(name))) for result in paths]} for name in paths[0].routes}
    ax = figures.plot_by_seed(rows, xlabel="share of the penultimate vector's gain that is kept")
    canvas.remove_legend(ax)
    return picture(
        "Through which readers the penultimate vector acts",
        "Share of its gain that the vector keeps when hidden from some inputs of the last block, temperature 1. One "
        f"point per seed ({_seeds(results['paths'])}); vertical lines are means. Values beyond the axis are clipped.",
        ax,
    )


def _draw_separability(results: Conditions, study: Settings) -> Picture:
    sweeps = separability_sweep(results, study)
    require_measured([points for points in sweeps.values() if len(points) > 1])
    figure, axes = canvas.new_figure(8.0, 3.0, columns=2)
    by_cosine = {
        f"seed {s}": ([point.cosine for point in points], [point.share for point in points])
        for s, points in sweeps.items()
    }
    by_bound = {}
    for seed, points in sweeps.items():
        by_bound_order = sorted(points, key=lambda point: point.bound)
        by_bound[f"seed {seed}"] = (
            [point.bound for point in by_bound_order],
            [point.share for point in by_bound_order],
        )
    share = "share of the gain"
    figures.plot_dose_response(by_cosine, xlabel="cosine of the openers' rows", ylabel=share, ax=axes[0, 0])
    figures.plot_dose_response(by_bound, xlabel="bound of the check, nats", ylabel=share, mark=3, ax=axes[0, 1])
    for ax in axes.flat:
        if len(sweeps) > 5:  # a longer legend would cover the lines
            canvas.remove_legend(ax)
    return picture(
        "When a vector can steer",
        "Share of full training's gain that the last layer's vector recovers, in bases whose openers have more or less "
        "similar unembedding rows; one line per seed. Second panel: against the bound of the pre-flight check; dotted "
        "line: the bound below which it refuses.",
        figure,
    )


def _draw_scales(results: Conditions, study: Settings) -> Picture:
    steps = range(1, study.task.length + 1)
    columns = ["BOS", "x0", *(f"a{t}" for t in steps), "SEP", "THINK", *(f"s{t}" for t in steps), "ANS", "y"]
    rows = {f"seed {seed}": result.scales.by_position for seed, result in require_measured(results["adaptive"]).items()}
    shown_columns = columns[: len(next(iter(rows.values())))]
    return picture(
        "How much of its vector each token gets",
        "Mean scale times the norm of the vector over held-out prompts and generated answers, with the sign chosen so "
        "that SEP is positive. Hatched: negative.",
        figures.plot_heatmap(rows, shown_columns, xlabel="token"),
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
        "Where the correct opener depends on the prompt",
        f"Accuracy on held-out prompts, {_seeds(require_measured(results['base-flag']))}. One point per seed; vertical "
        "lines are means.",
        figures.plot_by_seed(_answers(results, names), xlabel="accuracy"),
    )


def _vectors(results: Conditions, study: Settings) -> dict[str, str]:
    """Single-vector conditions that have results, with their titles."""
    return {name: f"layer {layer}" for layer, name in enumerate(study.vectors) if results[name]}


def _answers(results: Conditions, titles: Mapping[str, str]) -> Rows:
    """Accuracy per seed by title and temperature, for conditions that have results."""
    return {
        title: _temperatures(result.answers for result in results[name].values())
        for name, title in titles.items()
        if results[name]
    }


def _temperatures(answers: Iterable[Temperatures]) -> dict[str, list[float]]:
    by_seed = list(answers)
    return {f"T = {t:g}": [answer_shares[t].accuracy for answer_shares in by_seed] for t in by_seed[0]}


def _mean(rows: Iterable[list[float]]) -> list[float]:
    """The mean over rows, by column."""
    return [fmean(column) for column in zip(*rows, strict=True)]


def _seeds(*results_by_seed: Mapping[int, Any]) -> str:
    """The number of seeds with results, in words."""
    count = len(set().union(*results_by_seed))
    return f"{count} seed{'s' if count != 1 else ''}"
