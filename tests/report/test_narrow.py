"""Laws of figures that are read: text of one size, shades with a scale, whole points, and a form for narrow screens."""

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from tests.report.test_figures import SMALL
from toylab.report import canvas, figures

MANY = {
    "plot_attention": lambda ax=None: figures.plot_attention(np.eye(14), list("abcdefghijklmn"), ax=ax),
    "plot_by_seed": lambda ax=None: figures.plot_by_seed(
        {f"a long name of a group, {n}": {"x": [0.0, 0.5], "y": [1.0]} for n in range(9)}, xlabel="share", ax=ax
    ),
    "plot_heatmap": lambda ax=None: figures.plot_heatmap(
        {"a row": [0.5, -1.0], "b": [0, 1]}, ["x", "y"], xlabel="z", ax=ax
    ),
    "plot_planes": lambda ax=None: figures.plot_planes(
        {f"seed {n}": [0.0, n, 1] for n in range(9)},
        [1.0, 0.1, 0.01],
        ylabel="a long label of an axis, in units",
        ax=ax,
    ),
    "plot_stacked_shares": lambda ax=None: figures.plot_stacked_shares(
        {f"a long name, {n}": {"first": 0.25, "second": 0.7, "third": 0.05} for n in range(4)}, xlabel="share", ax=ax
    ),
}
FIGURES = {**SMALL, **{f"{name} with many": [draw] for name, draw in MANY.items()}}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_one_size_of_text_a_scale_for_its_shades_and_no_point_that_is_cut(name):
    ax = FIGURES[name][-1]()
    ax.figure.draw_without_rendering()
    assert {text.get_fontsize() for text in ax.figure.findobj(Text) if text.get_text()} == {canvas.TEXT_SIZE}
    assert all(image.colorbar is not None for image in ax.images)
    inside = ax.get_window_extent().padded(0.5)
    for line in ax.lines:
        if line.get_marker() not in ("None", "", None):
            assert not line.get_clip_on(), line.get_label()
            points = ax.transData.transform(line.get_xydata())
            assert all(inside.contains(x, y) for x, y in points if not np.isnan(y)), line.get_label()
            assert line.get_markersize() >= 4


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_for_a_narrow_screen_is_set_again_and_not_shrunk(name):
    figure = FIGURES[name][-1]().figure
    words = {text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()}
    wide = figure.get_figwidth()
    figure.draw_without_rendering()
    assert canvas.set_narrow(figure) == (wide > canvas.NARROW_WIDTH)
    svg = ElementTree.fromstring(canvas.to_svg(figure))
    assert float(svg.attrib["width"].removesuffix("pt")) <= 72 * canvas.NARROW_WIDTH + 15
    assert {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()} == {canvas.TEXT_SIZE}
    named = {word for word in words if word.startswith(("a ", "seed", "x", "y"))}
    assert named <= {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}


def test_panels_stand_below_each_other_on_a_narrow_screen_each_with_its_legend():
    figure = figures.plot_panels({f"panel {n}": {"a": ([0, 1], [0, 1])} for n in range(4)}, ylabel="accuracy")
    figure.draw_without_rendering()
    assert canvas.set_narrow(figure)
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
    assert all(ax.get_legend().get_window_extent().y1 <= ax.bbox.y0 for ax in figure.axes)
    legible = [ax.bbox.width / figure.dpi for ax in figure.axes]
    assert min(legible) > 0.6 * canvas.NARROW_WIDTH


def test_a_heat_map_with_many_columns_keeps_its_cells():
    for draw in (
        lambda: figures.plot_attention(np.eye(30), ["a"] * 30),
        lambda: figures.plot_heatmap({"a": [1.0] * 9}, ["x"] * 9, xlabel="token"),
    ):
        assert not canvas.set_narrow(draw().figure)


def test_panels_that_are_compared_have_the_same_scale():
    _, axes = canvas.new_figure(6, 3, columns=2)
    for ax, top in zip(axes[0], (1, 5), strict=True):
        figures.plot_histograms({"a": [1.0] * top, "b": [10.0 * top]}, xlabel="norm", ax=ax)
    for axis in ("x", "y"):
        canvas.share_limits([*axes[0]], axis)
        one, other = (getattr(ax, f"get_{axis}lim")() for ax in axes[0])
        assert one == other
    assert one[0] <= 0 < 5 <= one[1]


def test_no_room_is_left_for_a_quantity_that_a_row_lacks():
    ax = figures.plot_by_seed({"a": {"x": [0.5], "y": [0.2]}, "b": {"y": [0.3]}}, xlabel="share")
    ax.figure.draw_without_rendering()
    assert ax.get_tightbbox().y0 == pytest.approx(ax.xaxis.get_tightbbox().y0)


def test_the_numbers_of_a_heat_map_and_of_its_scale_have_one_precision():
    for largest, expected in (
        (0.7, {".70", "-.20", "-.70", "0"}),
        (9.96, {"10.0", "-2.8", "-10.0", "0"}),
        (262.4, {"262", "-75", "-262", "0"}),
    ):
        ax = figures.plot_heatmap({"a": [largest, -2 * largest / 7, largest / 9]}, list("xyz"), xlabel="z")
        ax.figure.draw_without_rendering()
        ticks = {label.get_text() for label in ax.images[0].colorbar.ax.get_yticklabels()}
        assert ticks | {text.get_text() for text in ax.texts} == expected


@pytest.mark.parametrize("name", MANY)
def test_the_legend_of_a_narrow_figure_lies_below_the_labels_of_its_axis(name):
    ax = MANY[name]()
    if canvas.set_narrow(ax.figure) and ax.get_legend():
        ax.figure.draw_without_rendering()
        assert ax.get_legend().get_window_extent().y1 <= ax.xaxis.get_tightbbox().y0 + 1
