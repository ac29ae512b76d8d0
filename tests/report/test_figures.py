"""Laws of figures: all that is given is drawn and labelled, nothing global changes, and content alone makes bytes."""

import inspect
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tests.examples import fewer
from toylab.report import canvas, figures

SMALL = {
    "plot_attention": [
        lambda ax=None: figures.plot_attention(np.array([[1.0]]), ["a"], ax=ax),
        lambda ax=None: figures.plot_attention(np.eye(3), ["a", "b", "c"], links=np.array([[2, 0]]), title="t", ax=ax),
        lambda ax=None: figures.plot_attention(np.eye(2), ["a", "b"], links=np.empty((0, 2), dtype=int), ax=ax),
        lambda ax=None: figures.plot_attention(np.zeros((2, 2)), ["a", "a"], ax=ax),
    ],
    "plot_curves": [
        lambda ax=None: figures.plot_curves({}, ylabel="accuracy", ax=ax),
        lambda ax=None: figures.plot_curves({"one": ([], [])}, ylabel="accuracy", threshold=0.5, ax=ax),
        lambda ax=None: figures.plot_curves({"one": ([0], [0.5])}, ylabel="accuracy", title="t", ax=ax),
        lambda ax=None: figures.plot_curves(
            {str(n): ([0, 1], [0.0, n / 9]) for n in range(9)}, ylabel="accuracy", ax=ax
        ),
    ],
    "plot_by_seed": [
        lambda ax=None: figures.plot_by_seed({}, xlabel="share", ax=ax),
        lambda ax=None: figures.plot_by_seed({"group": {}}, xlabel="share", ax=ax),
        lambda ax=None: figures.plot_by_seed({"group": {"accuracy": []}}, xlabel="share", chance=0.1, ax=ax),
        lambda ax=None: figures.plot_by_seed(
            {"a": {"x": [1.0]}, "b": {"y": [0.5, 0.2]}}, xlabel="share", title="t", ax=ax
        ),
    ],
}
SMALL |= {
    "plot_growth": [
        lambda ax=None: figures.plot_growth({}, xlabel="width", exponents={}, ax=ax),
        lambda ax=None: figures.plot_growth({"a": ((2, 4), (0.1, 0.4))}, xlabel="width", exponents={"a": 2.0}, ax=ax),
        lambda ax=None: figures.plot_growth(
            {"a": ((2, 4), (0.1, 0.4)), "b": ((2,), (0.2,))},
            xlabel="width",
            exponents={"a": 2.0, "b": 1.0},
            title="t",
            ax=ax,
        ),
    ],
    "plot_saturation": [
        lambda ax=None: figures.plot_saturation([], ax=ax),
        lambda ax=None: figures.plot_saturation([(0, 0), (6.5, 0.9)], title="t", ax=ax),
    ],
    "plot_agreement": [
        lambda ax=None: figures.plot_agreement({}, xlabel="predicted", ylabel="measured", ax=ax),
        lambda ax=None: figures.plot_agreement(
            {"a": [(1, 1)], "b": [(0.2, 0.4), (1.0, 0.9)]}, xlabel="predicted", ylabel="measured", ax=ax
        ),
    ],
    "plot_stacked_shares": [
        lambda ax=None: figures.plot_stacked_shares({}, xlabel="share", ax=ax),
        lambda ax=None: figures.plot_stacked_shares(
            {"row": {"a": 1.0}, "other": {"a": 0.25, "b": 0.75}}, xlabel="share", ax=ax
        ),
    ],
    "plot_planes": [
        lambda ax=None: figures.plot_planes({}, [1.0, 0.1], ylabel="score", ax=ax),
        lambda ax=None: figures.plot_planes({"a": [1, 2], "b": [0.5, -0.5]}, [1.0, 0.001], ylabel="score", ax=ax),
    ],
}
SMALL |= {
    "plot_bands": [
        lambda ax=None: figures.plot_bands({}, ["1"], xlabel="layer", ylabel="tau", ax=ax),
        lambda ax=None: figures.plot_bands(
            {"safe": [(1, 0.5)], "unsafe": [(-1, 0)]}, ["1"], xlabel="layer", ylabel="tau", title="t", ax=ax
        ),
    ],
    "plot_dose_response": [
        lambda ax=None: figures.plot_dose_response({}, xlabel="dose", ylabel="share", ax=ax),
        lambda ax=None: figures.plot_dose_response(
            {"a": ([0, 1.5], [0.1, 1]), "b": ([], [])}, xlabel="dose", ylabel="share", mark=1, title="t", ax=ax
        ),
    ],
    "plot_heatmap": [
        lambda ax=None: figures.plot_heatmap({}, [], xlabel="token", ax=ax),
        lambda ax=None: figures.plot_heatmap({"a": [0, 0]}, ["x", "y"], xlabel="token", ax=ax),
        lambda ax=None: figures.plot_heatmap({"a": [1.0], "b": [-0.3]}, ["x"], xlabel="token", title="t", ax=ax),
    ],
    "plot_intervals": [
        lambda ax=None: figures.plot_intervals({}, xlabel="width", ylabel="accuracy", ax=ax),
        lambda ax=None: figures.plot_intervals({"": {}}, xlabel="width", ylabel="accuracy", ax=ax),
        lambda ax=None: figures.plot_intervals(
            {"a": {"none": (0.5, 0.2, 0.7)}, "b": {"none": (1, 1, 1)}},
            xlabel="positions",
            ylabel="accuracy",
            title="t",
            ax=ax,
        ),
        lambda ax=None: figures.plot_intervals(
            {str(k): {8: (k, k, k), 16.5: (1, 0, 2)} for k in range(7)}, xlabel="width", ylabel="accuracy", ax=ax
        ),
    ],
    "plot_histograms": [
        lambda ax=None: figures.plot_histograms({}, xlabel="norm", ax=ax),
        lambda ax=None: figures.plot_histograms({"a": [], "b": []}, xlabel="norm", ax=ax),
        lambda ax=None: figures.plot_histograms({"a": [0.0, 3, 3], "b": [2e4]}, xlabel="norm", title="t", ax=ax),
    ],
}


