"""The argument parser: errors in one line, help as wide as the terminal, every field of a settings class an option."""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from toylab.console import ToylabError, terminal_width, unknown_name
from toylab.settings import choices_of, dataclasses_of, field_types, kebab_case, read_words


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `ToylabError`; a name that is cut short is not guessed."""

    commands: Mapping[str, Parser] = {}
    """The parsers of the commands, by name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, "formatter_class": _Help, **options})
        self._negative_number_matcher = re.compile(r"-\.?\d|-inf|-nan")  # argparse would take -1e-5 for an option

    @property
    def options(self) -> list[str]:
        """All options, such as `--rows`."""
        return list(self._option_string_actions)

    def complete(self, names: Mapping[str, Sequence[str]], file: Mapping[str, str]) -> None:
        """Let a completion script suggest names for the arguments called `names`, and files for those of paths."""
        for action in self._actions:
            if action.dest in names:
                action.choices = names[action.dest]
            elif action.type is Path:
                vars(action)["complete"] = file

    def error(self, message: str) -> NoReturn:
        if match := re.fullmatch(r"argument --([\w.-]+): invalid int value: (.*)", message):
            message = f"{match[1]}={match[2]}: must be a whole number"
        elif match := re.fullmatch(r"unrecognized arguments: (-[^ =]+).*", message, re.DOTALL):
            near = difflib.get_close_matches(match[1], self.options, n=1, cutoff=0.6)
            message = f"there is no option {match[1]}"
            if near:
                raise ToylabError(f"{message}; did you mean {near[0]}?")
        raise ToylabError(f"{message.removeprefix('argument ')}; `{self.prog} --help` lists the options")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise unknown_name(action.dest, value, map(str, action.choices))


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        width = terminal_width()
        super().__init__(prog, max_help_position=34 if width >= 80 else 20, width=width)

    def _format_args(self, action: argparse.Action, default_metavar: Any) -> str:
        if isinstance(action, _Words) and action.nargs == "*":
            return str(action.metavar)
        return super()._format_args(action, default_metavar)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _Words) and action.nargs == 0:  # --a.b, --a.no-b
            prefix, dot, name = action.option_strings[0][2:].rpartition(".")
            return f"--{prefix}{dot}[no-]{name}"
        return super()._format_action_invocation(action)


