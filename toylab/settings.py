"""Settings: validation of dataclass fields against their annotations, and JSON conversion.

Libraries were considered: msgspec converts an integer 1 in a float field to 1.0, accepts unknown and missing keys, and
rejects unions of dataclasses; cattrs needs a hook for each kind of annotation to be strict, in 1.5 times the code.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from toylab.console import ToylabError, unknown_name


def check_settings(settings: Any, prefix: str = "") -> None:
    """Validate every field of a settings dataclass against its annotation; call it first in `__post_init__`.

    Converts numpy and torch values to Python numbers, and lists to tuples where annotated, so that equal settings have
    equal hashes and the same JSON form.

    Raises:
        ToylabError: with the field, for an unknown option, NaN, infinity, a wrong type, or an invalid seed in a field
            `seed` or `seeds`.
    """
    for name, kind in field_types(type(settings)).items():
        value = getattr(settings, name)
        # A default may violate its annotation, such as `x: int = None` in user code.
        kind = Any if value is getattr(type(settings), name, kind) else kind
        held = convert_value(kind, value, f"{prefix}{name}")
        if name in _SEEDS and held is not None:
            held = _SEEDS[name](held, f"{prefix}{name}")
        object.__setattr__(settings, name, held)


def check_option(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raises `ToylabError` for a value that is not an option, with the closest one."""
    convert_value(Literal[*options], value, name)


def check_range(
    remedy: str = "",
    /,
    *,
    least: float | int | None = None,
    above: float | int | None = None,
    most: float | int | None = None,
    below: float | int | None = None,
    **numbers: Any,
) -> None:
    """Check that numbers, or all numbers of tuples, lie in a range; NaN fails, None is skipped.

    Raises:
        ToylabError: with name, value, rule and remedy.
    """
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    given = {word: bound for word, bound in bounds.items() if bound is not None}
    for name, value in numbers.items():
        each = value if isinstance(value, tuple | list) else (value,)
        if not all(_HOLDS[word](one, bound) for one in each if one is not None for word, bound in given.items()):
            rule = " and ".join(f"{word} {bound}" for word, bound in given.items())
            raise ToylabError(f"{name}={value}: must be {rule}{remedy and '; '}{remedy}")


def check_seed(seed: Any, name: str = "seed") -> int:
    """A seed as a Python integer. Raises `ToylabError` unless it is an integer of at least 0."""
    whole = convert_value(int, seed, name)
    check_range(**{name: whole}, least=0)
    return whole


def check_seeds(seeds: Any, name: str = "seeds") -> tuple[int, ...]:
    """The seeds of a study. Raises `ToylabError` if they are empty, repeated or negative."""
    whole = convert_value(tuple[int, ...], seeds, name)
    if not whole or len(set(whole)) != len(whole):
        raise ToylabError(f"{name}={whole}: give at least one, all different and not negative, such as 0 1 2")
    check_range(**{name: whole}, least=0)
    return whole


def torch_seed(seed: Any) -> int:
    """A seed for torch; seeds above 32 bits are hashed, since torch's CPU generator uses only the low 32 bits."""
    whole = check_seed(seed)
    return whole if whole < 2**32 else int.from_bytes(hashlib.sha256(str(whole).encode()).digest()[:4])


def convert_value(kind: Any, value: Any, name: str) -> Any:
    """Convert a value to the type of an annotation; dataclasses are also built from their JSON form (`as_json`).

    Raises:
        ToylabError: with the setting, for a value of another type.
    """
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ToylabError(f"{name}={plain}: must be a finite number")
    if isinstance(plain, Mapping) and (classes := _dataclasses(kind)):
        return _built(classes, plain, name)
    for choice in _choices(kind):
        form, parts = get_origin(choice) or choice, get_args(choice)
        if form is Literal:
            if any(plain == word and type(plain) is type(word) for word in parts):
                return plain
        elif form in _SCALARS:
            if isinstance(plain, _SCALARS[form]) and (form is bool or not isinstance(plain, bool)):
                return plain
        elif form in (tuple, list, Sequence):
            if isinstance(plain, tuple | list | range) and (inner := _items(choice, len(plain))) is not None:
                pairs = enumerate(zip(inner, plain, strict=True))
                held = [convert_value(one, item, f"{name}[{i}]") for i, (one, item) in pairs]
                return held if form is list else tuple(held)
        elif form in (dict, Mapping):
            if isinstance(plain, Mapping):
                keys, values = parts or (Any, Any)
                return {
                    _key(keys, key, name): convert_value(values, held, f"{name}.{key}") for key, held in plain.items()
                }
        elif isinstance(form, type) and is_dataclass(form):
            if isinstance(value, form):
                check_settings(value, f"{name}.")
                return value
        else:  # any other annotation: numpy scalars become Python numbers, the rest is unchanged
            return value if isinstance(plain, list) else plain
    if plain is not value and isinstance(plain, list) and len(plain) == 1:  # a one-element array
        return convert_value(kind, plain[0], name)
    words = [word for choice in _choices(kind) if get_origin(choice) is Literal for word in get_args(choice)]
    if words and isinstance(plain, str):
        raise unknown_name(name, plain, map(str, words))
    raise ToylabError(f"{name}={plain!r}: must be {type_in_words(kind)}")


