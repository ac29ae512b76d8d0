"""The grid of a sweep: every combination of the values of its axes."""

from __future__ import annotations

import difflib
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_origin

from toylab.console import ToylabError, unknown_name
from toylab.runs.study import Study, check_study
from toylab.settings import field_types, type_in_words


def grid(study: Study, axes: Mapping[str, Iterable[Any]]) -> list[Study]:
    """Every combination of settings, in the order of the axes.

    Args:
        study: the base settings.
        axes: values by setting name, such as `model.positions`; `seed` gives each run one seed.

    Raises:
        ValueError: for an unknown setting, an axis without values, or a combination that the study rejects.
    """
    values = {name: list(held) for name, held in axes.items()}
    for name, held in values.items():
        if not held:
            raise ToylabError(f"{name}: has no values in the grid; give at least one, such as {name}=1,2")
        setting_type(study, name)
    return [_at(study, dict(zip(values, point, strict=True))) for point in itertools.product(*values.values())]


def _at(study: Study, point: Mapping[str, Any]) -> Study:
    changes = {name: value for name, value in point.items() if name != "seed"}
    if "seed" in point:
        changes["seeds"] = (point["seed"],)
    try:
        made = _replaced(study, changes)
        check_study(made)
        return made
    except ToylabError as error:
        where = ", ".join(f"{name}={value}" for name, value in point.items())
        raise ToylabError(f"the grid's point {where}: {error}") from None


def _replaced(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Nested settings with values replaced by dotted name; all at once, since intermediate settings may be invalid."""
    own = {name: value for name, value in changes.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if "." in name:
            head, _, rest = name.partition(".")
            inner.setdefault(head, {})[rest] = value
    own |= {head: _replaced(_held(settings, head), deeper) for head, deeper in inner.items()}
    return {**settings, **own} if isinstance(settings, Mapping) else replace(settings, **own)


def setting_type(study: Study, name: str) -> Any:
    """The type of a setting.

    Raises:
        ValueError: for an unknown name, with similar names.
    """
    if name == "seed":
        return int
    known = flatten_settings(study)
    if name not in known:
        near = [one for one in known if one.endswith(f".{name}")]
        near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise unknown_name("setting", name, known, near)
    settings: Any = study
    *way, last = name.split(".")
    for step in way:
        settings = _held(settings, step)
    return type(settings[last]) if isinstance(settings, Mapping) else field_types(type(settings))[last]


def _held(settings: Any, name: str) -> Any:
    return settings[name] if isinstance(settings, Mapping) else getattr(settings, name)


def read_axes(study: Study, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Axes of a grid from the command line: `model.positions=none,rotary`, `seed=0..19`, `train.rows=16,32`.

    A value of several parts, such as a pair of lengths, joins them with `+`.

    Raises:
        ValueError: for an axis that is not `NAME=VALUES`, is given twice, or has a value of the wrong type.
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not name:
            raise ToylabError(f"grid {text!r}: must be NAME=VALUES, such as model.positions=none,rotary or seed=0..19")
        if name in axes:
            raise ToylabError(f"grid {name}: is given twice; give all its values at once, separated by commas")
        kind = setting_type(study, name)
        axes[name] = [one for part in values.split(",") for one in _read(kind, name, part)]
    return axes


_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def _read(kind: Any, name: str, text: str) -> list[Any]:
    import tyro

    if (ends := _RANGE.fullmatch(text)) and kind is int:
        first, last = map(int, ends.groups())
        if last < first:
            raise ToylabError(f"grid {name}={text}: the range is empty; put the smaller number first")
        return list(range(first, last + 1))
    if is_dataclass(kind):
        raise ToylabError(f"grid {name}: is a group of settings; give one of {', '.join(f.name for f in fields(kind))}")
    try:
        parts = text.split("+") if get_origin(kind) is tuple else [text]
        with redirect_stderr(io.StringIO()):  # replaced by a one-line error below
            return [tyro.cli(kind, args=parts, console_outputs=False)]
    except SystemExit:
        raise ToylabError(f"grid {name}={text}: must be {type_in_words(kind)}") from None


def flatten_settings(held: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    if is_dataclass(held):
        held = {field.name: getattr(held, field.name) for field in fields(held)}
    found: dict[str, Any] = {}
    for name, value in held.items():
        if is_dataclass(value) or (isinstance(value, dict) and value):
            found |= flatten_settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
