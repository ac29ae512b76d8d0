"""The figures of the iteration-head study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toylab.report import canvas, figures
from toylab.report.live import LivePanel
from toylab.report.page import Picture, picture, pictures, require_measured
from toylab.runs.store import metric_curves, models_of_condition, read_metrics
from toylab.runs.study import Job
from toylab.studies.iteration_head.claims import PEAKED_SHARE, has_learned
from toylab.studies.iteration_head.claims_transfer import LEARNED, MAPS
from toylab.studies.iteration_head.measures import IterationResult
from toylab.tasks import decode
from toylab.training import evaluate
from toylab.training.attention_history import HistoryPage, read_history
from toylab.verdicts.claim import Conditions
from toylab.verdicts.judgement import measured

HISTORY_FILE = "film.safetensors"
"""File of the attention history in the folder of a main job."""


def draw(results: Conditions, out: Path, main: str, states: int, limit: int) -> list[Picture]:
    """All figures that have results.

    Args:
        results: results by condition and seed.
        out: folder of the run, with the histories.
        main: title of the main condition.
        states: number of states.
        limit: maximum number of fine-tuning steps.
    """
    return pictures(
        (_draw_heads, results["main"]),
        (_draw_emergence, results, out),
        (_draw_conditions, results, main),
        (_draw_budgets, results, out),
        (_draw_tests, results["main"], states),
        (_draw_transfer, results, out),
        (_draw_pairs, results, limit),
    )


def attention_page(results: Conditions, out: Path) -> HistoryPage | None:
    """The attention history of the best main model; None without one."""
    if not results["main"]:
        return None
    seed = _best(results["main"])
    folder, head = Job("main", seed).folder(out), results["main"][seed].head
    if not (folder / HISTORY_FILE).exists():  # from an older version
        return None
    return read_history(
        folder / HISTORY_FILE,
        "Watch it form",
        f"Attention on held-out sequences at every evaluation during training of seed {seed}. "
        "Red squares: attention predicted by the idealised circuit.",
        read_metrics(folder / "metrics.jsonl"),
        {
            "loss": "loss in nats",
            "accuracy": "sequence accuracy",
            "carry": "share of steps attending to x_t",
            "end_of_input": "attention on EoI, earlier layer",
        },
        (head.layer, head.head),
    )


def live(study: Any, results: Conditions, out: Path) -> LivePanel | None:
    """The main models, the best first, on inputs of the reader."""
    main, task = results["main"], study.task
    models = models_of_condition(out, "main", sorted(main, key=lambda s: s != _best(main)))
    if not models:
        return None
    lengths = sorted({min(length, task.max_length) for length in (4, 6, 8, 10)}, reverse=True)
    batches = evaluate.by_length(task, study.seeds[0], lengths, 1)
    inputs = [decode(task, batch.tokens[0, 1 : length + 1].tolist()) for length, batch in batches.items()]
    return LivePanel(
        task=task,
        caption="Type inputs x_1 ... x_L: the model writes the states s_1 ... s_L. Switch off the head, or drag its "
        "attention to another input, and the answers follow. Red squares: x_t, where s_t is predicted.",
        claim="head",
        examples=[(" ".join(words), " ".join(words)) for words in inputs],
        models=models,
        start={f"seed {s}": f"{measured(r.head).layer}.{measured(r.head).head}" for s, r in main.items()},
        threshold=PEAKED_SHARE,
    )


def _best(main: dict[int, IterationResult]) -> int:
    """The seed whose model solves the task and has the strongest iteration head."""
    return max(main, key=lambda s: (has_learned(main[s]), measured(main[s].head).carry))


def _draw_heads(main: dict[int, IterationResult]) -> Picture:
    seed = _best(require_measured(main))
    example, head = measured(main[seed].example), measured(main[seed].head)
    panels = [((head.layer, head.head), "carry")]
    if head.end_of_input_at is not None:
        panels = [(head.end_of_input_at, "end of input"), *panels]
    size = 0.24 * len(example.tokens)
    figure, axes = canvas.new_figure(len(panels) * (size + 0.9), size + 0.9, columns=len(panels))
    for ax, (layer_and_head, link) in zip(axes[0], panels, strict=True):
        layer, head_in_layer = layer_and_head
        pattern = np.array(example.patterns[layer][head_in_layer])
        links = example.links[link] + (example.links["stop"] if link == "carry" else [])
        title = f"layer {layer}, head {head_in_layer}"
        figures.plot_attention(pattern, example.tokens, links=np.array(links), title=title, ax=ax)
    heads, caption = "one head", "The iteration head"
    if len(panels) == 2:
        heads, caption = "two heads", "Left: a head of an earlier layer attends to EoI. Right: the iteration head"
    return picture(
        "The iteration head",
        f"Attention of {heads} of seed {seed} on one held-out sequence of inputs x and states s, with the end-of-input "
        f"token EoI between them. {caption} attends to x_t to predict s_t, and to EoI after the last state. Red "
        "squares: attention predicted by the idealised circuit.",
        figure,
    )


def _draw_emergence(results: Conditions, out: Path) -> Picture:
    panels = [
        ("end_of_input", "attention on EoI,\nbest earlier head", canvas.INPUT_END, None),
        ("carry", "share of steps\nattending to x\u209c", canvas.CARRY, PEAKED_SHARE),
        ("accuracy", "sequence accuracy", canvas.ACCURACY, LEARNED),
    ]
    figure, axes = canvas.new_figure(6.4, 6.6, rows=3)
    for ax, (metric, label, colour, threshold) in zip(axes[:, 0], panels, strict=True):
        lines = require_measured(metric_curves(results, out, "main", metric=metric))
        figures.plot_curves(
            lines, ylabel=label, colour=colour, threshold=threshold, legend=metric == panels[0][0], ax=ax
        )
    return picture(
        "How it emerges",
        "After a long plateau, the head and the accuracy emerge together. One line per seed, measured on held-out "
        "sequences during training; grey lines are thresholds of the claims.",
        figure,
    )


CONDITION_TITLES = {
    "fresh": "polynomials sampled with each seed",
    "one-head": "one head in each layer",
    "one-layer": "one layer",
    "one-length": "one input length only",
    "no-chain": "no chain of thought",
    "parity": "parity",
    "parity-no-chain": "parity, no chain of thought",
}


def _draw_conditions(results: Conditions, main: str) -> Picture:
    groups = {}
    for title, results_by_seed in results.by_title({"main": main, **CONDITION_TITLES}).items():
        seed_results = list(results_by_seed.values())
        groups[title] = {"sequence accuracy": [r.mean_accuracy for r in seed_results]}
        if seed_results[0].head is not None:
            groups[title]["share of steps attending to x\u209c"] = [r.head.carry for r in seed_results]
    return picture(
        "What it takes",
        "One point per seed; vertical lines are means, while the claims judge medians or shares of seeds. Accuracy is "
        "measured on lengths of at least 4 (for one-length models on that length, their head on all lengths). Parity "
        "can be solved without an iteration head, and without chain of thought.",
        figures.plot_by_seed(require_measured(groups), xlabel="share on held-out sequences"),
    )


def _draw_budgets(results: Conditions, out: Path) -> Picture:
    titles = {"main": "two layers", "one-layer": "one layer", "parity-no-chain": "parity, no chain of thought"}
    panels = {title: metric_curves(results, out, name) for name, title in titles.items() if results[name]}
    return picture(
        "Where the step limit decides",
        "Accuracy on held-out sequences during training, one line per seed. Trainings share their step limit; those "
        "that learn the task stop earlier. A curve that still rises at the limit says that the claim is on this limit.",
        figures.plot_panels(require_measured(panels), ylabel="sequence accuracy", threshold=LEARNED),
    )


def _draw_tests(main: dict[int, IterationResult], states: int) -> Picture:
    learned = require_measured([result for result in main.values() if has_learned(result)])
    tests = [result.tests.by_title() for result in learned]
    groups = {
        name: {
            f"{metric} accuracy": [getattr(test[name], metric) for test in tests] for metric in ("sequence", "state")
        }
        for name in tests[0]
    }
    next_input = "answers equal to F(s, next input)"
    groups["shifted to the next input"] = {next_input: [result.steered for result in learned]}
    upstream = [result.steered_upstream for result in learned if result.steered_upstream is not None]
    groups |= {"EoI at the position before it": {next_input: upstream}} if upstream else {}
    return picture(
        "What the head causes",
        "Accuracy under edits of the iteration head (and of the earlier head, marked first layer) at the answer "
        "positions; in the last row, EoI has the position embedding of the token before it. One point per seed that "
        "learned the task; vertical lines are means.",
        figures.plot_by_seed(groups, xlabel="share on held-out sequences", chance=1 / states),
    )


def _draw_transfer(results: Conditions, out: Path) -> Picture:
    conditions = {
        "fine-tuned from the polynomial": metric_curves(results, out, "main", "transfer.jsonl"),
        "fine-tuned from one length (no head)": metric_curves(results, out, "one-length", "transfer.jsonl"),
        "from scratch": metric_curves(results, out, "parity"),
    }
    return picture(
        "Transfer to parity",
        "Accuracy on held-out parity sequences during fine-tuning of a model with an iteration head, of an accurate "
        "model without one, and during training from scratch. The axes of steps differ in scale.",
        figures.plot_panels(require_measured(conditions), ylabel="sequence accuracy on parity", threshold=LEARNED),
    )


def _draw_pairs(results: Conditions, limit: int) -> Picture:
    rows = {}
    for source, title in MAPS.items():
        tuned = results[f"pairs-{source}"].values()
        if tuned:
            steps = {other: [limit if r.solved_at[other] is None else r.solved_at[other] for r in tuned]
                     for other in MAPS if other != source}  # fmt: skip
            rows[f"from {title}"] = [float(np.median(steps.get(other, 0))) for other in MAPS]
    return picture(
        "Transfer between maps",
        f"Median over seeds of the fine-tuning steps to an accuracy of {LEARNED} on the map of a column, from models "
        f"of the map of a row; {limit} also stands for maps not learned within that many steps.",
        figures.plot_heatmap(require_measured(rows), list(MAPS.values()), xlabel="fine-tuned on"),
    )
