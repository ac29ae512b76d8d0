"""Figures of a model trained on a task: learning curves, and the heads of its survey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from toylab.report.canvas import ACCURACY, LITERAL_TEXT, TEXT_SIZE, despine, new_figure
from toylab.report.figures import plot_curves, plot_heatmap

Curves = Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]]
"""Steps and values by name of the run."""


def plot_training(loss: Curves, accuracy: Curves, goal: float | int | None = None) -> Figure:
    """Training loss and held-out accuracy against steps, one line per seed; a horizontal line marks the goal."""
    figure, axes = new_figure(7.6, 2.8, columns=2)
    left, right = axes[0]
    plot_curves(loss, ylabel="training loss (nats per token)", legend=False, ax=left)
    left.set_ylim(0, 1.05 * max((value for _, values in loss.values() for value in values), default=1.0))
    plot_curves(accuracy, ylabel="held-out accuracy", threshold=goal, legend=len(accuracy) > 1, ax=right)
    return figure


def plot_heads(surveys: Mapping[str, Any]) -> Figure:
    """One row per `toylab.survey.Survey` of a model: the attention of every head on every link, and the accuracy with
    the head zero-ablated."""
    links = [reading.link for reading in next(iter(surveys.values())).readings]
    height = sum(0.26 * len(survey.heads) + 1.6 for survey in surveys.values())
    figure, axes = new_figure(0.6 * len(links) + 4.6, height, columns=2, rows=len(surveys))
    for (left, right), (name, survey) in zip(axes, surveys.items(), strict=True):
        heads = [str(head) for head in survey.heads]
        rows = {str(head): list(head.mass.values()) for head in survey.heads}
        rows["uniform"] = [reading.uniform_mass for reading in survey.readings]
        plot_heatmap(rows, links, xlabel="", title="attention on the link", ax=left)
        left.set_ylabel(f"{name}: layer.head", **LITERAL_TEXT)
        right.plot([head.without for head in survey.heads], range(len(heads)), "o", color=ACCURACY, markersize=5)
        right.axvline(survey.accuracy, color="0.6", linewidth=0.8)
        right.set_yticks(range(len(heads)), heads, **LITERAL_TEXT)
        right.set_ylim(*left.get_ylim())
        right.set_xlim(-0.03, 1.03)
        right.set_xlabel("accuracy; line: of the unedited model")
        right.set_title("head zero-ablated", fontsize=TEXT_SIZE)
        despine(right)
    return figure
