"""Standard output and standard error where there is no terminal, or one that knows ASCII alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any


@contextmanager
def printing() -> Iterator[None]:
    """Streams that take all that is printed: as an escape what their encoding lacks, as nothing where there is none."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if is_missing(stream):  # a daemon's, or pythonw's
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
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
