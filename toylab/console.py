"""`ToylabError`, did-you-mean errors, and terminal output: tables, colours, progress bars."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any


class ToylabError(ValueError):
    """A user error in a setting, an argument or a file; the message gives name, value, rule and remedy.

    The command line prints it in one line and exits with 2. Any other exception is a bug, of toylab or of user code,
    and keeps its traceback. User-defined tasks and studies may raise it for their own settings.
    """


UNGUARDED = (
    "no process can start: each imports the script anew, so that must be a file that calls this under `if __name__ == "
    '"__main__":`'
)


def refuse_while_importing() -> None:
    """Raises `ToylabError` in a spawned process that is still importing the parent's script and cannot spawn others."""
    import multiprocessing  # lazily, for a fast --help

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
}
"""Common synonyms of option and task names."""


def unknown_name(category: str, name: str, known: Iterable[str], near: Sequence[str] | None = None) -> ToylabError:
    """The error for an unknown name: suggests `near` (by default the closest match), or else lists all."""
    known = list(known)
    if near is None and (synonym := SYNONYMS.get(name.lower())) in known:
        near = [synonym]
    if near is None:
        near = [one for one in known if one.lower() == name.lower()] or None
    if near is None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ToylabError(f"there is no {category} {name!r}; {hint}")


# Tables --------------------------------------------------------------------------------------------------------------


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown_table(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Rows of cells, header first, as a Markdown table; `numbers` right-aligns all columns but the first."""
    head, *body = rows
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, rule, *body))


COLOURS = {"supported": 32, "refuted": 31, "undecided": 33, "uninformative": 33, "not run": 33}
"""ANSI colours (green, red, yellow), which follow the theme of the terminal."""


def terminal_width() -> int:
    """Columns of the terminal, from 50 to 160; 80 without one."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 50), 160)


def supports_colour(stream: Any) -> bool:
    """Whether a stream is a terminal with colours enabled (https://no-color.org)."""
    if stream is None or stream.closed or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def colour_verdict(text: str, verdict: str) -> str:
    """Text in the colour of a verdict; unchanged for any other word."""
    return f"\033[{COLOURS[verdict]}m{text}\033[0m" if verdict in COLOURS else text


@contextmanager
def safe_printing() -> Iterator[None]:
    """Make printing safe: escape characters that the encoding lacks, and discard output without a stream."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if is_missing(stream):  # a daemon's, or pythonw's
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            elif (reconfigure := getattr(stream, "reconfigure", None)) is not None:
                reconfigure(errors="backslashreplace")
        yield


def broken_output() -> OSError | None:
    """The error of writing to stdout or stderr; None if both work."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.write("\n")  # flush alone writes nothing after a failed write
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return error
    return None


def progress_bar(*arguments: Any, **options: Any) -> Any:
    """A tqdm progress bar, disabled without stderr, as in a daemon."""
    from tqdm import tqdm  # lazily, for a fast --help

    return tqdm(*arguments, **{**options, "disable": is_missing(sys.stderr) or options.get("disable", False)})


def print_beside_bars(line: str) -> None:
    """Print a line to stderr, above progress bars."""
    if not is_missing(sys.stderr):
        progress_bar(disable=True).write(line, file=sys.stderr)


def is_missing(stream: Any) -> bool:
    """Whether a stream is None or closed."""
    return stream is None or getattr(stream, "closed", False)
