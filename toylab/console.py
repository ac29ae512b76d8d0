"""The floor that everything stands on: the class of errors, the check of settings, and words for the terminal."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
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


SYNONYMS = {
    "rope": "rotary",
    "nope": "none",
    "absolute": "learned",
    "ape": "learned",
    "sin": "sinusoidal",
    "sine": "sinusoidal",
    "fixed": "sinusoidal",
    "swish": "silu",
    "val": "validation",
    "dev": "validation",
    "mqar": "associative-recall",
    "induction": "associative-recall",
    "xor": "parity",
    "addition": "modular-sum",
}
"""Other names that the field has for options and tasks of ours."""


def unknown_name(kind: str, name: str, known: Iterable[str], near: Sequence[str] | None = None) -> ToylabError:
    """The error for a name that is no `kind`: it tells those `near` (the nearest, if not given), or else all."""
    known = list(known)
    if near is None and (synonym := SYNONYMS.get(name.lower())) in known:
        near = [synonym]
    if near is None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ToylabError(f"there is no {kind} {name!r}; {hint}")


# Tables --------------------------------------------------------------------------------------------------------------


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown_table(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Rows of cells, the head first, as a Markdown table; `numbers` aligns all columns but the first right."""
    head, *body = rows
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, rule, *body))


COLOURS = {"supported": 32, "refuted": 31, "undecided": 33, "uninformative": 33, "not run": 33}
"""The terminal's own numbers for green, red and yellow: each theme shows them so that they can be read."""


def supports_colour(stream: Any) -> bool:
    """Whether a stream is a terminal on which colour is welcome (https://no-color.org)."""
    if stream is None or stream.closed or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def colour_verdict(text: str, verdict: str) -> str:
    """Text in the colour of a verdict; as it is for any other word."""
    return f"\033[{COLOURS[verdict]}m{text}\033[0m" if verdict in COLOURS else text


@contextmanager
def safe_printing() -> Iterator[None]:
    """Streams that take all that is printed: as an escape what their encoding lacks, as nothing where there is none."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if is_missing(stream):  # a daemon's, or pythonw's
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            elif (reconfigure := getattr(stream, "reconfigure", None)) is not None:
                reconfigure(errors="backslashreplace")
        yield


def broken_output() -> OSError | None:
    """Why our own output cannot be written; None if it can."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.write("\n")  # what could not be written is dropped: without more, flush has nothing to do
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return error
    return None


def progress_bar(*arguments: Any, **options: Any) -> Any:
    """A progress bar of tqdm; it is not drawn where there is no standard error, as in a daemon."""
    from tqdm import tqdm  # here, since help should come at once

    return tqdm(*arguments, **{**options, "disable": is_missing(sys.stderr) or options.get("disable", False)})


def is_missing(stream: Any) -> bool:
    """Whether nothing can be written to a stream: there is none, or it is closed."""
    return stream is None or getattr(stream, "closed", False)