class _Words(argparse.Action):
    """Keeps the words of a setting, which `settings_from_words` converts, and 0 or 1 for a flag without words."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = namespace.__dict__.setdefault("settings", {})
        if self.nargs == 0:
            given[self.dest] = [str(option_string == self.option_strings[0])]
        else:
            given[self.dest] = values if isinstance(values, list) else [values]


# Settings ------------------------------------------------------------------------------------------------------------


def add_settings(parser: Parser, settings_class: type, default: Any, words: Sequence[str]) -> None:
    """Add an option for every field of a settings class, and for those of inner classes as `--model.width`.

    Args:
        default: settings that the options override; None for the defaults of the class.
        words: the arguments, which may choose the class of a field: `--task polynomial`.
    """
    _add_class(parser, settings_class, default, "", words, {})


def settings_from_words(settings_class: type, default: Any, given: Mapping[str, list[str]], prefix: str = "") -> Any:
    """The settings of parsed options.

    Raises:
        ToylabError: with the name of the option, for a missing or invalid value.
    """
    values: dict[str, Any] = {}
    for name, annotation in field_types(settings_class).items():
        key, current = f"{prefix}{name}", _current(settings_class, default, name)
        classes = _inner_classes(annotation, current)
        if classes:
            chosen = _chosen(key, classes, current, given.get(key, [""])[-1])
            same = current if type(current) is chosen else None
            values[name] = None if chosen is None else settings_from_words(chosen, same, given, f"{key}.")
        elif isinstance(current, Mapping) and current:
            inner = get_args(annotation)[1:] or (Any,)
            words = {inner_key: given.get(f"{key}.{inner_key}") for inner_key in current}
            changed = {k: read_words(inner[0], some, f"{key}.{k}") for k, some in words.items() if some}
            values[name] = {**current, **changed}
        elif key in given:
            values[name] = read_words(annotation, given[key], key)
        elif current is MISSING:
            raise ToylabError(f"{key}: is missing; give --{_flag(key)}")
        else:
            values[name] = current
    try:
        return settings_class(**values)
    except ToylabError as error:
        named = re.match(r"(\w+)[=:]", str(error))
        raise ToylabError(f"{prefix if named and named[1] in values else ''}{error}") from None


def _add_class(
    parser: Parser, settings_class: type, default: Any, prefix: str, words: Sequence[str], shown: dict[type, str]
) -> None:
    """A section of the help; of a class that was shown before, only the defaults."""
    docs, inner, defaults = field_docs(settings_class), [], []
    earlier = shown.setdefault(settings_class, prefix)
    group = parser.add_argument_group(f"{_flag(prefix)}*" if prefix else "settings")
    for name, annotation in field_types(settings_class).items():
        key, current = f"{prefix}{name}", _current(settings_class, default, name)
        flag = f"--{_flag(key)}"
        if annotation is Any and current is MISSING:  # the task, before it is named
            continue
        kept: dict[str, Any] = {"dest": key, "default": argparse.SUPPRESS, "action": _Words}
        text = docs.get(name, "") + ("" if current is MISSING else f" (default: {_in_words(current)})")
        classes = _inner_classes(annotation, current)
        if classes:
            if len(classes) > 1 and flag not in parser.options:
                group.add_argument(flag, metavar="|".join(classes), help=docs.get(name), **kept)
            place = words.index(flag) + 1 if flag in words else len(words)
            chosen = _chosen(key, classes, current, words[place] if place < len(words) else "")
            if chosen is not None:
                inner.append((chosen, current if type(current) is chosen else None, f"{key}."))
            continue
        if flag in parser.options:  # an option of the command itself
            continue
        defaults.append(f"{_flag(name)} {_in_words(current)}")
        kept["help"] = argparse.SUPPRESS if earlier != prefix else text.strip().replace("%", "%%")
        if isinstance(current, Mapping) and current:
            for inner_key in current:
                group.add_argument(f"{flag}.{inner_key}", **{**kept, "dest": f"{key}.{inner_key}"}, metavar="VALUE")
        elif annotation is bool:
            group.add_argument(flag, f"--{_flag(prefix)}no-{_flag(name)}", nargs=0, **kept)
        else:
            forms = [get_origin(choice) or choice for choice in choices_of(annotation)]
            sequence = any(form in (tuple, list, Sequence) for form in forms)
            group.add_argument(flag, nargs="*" if sequence else None, metavar=_metavar(annotation), **kept)
    if earlier != prefix:
        group.description = _wrapped(f"As {_flag(earlier)}*, with {', '.join(defaults)}.")
    else:
        group.description = _wrapped((inspect.getdoc(settings_class) or "").split("\n\n")[0])
    for chosen, current, inner_prefix in inner:
        _add_class(parser, chosen, current, inner_prefix, words, shown)


def _current(settings_class: type, default: Any, name: str) -> Any:
    """The default of a field; `MISSING` if it must be given."""
    if default is not None:
        return getattr(default, name)
    field = next(one for one in fields(settings_class) if one.name == name)
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _inner_classes(annotation: Any, current: Any) -> dict[str, type | None]:
    """The dataclasses that a field may have, by kebab-case name; none for a field that is not a group of settings."""
    classes = [*dataclasses_of(annotation), *([type(current)] if is_dataclass(current) else [])]
    names: dict[str, type | None] = {kebab_case(one.__name__): one for one in classes}
    return {**names, "none": None} if names and type(None) in choices_of(annotation) else names


def _chosen(key: str, classes: Mapping[str, type | None], current: Any, word: str) -> type | None:
    if word and len(classes) > 1:
        if word not in classes:
            raise unknown_name(key, word, classes)
        return classes[word]
    if current is MISSING:
        return next(iter(classes.values()))
    return None if current is None else type(current)


def _flag(key: str) -> str:
    return key.replace("_", "-")


_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", type(None): "none", bool: "BOOL"}


def _metavar(annotation: Any) -> str:
    """The form of a value; of many options, the first."""
    parts = []
    for choice in choices_of(annotation):
        form, inner = get_origin(choice) or choice, get_args(choice)
        if form is Literal:
            names = ",".join(map(str, inner))
            parts.append(f"{{{textwrap.shorten(names.replace(',', ', '), 28, placeholder='...').replace(' ', '')}}}")
        elif form in (tuple, list, Sequence):
            variadic = form is not tuple or (inner and inner[-1] is Ellipsis)
            parts.append(f"{_metavar(inner[0])} ..." if variadic else " ".join(map(_metavar, inner)))
        else:
            parts.append(_METAVARS.get(form, "VALUE"))
    return "|".join(part for part in dict.fromkeys(parts) if not (part == "INT" and "FLOAT" in parts))


def _in_words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(_in_words, value)) or "none"
    return "none" if value is None else "required" if value is MISSING else str(value) if value != "" else "''"


def _wrapped(text: str) -> str:
    """Paragraphs at the width of the terminal; lines of a diagram stay as they are."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), terminal_width() - 2, break_on_hyphens=False))


@cache
def field_docs(settings_class: type) -> dict[str, str]:
    """The first clause of the docstring beneath each field; none without source code."""
    docs = {}
    for base in reversed(settings_class.__mro__):
        with suppress(OSError, TypeError, SyntaxError, IndentationError):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            for field, text in itertools.pairwise(getattr(body, "body", ())):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
                    docs[field.target.id] = re.split(r"(?<![\s.])[.;:](?:\s|$)", " ".join(text.value.value.split()))[0]
    return docs


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
