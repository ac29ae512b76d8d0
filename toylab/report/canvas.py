"""Shared parts of all figures: colours, markers, axes, legends, and output files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

ACCURACY, CARRY, INPUT_END = "#1b4f8f", "#c8553d", "#7a9a2e"
"""One colour per quantity: accuracy, attention on x_t, attention on the end of the input."""


LITERAL_TEXT: dict[str, Any] = {"parse_math": False, "usetex": False}
"""Text properties for names from data, which may contain dollar signs: no mathtext."""


LEGEND_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
"""Legend position to the right of the axes."""
LINE_STYLES = ("-", "--", ":", "-.")
"""Styles of the lines of a plot, by number."""


NO_XML = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\ufffe\\uffff]")
"""Characters that are invalid in XML."""


def new_figure(
    width: float | int,
    height: float | int,
    columns: int = 1,
    rows: int = 1,
    height_ratios: Sequence[float | int] | None = None,
) -> tuple[Figure, np.ndarray]:
    """A figure of `width` x `height` inches with a grid of axes, independent of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios)


def remove_legend(ax: Axes) -> None:
    """Remove the legend of the axes, if they have one."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, deterministic byte for byte."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "toylab", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # glyphs missing in our font may exist in the reader's
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return NO_XML.sub("\ufffd", buffer.getvalue())


def whole_figure(artist: Figure | Axes) -> Figure:
    """The figure itself, or the figure that contains the axes, also if they lie in a subfigure."""
    if isinstance(artist, Figure):
        return artist
    parent = artist.figure
    return parent if isinstance(parent, Figure) else parent.figure


def figure_bytes(figure: Figure, form: str) -> bytes:
    """The figure as the bytes of an svg, png or pdf file."""
    if form == "svg":
        return to_svg(figure).encode()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, bbox_inches="tight", dpi=150)
    return buffer.getvalue()


MARKS = (("o", ACCURACY), ("s", CARRY), ("^", INPUT_END))


MORE_MARKS = (*MARKS, ("D", "#6b4c9a"), ("v", "#333333"), ("P", "#b08a2e"))


def new_axes(width: float, height: float) -> Axes:
    """Axes on a new figure of this size in inches."""
    return new_figure(width, height)[1][0, 0]


def add_legend(ax: Axes, **style: Any) -> None:
    """Add a legend of all labelled artists, also of labels that matplotlib skips, such as `_a`; none without labels."""
    shapes = (Line2D, Patch, Collection)
    artists = [*(artist for artist in ax.get_children() if isinstance(artist, shapes)), *ax.containers]
    labelled = [
        artist for artist in artists if not re.fullmatch(r"(_(child|container)\d+|_nolegend_)?", artist.get_label())
    ]
    if labelled:
        legend = ax.legend(labelled, ["name"] * len(labelled), **{"fontsize": 7, "frameon": False, **style})
        for text, artist in zip(legend.get_texts(), labelled, strict=True):
            text.set(text=artist.get_label(), **LITERAL_TEXT)


def despine(ax: Axes) -> Axes:
    """Remove the top and right spines, and mathtext from all labels."""
    ax.spines[["top", "right"]].set_visible(False)
    return without_mathtext(ax)


def without_mathtext(ax: Axes) -> Axes:
    """Draw title and labels without mathtext, since they may contain names of a user's settings."""
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
        text.set(**LITERAL_TEXT)
    return ax