def test_these_tests_know_every_function_that_draws():
    drawing = [
        name
        for name, function in inspect.getmembers(figures, inspect.isfunction)
        if function.__module__ == figures.__name__
        and "ax" in inspect.signature(function).parameters
        and not name.startswith("_")
    ]
    assert sorted(drawing) == sorted(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_small_and_empty_input_is_drawn_on_labelled_axes_and_leaves_nothing_behind(name):
    for draw in SMALL[name]:
        with mpl.rc_context():
            before, open_before = dict(mpl.rcParams), pyplot.get_fignums()
            ax = draw()
            text = canvas.to_svg(ax.figure)
            assert isinstance(ax, Axes)
            assert ax.get_xlabel()
            assert ax.get_ylabel() or name in (
                "plot_by_seed",
                "plot_stacked_shares",
                "plot_heatmap",
            )  # rows have the names of their groups
            assert ElementTree.fromstring(text).tag.endswith("svg")
            assert pyplot.get_fignums() == open_before
            assert dict(mpl.rcParams) == before
    assert canvas.to_svg(draw().figure) == text  # the same content is the same bytes


@pytest.mark.parametrize("name", SMALL)
def test_axes_that_are_given_are_the_ones_drawn_on(name):
    for draw in SMALL[name]:
        figure, axes = canvas.new_figure(4.0, 3.0, columns=2)
        assert draw(ax=axes[0, 1]) is axes[0, 1]
        assert axes[0, 1].has_data() or axes[0, 1].get_xlabel()
        assert not axes[0, 0].has_data()
        assert len([ax for ax in figure.axes if ax.get_label() != "<colorbar>"]) == 2


def test_other_content_is_other_bytes():
    one, other = (figures.plot_curves({"a": ([0, 1], [0.0, end])}, ylabel="y") for end in (0.5, 0.6))
    assert canvas.to_svg(one.figure) != canvas.to_svg(other.figure)


@pytest.mark.slow
def test_importing_figures_opens_no_window_and_loads_no_pyplot():
    code = "import sys, toylab.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_svg_has_no_date_no_address_and_keeps_words_as_words():
    text = canvas.to_svg(figures.plot_curves({"line": ([0], [1.0])}, ylabel="share & <more>").figure)
    assert "share &amp; &lt;more&gt;" in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)
    for name, value in re.findall(r"([\w:]+)\s*=\s*\"([^\"]*)\"", text):
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


