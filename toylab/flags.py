"""Settings from the flags of a command line."""

from __future__ import annotations

import argparse
import io
import sys
import traceback
from contextlib import redirect_stderr
from typing import Any

import tyro

from toylab.console import ToylabError


def from_flags(kind: type, default: Any, arguments: list[str], program: str, parser: argparse.ArgumentParser) -> Any:
    """A dataclass of settings from flags; a mistake leaves with exit code 2.

    Args:
        default: the settings that flags change; the dataclass's own if None.
        program: the command, for help and errors.
        parser: of the other flags, whose help comes first.

    Raises:
        ValueError: that somebody's class raised by itself; `ToylabError` is a mistake in the flags.
    """
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
