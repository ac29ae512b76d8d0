"""Words for the terminal: what to say of a name that is none, and tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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