@fewer(0.3)
@given(st.integers(1, 6), st.data())
def test_an_attention_map_shows_each_weight_at_its_query_and_key(size, data):
    rows = st.lists(st.floats(0, 1), min_size=size, max_size=size)
    pattern = np.array(data.draw(st.lists(rows, min_size=size, max_size=size)))
    links = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=3))
    tokens = [f"token {n}" for n in range(size)]
    ax = figures.plot_attention(pattern, tokens, links=np.array(links, dtype=int).reshape(-1, 2))
    (image,) = ax.images
    assert np.array_equal(image.get_array(), pattern)
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in ax.get_xticklabels()] == tokens
    assert [label.get_text() for label in ax.get_yticklabels()] == tokens
    squares = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [(s.get_y() + 0.5, s.get_x() + 0.5) for s in squares] == links
    dark, light = (sum(image.cmap(image.norm(weight))[:3]) for weight in (1.0, 0.0))
    assert dark < light


def test_curves_show_every_run_with_its_name_and_lines_differ_without_colour():
    runs = {f"seed {n}": ([0, 10, 20], [0.0, n / 5, 1.0]) for n in range(5)}
    ax = figures.plot_curves(runs, ylabel="accuracy", threshold=0.99)
    lines = [line for line in ax.lines if line.get_label() in runs]
    assert {line.get_label(): line.get_ydata().tolist() for line in lines} == {n: list(y) for n, (_, y) in runs.items()}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(runs)
    assert len({(line.get_linestyle(), line.get_alpha()) for line in lines}) == len(runs)
    assert any(line.get_ydata() == [0.99, 0.99] for line in ax.lines if line not in lines)


NAMED = {
    "plot_attention": lambda n, ax=None: figures.plot_attention(np.eye(2), [n, "b"], queries=["c", n], title=n, ax=ax),
    "plot_curves": lambda n, ax=None: figures.plot_curves(
        {n: ([0, 1], [0, 1]), "b": ([0], [1])}, ylabel=n, title=n, ax=ax
    ),
    "plot_by_seed": lambda n, ax=None: figures.plot_by_seed({n: {n: [0.5], "b": [1.0]}}, xlabel=n, title=n, ax=ax),
    "plot_growth": lambda n, ax=None: figures.plot_growth(
        {n: ((2, 4), (0.1, 0.4))}, xlabel=n, exponents={n: 2.0}, title=n, ax=ax
    ),
    "plot_saturation": lambda n, ax=None: figures.plot_saturation([(1, 0.5)], title=n, ax=ax),
    "plot_agreement": lambda n, ax=None: figures.plot_agreement({n: [(1, 1)]}, xlabel=n, ylabel=n, ax=ax),
    "plot_stacked_shares": lambda n, ax=None: figures.plot_stacked_shares({n: {n: 0.5, "b": 0.5}}, xlabel=n, ax=ax),
    "plot_planes": lambda n, ax=None: figures.plot_planes({n: [1, 2]}, [1.0, 0.1], ylabel=n, ax=ax),
    "plot_bands": lambda n, ax=None: figures.plot_bands({n: [(1, 0.5)]}, [n], xlabel=n, ylabel=n, title=n, ax=ax),
    "plot_dose_response": lambda n, ax=None: figures.plot_dose_response(
        {n: ([0], [1])}, xlabel=n, ylabel=n, title=n, ax=ax
    ),
    "plot_histograms": lambda n, ax=None: figures.plot_histograms({n: [3, 20], "b": [5]}, xlabel=n, title=n, ax=ax),
    "plot_heatmap": lambda n, ax=None: figures.plot_heatmap({n: [1.0]}, [n], xlabel=n, title=n, ax=ax),
    "plot_intervals": lambda n, ax=None: figures.plot_intervals(
        {n: {n: (1, 0, 2)}}, xlabel=n, ylabel=n, title=n, ax=ax
    ),
}
"""Every function with a name of somebody's setting wherever it takes text, and how often that is drawn."""
TIMES = {
    "plot_attention": 3, "plot_curves": 3, "plot_by_seed": 4, "plot_growth": 3, "plot_saturation": 1,
    "plot_agreement": 3, "plot_stacked_shares": 3, "plot_planes": 2,
    "plot_bands": 5, "plot_dose_response": 4, "plot_histograms": 3, "plot_heatmap": 4, "plot_intervals": 5,
}  # fmt: skip
AWKWARD = [
    "$5 or $6", "$$", "$x$", "$\\frac", "\\frac{", "a_b", "a_b^c", "_a", "__", "^", "\\alpha", "%d", "50 %", "{x}",
    "a & <b>", '"', "größe", "--",
]  # fmt: skip
HOSTILE = '_$\\frac{&<"$'
"""Broken as mathematics and as XML, and matplotlib leaves out of its legends what begins with a line below."""


