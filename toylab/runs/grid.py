"""The grid of a sweep: every combination of the values of its axes."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from toylab.console import ToylabError, unknown_name
from toylab.runs.study import Study, check_study
from toylab.settings import field_types, read_words


def grid(study: Study, axes: Mapping[str, Iterable[Any]]) -> list[Study]:
    """Every combination of settings, in the order of the axes.

    Args:
        study: the base settings.
        axes: values by setting name, such as `model.positions`. Each value of the axis `seed` gives a study with that
            seed alone.

    Raises:
        ToylabError: for an unknown setting, an axis without values, or a combination that the study rejects.
    """
    values = {name: list(axis_values) for name, axis_values in axes.items()}
    for name, axis_values in values.items():
        if not axis_values:
            raise ToylabError(f"{name}: has no values in the grid; give at least one, such as {name}=1,2")
        setting_type(study, name)  # raises for an unknown setting
    return [_study_at(study, dict(zip(values, point, strict=True))) for point in itertools.product(*values.values())]


def _study_at(study: Study, point: Mapping[str, Any]) -> Study:
    changes = {name: value for name, value in point.items() if name != "seed"}
    if "seed" in point:
        changes["seeds"] = (point["seed"],)
    try:
        point_study = _replace_nested(study, changes)
        check_study(point_study)
        return point_study
    except ToylabError as error:
        point_in_words = ", ".join(f"{name}={value}" for name, value in point.items())
        raise ToylabError(f"the grid's point {point_in_words}: {error}") from None


def _replace_nested(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Nested settings with values replaced by dotted name; all at once, since intermediate settings may be invalid."""
    direct = {name: value for name, value in changes.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if "." in name:
            head, _, rest = name.partition(".")
            inner.setdefault(head, {})[rest] = value
    direct |= {head: _replace_nested(_get_setting(settings, head), deeper) for head, deeper in inner.items()}
    return {**settings, **direct} if isinstance(settings, Mapping) else replace(settings, **direct)


def setting_type(study: Study, name: str) -> Any:
    """The type of a setting.

    Raises:
        ToylabError: for an unknown name, with similar names.
    """
    if name == "seed":
        return int
    known = flatten_settings(study)
    if name not in known:
        similar = [known_name for known_name in known if known_name.endswith(f".{name}")]
        similar = similar or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise unknown_name("setting", name, known, similar)
    settings: Any = study
    *path, last = name.split(".")
    for step in path:
        settings = _get_setting(settings, step)
    return type(settings[last]) if isinstance(settings, Mapping) else field_types(type(settings))[last]


def _get_setting(settings: Any, name: str) -> Any:
    return settings[name] if isinstance(settings, Mapping) else getattr(settings, name)


def read_axes(study: Study, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Axes of a grid from the command line: `model.positions=none,rotary`, `seed=0..19`, `train.rows=16,32`.

    A value of several parts, such as a pair of lengths, joins them with `+`.

    Raises:
        ToylabError: for an axis that is not `NAME=VALUES`, is given twice, or has a value of the wrong type.
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not name:
            raise ToylabError(f"grid {text!r}: must be NAME=VALUES, such as model.positions=none,rotary or seed=0..19")
        if name in axes:
            raise ToylabError(f"grid {name}: is given twice; give all its values at once, separated by commas")
        value_type = setting_type(study, name)
        axes[name] = [value for part in values.split(",") for value in _parse_values(value_type, name, part)]
    return axes


_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def _parse_values(value_type: Any, name: str, text: str) -> list[Any]:
    if (range_match := _RANGE.fullmatch(text)) and value_type is int:
        first, last = map(int, range_match.groups())
        if last < first:
            raise ToylabError(f"grid {name}={text}: the range is empty; put the smaller number first")
        return list(range(first, last + 1))
    if is_dataclass(value_type):
        raise ToylabError(
            f"grid {name}: is a group of settings; give one of {', '.join(f.name for f in fields(value_type))}"
        )
    return [read_words(value_type, text.split("+") if "+" in text else [text], f"grid {name}")]


def flatten_settings(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    if is_dataclass(settings):
        settings = {field.name: getattr(settings, field.name) for field in fields(settings)}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if is_dataclass(value) or (isinstance(value, dict) and value):
            flat |= flatten_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
