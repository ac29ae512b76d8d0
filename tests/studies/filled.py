"""Made-up results in which no two numbers are equal: reading another number than one should is seen."""

from __future__ import annotations

import random
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Between:
    """A range in which a number is drawn."""

    low: float
    high: float


def number(path: str, low: float = 0.0, high: float = 1.0) -> float:
    """Between these, another one for every path."""
    return random.Random(path).uniform(low, high)


def made_up(kind: Any, path: str, given: Mapping[str, Any]) -> Any:
    """A result of this type.

    Args:
        path: its name, from which its numbers follow.
        given: by the end of a path, such as "head.carry", what stands there, or a range; the longest end counts.
    """
    matching = [end for end in given if path.endswith(f".{end}")]
    value = given[max(matching, key=len)] if matching else Between(0, 1)
    return _filled(kind, path, given, value) if isinstance(value, Between) else value


def _filled(kind: Any, path: str, given: Mapping[str, Any], ends: Between) -> Any:
    form, parts = get_origin(kind) or kind, get_args(kind)
    if form in (Union, types.UnionType):
        return _filled(next(part for part in parts if part is not type(None)), path, given, ends)
    if is_dataclass(form):
        hints = get_type_hints(form)
        return form(**{one.name: made_up(hints[one.name], f"{path}.{one.name}", given) for one in fields(form)})
    if form is list:
        return [_filled(parts[0], f"{path}.{k}", given, ends) for k in range(4)]
    if form is tuple:
        return tuple(_filled(part, f"{path}.{k}", given, ends) for k, part in enumerate(parts) if ... not in parts)
    if form is dict:
        keys = range(4, 7) if parts[0] is int else ("a", "b")
        return {key: _filled(parts[1], f"{path}.{key}", given, ends) for key in keys}
    if form is bool:
        return number(path) < 0.5
    if form is int:
        return int(number(path, 0, 10**6))
    if form is str or form is Literal:
        return path
    return number(path, ends.low, ends.high)
