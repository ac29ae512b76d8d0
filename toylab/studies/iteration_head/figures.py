"""The figures of the iteration-head study, from what its jobs measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toylab.report import canvas, figures
from toylab.report.page import Picture, picture, pictures, require_measured
from toylab.runs.store import metric_curves, read_metrics
from toylab.runs.study import Job
from toylab.studies.iteration_head.claims import LEARNED, PEAKED_SHARE, has_learned
from toylab.studies.iteration_head.measures import IterationResult
from toylab.training.attention_history import HistoryPage, read_history
from toylab.verdicts.claim import Conditions

HISTORY_FILE = "film.safetensors"
"""In the folder of a main job: its attention through training."""


def draw(results: Conditions, out: Path, main: str, states: int) -> list[Picture]:
    """All figures for which there are results.

    Args:
        results: what the jobs measured.
        out: the folder of the run, for the histories kept in it.
        main: what to call the main arm.
        states: how many values a state can take.
    """
    return pictures(
        (_draw_heads, results["main"]),
        (_draw_emergence, results, out),
        (_draw_arms, results, main),
        (_draw_tests, results["main"], states),
        (_draw_transfer, results, out),
    )


def attention_page(results: Conditions, out: Path) -> HistoryPage | None:
    """The film of the best main model; None where there is none."""
    if not results["main"]:
        return None
    seed = _best(results["main"])
    folder, head = Job("main", seed).folder(out), results["main"][seed].head
    if not (folder / HISTORY_FILE).exists():  # a run of an older version
        return None
    return read_history(
        folder / HISTORY_FILE,
        "Watch it form",
        f"Held-out sequences at every evaluation of the training of seed {seed}. A dark cell is a position that is "
        "attended to; squares mark what the textbook circuit reads.",
        read_metrics(folder / "metrics.jsonl"),
        {
            "loss": "loss in nats",
            "accuracy": "sequence accuracy",
            "carry": "share of steps read at x_t",
            "end_of_input": "attention on EoI, earlier layer",
        },
        (head.layer, head.head),
    )


def _best(main: dict[int, IterationResult]) -> int:
    """The seed whose model solves the task and has the clearest head."""
    return max(main, key=lambda s: (has_learned(main[s]), main[s].head.carry))


def _draw_heads(main: dict[int, IterationResult]) -> Picture:
    seed = _best(require_measured(main))
    example, head = main[seed].example, main[seed].head
    shown = [(head.end_of_input_at, "end of input"), ((head.layer, head.head), "carry")]
    shown = [(place, link) for place, link in shown if place is not None]
    size = 0.24 * len(example.tokens)
    figure, axes = canvas.new_figure(len(shown) * (size + 0.9), size + 0.9, columns=len(shown))
    for ax, ((layer, number), link) in zip(axes[0], shown, strict=True):
        pattern = np.array(example.patterns[layer][number])
        links = example.links[link] + (example.links["stop"] if link == "carry" else [])
        title = f"layer {layer}, head {number}"
        figures.plot_attention(pattern, example.tokens, links=np.array(links), title=title, ax=ax)
    return picture(
        "The iteration head",
        f"Attention of two heads of seed {seed} on one held-out sequence. Right: when s_t is due, the iteration head "
        "reads x_t, and after the last state it reads EoI and stops. Left: the earlier head that finds EoI. Squares "
        "mark what the textbook circuit reads.",
        figure,
    )


def _draw_emergence(results: Conditions, out: Path) -> Picture:
    rows = [
        ("end_of_input", "attention on EoI,\nbest earlier head", canvas.INPUT_END, None),
        ("carry", "share of steps\nread at x_t", canvas.CARRY, PEAKED_SHARE),
        ("accuracy", "sequence accuracy", canvas.ACCURACY, LEARNED),
    ]
    figure, axes = canvas.new_figure(6.4, 6.6, rows=3)
    for ax, (name, label, colour, bar) in zip(axes[:, 0], rows, strict=True):
        lines = require_measured(metric_curves(results, out, "main", metric=name))
        figures.plot_curves(lines, ylabel=label, colour=colour, bar=bar, legend=name == rows[0][0], ax=ax)
    return picture(
        "How it emerges",
        "A long plateau, then the head and the answers appear together. Each line is a seed, measured on held-out "
        "sequences while training; grey lines are thresholds of the claims.",
        figure,
    )


CONDITION_TITLES = {
    "one-head": "one head in each layer",
    "one-layer": "one layer",
    "one-length": "one input length only",
    "no-chain": "no chain of thought",
    "parity": "parity",
    "parity-no-chain": "parity, no chain of thought",
}


def _draw_arms(results: Conditions, main: str) -> Picture:
    groups = {}
    for title, held in results.by_title({"main": main, **CONDITION_TITLES}).items():
        found = list(held.values())
        groups[title] = {"sequence accuracy": [r.mean_accuracy for r in found]}
        if found[0].head is not None:
            groups[title]["share of steps read at x_t"] = [r.head.carry for r in found]
    return picture(
        "What it takes",
        "Each point is a seed, each stroke a mean. Models are judged on lengths from 4 on (the model of one length at "
        "its own; its head is searched on all). Parity can be right without an iteration head, and without a chain "
        "of thought.",
        figures.plot_by_seed(require_measured(groups), xlabel="share on held-out sequences"),
    )


def _draw_tests(main: dict[int, IterationResult], states: int) -> Picture:
    good = require_measured([one for one in main.values() if has_learned(one)])
    tests = [result.tests.by_title() for result in good]
    groups = {
        name: {f"{kind} accuracy": [getattr(found[name], kind) for found in tests] for kind in ("sequence", "state")}
        for name in tests[0]
    }
    groups["moved to the next input"] = {"answers equal to F(s, next input)": [r.steered for r in good]}
    return picture(
        "What the head causes",
        "Edits of the iteration head (and of the earlier head, marked first layer) where answers are written. Each "
        "point is a seed that learned the task.",
        figures.plot_by_seed(groups, xlabel="share on held-out sequences", chance=1 / states),
    )


def _draw_transfer(results: Conditions, out: Path) -> Picture:
    arms = {
        "after the polynomial": metric_curves(results, out, "main", "transfer.jsonl"),
        "after one length (no head)": metric_curves(results, out, "one-length", "transfer.jsonl"),
        "from scratch": metric_curves(results, out, "parity"),
    }
    figure, axes = canvas.new_figure(9.6, 2.8, columns=3)
    for ax, (title, lines) in zip(axes[0], require_measured(arms).items(), strict=True):
        label = "sequence accuracy on parity" if ax is axes[0, 0] else ""
        figures.plot_curves(lines, ylabel=label, bar=LEARNED, title=title, legend=len(lines) < 6, ax=ax)
    return picture(
        "Transfer to parity",
        "Accuracy on held-out parity sequences while fine-tuning a model that has an iteration head, one that is "
        "accurate without one, and while training from scratch. Mind the different scales of steps.",
        figure,
    )
