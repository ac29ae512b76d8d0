"""Words for the terminal: what to say of a name that is none, and tables."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import Any


def unknown(kind: str, name: str, known: Iterable[str], near: Sequence[str] | None = None) -> ValueError:
    """The error for a name that is no `kind`: it tells those `near` (the nearest, if not given), or else all."""
    known = list(known)
    if near is None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ValueError(f"there is no {kind} {name!r}; {hint}")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


COLOURS = {"holds": 32, "fails": 31, "open": 33}
"""The terminal's own numbers for green, red and yellow: each theme shows them so that they can be read."""


def takes_colour(stream: Any) -> bool:
    """Whether a stream is a terminal on which colour is welcome (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def in_colour(text: str, verdict: str) -> str:
    """Text in the colour of a verdict; as it is for any other word."""
    return f"\033[{COLOURS[verdict]}m{text}\033[0m" if verdict in COLOURS else text
