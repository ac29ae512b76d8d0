"""Figure of one row of a task with its links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Arc

from toylab.report.canvas import LINE_STYLES, LITERAL_TEXT, MORE_MARKS, new_axes, without_mathtext


def plot_links(
    tokens: Sequence[str],
    targets: Sequence[str],
    links: Mapping[str, np.ndarray],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A row from top to bottom, with the target of each position at the right, and arcs from queries up to their keys.

    Args:
        tokens, targets: one text per position; the target is empty where none is scored.
        links: from a name to edges (query, key). A marker stands at each key; a key that is its query has no arc.
    """
    size = len(tokens)
    ax = ax or new_axes(2.0, 0.17 * size + 0.9)
    reach = max((abs(query - key) for edges in links.values() for query, key in edges), default=0) ** 0.5 + 0.5
    for number, (name, edges) in enumerate(links.items()):
        (marker, colour), style = MORE_MARKS[number % len(MORE_MARKS)], LINE_STYLES[number % len(LINE_STYLES)]
        for query, key in edges:
            distance = abs(query - key)
            ax.add_patch(Arc((0, (query + key) / 2), 2 * distance**0.5, distance, theta1=90, theta2=270,
                             edgecolor=colour, linestyle=style, linewidth=0.9))  # fmt: skip
        keys = sorted({int(key) for _, key in edges})
        ax.plot([0.0] * len(keys), keys, marker, color=colour, markersize=3, markeredgewidth=0)
        ax.plot([], [], marker + style, color=colour, linewidth=0.9, markersize=3, label=name)
    for position, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        ax.text(0.15 * reach, position, token, va="center", fontsize=7, **LITERAL_TEXT)
        ax.text(1.1 * reach, position, target, va="center", fontsize=7, color="0.35", **LITERAL_TEXT)
    ax.text(0.15 * reach, -1, "token", va="center", fontsize=6, color="0.35")
    ax.text(1.1 * reach, -1, "target", va="center", fontsize=6, color="0.35")
    ax.set_xlim(-reach, 1.9 * reach)
    ax.set_ylim(size - 0.5, -1.5)
    ax.axis("off")
    ax.set_title(title, fontsize=8)
    return without_mathtext(ax)
