"""Settings: validation of dataclass fields against their annotations, and JSON conversion.

Libraries were considered: msgspec converts an integer 1 in a float field to 1.0, accepts unknown and missing keys, and
rejects unions of dataclasses; cattrs needs a hook for each kind of annotation to be strict, in 1.5 times the code.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, fields, is_dataclass
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
    for name, annotation in field_types(type(settings)).items():
        value = getattr(settings, name)
        # A default may violate its annotation, such as `x: int = None` in user code.
        annotation = Any if value is getattr(type(settings), name, annotation) else annotation
        converted = convert_value(annotation, value, f"{prefix}{name}")
        if name in _SEEDS and converted is not None:
            converted = _SEEDS[name](converted, f"{prefix}{name}")
        object.__setattr__(settings, name, converted)


def later_field(default: Any) -> Any:
    """A field added after runs were stored: settings written without it are read with the default."""
    return field(default=default, metadata={_LATER: True})


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
    conditions = {word: bound for word, bound in bounds.items() if bound is not None}
    for name, value in numbers.items():
        entries = value if isinstance(value, tuple | list) else (value,)
        if not all(
            _COMPARISONS[word](number, bound)
            for number in entries
            if number is not None
            for word, bound in conditions.items()
        ):
            rule = " and ".join(f"{word} {bound}" for word, bound in conditions.items())
            raise ToylabError(f"{name}={value}: must be {rule}{remedy and '; '}{remedy}")


def check_seed(seed: Any, name: str = "seed") -> int:
    """A seed as a Python integer. Raises `ToylabError` unless it is an integer of at least 0."""
    integer = convert_value(int, seed, name)
    check_range(**{name: integer}, least=0)
    return integer


def check_seeds(seeds: Any, name: str = "seeds") -> tuple[int, ...]:
    """The seeds of a study. Raises `ToylabError` if they are empty, repeated or negative."""
    integers = convert_value(tuple[int, ...], seeds, name)
    if not integers or len(set(integers)) != len(integers):
        raise ToylabError(f"{name}={integers}: give at least one, all different and not negative, such as 0 1 2")
    check_range(**{name: integers}, least=0)
    return integers


def torch_seed(seed: Any, purpose: str = "") -> int:
    """A seed for torch; seeds above 32 bits are hashed, since torch's CPU generator uses only the low 32 bits.

    Initial weights have no `purpose`; anything else has one, so that it is independent of the weights of its seed.
    """
    integer = check_seed(seed)
    if integer < 2**32 and not purpose:
        return integer
    return int.from_bytes(hashlib.sha256(f"{integer}{purpose}".encode()).digest()[:4])


def convert_value(annotation: Any, value: Any, name: str) -> Any:
    """Convert a value to the type of an annotation; dataclasses are also built from their JSON form (`as_json`).

    Raises:
        ToylabError: with the setting, for a value of another type.
    """
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ToylabError(f"{name}={plain}: must be a finite number")
    if isinstance(plain, Mapping) and (classes := dataclasses_of(annotation)):
        return _build_dataclass(classes, plain, name)
    for choice in choices_of(annotation):
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
                converted = [
                    convert_value(item_annotation, item, f"{name}[{i}]") for i, (item_annotation, item) in pairs
                ]
                return converted if form is list else tuple(converted)
        elif form in (dict, Mapping):
            if isinstance(plain, Mapping):
                keys, values = parts or (Any, Any)
                return {
                    _key(keys, key, name): convert_value(values, converted, f"{name}.{key}")
                    for key, converted in plain.items()
                }
        elif isinstance(form, type) and is_dataclass(form):
            if isinstance(value, form):
                check_settings(value, f"{name}.")
                return value
        else:  # any other annotation: numpy scalars become Python numbers, the rest is unchanged
            return value if isinstance(plain, list) else plain
    if plain is not value and isinstance(plain, list) and len(plain) == 1:  # a one-element array
        return convert_value(annotation, plain[0], name)
    words = [word for choice in choices_of(annotation) if get_origin(choice) is Literal for word in get_args(choice)]
    if words and isinstance(plain, str):
        raise unknown_name(name, plain, map(str, words))
    raise ToylabError(f"{name}={plain!r}: must be {type_in_words(annotation)}")


def read_words(annotation: Any, words: Sequence[str], name: str) -> Any:
    """A setting from words of the command line: `1 16` for a pair; of any number of integers also `0..9` and `0,1,2`.

    Raises:
        ToylabError: with the setting, for words that its annotation does not allow.
    """
    parts = sorted(choices_of(annotation), key=lambda choice: choice in (float, str))  # 1 is an integer if it may be
    for choice in parts:
        try:
            return convert_value(annotation, _parse(choice, list(words)), name)
        except OverflowError:
            most = f"must be at most {_MOST_OF_A_RANGE:,} numbers"
            raise ToylabError(f"{name}={' '.join(words)}: {most}; give a shorter range") from None
        except ValueError:
            continue
    options = [word for choice in parts if get_origin(choice) is Literal for word in get_args(choice)]
    if options and len(words) == 1:
        raise unknown_name(name, words[0], map(str, options))
    raise ToylabError(f"{name}={' '.join(words)}: must be {type_in_words(annotation)}")


def _parse(annotation: Any, words: list[str]) -> Any:
    """A value of a type without alternatives, or of the first that fits. Raises ValueError for other words."""
    form, inner = get_origin(annotation) or annotation, get_args(annotation)
    if form in (Union, UnionType):
        return read_words(annotation, words, "")
    if form in (tuple, list, Sequence):
        item = inner[0] if (inner and form is not tuple) or inner[1:] == (...,) else None
        if item is not None:
            words = [part for word in words for part in _expand(word)] if item is int else words
            size = len(get_args(item)) if get_origin(item) is tuple else 1
            inner = (item,) * (len(words) // size)
        sizes = [len(get_args(one)) if get_origin(one) is tuple else 1 for one in inner]
        if sum(sizes) != len(words):
            raise ValueError(words)
        rest = iter(words)
        return tuple(_parse(one, [next(rest) for _ in range(n)]) for one, n in zip(inner, sizes, strict=True))
    (word,) = words
    if form is Literal:
        (value,) = (option for option in inner if str(option) == word)
        return value
    if form in (bool, NoneType):
        names = {"none": None} if form is NoneType else {"true": True, "false": False}
        if word.lower() not in names:
            raise ValueError(word)
        return names[word.lower()]
    return form(word) if form in (int, float) else word


_MOST_OF_A_RANGE = 10_000


def _expand(word: str) -> list[str]:
    """`0..3` and `0,1,2,3` as single numbers. Raises ValueError for a range without numbers, OverflowError for one that
    would fill the memory."""
    parts = []
    for part in word.split(","):
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", part)
        if ends is not None and int(ends[1]) > int(ends[2]):
            raise ValueError(part)
        if ends is not None and int(ends[2]) - int(ends[1]) >= _MOST_OF_A_RANGE:
            raise OverflowError(part)
        parts += [part] if ends is None else map(str, range(int(ends[1]), int(ends[2]) + 1))
    return parts


def as_json(value: Any, name: str, annotation: Any = None) -> Any:
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
        cls = type(value)
        open_class = annotation is not None and dataclasses_of(annotation) != [cls]
        tag = {"class": cls.__name__} if open_class else {}
        return tag | {
            n: as_json(getattr(value, n), f"{name}.{n}", annotation and k) for n, k in field_types(cls).items()
        }
    if isinstance(value, Mapping):
        value = {key.tolist() if hasattr(key, "tolist") else key: item for key, item in value.items()}
        if invalid_keys := [key for key in value if not isinstance(key, str | int | float | bool | None)]:
            raise ToylabError(f"{name}: has the key {invalid_keys[0]!r}; keys of JSON are text")
        inner = next(
            (get_args(choice)[1] for choice in choices_of(annotation) if get_origin(choice) in (dict, Mapping)),
            annotation and Any,
        )
        return {key: as_json(item, f"{name}.{key}", inner) for key, item in value.items()}
    if isinstance(value, tuple | list | range):
        candidates = (
            _items(choice, len(value))
            for choice in choices_of(annotation)
            if get_origin(choice) in (tuple, list, Sequence)
        )
        inner = next((choice for choice in candidates if choice is not None), [annotation and Any] * len(value))
        return [as_json(v, f"{name}[{i}]", k) for i, (v, k) in enumerate(zip(value, inner, strict=True))]
    raise ToylabError(f"{name}: is a {type(value).__name__}, which JSON has no form for; give numbers, text, lists")


@cache
def field_types(settings: type) -> dict[str, Any]:
    """Annotations of the init fields of a settings dataclass."""
    hints: dict[str, Any] = {}
    with suppress(NameError):  # a name imported under TYPE_CHECKING only
        hints = get_type_hints(settings)
    annotations = {}
    for one in fields(settings):
        annotation, default = hints.get(one.name, Any), one.default
        if annotation is Any and isinstance(default, tuple):
            annotation = tuple
        if is_dataclass(default) and not dataclasses_of(annotation):  # a protocol, as in `task: Task = Parity()`
            annotation = Union[type(default), annotation]  # noqa: UP007
        if one.init:
            annotations[one.name] = annotation
    return annotations


def kebab_case(name: str) -> str:
    """The name of a class on the command line."""
    return re.sub(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "-", name).lower()


def type_in_words(annotation: Any) -> str:
    """An annotation as text for error messages."""

    def choice_in_words(choice: Any) -> str:
        form, parts = get_origin(choice) or choice, get_args(choice)
        if form is Literal:
            return f"one of {', '.join(map(str, parts))}"
        if form in (tuple, list, Sequence) and parts:
            is_variadic = form is not tuple or parts[-1] is Ellipsis
            return (
                f"several of: {type_in_words(parts[0])}" if is_variadic else f"({', '.join(map(type_in_words, parts))})"
            )
        return _WORDS.get(form, getattr(form, "__name__", str(form)))

    return " or ".join(dict.fromkeys(map(choice_in_words, choices_of(annotation))))


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The parts of a union, or else the annotation itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def dataclasses_of(annotation: Any) -> list[type]:
    """The dataclasses among the parts of a union."""
    forms = (get_origin(choice) or choice for choice in choices_of(annotation))
    return [form for form in forms if isinstance(form, type) and is_dataclass(form)]


def _items(annotation: Any, size: int) -> list[Any] | None:
    """Annotations of the items of a tuple or list; None for a tuple of another length."""
    parts = get_args(annotation)
    if get_origin(annotation) is tuple and parts[-1] is not Ellipsis:
        return list(parts) if len(parts) == size else None
    return [parts[0] if parts else Any] * size


def _key(annotation: Any, key: Any, name: str) -> Any:
    if isinstance(key, str) and {int, float, bool} & {*choices_of(annotation)}:
        with suppress(ValueError):
            key = json.loads(key)  # JSON keys are strings
    return convert_value(annotation, key, f"a key of {name}")


def _build_dataclass(classes: Sequence[type], mapping: Mapping[str, Any], name: str) -> Any:
    """Build a dataclass from its JSON form, choosing the class by the key "class" or by its field names."""
    content = {key: value for key, value in mapping.items() if key != "class"}
    candidates = list(classes)
    if tag := mapping.get("class"):
        candidates = [cls for cls in _with_subclasses(classes) if cls.__name__ == tag]
        if not candidates:
            raise ToylabError(
                f"{name}: is a {tag}, and its annotation has {', '.join(cls.__name__ for cls in classes)}; give it all "
                "classes that it may have, such as A | B"
            )
    if len(candidates) > 1:
        candidates = [cls for cls in candidates if field_types(cls).keys() == content.keys()]
    if len(candidates) != 1:
        raise ToylabError(f"{name}: does not tell which of {', '.join(cls.__name__ for cls in classes)} it is")
    known = field_types(candidates[0])
    later = {one.name for one in fields(candidates[0]) if _LATER in one.metadata}
    for key in sorted((known.keys() ^ content.keys()) - (later - content.keys())):
        if key not in known:
            raise ToylabError(f"{name}: {unknown_name('setting', key, known)}")
        raise ToylabError(f"{name}.{key}: is missing; {candidates[0].__name__} has {', '.join(known)}")
    mapping = {key: convert_value(known[key], value, f"{name}.{key}") for key, value in content.items()}
    try:
        return candidates[0](**mapping)
    except ToylabError as error:  # raised in `__post_init__`, with the field name only
        raise ToylabError(f"{name}.{error}") from None


def _with_subclasses(classes: Iterable[type]) -> list[type]:
    return [*dict.fromkeys(subclass for cls in classes for subclass in (cls, *_with_subclasses(cls.__subclasses__())))]


_COMPARISONS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}

_SEEDS = {"seed": check_seed, "seeds": check_seeds}
"""Field names with seed validation in every settings class."""

_LATER = "added after runs were stored"

_SCALARS = {bool: bool, int: int, float: int | float, str: str, NoneType: NoneType}


_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", NoneType: "None"}
