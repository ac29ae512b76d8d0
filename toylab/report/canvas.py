"""Shared parts of all figures: colours, markers, axes, legends, and output files."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation

from toylab.files import sha256_of

ACCURACY, CARRY, INPUT_END = "#1b4f8f", "#c8553d", "#7a9a2e"
"""One colour per quantity: accuracy, attention on x_t, attention on the end of the input."""


TEXT_SIZE = 10
"""Size in points of every text of a figure, which is that of ticks and labels unless a figure says otherwise."""


LITERAL_TEXT: dict[str, Any] = {"parse_math": False, "usetex": False}
"""Text properties for names from data, which may contain dollar signs: no mathtext."""


LEGEND_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
"""Legend position to the right of the axes."""
POINTS: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0, "clip_on": False}
"""Points that one can see, and whole where they lie at the edge of the axes."""
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


def share_limits(axes: Sequence[Axes], axis: Literal["x", "y"]) -> None:
    """Give panels that are compared the same scale: the smallest that holds all of them."""
    limits = [getattr(ax, f"get_{axis}lim")() for ax in axes]
    common = min(low for low, _ in limits), max(high for _, high in limits)
    for ax in axes:
        getattr(ax, f"set_{axis}lim")(common)


def remove_legend(ax: Axes) -> None:
    """Remove the legend of the axes, if they have one."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()


def to_svg(figure: Figure, salt: str = "toylab") -> str:
    """The figure as SVG text, deterministic byte for byte; drawings of one page with other salts share no ids."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # glyphs missing in our font may exist in the reader's
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    # matplotlib names clip paths by the last digits of a layout, which differ between runs; a name by the number in the
    # figure would be that of another clip path in another figure of the page.
    svg = NO_XML.sub("\ufffd", buffer.getvalue())
    shapes = dict(re.findall(r'<clipPath id="(p[0-9a-f]{10})">(.*?)</clipPath>', svg, flags=re.DOTALL))
    names = {name: f"p{sha256_of(f'{salt} {shape}'.encode())[:10]}" for name, shape in shapes.items()}
    return re.sub(r"\bp[0-9a-f]{10}\b", lambda name: names.get(name[0], name[0]), svg)


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


def text_width(names: Iterable[str]) -> float:
    """Inches for the longest of these names."""
    return 0.085 * max(map(len, names), default=0)


def add_legend(ax: Axes, **style: Any) -> None:
    """Add a legend of all labelled artists, also of labels that matplotlib skips, such as `_a`; none without labels."""
    shapes = (Line2D, Patch, Collection)
    artists = [*(artist for artist in ax.get_children() if isinstance(artist, shapes)), *ax.containers]
    labelled = [
        artist for artist in artists if not re.fullmatch(r"(_(child|container)\d+|_nolegend_)?", artist.get_label())
    ]
    if labelled:
        legend = ax.legend(labelled, ["name"] * len(labelled), **{"frameon": False, **style})
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


NARROW_WIDTH = 3.1
"""Width in inches of a figure that a screen of 360 pixels shows in full."""
MOST_COLUMNS, MOST_NUMBERED = 16, 4
"""Columns of a heat map, and of one with numbers in its cells, up to which it is legible at that width."""


def set_narrow(figure: Figure) -> bool:
    """Set a drawn figure again for a narrow screen: panels in one column, legends below, long names in several lines.

    Returns whether it was set again: not if it is narrow already, or has a heat map with too many columns.
    """
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None and ax.get_visible() and ax.axison]
    crowded = (np.ptp(ax.get_xlim()) > (MOST_NUMBERED if ax.texts else MOST_COLUMNS) for ax in panels if ax.images)
    if not panels or figure.get_figwidth() <= NARROW_WIDTH or any(crowded):
        return False
    heights, legends = zip(*map(_narrow_heights, panels), strict=True)
    grid = GridSpec(len(panels), 1, figure=figure, height_ratios=heights)
    for row, ax in enumerate(panels):
        ax.set_subplotspec(grid[row, 0])
        _wrap_texts(ax)
    for ax in figure.axes:
        if not ax.axison:
            ax.remove()
    figure.set_size_inches(NARROW_WIDTH, sum(heights) + sum(legends))
    beside = [
        (ax, legend) for ax, height in zip(panels, legends, strict=True) if height and (legend := ax.get_legend())
    ]
    for _, legend in beside:
        legend.set_in_layout(False)
    if beside:
        figure.draw_without_rendering()
    for ax, legend in beside:  # below the labels of the axis, as high as they turned out
        labels = ax.xaxis.get_tightbbox() or ax.bbox
        below = ScaledTranslation(-0.6, (labels.y0 - ax.bbox.y0) / figure.dpi, figure.dpi_scale_trans)
        legend.set_bbox_to_anchor((0, 0), transform=ax.transAxes + below)
        legend.set_in_layout(True)
    return True


def _narrow_heights(ax: Axes) -> tuple[float | int, float | int]:
    """Inches for a panel with its labels, and for a legend beside it, before it is set again."""
    legend, line = ax.get_legend(), 1.4 * TEXT_SIZE / 72
    inches = ax.get_window_extent().height / ax.figure.dpi + 4 * line
    rows = [label.get_text() for label in ax.get_yticklabels()]
    lines = max((len(textwrap.wrap(row, _ROW_LETTERS)) for row in rows), default=1)
    below = 0 if legend is None or not _is_beside(ax) else (len(legend.get_texts()) + 1) * line
    return max(inches, lines * len(rows) * line + 4 * line), below


_ROW_LETTERS, _LABEL_LETTERS = 15, 30
"""Letters in a line of the name of a row, and of a label or title, at `NARROW_WIDTH`."""


def _wrap_texts(ax: Axes) -> None:
    rows = [label.get_text() for label in ax.get_yticklabels()]
    if max(map(len, rows), default=0) > _ROW_LETTERS:
        ax.set_yticks(ax.get_yticks(), [textwrap.fill(row, _ROW_LETTERS) for row in rows], **LITERAL_TEXT)
    columns = [label.get_text() for label in ax.get_xticklabels()]
    if isinstance(ax.xaxis.get_major_locator(), FixedLocator) and sum(map(len, columns)) > _LABEL_LETTERS - len(
        columns
    ):
        ax.tick_params(axis="x", labelrotation=90)
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
        text.set_text(textwrap.fill(text.get_text(), _LABEL_LETTERS))


def _is_beside(ax: Axes) -> bool:
    legend = ax.get_legend()
    return legend is not None and bool(legend.get_bbox_to_anchor().x0 >= ax.bbox.x1 - 1)
