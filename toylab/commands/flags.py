"""What the commands share: the task or study that was named, its settings from flags, and JSON on standard output."""

from __future__ import annotations

import argparse
import io
import json
import sys
import traceback
from collections.abc import Collection
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from toylab import tasks
from toylab.console import ToylabError, unknown_name
from toylab.runs.registry import load_class, refuse_incomplete


def from_flags(kind: type, default: Any, arguments: list[str], program: str, parser: argparse.ArgumentParser) -> Any:
    """A dataclass of settings from flags; a mistake leaves with exit code 2.

    Args:
        default: the settings that flags change; the dataclass's own if None.
        program: the command, for help and errors.
        parser: of the other flags, whose help comes first.

    Raises:
        ValueError: that somebody's class raised by itself; `ToylabError` is a mistake in the flags.
    """
    import tyro  # here, since help should come at once

    if {"-h", "--help"} & set(arguments):
        print(parser.format_help())
    for word in arguments:
        if not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word):
            raise ToylabError(f"{word!a}: is no text in {sys.getfilesystemencoding()}; LC_ALL=C.UTF-8 may help")
    fault, said = None, io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, default=default, args=arguments, prog=program)
    except SystemExit as left:
        fault = _fault(left)
        if fault is None:
            raise
    finally:
        if fault is None:
            sys.stderr.write(said.getvalue())
    assert fault is not None  # else it was raised above
    raise fault


def _fault(left: SystemExit) -> ValueError | None:
    """The `ValueError` of somebody's class that tyro took for a mistake in a flag, if that is why it left."""
    error: BaseException | None = left
    while error is not None and not isinstance(error, ValueError):
        error = error.__context__
    if error is None or isinstance(error, ToylabError):
        return None
    homes = [str(frame.f_globals.get("__name__")).split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    while "tyro" in homes:
        homes.pop(0)
    return error if set(homes) - sys.stdlib_module_names else None


def print_json(value: Any) -> None:
    """JSON on standard output, also where that knows ASCII alone."""
    plain = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"  # an escape of ours is no JSON
    print(json.dumps(value, indent=1, ensure_ascii=plain))


def usual_folder(study: str, kind: str) -> Path:
    """Where the runs of a study go if nobody says where."""
    return Path("runs") / f"{study.replace(':', '-')}-{kind}"


def chosen_study(options: argparse.Namespace, rest: list[str]) -> Any:
    """The study that was asked for, with its settings; heavy imports only for one that there is."""
    from toylab.runs import registry

    check_name("study", options, rest, registry.study_names(), known_tasks())
    kind = registry.load_study(options.study).STUDY
    return settings_from_flags(kind, registry.preset_settings(kind, options.preset), options, rest)


def chosen_task(options: argparse.Namespace, rest: list[str]) -> type:
    """A task of ours by its name, or anybody's by `package.module:Class`; modules are looked for here first."""
    from toylab.runs import registry

    known = known_tasks()
    check_name("task", options, rest, known, registry.study_names())
    if ":" not in options.task:
        return known[options.task]
    kind = load_class("task", options.task)
    refuse_incomplete("task", options.task, kind, ("sample", "solve"))
    return kind


def complete(task: Any, name: str) -> Any:
    """A task from its settings, if it has all that a task has."""
    refuse_incomplete("task", name, task, ("vocabulary", "context"))
    return task


def known_tasks() -> dict[str, type]:
    """Every task by its name in kebab case."""
    return {"".join(f"-{c.lower()}" if c.isupper() else c for c in task.__name__)[1:]: task for task in tasks.TASKS}


def check_name(
    kind: str, options: argparse.Namespace, rest: list[str], known: Collection[str], others: Collection[str]
) -> None:
    """Help or an error, unless a study or task that there is was named; `others` are the names of the other kind."""
    name = getattr(options, kind)
    if name is None:
        if {"-h", "--help"} & set(rest):
            options.parser.print_help()
            sys.exit(0)
        raise ToylabError(f"which {kind}? package.module:Class of yours, or one of {', '.join(known)}")
    if ":" in name or name in known:
        return
    if later := [word for word in rest if word in known]:
        raise ToylabError(f"{kind} {later[0]}: give it before its settings, `toylab {options.command} {later[0]} ...`")
    if name in others:
        other, command = ("task", "train") if kind == "study" else ("study", "run")
        raise ToylabError(f"{name} is a {other}, no {kind}: give `toylab {command} {name}`")
    raise unknown_name(kind, name, known)


def settings_from_flags(kind: type, default: Any, options: argparse.Namespace, rest: list[str]) -> Any:
    """A dataclass of settings from the flags that are not of the command itself."""
    name = options.task if hasattr(options, "task") else options.study
    return from_flags(kind, default, rest, f"toylab {options.command} {name}", options.parser)
