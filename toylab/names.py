"""Words for the terminal: what to say of a name that is none, and tables."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any


class ToylabError(ValueError):
    """A mistake in what was asked: a setting, an argument, a file. Its message gives name, value, rule and remedy.

    The command line prints it in one line and exits with 2. Any other exception is a fault, of toylab or of the code
    it was given, and keeps its traceback. Tasks and studies outside the package may raise it for their own settings.
    """


UNGUARDED = (
    "no process can start: each imports the script anew, so that must be a file that calls this under `if __name__ == "
    '"__main__":`'
)


def refuse_while_importing() -> None:
    """Raises `ValueError` in a process that still imports the script of its parent, and cannot start others."""
    import multiprocessing  # here, since help should come at once

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ToylabError(UNGUARDED)


def unknown(kind: str, name: str, known: Iterable[str], near: Sequence[str] | None = None) -> ToylabError:
    """The error for a name that is no `kind`: it tells those `near` (the nearest, if not given), or else all."""
    known = list(known)
    if near is None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ToylabError(f"there is no {kind} {name!r}; {hint}")


def load_class(kind: str, name: str) -> type:
    """The class that `package.module:Class` names; modules are looked for in the working directory first.

    Raises:
        ValueError: naming what there is not: the module, something that it needs, or the class.
    """
    module, _, last = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        held = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ToylabError(f"{kind} {name!r}: {module!r} needs {error.name!r}, which is not installed") from None
        raise ToylabError(f"{kind} {name!r}: there is no module {module!r} here or among what is installed") from None
    found = getattr(held, last, None)
    if not isinstance(found, type):
        raise unknown(
            kind, last, [one for one, v in vars(held).items() if isinstance(v, type) and v.__module__ == module]
        )
    return found


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown_table(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Rows of cells, the head first, as a Markdown table; `numbers` aligns all columns but the first right."""
    head, *body = rows
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, rule, *body))


COLOURS = {"holds": 32, "fails": 31, "open": 33}
"""The terminal's own numbers for green, red and yellow: each theme shows them so that they can be read."""


def takes_colour(stream: Any) -> bool:
    """Whether a stream is a terminal on which colour is welcome (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def in_colour(text: str, verdict: str) -> str:
    """Text in the colour of a verdict; as it is for any other word."""
    return f"\033[{COLOURS[verdict]}m{text}\033[0m" if verdict in COLOURS else text
