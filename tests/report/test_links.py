"""The figure of a row: links are drawn where they are."""

import numpy as np
from matplotlib.patches import Arc

from toylab.report.links import plot_links


def test_each_link_is_an_arc_from_its_query_up_to_its_key_and_a_marker_at_the_key():
    links = {"back": np.array([[3, 0], [4, 1], [4, 4]]), "none": np.zeros((0, 2), dtype=int)}
    ax = plot_links([*"ab$cd"], ["", "", "", "$x$", "y"], links)
    arcs = [patch for patch in ax.patches if isinstance(patch, Arc)]
    ends = [sorted((arc.center[1] - arc.height / 2, arc.center[1] + arc.height / 2)) for arc in arcs]
    assert ends == [[0, 3], [1, 4], [4, 4]]
    marked = next(line for line in ax.lines if len(line.get_ydata()))
    assert list(marked.get_ydata()) == [0, 1, 4]
    said = {text.get_position()[1]: text.get_text() for text in ax.texts if text.get_position()[0] > 1}
    assert said[3] == "$x$"
    low, high = ax.get_ylim()
    assert low > 4
    assert high < 0