def as_json(value: Any, name: str, kind: Any = None) -> Any:
    """Convert a value to JSON types, with numpy and torch values as Python numbers.

    Args:
        name: name of the value, for errors.
        kind: annotation of the value, for reading it back with `convert_value`: a dataclass whose class the annotation
            leaves open then stores its class name under the key "class", which cannot be a field name.

    Raises:
        ToylabError: with the key, for NaN, infinity, or an unsupported type.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float) and not math.isfinite(value):
        raise ToylabError(f"{name}={value}: JSON has no such number; give None where there is none")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        own = type(value)
        open_class = kind is not None and _dataclasses(kind) != [own]
        tag = {"class": own.__name__} if open_class else {}
        return tag | {n: as_json(getattr(value, n), f"{name}.{n}", kind and k) for n, k in field_types(own).items()}
    if isinstance(value, Mapping):
        value = {key.tolist() if hasattr(key, "tolist") else key: held for key, held in value.items()}
        if wrong := [key for key in value if not isinstance(key, str | int | float | bool | None)]:
            raise ToylabError(f"{name}: has the key {wrong[0]!r}; keys of JSON are text")
        inner = next((get_args(one)[1] for one in _choices(kind) if get_origin(one) in (dict, Mapping)), kind and Any)
        return {key: as_json(held, f"{name}.{key}", inner) for key, held in value.items()}
    if isinstance(value, tuple | list | range):
        found = (_items(one, len(value)) for one in _choices(kind) if get_origin(one) in (tuple, list, Sequence))
        inner = next((one for one in found if one is not None), [kind and Any] * len(value))
        return [as_json(v, f"{name}[{i}]", k) for i, (v, k) in enumerate(zip(value, inner, strict=True))]
    raise ToylabError(f"{name}: is a {type(value).__name__}, which JSON has no form for; give numbers, text, lists")


@cache
def field_types(settings: type) -> dict[str, Any]:
    """Annotations of the init fields of a settings dataclass."""
    hints: dict[str, Any] = {}
    with suppress(NameError):  # a name imported under TYPE_CHECKING only
        hints = get_type_hints(settings)
    found = {}
    for field in fields(settings):
        kind, default = hints.get(field.name, Any), field.default
        if kind is Any and isinstance(default, tuple):
            kind = tuple
        if is_dataclass(default) and not _dataclasses(kind):  # a protocol, as in `task: Task = Parity()`
            kind = Union[type(default), kind]  # noqa: UP007
        if field.init:
            found[field.name] = kind
    return found


def type_in_words(kind: Any) -> str:
    """An annotation as text for error messages."""

    def one(choice: Any) -> str:
        form, parts = get_origin(choice) or choice, get_args(choice)
        if form is Literal:
            return f"one of {', '.join(map(str, parts))}"
        if form in (tuple, list, Sequence) and parts:
            several = form is not tuple or parts[-1] is Ellipsis
            return f"several of: {type_in_words(parts[0])}" if several else f"({', '.join(map(type_in_words, parts))})"
        return _WORDS.get(form, getattr(form, "__name__", str(form)))

    return " or ".join(dict.fromkeys(map(one, _choices(kind))))


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _dataclasses(kind: Any) -> list[type]:
    forms = (get_origin(choice) or choice for choice in _choices(kind))
    return [form for form in forms if isinstance(form, type) and is_dataclass(form)]


def _items(kind: Any, size: int) -> list[Any] | None:
    """Annotations of the items of a tuple or list; None for a tuple of another length."""
    parts = get_args(kind)
    if get_origin(kind) is tuple and parts[-1] is not Ellipsis:
        return list(parts) if len(parts) == size else None
    return [parts[0] if parts else Any] * size


def _key(kind: Any, key: Any, name: str) -> Any:
    if isinstance(key, str) and {int, float, bool} & {*_choices(kind)}:
        with suppress(ValueError):
            key = json.loads(key)  # JSON keys are strings
    return convert_value(kind, key, f"a key of {name}")


def _built(classes: Sequence[type], held: Mapping[str, Any], name: str) -> Any:
    """Build a dataclass from its JSON form, choosing the class by the key "class" or by its field names."""
    own = {key: value for key, value in held.items() if key != "class"}
    among = list(classes)
    if tag := held.get("class"):
        among = [one for one in _with_subclasses(classes) if one.__name__ == tag]
        if not among:
            raise ToylabError(
                f"{name}: is a {tag}, and its annotation has {', '.join(one.__name__ for one in classes)}; give it all "
                "classes that it may have, such as A | B"
            )
    if len(among) > 1:
        among = [one for one in among if field_types(one).keys() == own.keys()]
    if len(among) != 1:
        raise ToylabError(f"{name}: does not tell which of {', '.join(one.__name__ for one in classes)} it is")
    known = field_types(among[0])
    for key in sorted(known.keys() ^ own.keys()):
        if key not in known:
            raise ToylabError(f"{name}: {unknown_name('setting', key, known)}")
        raise ToylabError(f"{name}.{key}: is missing; {among[0].__name__} has {', '.join(known)}")
    held = {key: convert_value(known[key], value, f"{name}.{key}") for key, value in own.items()}
    try:
        return among[0](**held)
    except ToylabError as error:  # raised in `__post_init__`, with the field name only
        raise ToylabError(f"{name}.{error}") from None


def _with_subclasses(classes: Iterable[type]) -> list[type]:
    return [*dict.fromkeys(two for one in classes for two in (one, *_with_subclasses(one.__subclasses__())))]


_HOLDS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}

_SEEDS = {"seed": check_seed, "seeds": check_seeds}
"""Field names with seed validation in every settings class."""

_SCALARS = {bool: bool, int: int, float: int | float, str: str, NoneType: NoneType}


_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NoneType: "None"}
