"""Schematics of the circuits and interventions of the lessons, of boxes, arrows and tokens, one function without
arguments per figure; and the weights of a circuit by slot.

One vocabulary: white boxes are tokens and vectors, grey boxes are modules; a thick line is a path of the circuit, a
dashed line a path that is blocked or removed. Nothing is told by colour alone, and letters have at least 10 points at
4.6 inches of width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon

from toylab.model.layers import Attention
from toylab.report import canvas

WIDTH = 4.6
"""Width of a figure in inches; coordinates run from 0 to 10 along it, with the same unit along the height."""
SIZE = 10
"""Size of all letters in points."""
TOKEN, MODULE = "white", "0.87"

Point = tuple[float | int, float | int]


class Sketch:
    """An empty drawing of a given height, in units of a tenth of its width."""

    def __init__(self, height: float | int) -> None:
        self.ax = canvas.new_axes(WIDTH, WIDTH * height / 10)
        self.ax.set(xlim=(0, 10), ylim=(0, height), aspect="equal")
        self.ax.axis("off")

    @property
    def figure(self) -> Figure:
        return canvas.whole_figure(self.ax)

    def text(self, at: Point, words: str, align: str = "center") -> None:
        """Words centred at a point, or beginning (`left`) or ending (`right`) there."""
        self.ax.text(*at, words, ha=align, va="center", fontsize=SIZE, linespacing=1.15, zorder=4)

    def box(self, at: Point, words: str, width: float | int, height: float | int = 0.8, fill: str = MODULE) -> None:
        """A box centred at a point."""
        corner = (at[0] - width / 2, at[1] - height / 2)
        style = "round,pad=0,rounding_size=0.12"
        self.ax.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=fill, edgecolor="0.2", zorder=3))
        self.text(at, words)

    def arrow(self, *points: Point, thick: bool = True, dashed: bool = False) -> None:
        """An arrow from the first to the last of two or more points."""
        *line, start, end = points
        if line:
            self.line(*line, start, thick=thick)
        shade, dashes = "0.45" if dashed or not thick else "black", (0, (3, 2)) if dashed else "-"
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 0, "shrinkB": 0, "zorder": 2}
        self.ax.add_patch(
            FancyArrowPatch(start, end, linewidth=2 if thick else 1, linestyle=dashes, color=shade, **style)
        )

    def line(self, *points: Point, thick: bool = True) -> None:
        """A line through points, without a head."""
        x, y = zip(*points, strict=True)
        self.ax.plot(x, y, color="black" if thick else "0.45", linewidth=2 if thick else 1, zorder=1)

    def tokens(self, names: Sequence[str], y: float | int) -> list[float]:
        """A row of tokens over the whole width; returns the centre of each."""
        step = 10 / len(names)
        centres = [step * (i + 0.5) for i in range(len(names))]
        for x, name in zip(centres, names, strict=True):
            self.box((x, y), name, step - 0.12, fill=TOKEN)
        return centres


def draw_iteration_head() -> Figure:
    """The iteration head writes s_2 of three inputs: two heads, two MLPs."""
    sketch = Sketch(7.6)
    names = ["task", "$x_1$", "$x_2$", "$x_3$", "EoI", "$s_1$"]
    x = sketch.tokens(names, 0.95)
    for position, centre in enumerate(x):
        sketch.text((centre, 0.25), str(position))
    stream, second, end = x[5], x[2], x[4]
    sketch.arrow((stream, 1.35), (stream, 7.0))
    sketch.box((stream - 0.35, 3.0), "MLP 1\n$5-4+1=2$", 2.3, 1.1)
    sketch.box((stream - 0.35, 5.9), "MLP 2\n$F(s_1,x_2)$", 2.3, 1.1)
    sketch.arrow((end, 1.35), (end, 1.9), (stream, 1.9))
    sketch.text((second + 0.15, 2.9), "head of layer 1:\nattends to EoI, and\ncopies its position", "left")
    sketch.arrow((second, 1.35), (second, 4.3), (stream, 4.3))
    sketch.text(
        (second - 0.15, 3.6), "head of layer 2\n(iteration head):\nattends to position 2,\ncopies $x_2$", "right"
    )
    sketch.text((stream, 7.3), "$s_2$")
    return sketch.figure


def draw_induction_head() -> Figure:
    """The induction head predicts the value that followed the key c before."""
    sketch = Sketch(5.2)
    x = sketch.tokens(["a", "1", "c", "7", "b", "4", "c"], 0.95)
    for position, centre in enumerate(x):
        sketch.text((centre, 0.25), str(position))
    sketch.arrow((x[2], 1.35), (x[2], 1.9), (x[3], 1.9))
    sketch.text((x[2] - 0.15, 2.1), "head of layer 1\ncopies the token\nbefore", "right")
    sketch.arrow((x[3], 1.35), (x[3], 3.1))
    sketch.text((x[3] + 0.15, 2.5), "holds: 7, after c", "left")
    sketch.line((x[3], 3.1), (x[3], 3.5))
    sketch.arrow((x[6], 1.35), (x[6], 4.6))
    sketch.arrow((x[3], 3.5), (x[6], 3.5))
    sketch.text((x[6] - 0.15, 4.15), "head of layer 2 (the induction head)\nattends to 'after c', copies 7", "right")
    sketch.text((x[6], 4.85), "7")
    return sketch.figure


def draw_counter() -> Figure:
    """The counter in the decoder: the query of region 2 attends to its ones and to a bias token."""
    sketch = Sketch(6.4)
    names = ["BoS", "[", "1", "]", "0", "[", "1", "0", "1", "1", "]"]
    x = sketch.tokens(names, 0.5)
    sketch.box((5, 1.9), "encoder: every token attends to the brackets\nbefore it, and so encodes its region", 9.8, 1.1)
    for centre in x:
        sketch.line((centre, 0.9), (centre, 1.35), thick=False)
    query = (6.2, 4.7)
    for i, centre in enumerate(x):
        if i in (6, 8, 9):
            sketch.arrow((centre, 2.45), (query[0] + (centre - query[0]) * 0.2, 4.3))
    sketch.arrow((x[0], 2.45), (query[0] - 1.3, 4.3))
    sketch.text((2.3, 4.1), "bias token:\nweight of $K$ ones")
    sketch.text((9.0, 4.0), "$n=3$ ones")
    sketch.box(query, "query of region 2", 3.6)
    sketch.arrow((query[0], 5.1), (query[0], 5.6))
    sketch.text((query[0], 5.95), "attention on ones $n/(n+K)$, so the count is $n$")
    return sketch.figure


def draw_steering_paths() -> Figure:
    """The paths by which a vector after block 3 of 4 can act on the logits."""
    sketch = Sketch(6.6)
    x = 3.4
    sketch.box((x, 0.5), "blocks 1 to 3", 3.2)
    sketch.arrow((x, 0.9), (x, 5.7))
    sketch.arrow((0.9, 1.5), (x - 0.06, 1.5))
    sketch.text((0.85, 1.95), "vector")
    for y, name in ((2.5, "attention"), (3.9, "MLP")):
        sketch.arrow((x, y - 0.5), (x + 1.9, y - 0.5), (x + 1.9, y - 0.35), thick=False)
        sketch.box((x + 1.9, y), name, 2.3, 0.7)
        sketch.arrow((x + 1.9, y + 0.35), (x + 1.9, y + 0.6), (x + 0.06, y + 0.6), thick=False)
    sketch.text((6.7, 3.2), "block 4: the path\nthrough the block\n(thin)", "left")
    sketch.text((x - 0.2, 3.2), "direct path\n(thick)", "right")
    sketch.box((x, 6.1), "final norm, unembedding: logits", 6.4)
    return sketch.figure


def draw_path_patching() -> Figure:
    """One module receives the stream without the vector, every other module with it."""
    sketch = Sketch(6.4)
    clean, steered = 1.3, 6.9
    for x, title in ((clean, "without vector"), (steered, "with vector")):
        thick = x == steered
        sketch.text((x, 0.3), title)
        sketch.arrow((x, 0.65), (x, 5.5), thick=thick)
        for y, name in ((2.1, "attention"), (4.0, "MLP")):
            sketch.box((x + 1.6, y), name, 1.8, 0.7)
            sketch.arrow((x + 1.6, y + 0.35), (x + 0.06, y + 1.0), thick=thick)
            sketch.arrow((x, y - 0.9), (x + 1.6, y - 0.35), thick=thick, dashed=thick and name == "MLP")
    sketch.arrow((clean, 3.3), (6.1, 3.3), (steered + 0.7, 3.95))
    sketch.text((5.1, 4.95), "the MLP alone\nreceives the stream\nwithout vector")
    sketch.arrow((5.7, 1.1), (steered - 0.06, 1.1))
    sketch.text((5.6, 1.1), "+ vector", "right")
    sketch.box((clean + 0.1, 5.9), "logits", 2.4)
    sketch.box((steered, 5.9), "logits, MLP skipped", 4.0)
    return sketch.figure


def draw_null_space() -> Figure:
    """A change of weights as a sum of two parts: in the column space of the weight, and in its left null space."""
    sketch = Sketch(6.2)
    plane = Polygon([(0.3, 0.9), (6.8, 0.5), (9.6, 2.3), (3.1, 2.7)], facecolor="0.9", edgecolor="0.4", zorder=0)
    sketch.ax.add_patch(plane)
    foot, top, origin = (6.2, 1.75), (6.2, 4.6), (2.6, 1.45)
    sketch.arrow(origin, top)
    sketch.arrow(origin, foot, thick=False)
    sketch.arrow(foot, top, thick=False)
    sketch.line((5.85, 1.72), (5.85, 2.05), (6.2, 2.08), thick=False)
    sketch.text((3.9, 3.55), r"change $\Delta W$", "right")
    sketch.text((6.4, 3.4), "part in the left null\nspace: no output of\nthe old $W$ has it", "left")
    sketch.text((4.6, 1.15), "part in the column space")
    sketch.text((0.3, 0.3), "column space of $W$: 64 of 256 directions of the output", "left")
    sketch.text((5.0, 5.6), "share = (null-space part)$^2$ / (change)$^2$; by chance 192/256")
    return sketch.figure


def draw_by_slot(matrices: Mapping[str, Float[np.ndarray, "to from"]], slots: Mapping[str, int]) -> Figure:
    """Which entries of matrices between residual streams are not zero; lines separate the slots of the stream.

    Args:
        matrices: [row, column] by title, both axes along the stream.
        slots: number of coordinates of each slot, in order.
    """
    count = len(matrices)
    figure, axes = canvas.new_figure(WIDTH, 2.7 * count, rows=count)
    edges = np.cumsum([0, *slots.values()])
    for ax, (title, matrix) in zip(axes[:, 0], matrices.items(), strict=True):
        rows, columns = np.nonzero(matrix)
        ax.scatter(columns + 0.5, rows + 0.5, s=6, color="black", marker="s", linewidths=0)
        ax.set(xlim=(0, edges[-1]), ylim=(edges[-1], 0))
        ax.set_title(title, fontsize=SIZE)
        ticks = (edges[:-1] + edges[1:]) / 2
        ax.set_xticks(ticks, list(slots), rotation=30, fontsize=SIZE - 1)
        ax.set_yticks(ticks, list(slots), fontsize=SIZE - 1)
        ax.tick_params(length=0)
        for edge in edges[1:-1]:
            ax.axhline(edge, color="0.6", linewidth=0.7)
            ax.axvline(edge, color="0.6", linewidth=0.7)
    return figure


def qk_and_ov(attention: Attention) -> tuple[Float[np.ndarray, "query key"], Float[np.ndarray, "to from"]]:
    """The two matrices of an attention layer with one head and without norm: W_Q^T W_K, and W_O W_V.

    A bias of the query is a constant feature: the layer's QK matrix cannot show it.
    """
    with torch.no_grad():
        qk = attention.query.weight.T @ attention.key.weight
        ov = attention.output.weight @ attention.value.weight
    return qk.numpy(), ov.numpy()
