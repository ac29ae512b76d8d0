"""Laws of settings on their way: they come back from JSON and from flags as they were."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.examples import fewer
from tests.flags import parsed
from tests.settings_classes import RESULTS, SETTINGS, hints
from toylab import tasks
from toylab.console import ToylabError
from toylab.runs.judge import settings_flags, settings_from_json
from toylab.settings import as_json, check_settings, convert_value
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Copy, IteratedMap, ModularSum, Parity, Polynomial, Task, WordProblem
from toylab.tasks.strategies import instances

# Through JSON --------------------------------------------------------------------------------------------------------


def back(settings: Any, default: Any = None) -> Any:
    told = json.dumps(as_json(settings, "settings", type(settings)))
    return settings_from_json(settings if default is None else default, json.loads(told))


@dataclass(frozen=True, kw_only=True)
class Deep:
    """Settings inside settings, with a choice."""

    inner: Copy | ModularSum = Copy()
    rate: float | int = 1


@dataclass(frozen=True, kw_only=True)
class Wide:
    """One field of every form that settings may have."""

    choice: Parity | Polynomial = Parity()
    twins: Copy | ModularSum = Copy()
    maybe: Parity | None = None
    any_map: IteratedMap = WordProblem()
    any_task: Task = Parity()
    deep: Deep = Deep()
    several: tuple[Copy | ModularSum, ...] = (ModularSum(), Copy(p=3))
    pairs: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    mixed: tuple[int, str] | int = (1, "a")
    by_number: dict[int, float] = field(default_factory=lambda: {1: 0.5})
    by_name: dict[str, tuple[int, ...]] = field(default_factory=dict)
    listed: list[int] = field(default_factory=list)
    words: tuple[Literal["a", "b"], ...] = ("a",)
    note: str = ""

    def __post_init__(self) -> None:
        check_settings(self)


MAPS = st.one_of(*(instances(kind) for kind in (Copy, ModularSum, Parity, Polynomial, WordProblem)))
TWINS = instances(Copy) | instances(ModularSum)
WIDE = st.builds(
    Wide,
    choice=instances(Parity) | instances(Polynomial),
    twins=TWINS,
    maybe=st.none() | instances(Parity),
    any_map=MAPS,
    deep=st.builds(Deep, inner=TWINS, rate=st.integers(1, 4) | st.floats(0, 2)),
    several=st.lists(TWINS, max_size=3).map(tuple),
    pairs=st.lists(st.tuples(st.integers(), st.integers()), min_size=1, max_size=3).map(tuple),
    mixed=st.integers() | st.tuples(st.integers(), st.text()),
    by_number=st.dictionaries(st.integers(), st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    by_name=st.dictionaries(st.text(), st.lists(st.integers(), max_size=2).map(tuple), max_size=2),
    listed=st.lists(st.integers(), max_size=2),
    words=st.lists(st.sampled_from("ab"), max_size=3).map(tuple),
    note=st.text(),
)


@given(WIDE)
def test_settings_of_every_form_come_back_from_json(settings):
    assert back(settings, Wide()) == settings
    assert [type(one) for one in back(settings).several] == [type(one) for one in settings.several]


@pytest.mark.parametrize("kind", SETTINGS)
def test_all_settings_come_back_from_json_written_by_either_way(kind):
    assert back(kind()) == kind() == settings_from_json(kind(), json.loads(json.dumps(asdict(kind()))))


@given(st.sampled_from(tasks.TASKS).flatmap(instances))
def test_every_task_comes_back_from_json(task):
    assert back(task, type(task)()) == task


FINITE = st.floats(allow_nan=False, allow_infinity=False)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """All that an annotation of a result allows and JSON holds."""
    form, parts = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(form):
        return st.builds(form, **{name: values(hint) for name, hint in hints(form).items()})
    if form in (Union, UnionType):
        return st.one_of(*map(values, parts))
    if form is tuple and parts[-1] is not Ellipsis:
        return st.tuples(*map(values, parts))
    if form in (tuple, list):
        return st.lists(values(parts[0]), max_size=2).map(form)
    if form is dict:
        return st.dictionaries(*map(values, parts), max_size=2)
    return FINITE if kind is float else st.from_type(kind)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("kind", RESULTS)
@settings(fewer(0.3), phases=[Phase.generate])  # the simplest of hundreds of fields takes minutes to find
@given(st.data())
def test_results_of_every_study_come_back_from_json_and_are_written_alike_again(kind, data):
    result = data.draw(values(kind))
    told = json.dumps(as_json(result, "result", kind))
    read = convert_value(kind, json.loads(told), "result")
    assert read == result
    assert json.dumps(as_json(read, "result", kind)) == told


@pytest.mark.parametrize("kind", [float, list[float], dict[int, float]])
def test_a_whole_number_stays_one_where_any_number_may_stand(kind):
    value = {float: 1, list[float]: [1, 2], dict[int, float]: {3: 1}}[kind]
    assert repr(convert_value(kind, value, "x")) == repr(value)


def test_classes_are_told_apart_by_their_fields_where_json_does_not_name_them():
    for choice in (Parity(lengths=3), Polynomial(p=7)):
        plain = as_json(Wide(choice=choice), "settings", Wide)
        del plain["choice"]["class"]
        assert settings_from_json(Wide(), plain).choice == choice
    del plain["twins"]["class"]
    with pytest.raises(ToylabError, match=r"^settings\.twins: does not tell which of Copy, ModularSum it is"):
        settings_from_json(Wide(), plain)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_key_that_is_unknown_or_missing_is_refused_by_name(kind):
    whole = as_json(kind(), "settings", kind)
    for path, held in inner_objects(whole, "settings"):
        for key in held:
            broken = copy.deepcopy(whole)
            walk(broken, path).pop(key)
            if {key, f"{kind.__name__}.{key}"} & LATER:
                assert settings_from_json(kind(), broken) == kind()
            else:
                with pytest.raises(ToylabError, match=rf"^{path}\.{key}: is missing"):
                    settings_from_json(kind(), broken)
            broken = copy.deepcopy(whole)
            walk(broken, path)[f"{key}x"] = 1
            with pytest.raises(ToylabError, match=rf"^{path}: there is no setting '{key}x'; "):
                settings_from_json(kind(), broken)


LATER = {"dropout", "IterationHeadStudy.parts", "IterationHeadStudy.exact_inputs"}
"""Settings that were added after runs were stored: where a file lacks them, they have their defaults."""


def inner_objects(held: Any, path: str) -> list[tuple[str, dict]]:
    if not isinstance(held, Mapping):
        return []
    return [(path, held)] + [one for key, value in held.items() for one in inner_objects(value, f"{path}.{key}")]


def walk(held: Any, path: str) -> Any:
    for step in path.split(".")[1:]:
        held = held[step]
    return held


def test_a_class_that_the_annotation_does_not_have_is_refused_by_name():
    told = as_json(Wide(any_task=Polynomial()), "settings", Wide)
    with pytest.raises(ToylabError, match=r"^settings\.any_task: is a Polynomial, and its annotation has Parity"):
        settings_from_json(Wide(), told)


@given(
    st.recursive(st.integers() | st.floats() | st.none() | st.text(), lambda x: st.lists(x, max_size=3), max_leaves=6)
)
def test_json_holds_all_but_what_is_not_finite_and_names_where_that_is(value):
    def broken(held: Any) -> bool:
        return any(map(broken, held)) if isinstance(held, list) else isinstance(held, float) and not math.isfinite(held)

    if broken(value):
        with pytest.raises(ToylabError, match=r"^result\.tests\.state(\[\d+\])*=-?(nan|inf): "):
            as_json({"tests": {"state": value}}, "result")
    else:
        assert as_json({"tests": {"state": value}}, "result") == {"tests": {"state": value}}


def test_json_takes_the_numbers_of_numpy_and_torch_for_what_they_are():
    value = {
        np.int64(3): np.int64(3),
        "a": np.arange(2),
        "b": torch.eye(1),
        "c": np.bool_(True),
        "d": (np.float32(0.5),),
    }
    assert json.dumps(as_json(value, "x")) == '{"3": 3, "a": [0, 1], "b": [[1.0]], "c": true, "d": [0.5]}'


# As flags ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Flagged:
    """Settings that the command line can give, a choice of classes among them."""

    choice: Parity | Polynomial = Parity()
    deep: Deep = Deep()
    maybe: ModularSum | None = None
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0, "b": 2.0})
    yes: bool = True
    limit: int | None = None
    note: str = ""


@fewer(0.4)
@given(
    st.builds(
        Flagged,
        choice=instances(Parity) | instances(Polynomial),
        deep=st.builds(Deep, inner=TWINS, rate=st.integers(1, 4)),
        maybe=st.none() | instances(ModularSum),
        pairs=st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 9)), min_size=1, max_size=3).map(tuple),
        weights=st.fixed_dictionaries({"a": st.floats(-2, 2), "b": st.floats(-2, 2)}),
        yes=st.booleans(),
        limit=st.none() | st.integers(-9, 9),
        note=st.text("ab -", max_size=4).filter(lambda note: note != "--"),  # which ends the options
    )
)
def test_flags_make_one_setting_out_of_another(settings):
    assert settings_flags(settings, settings) == []
    for default in (Flagged(), replace(Flagged(), choice=Polynomial(p=5), maybe=ModularSum(p=3))):
        assert parsed(Flagged, default, settings_flags(default, settings)) == settings


def test_a_rule_of_an_inner_setting_is_told_with_its_whole_path():
    study = IterationHeadStudy()
    held = as_json(study, "settings", IterationHeadStudy)
    held["train"]["weight_decay"] = -1.0
    with pytest.raises(ToylabError, match=r"^settings\.train\.weight_decay=-1\.0: "):
        settings_from_json(study, held)
