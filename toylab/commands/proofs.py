"""The command prove."""

from __future__ import annotations

import argparse
import re

from toylab.commands.surveys import named_models
from toylab.console import ToylabError


def prove_property(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab prove`."""
    lengths = None if options.lengths is None else _lengths(options.lengths)

    from toylab.files import refuse_unwritable
    from toylab.model.checkpoint import load_model
    from toylab.proofs.named import named_property
    from toylab.proofs.prove import prove
    from toylab.runs.processes import single_thread

    single_thread()
    stored, *others = named_models(options, rest)
    if others:
        raise ToylabError(f"{options.path}: holds {1 + len(others)} models; give one of them: {stored.path.parent}")
    model, task = load_model(stored.path), stored.task
    proved = named_property(options.property, model, task)
    if options.out is not None:
        refuse_unwritable("out", options.out)
    print(
        prove(
            model,
            task,
            proved,
            lengths=lengths,
            budget=options.budget,
            workers=options.workers,
            out=options.out,
            progress=options.property,
        )
    )
    if options.out is not None:
        print(f"Certificate: {options.out}")


def _lengths(text: str) -> range:
    """Lengths from text such as 6 or 1..6."""
    parts = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", text)
    if parts is None or int(parts[1]) < 1 or int(parts[2] or parts[1]) < int(parts[1]):
        raise ToylabError(f"lengths={text}: must be one length, or a range such as 1..6")
    return range(int(parts[1]), int(parts[2] or parts[1]) + 1)
