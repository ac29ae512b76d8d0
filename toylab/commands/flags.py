"""Shared by all commands: look up a task or study by name, parse its settings from flags, print JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from toylab import tasks
from toylab.commands.parser import Parser, add_settings, settings_from_words
from toylab.console import ToylabError, unknown_name
from toylab.runs.registry import load_class, refuse_incomplete
from toylab.settings import kebab_case


@dataclass(frozen=True)
class Seeds:
    """The setting that all studies have."""

    seeds: tuple[int, ...] = ()
    """Seeds of every condition, such as 0 1 2, 0..9 or 0,1,2."""


def checked_device(options: argparse.Namespace) -> str:
    """The device of `--device`; raises `ToylabError` for one that this machine does not have. A cluster has its own."""
    if options.device != "cpu" and not getattr(options, "scheduler", None):
        from toylab.model.device import check_device

        check_device(options.device)
    return options.device


def print_json(value: Any) -> None:
    """Print JSON to standard output, with escapes if its encoding is not UTF-8."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    ascii_only = encoding != "utf8"  # the console's own escapes are not JSON
    print(json.dumps(value, indent=1, ensure_ascii=ascii_only))


def usual_folder(study: str, suffix: str) -> Path:
    """The default folder for a run of a study."""
    return Path("runs") / f"{study.replace(':', '-')}-{suffix}"


def chosen_study(options: argparse.Namespace, rest: list[str]) -> Any:
    """The requested study with settings from flags; heavy imports only if its name is known."""
    from toylab.runs import registry

    options.study = _path_of("study", options.study, registry.study_names())
    check_name("study", options, rest, registry.study_names(), known_tasks())
    study_class = registry.load_study(options.study).STUDY
    return settings_from_flags(study_class, registry.preset_settings(study_class, options.preset), options, rest)


def chosen_task(options: argparse.Namespace, rest: list[str]) -> type:
    """A task class by its name, or a user's class by `package.module:Class`; the working directory comes first."""
    from toylab.runs import registry

    task_classes = known_tasks()
    options.task = _path_of("task", options.task, task_classes)
    check_name("task", options, rest, task_classes, registry.study_names())
    if ":" not in options.task:
        return task_classes[options.task]
    task_class = load_class("task", options.task)
    refuse_incomplete("task", options.task, task_class, ("sample", "solve"))
    return task_class


def packaged(category: str) -> dict[str, str]:
    """Tasks or studies that installed packages declare, as `package.module:Class` by name.

    A package declares them as entry points in the group `toylab.tasks` or `toylab.studies`.
    """
    from importlib.metadata import entry_points

    group = {"task": "toylab.tasks", "study": "toylab.studies"}[category]
    return {entry.name: entry.value for entry in entry_points(group=group)}


def _path_of(category: str, name: Any, known: Collection[str]) -> Any:
    """`package.module:Class` of a name that an installed package declares; packages are read for unknown names only."""
    return name if name is None or ":" in name or name in known else packaged(category).get(name, name)


def task_from_flags(options: argparse.Namespace, rest: list[str]) -> Any:
    """The requested task with settings from flags."""
    return complete(settings_from_flags(chosen_task(options, rest), None, options, rest), options.task)


def complete(task: Any, name: str) -> Any:
    """The task itself; raises `ToylabError` if it lacks a part of the task protocol."""
    refuse_incomplete("task", name, task, ("vocabulary", "context"))
    return task


def known_tasks() -> dict[str, type]:
    """All tasks by kebab-case name."""
    return {kebab_case(task.__name__): task for task in tasks.TASKS}


def check_name(
    category: str, options: argparse.Namespace, rest: list[str], known: Collection[str], other_names: Collection[str]
) -> None:
    """Print help or raise an error unless the given name is known; `other_names` are names of the other category."""
    name = getattr(options, category)
    if name is None:
        if {"-h", "--help"} & set(rest):
            print_common_help(options, category)
        raise ToylabError(
            f"{category}: is missing; give package.module:Class of your own {category}, or one of {', '.join(known)}"
        )
    if ":" in name or name in known:
        return
    if later := [word for word in rest if word in known]:
        raise ToylabError(
            f"{category} {later[0]}: must come before its settings; give `toylab {options.command} {later[0]} ...`"
        )
    if name in other_names:
        other, command = ("task", "train") if category == "study" else ("study", "run")
        raise ToylabError(f"{name}: is a {other}, not a {category}; use `toylab {command} {name}`")
    raise unknown_name(category, name, known)


def settings_from_flags(settings_class: type, default: Any, options: argparse.Namespace, rest: list[str]) -> Any:
    """A dataclass of settings: every field is an option beside those that the command itself defines.

    Args:
        default: the settings that the options override; the defaults of the class if None.

    Raises:
        ToylabError: for an invalid option, value, or combination of values.
    """
    name = getattr(options, "task", None) or getattr(options, "study", "")
    for word in rest:
        if not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word):
            raise ToylabError(f"{word!a}: is not valid {sys.getfilesystemencoding()} text; set LC_ALL=C.UTF-8")
    if not is_dataclass(settings_class):
        raise ToylabError(f"{name}: is not a dataclass, whose fields are the settings; add @dataclass(frozen=True)")
    parser = _whole_parser(options, name)
    add_settings(parser, settings_class, default, options.words)
    given = getattr(parser.parse_args(options.words), "settings", {})
    return settings_from_words(settings_class, default, given)


def _whole_parser(options: argparse.Namespace, name: str) -> Parser:
    program = f"toylab {options.command} {name}"
    return Parser(
        prog=program, usage=f"{program} [options]", parents=[options.parser], add_help=not options.parser.add_help
    )


def print_common_help(options: argparse.Namespace, category: str) -> NoReturn:
    """The options of a command, without the settings that depend on the task or study."""
    parser = _whole_parser(options, category.upper())
    parser.epilog = f"The other settings depend on the {category}:\n{parser.prog} --help"
    if options.command == "train":
        from toylab.runs.task_training import TaskTraining

        add_settings(parser, TaskTraining, None, ())
    elif category == "study":
        add_settings(parser, Seeds, None, ())
    parser.print_help()
    sys.exit(0)
