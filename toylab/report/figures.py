"""Figures: arrays in, matplotlib axes out. Every function draws on `ax`, or on new axes if none is given.

No global state changes and no window opens; save with `ax.figure.savefig(...)`. Quantities differ in marker, line
style and lightness as well as in colour, so that figures remain legible in greyscale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, StrMethodFormatter

from toylab.console import ToylabError
from toylab.report.canvas import (
    ACCURACY,
    CARRY,
    LEGEND_BESIDE,
    LINE_STYLES,
    LITERAL_TEXT,
    MARKS,
    MORE_MARKS,
    POINTS,
    TEXT_SIZE,
    add_legend,
    despine,
    new_axes,
    new_figure,
    text_width,
    without_mathtext,
)

_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}  # below a number on shades or hatches


def plot_attention(
    pattern: np.ndarray,
    tokens: Sequence[str],
    *,
    queries: Sequence[str] | None = None,
    links: np.ndarray | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Heatmap of an attention pattern, shape (query, key), dark where attention is high; red squares mark `links`.

    `tokens` label the keys, and also the queries unless `queries` is given.
    """
    query_label = "query: attending token" if queries is None else "query"
    queries = tokens if queries is None else queries
    ax = ax or new_axes(0.28 * len(tokens) + 1.2, 0.28 * len(queries) + 1.0)
    shades = ax.imshow(pattern, cmap="Blues", vmin=0, vmax=1)
    ax.figure.colorbar(shades, ax=ax, ticks=[0, 1], shrink=0.4, aspect=12, label="attention")
    ax.set_xticks(range(len(tokens)), tokens, rotation=90, **LITERAL_TEXT)
    ax.set_yticks(range(len(queries)), queries, **LITERAL_TEXT)
    ax.set(xlabel="key: attended token", ylabel=query_label)
    ax.tick_params(length=0)
    if links is not None:
        for query, key in links:
            ax.add_patch(Rectangle((key - 0.5, query - 0.5), 1, 1, fill=False, edgecolor=CARRY, linewidth=1.2))
    ax.set_title(title, fontsize=TEXT_SIZE)
    return without_mathtext(ax)


def plot_curves(
    runs: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]],
    *,
    ylabel: str,
    colour: str = ACCURACY,
    threshold: float | None = None,
    title: str = "",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Learning curves: a share against optimiser steps, one line per run; a horizontal line marks `threshold`."""
    ax = ax or new_axes(4.2, 2.8)
    for number, (name, (steps, values)) in enumerate(runs.items()):
        opacity = 1 - 0.6 * number / max(len(runs), 2)
        ax.plot(steps, values, LINE_STYLES[number % 4], color=colour, alpha=opacity, linewidth=1.5, label=name)
    if threshold is not None:
        ax.axhline(threshold, color="0.6", linewidth=0.8)
        ax.annotate(f"{threshold:.3g}", (0, threshold), xycoords=("axes fraction", "data"), xytext=(3, -2), va="top",
                    textcoords="offset points", color="0.4")  # fmt: skip
    ax.set_ylim(-0.03, 1.05)
    return _finished(ax, title, LEGEND_BESIDE if legend else None, xlabel="optimiser steps", ylabel=ylabel)


def plot_panels(panels: Mapping[str, Mapping[str, Any]], *, ylabel: str, threshold: float | None = None) -> Figure:
    """Learning curves, as in `plot_curves`, in one row of panels by title; the axes of steps differ."""
    figure, axes = new_figure(3.2 * len(panels), 2.8, columns=len(panels))
    for ax, (title, runs) in zip(axes[0], panels.items(), strict=True):
        plot_curves(runs, ylabel=ylabel, threshold=threshold, title=title, legend=len(runs) < 6, ax=ax)
    return figure


def plot_by_seed(
    groups: Mapping[str, Mapping[str, Sequence[float | int]]],
    *,
    xlabel: str,
    chance: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One row per group, with one point per seed for each quantity and a vertical line at their mean."""
    names = _quantities(groups)
    ax = ax or new_axes(3.8 + text_width(groups) + text_width(names), 0.42 * len(groups) + 1.2)
    if len(names) > len(MARKS):
        raise ToylabError(f"groups: {len(names)} quantities; split the figure: at most {len(MARKS)} can be told apart")
    marks = dict(zip(names, MARKS, strict=False))
    for name, (marker, colour) in marks.items():
        ax.plot([], [], marker, color=colour, alpha=0.75, **POINTS, label=name, in_layout=False)
    for row, quantities in enumerate(groups.values()):
        for number, (name, (marker, colour)) in enumerate(marks.items()):
            values = quantities.get(name, ())
            height = row + 0.16 * (number - (len(marks) - 1) / 2) * 2
            if len(values):
                ax.plot(values, [height] * len(values), marker, color=colour, alpha=0.75, **POINTS)
                ax.plot([np.mean(values)] * 2, [height - 0.14, height + 0.14], color=colour, linewidth=1.5)
    if chance is not None:
        ax.axvline(chance, color="0.6", linewidth=0.8, linestyle=":")
        ax.annotate("guessing", (chance, -0.6), color="0.4", xytext=(2, 0), textcoords="offset points")
    ax.set_yticks(range(len(groups)), list(groups), **LITERAL_TEXT)
    ax.set_ylim(len(groups) - 0.4, -0.75)
    points = [value for quantities in groups.values() for values in quantities.values() for value in values]
    ax.set_xlim(min([0, *points]) - 0.03, max([1, *points]) + 0.03)
    return _finished(ax, title, LEGEND_BESIDE, xlabel=xlabel)


