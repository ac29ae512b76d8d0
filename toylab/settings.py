"""Settings: every field of a dataclass held to its annotation, and its JSON form.

By hand: msgspec writes the 1 of a float as 1.0, takes unknown and missing keys of dataclasses and no union of these;
with cattrs, which needs a hook of ours for each form of annotation to be strict, this file is half as long again.
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
    """Check every field of a dataclass of settings against its annotation: the first line of each `__post_init__`.

    Numbers and arrays of numpy and torch become Python's, and lists become tuples where a tuple is asked for: equal
    settings have equal hashes and one JSON form.

    Raises:
        ToylabError: naming the field, for a word that is no option, NaN, infinity, a value of another type, or what is
            no seed in a field `seed` or `seeds`.
    """
    for name, kind in field_types(type(settings)).items():
        value = getattr(settings, name)
        # A default of somebody's own class may be outside of its annotation, such as `x: int = None`.
        kind = Any if value is getattr(type(settings), name, kind) else kind
        held = convert_value(kind, value, f"{prefix}{name}")
        if name in _SEEDS and held is not None:
            held = _SEEDS[name](held, f"{prefix}{name}")
        object.__setattr__(settings, name, held)


def check_option(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raises `ToylabError` for a value that is none of the options, with the nearest one."""
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
    """Check that numbers, and those of tuples, lie in a range; NaN lies in none, and None is no number.

    Raises:
        ToylabError: with the name, the value, the rule and, if there is one, the remedy.
    """
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    given = {word: bound for word, bound in bounds.items() if bound is not None}
    for name, value in numbers.items():
        each = value if isinstance(value, tuple | list) else (value,)
        if not all(_HOLDS[word](one, bound) for one in each if one is not None for word, bound in given.items()):
            rule = " and ".join(f"{word} {bound}" for word, bound in given.items())
            raise ToylabError(f"{name}={value}: must be {rule}{remedy and '; '}{remedy}")


def check_seed(seed: Any, name: str = "seed") -> int:
    """A seed as Python's integer. Raises `ToylabError` for anything else than an integer of at least 0."""
    whole = convert_value(int, seed, name)
    check_range(**{name: whole}, least=0)
    return whole


def check_seeds(seeds: Any, name: str = "seeds") -> tuple[int, ...]:
    """The seeds of a study. Raises `ToylabError` unless there are some, all different, none negative."""
    whole = convert_value(tuple[int, ...], seeds, name)
    if not whole or len(set(whole)) != len(whole):
        raise ToylabError(f"{name}={whole}: give at least one, all different and not negative, such as 0 1 2")
    check_range(**{name: whole}, least=0)
    return whole


def torch_seed(seed: Any) -> int:
    """A seed for torch, whose CPU generator looks at the low 32 bits alone: larger seeds are hashed to 32 bits."""
    whole = check_seed(seed)
    return whole if whole < 2**32 else int.from_bytes(hashlib.sha256(str(whole).encode()).digest()[:4])


def convert_value(kind: Any, value: Any, name: str) -> Any:
    """A value in the form that an annotation asks for; a dataclass is also built from its JSON form (`as_json`).

    Raises:
        ToylabError: naming the setting, for a value that does not fit.
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
        else:  # an annotation of which nothing is known: numbers of numpy become Python's, all else stays
            return value if isinstance(plain, list) else plain
    if plain is not value and isinstance(plain, list) and len(plain) == 1:  # an array of one number
        return convert_value(kind, plain[0], name)
    words = [word for choice in _choices(kind) if get_origin(choice) is Literal for word in get_args(choice)]
    if words and isinstance(plain, str):
        raise unknown_name(name, plain, map(str, words))
    raise ToylabError(f"{name}={plain!r}: must be {type_in_words(kind)}")


def as_json(value: Any, name: str, kind: Any = None) -> Any:
    """A value as JSON holds it, with Python's numbers for those of numpy and torch.

    Args:
        name: of the value, for errors.
        kind: its annotation, if `convert_value` is to read it back: a dataclass whose class the annotation leaves open
        then
            carries the name of its class under "class", which no field can have as its name.

    Raises:
        ToylabError: naming the key, for NaN, infinity, or what JSON cannot hold.
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
    """The annotation of each field that an object of settings is made from."""
    hints: dict[str, Any] = {}
    with suppress(NameError):  # a name that is imported for type checkers alone
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
    """An annotation in words."""

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
    """The annotations of the items of a tuple or list; None for a tuple of another size."""
    parts = get_args(kind)
    if get_origin(kind) is tuple and parts[-1] is not Ellipsis:
        return list(parts) if len(parts) == size else None
    return [parts[0] if parts else Any] * size


def _key(kind: Any, key: Any, name: str) -> Any:
    if isinstance(key, str) and {int, float, bool} & {*_choices(kind)}:
        with suppress(ValueError):
            key = json.loads(key)  # keys of JSON are text
    return convert_value(kind, key, f"a key of {name}")


def _built(classes: Sequence[type], held: Mapping[str, Any], name: str) -> Any:
    """An object of one of these classes from its JSON form, which tells the class or has the fields of one alone."""
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
    except ToylabError as error:  # of a rule of its own, which names the field alone
        raise ToylabError(f"{name}.{error}") from None


def _with_subclasses(classes: Iterable[type]) -> list[type]:
    return [*dict.fromkeys(two for one in classes for two in (one, *_with_subclasses(one.__subclasses__())))]


_HOLDS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}

_SEEDS = {"seed": check_seed, "seeds": check_seeds}
"""What the fields of these names hold in every class of settings."""

_SCALARS = {bool: bool, int: int, float: int | float, str: str, NoneType: NoneType}


_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NoneType: "None"}
