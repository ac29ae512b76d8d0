"""Laws of grids: every combination of settings once, and a mistake in an axis is named."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.helpers import Own, Size, Small
from toylab.console import ToylabError
from toylab.runs import sweep as sweeps
from toylab.runs.grid import grid, read_axes
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.studies.iteration_head.study import IterationHeadStudy


@given(
    st.lists(st.sampled_from([12, 16, 20, 48]), min_size=1, unique=True),
    st.lists(st.sampled_from([1, 2]), min_size=1, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
)
def test_a_grid_holds_every_combination_in_order_and_changes_nothing_else(widths, heads, seeds):
    study = IterationHeadStudy.quick()
    made = grid(study, {"model.width": widths, "model.heads": heads, "seed": seeds})
    expected = [
        replace(study, model=replace(study.model, width=w, heads=h), seeds=(s,))
        for w, h, s in itertools.product(widths, heads, seeds)
    ]
    assert made == expected


def test_only_the_whole_point_is_checked():
    made = grid(Small(), {"size.width": [10, 15], "size.heads": [5]})
    assert [point.size for point in made] == [Size(10, 5), Size(15, 5)]
    with pytest.raises(ValueError, match=r"the grid's point size\.width=10, size\.heads=3: width=10: must be divis"):
        grid(Small(), {"size.width": [12, 10], "size.heads": [3]})


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (["size.width=6,12"], {"size.width": [6, 12]}),
        (["seed=0..3"], {"seed": [0, 1, 2, 3]}),
        (["seed=5,7..9"], {"seed": [5, 7, 8, 9]}),
        (["kind=round,plain", "rate=.5,2"], {"kind": ["round", "plain"], "rate": [0.5, 2]}),
        (["lengths=1+6,2+8"], {"lengths": [(1, 6), (2, 8)]}),
    ],
)
def test_axes_are_read_with_the_types_of_the_settings(axes, expected):
    assert read_axes(Small(), axes) == expected


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (["kind"], r"grid 'kind': must be NAME=VALUES, such as"),
        (["kind=plain", "kind=round"], r"grid kind: is given twice"),
        (["knd=plain"], r"there is no setting 'knd'; did you mean kind\?"),
        (["width=3"], r"there is no setting 'width'; did you mean size\.width\?"),
        (["zzz=3"], r"there is no setting 'zzz'; there are size\.width, size\.heads, kind"),
        (["kind=square"], r"there is no grid kind 'square'; there are plain, round"),
        (["size.width=wide"], r"grid size\.width=wide: must be a whole number"),
        (["size.width=6.5"], r"grid size\.width=6\.5: must be a whole number"),
        (["seed=9..3"], r"grid seed=9\.\.3: the range is empty"),
        (["size=3"], r"there is no setting 'size'"),
        (["size.width="], r"grid size\.width=: must be a whole number"),
        (["lengths=1"], r"grid lengths=1: must be \(a whole number, a whole number\)"),
    ],
)
def test_a_mistake_in_an_axis_is_named_with_what_is_possible(axes, told, capsys):
    with pytest.raises(ValueError, match=told):
        read_axes(Small(), axes)
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Picky(Small):
    """A study whose own check raises what it likes."""

    def __post_init__(self) -> None:
        if self.kind == "round":
            raise ValueError("of the study")


def test_what_a_study_raises_for_its_settings_keeps_its_class():
    with pytest.raises(ValueError, match=r"^of the study$") as error:
        grid(Picky(), {"kind": ["plain", "round"]})
    assert not isinstance(error.value, ToylabError)


def test_an_axis_without_values_is_refused():
    with pytest.raises(ValueError, match=r"kind: has no values in the grid"):
        grid(Small(), {"kind": []})


@pytest.mark.parametrize("study", [IterationHeadStudy.quick(), ContextualCountingStudy.quick()])
def test_every_setting_of_a_study_can_be_an_axis(study):
    for name, value in sweeps.flatten_settings(study).items():
        assert grid(study, {name: [value]}) == [study]


def test_values_of_numpy_and_torch_are_the_points_of_plain_ones(small):
    plain = grid(small, {"kind": ["plain", "round"], "rate": [0.5], "lengths": [(1, 6)], "seed": [0, 1]})
    kinds = np.array(["plain", "round"])
    for axes in (
        {"rate": np.float32([0.5]), "lengths": np.array([[1, 6]]), "seed": np.arange(2)},
        {"rate": torch.tensor([0.5]), "lengths": [[np.int8(1), 6]], "seed": torch.arange(2)},
    ):
        made = grid(small, {"kind": kinds} | axes)
        assert made == plain
        assert list(map(hash, made)) == list(map(hash, plain))
    for wrong in ({"kind": ["plian"]}, {"rate": [math.nan]}, {"seed": [-1]}, {"seed": [True]}, {"size.heads": [1.5]}):
        with pytest.raises(ValueError, match=f"the grid's point .*{next(iter(wrong)).split('.')[0]}"):
            grid(small, wrong)


def test_entries_of_a_dictionary_are_axes():
    study = Own(weights={"a": 1.0, "b": 2.0})
    assert [one.weights for one in grid(study, {"weights.b": [3.0, 4]})] == [{"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 4}]
    assert read_axes(study, ["weights.a=5"]) == {"weights.a": [5.0]}
    with pytest.raises(ValueError, match=r"there is no setting 'weights\.c'"):
        grid(study, {"weights.c": [1.0]})