def plot_growth(
    lines: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    *,
    xlabel: str,
    exponents: Mapping[str, float],
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Processor time against size on logarithmic axes; the legend shows the fitted exponents."""
    ax = ax or new_axes(5.2, 3.8)
    looks = zip(("o", "s", "^", "D"), LINE_STYLES, ("#1b4f8f", "#c8553d", "#7a9a2e", "0.3"), strict=True)
    for (name, (sizes, seconds)), (marker, style, colour) in zip(lines.items(), looks, strict=False):
        label = f"{name}:\npower {exponents[name]:.2f}"
        ax.plot(sizes, [1e3 * s for s in seconds], style, marker=marker, color=colour, **POINTS, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    below = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.2)}
    return _finished(ax, title, below, xlabel=xlabel, ylabel="processor time in ms")


def plot_saturation(
    points: Sequence[tuple[float | int, float | int]], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Attention mass on counted tokens against their number in units of K, with the curve x / (x + 1)."""
    ax = ax or new_axes(4.2, 3.2)
    if points:
        x, mass = np.array(points).T
        ax.plot(x, mass, "o", color=ACCURACY, alpha=0.4, **POINTS, label="measured")
    line = np.linspace(0, max([4.0, *(x for x, _ in points)]), 200)
    ax.plot(line, line / (line + 1), "--", color=CARRY, linewidth=1.2, label="x / (x + 1)")
    ax.set_ylim(-0.03, 1.03)
    labels = {"xlabel": "counted ones, in units of K", "ylabel": "attention on counted ones"}
    return _finished(ax, title, {"loc": "lower right"}, **labels)


def plot_agreement(
    groups: Mapping[str, Sequence[tuple[float | int, float | int]]], *, xlabel: str, ylabel: str, ax: Axes | None = None
) -> Axes:
    """Predicted against measured values, one marker per group, with the line of equality."""
    ax = ax or new_axes(4.8 + text_width(groups), 3.8)
    low = min([0.5, *(min(pair) for pairs in groups.values() for pair in pairs)]) - 0.05
    ax.plot([low, 1.1], [low, 1.1], color="0.6", linewidth=0.8)
    for (name, pairs), (marker, colour) in zip(groups.items(), MARKS, strict=False):
        x, y = np.array(pairs).T
        ax.plot(x, y, marker, color=colour, alpha=0.6, **POINTS, label=name)
    return _finished(ax, legend=LEGEND_BESIDE, xlabel=xlabel, ylabel=ylabel)


def plot_stacked_shares(
    shares: Mapping[str, Mapping[str, float | int]], *, xlabel: str, ax: Axes | None = None
) -> Axes:
    """Stacked bars of shares that sum to one, one bar per row; each class has one shade and hatch in all rows."""
    names = _quantities(shares)
    ax = ax or new_axes(3.8 + text_width(shares) + text_width(names), 0.5 * len(shares) + 1.3)
    shades = mpl.colormaps["cividis"](np.linspace(0.05, 0.95, len(names)))
    for number, name in enumerate(names):
        values = np.array([row.get(name, 0.0) for row in shares.values()])
        left = np.array([sum(row.get(n, 0.0) for n in names[:number]) for row in shares.values()])
        ax.barh(range(len(shares)), values, 0.6, left=left, color=shades[number], edgecolor="white", linewidth=0.6,
                hatch=["", "///", "|||", "xx"][number % 4], label=name)  # fmt: skip
        for row, (value, start) in enumerate(zip(values, left, strict=True)):
            if value >= 0.13:
                ax.text(start + value / 2, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", bbox=_PLATE)
    ax.set_yticks(range(len(shares)), list(shares), **LITERAL_TEXT)
    ax.set_ylim(max(len(shares), 1) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    return _finished(ax, legend=LEGEND_BESIDE, xlabel=xlabel)


def plot_planes(
    profiles: Mapping[str, Sequence[float | int]],
    frequencies: Sequence[float | int],
    *,
    ylabel: str,
    span: int = 64,
    ax: Axes | None = None,
) -> Axes:
    """Contribution of each rotary plane, one line per run; a dashed vertical line separates fast from slow planes.

    Slow planes rotate by less than one radian over `span` tokens.
    """
    ax = ax or new_axes(5.4, 3.0)
    for number, (name, values) in enumerate(profiles.items()):
        opacity = 1 - 0.6 * number / max(len(profiles), 2)
        ax.plot(range(len(values)), values, LINE_STYLES[number % 4], marker="o", **POINTS, color=ACCURACY,
                alpha=opacity, linewidth=1.2, label=name)  # fmt: skip
    ax.axhline(0, color="0.8", linewidth=0.8)
    ax.axvline(sum(f * span >= 1 for f in frequencies) - 0.5, color=CARRY, linewidth=1.0, linestyle="--")
    ticks = range(0, len(frequencies), 3)
    ax.set_xticks(ticks, [f"{frequencies[i]:.2g}" for i in ticks])
    legend = LEGEND_BESIDE if len(profiles) <= 10 else None
    return _finished(ax, "", legend, xlabel="rotary plane, by frequency in radians per token", ylabel=ylabel)


def plot_bands(
    groups: Mapping[str, Sequence[tuple[float | int, float | int]]],
    ticks: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Means per group over `ticks`, one line per group, with bands of one standard deviation."""
    ax = ax or new_axes(3.2, 2.8)
    for number, (name, points) in enumerate(groups.items()):
        mean, spread = np.array(points, dtype=float).reshape(-1, 2).T
        marker, colour = MARKS[number % len(MARKS)]
        positions = range(len(mean))
        ax.fill_between(positions, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0,
                        hatch=["", "//", "||"][number % 3])  # fmt: skip
        ax.plot(positions, mean, LINE_STYLES[number % 3], marker=marker, color=colour, **POINTS, label=name)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_xticks(range(len(ticks)), ticks, **LITERAL_TEXT)
    ax.set_xlim(-0.3, max(len(ticks) - 0.7, 0.3))
    legend = {"loc": "best", "frameon": True, "framealpha": 0.8, "edgecolor": "none"}
    return _finished(ax, title, legend, xlabel=xlabel, ylabel=ylabel)


def plot_dose_response(
    groups: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]],
    *,
    xlabel: str,
    ylabel: str,
    mark: float | int | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Dose-response curves: a share against a dose, one line per group; `mark` is the dose used elsewhere."""
    ax = ax or new_axes(3.6, 2.8)
    for number, (name, (doses, shares)) in enumerate(groups.items()):
        marker, colour = MORE_MARKS[number % len(MORE_MARKS)]
        style = LINE_STYLES[number % 4]
        ax.plot(doses, shares, style, marker=marker, color=colour, linewidth=1.4, label=name, **POINTS)
    if mark is not None:
        ax.axvline(mark, color="0.6", linewidth=0.8, linestyle=":")
    points = [share for _, shares in groups.values() for share in shares]
    ax.set_ylim(min([0, *points]) - 0.03, max([1, *points]) + 0.05)
    return _finished(ax, title, {}, xlabel=xlabel, ylabel=ylabel)


def plot_histograms(
    groups: Mapping[str, Sequence[float | int]], *, xlabel: str, title: str = "", ax: Axes | None = None
) -> Axes:
    """Histograms of positive numbers on a logarithmic axis, one outline and hatch per group."""
    ax = ax or new_axes(3.2, 2.6)
    values = np.concatenate([np.asarray(numbers, dtype=float) for numbers in groups.values()]) if groups else np.ones(1)
    values = np.maximum(values, 1e-3) if len(values) else np.ones(1)
    edges = np.geomspace(values.min() / 1.01, values.max() * 1.01, 25)
    for number, (name, numbers) in enumerate(groups.items()):
        colour = MARKS[number % len(MARKS)][1]
        ax.hist(np.maximum(numbers, 1e-3), edges, histtype="stepfilled", facecolor="none", edgecolor=colour,
                hatch=["///", "||", "xx"][number % 3], linewidth=1.4, label=name)  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    return _finished(ax, title, {}, xlabel=xlabel, ylabel="prompts")


_STRENGTHS = np.linspace(0, 0.75, 128)
_SIGNED = ListedColormap([*mpl.colormaps["Oranges"](_STRENGTHS[::-1]), *mpl.colormaps["Blues"](_STRENGTHS)])
"""Shades of signed numbers: orange below zero, white at zero, blue above."""


def plot_heatmap(
    values: Mapping[str, Sequence[float | int]],
    columns: Sequence[str],
    *,
    xlabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Heatmap of signed numbers, one row per name: dark for large magnitude, hatched for negative values.

    Cells with at least a quarter of the largest magnitude show their number, and a scale at the right shows the shades.
    """
    ax = ax or new_axes(0.4 * len(columns) + 1.2 + text_width(values), 0.3 * len(values) + 1.0 + text_width(columns))
    table = np.array(list(values.values()), dtype=float).reshape(len(values), len(columns))
    largest = float(np.abs(table).max(initial=0)) or 1.0
    lowest = -largest if table.min(initial=0) < 0 else 0.0

    def text(number: float | int, _: object = None) -> str:
        return re.sub(r"\b0\.", ".", f"{number:.{max(1 - floor(log10(largest)), 0)}f}") if number else "0"

    if table.size:
        shades = ax.imshow(table, cmap=_SIGNED, vmin=-largest, vmax=largest, aspect="auto")
        ticks = sorted({lowest, 0.0, largest})
        scale = ax.figure.colorbar(shades, ax=ax, ticks=ticks, format=FuncFormatter(text), aspect=12, pad=0.02)
        scale.ax.set_ylim(lowest, largest)
    for (row, column), number in np.ndenumerate(table):
        if number < 0:
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec="0.7", hatch="////", linewidth=0))
        if abs(number) / largest >= 0.25:
            ax.text(column, row, text(number), ha="center", va="center", bbox=_PLATE)
    ax.set(xlim=(-0.5, max(len(columns), 1) - 0.5), ylim=(max(len(values), 1) - 0.5, -0.5), xlabel=xlabel)
    ax.set_xticks(range(len(columns)), columns, rotation=90, **LITERAL_TEXT)
    ax.set_yticks(range(len(values)), list(values), **LITERAL_TEXT)
    ax.tick_params(length=0)
    return _finished(ax, title)


def plot_intervals(
    groups: Mapping[str, Mapping[str | float | int, tuple[float | int, float | int, float | int]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Means with intervals, (mean, low, high) by x, one series per group; numeric x values are joined by lines."""
    all_xs = list(dict.fromkeys(x for group in groups.values() for x in group))
    numbers = all(isinstance(x, int | float) for x in all_xs)
    ax = ax or new_axes(4.6 if numbers else 0.9 * len(all_xs) + 2.2, 3.0)
    for number, (name, group) in enumerate(groups.items()):
        marker, colour = MORE_MARKS[number % len(MORE_MARKS)]
        shift = 0.0 if numbers else 0.14 * (number - (len(groups) - 1) / 2)
        xs = [x if numbers else all_xs.index(x) + shift for x in group]
        means, lows, highs = ([values[k] for values in group.values()] for k in range(3))
        ax.plot(xs, means, marker, color=colour, **POINTS, label=name or None)
        ax.vlines(xs, lows, highs, color=colour, linewidth=1.3)
        if numbers:
            ax.plot(xs, means, LINE_STYLES[number % 4], color=colour, linewidth=1.2)
    if not numbers:
        ax.set_xticks(range(len(all_xs)), [str(x) for x in all_xs], **LITERAL_TEXT)
        ax.set_xlim(-0.6, len(all_xs) - 0.4)
    return _finished(ax, title, LEGEND_BESIDE, xlabel=xlabel, ylabel=ylabel)


def _finished(ax: Axes, title: str = "", legend: Mapping[str, Any] | None = None, **labels: str) -> Axes:
    """The axes with title, labels and, if it has a style, a legend; without the top and right spines."""
    ax.set(**labels)
    ax.set_title(title, fontsize=TEXT_SIZE)
    if legend is not None:
        add_legend(ax, **legend)
    return despine(ax)


def _quantities(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for quantities in groups.values() for name in quantities))