def texts(ax: Axes) -> list[str]:
    found = ElementTree.fromstring(canvas.to_svg(ax.figure)).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(one.itertext()) for one in found]


@pytest.mark.parametrize("function", SMALL)
def test_names_of_settings_are_drawn_as_they_are(function):
    drawn = texts(NAMED[function](HOSTILE))
    whole = {HOSTILE, f"{HOSTILE}:" * (function == "plot_growth")}
    shown = [text for text in drawn if text in whole]
    assert len(shown) == TIMES[function], drawn
    assert ("power 2.00" in drawn) == (function == "plot_growth")


def test_every_awkward_name_is_drawn_as_it_is_on_ticks_and_in_legends():
    for names in (AWKWARD[::2], AWKWARD[1::2]):
        means = [(1, 0.5)] * len(names)
        drawn = texts(figures.plot_bands(dict.fromkeys(names, means), names, xlabel="x", ylabel="y"))
        assert sorted(text for text in drawn if text in names) == sorted(2 * names)


def test_awkward_names_are_none_of_matplotlibs_own_and_a_plain_line_gets_no_name():
    _, axes = canvas.new_figure(4, 3)
    axes[0, 0].plot([0, 1], [0, 1])
    ax = figures.plot_dose_response({"_a": ([0], [1])}, xlabel="x", ylabel="y", ax=axes[0, 0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["_a"]
    ax.set_title("$later$")
    assert "$later$" in texts(ax)


def test_axes_of_powers_keep_their_mathematics():
    """Ticks of a logarithmic axis are ours: they are powers of ten, and not dollars."""
    drawn = texts(figures.plot_histograms({"a": [1.0, 1e6]}, xlabel="norm"))
    assert not any("$" in text or "mathdefault" in text for text in drawn)


@pytest.mark.parametrize("char", ["\0", "\x0b", "\x1b", "\uffff"])
def test_characters_that_xml_has_not_leave_the_figure_whole(char):
    assert "a\ufffdb" in texts(figures.plot_dose_response({f"a{char}b": ([0], [1])}, xlabel="x", ylabel="y"))


def points(ax: Axes) -> list[float]:
    """All values that stand as points, not as the strokes at their means."""
    return sorted(x for line in ax.lines if line.get_marker() not in ("None", "", None) for x in line.get_xdata())


def test_seeds_are_points_and_means_are_strokes():
    groups = {"first": {"accuracy": [0.2, 0.4], "carry": [0.9]}, "second": {"carry": [0.5, 0.7]}}
    ax = figures.plot_by_seed(groups, xlabel="share", chance=0.1)
    assert points(ax) == [0.2, 0.4, 0.5, 0.7, 0.9]
    strokes = [line for line in ax.lines if line.get_marker() in ("None", "", None)]
    means = {round(float(line.get_xdata()[0]), 6) for line in strokes if line.get_linestyle() != ":"}
    assert means == {0.3, 0.9, 0.6}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["accuracy", "carry"]
    used = {(line.get_marker(), line.get_color()) for line in ax.lines if line not in strokes}
    assert len(used) == 2
    low, high = figures.plot_by_seed({"gain": {"share": [-0.2, 1.3]}}, xlabel="share").get_xlim()
    assert low < -0.2 < 1.3 < high


def test_no_quantity_is_left_out_unseen():
    groups = {"group": {name: [n / 10] for n, name in enumerate("abcd")}}
    try:
        drawn = points(figures.plot_by_seed(groups, xlabel="share"))
    except ValueError as error:
        drawn = re.findall(r"4|four", str(error))  # a refusal that says how many are too many would do as well
    assert drawn in ([0.0, 0.1, 0.2, 0.3], ["4"], ["four"])


def test_a_sheet_has_the_size_and_the_axes_asked_for():
    figure, axes = canvas.new_figure(5.0, 3.0, columns=3, rows=2)
    assert axes.shape == (2, 3)
    assert figure.get_size_inches().tolist() == [5.0, 3.0]
    assert figure.canvas.manager is None


def test_an_attention_map_may_have_queries_of_another_kind_than_its_keys():
    ax = figures.plot_attention(
        np.array([[0.1, 0.2, 0.7]]), ["a", "b", "c"], queries=["region 1"], links=np.array([[0, 2]])
    )
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["region 1"]
    (square,) = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert (square.get_x() + 0.5, square.get_y() + 0.5) == (2, 0)


def test_the_saturation_curve_is_half_at_one_and_points_stand_where_they_were_measured():
    ax = figures.plot_saturation([(0, 0.0), (9, 0.8)])
    measured, curve = ax.lines
    assert measured.get_xydata().tolist() == [[0, 0], [9, 0.8]]
    assert np.interp(1.0, curve.get_xdata(), curve.get_ydata()) == pytest.approx(0.5, abs=1e-3)
    assert curve.get_xdata().max() == 9


def test_what_was_foretold_stands_over_the_line_of_equality():
    ax = figures.plot_agreement({"a": [(0.5, 0.6)], "b": [(1, 1)]}, xlabel="predicted", ylabel="measured")
    line, *groups = ax.lines
    assert np.array_equal(*line.get_data())
    assert [group.get_xydata().tolist() for group in groups] == [[[0.5, 0.6]], [[1, 1]]]
    assert len({(group.get_marker(), group.get_color()) for group in groups}) == 2


def test_bars_are_cut_into_shares_that_follow_each_other():
    ax = figures.plot_stacked_shares({"one": {"a": 0.25, "b": 0.75}, "two": {"b": 1.0}}, xlabel="share")
    pieces = [(round(p.get_y() + 0.3), p.get_x(), p.get_width()) for p in ax.patches if p.get_width()]
    assert sorted(pieces) == [(0, 0, 0.25), (0, 0.25, 0.75), (1, 0, 1)]
    assert len({(tuple(p.get_facecolor()), p.get_hatch()) for p in ax.patches}) == 2
    assert {text.get_text() for text in ax.texts} == {".25", ".75", "1.00"}


def test_the_stroke_divides_planes_that_turn_by_a_radian_from_those_that_do_not():
    ax = figures.plot_planes({"a": [3, 1, 2]}, [1.0, 0.02, 0.01], ylabel="score", span=64)
    assert ax.lines[0].get_ydata().tolist() == [3, 1, 2]
    assert any(line.get_xdata() == [1.5, 1.5] for line in ax.lines[1:] if len(line.get_xdata()) == 2)


def test_a_band_runs_one_deviation_either_side_of_its_line():
    ax = figures.plot_bands({"safe": [(1, 0.5), (3, 1)]}, ["1", "2"], xlabel="layer", ylabel="tau")
    line = next(line for line in ax.lines if line.get_label() == "safe")
    assert line.get_xydata().tolist() == [[0, 1], [1, 3]]
    (band,) = ax.collections
    edges = {(round(x), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert {(0, 0.5), (0, 1.5), (1, 2.0), (1, 4.0)} <= edges
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2"]


def test_every_response_is_drawn_and_told_apart_without_colour():
    doses, shares = [0.0, 1.0, 2.0], [0.1, 0.5, 0.9]
    ax = figures.plot_dose_response({str(n): (doses, shares) for n in range(5)}, xlabel="dose", ylabel="share", mark=1)
    lines = [line for line in ax.lines if line.get_label() in "01234"]
    assert all(line.get_xydata().tolist() == [list(pair) for pair in zip(doses, shares, strict=True)] for line in lines)
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 5
    assert any(list(line.get_xdata()) == [1, 1] for line in ax.lines)


def test_a_histogram_counts_every_number():
    ax = figures.plot_histograms({"safe": [1.0, 2.0, 500.0], "unsafe": [0.0, 2.0]}, xlabel="norm")
    heights = [patch.get_path().vertices[:, 1].max() for patch in ax.patches]
    assert len(ax.patches) == 2
    assert all(height >= 1 for height in heights)
    assert ax.get_xscale() == "log"
    low, high = ax.get_xlim()
    assert low <= 1e-3
    assert high >= 500
    assert len({patch.get_hatch() for patch in ax.patches}) == 2


def test_a_name_of_anything_leaves_a_picture_whole():
    assert canvas.figure_bytes(NAMED["plot_intervals"](HOSTILE).figure, "png")


def test_powers_of_a_logarithmic_axis_stay_powers():
    ax = figures.plot_growth({"work": ([8, 16, 32], [0.001, 0.01, 0.1])}, xlabel="size", exponents={"work": 1.0})
    assert "mathdefault" not in re.sub(r"<!--.*?-->", "", canvas.to_svg(ax.figure), flags=re.DOTALL)
