"""Figures of a model trained on a task: learning curves, and the heads of its survey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from toylab.report.canvas import ACCURACY, LITERAL_TEXT, TEXT_SIZE, despine, new_figure
from toylab.report.figures import plot_curves, plot_heatmap


@dataclass(frozen=True)
class HeadTable:
    """The heads of a model.

    Attributes:
        mass: by head, the attention on each link.
        uniform: by link, the attention of uniform causal attention (chance level).
        without: by head, the accuracy with it zero-ablated.
        accuracy: of the unedited model.
    """

    mass: Mapping[str, Sequence[float | int]]
    uniform: Mapping[str, float | int]
    without: Sequence[float | int]
    accuracy: float | int


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


def plot_heads(models: Mapping[str, HeadTable]) -> Figure:
    """One row per model: the attention of every head on every link, and the accuracy with the head zero-ablated."""
    first = next(iter(models.values()))
    height = sum(0.26 * len(table.mass) + 1.6 for table in models.values())
    figure, axes = new_figure(0.6 * len(first.uniform) + 4.6, height, columns=2, rows=len(models))
    for (left, right), (name, table) in zip(axes, models.items(), strict=True):
        rows = {**table.mass, "uniform": list(table.uniform.values())}
        plot_heatmap(rows, list(table.uniform), xlabel="", title="attention on the link", ax=left)
        left.set_ylabel(f"{name}: layer.head", **LITERAL_TEXT)
        right.plot(table.without, range(len(table.mass)), "o", color=ACCURACY, markersize=5)
        right.axvline(table.accuracy, color="0.6", linewidth=0.8)
        right.set_yticks(range(len(table.mass)), list(table.mass), **LITERAL_TEXT)
        right.set_ylim(*left.get_ylim())
        right.set_xlim(-0.03, 1.03)
        right.set_xlabel("accuracy; line: of the unedited model")
        right.set_title("head zero-ablated", fontsize=TEXT_SIZE)
        despine(right)
    return figure
