"""The command prove."""

from __future__ import annotations

import argparse
import re

from toylab.commands.flags import chosen_task, complete, settings_from_flags
from toylab.console import ToylabError


def prove_property(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab prove`."""
    task = None
    if options.task is not None:
        task = complete(settings_from_flags(chosen_task(options, rest), None, options, rest), options.task)
    elif rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}; settings of a task need --task")
    if options.folder is None:
        raise ToylabError("FOLDER: is missing; give the folder of a job, or model.safetensors with --task")
    lengths = None if options.lengths is None else _lengths(options.lengths)

    from toylab.files import refuse_unwritable
    from toylab.proofs.prove import prove
    from toylab.proofs.stored import named_property, stored_model
    from toylab.runs.processes import single_thread

    single_thread()
    model, task = stored_model(options.folder, task)
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
