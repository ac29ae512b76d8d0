"""`toylab survey`: the heads of stored models."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import make_dataclass
from typing import TYPE_CHECKING

from toylab.commands.flags import checked_device, chosen_task, complete, settings_from_flags
from toylab.console import ToylabError

if TYPE_CHECKING:
    from toylab.runs.task_training import StoredModel


def survey_models(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab survey`."""
    from toylab.files import refuse_unwritable, write_bytes
    from toylab.model.checkpoint import load_model
    from toylab.model.transformer import Transformer
    from toylab.report.canvas import figure_bytes
    from toylab.report.training import plot_heads
    from toylab.runs.task_training import survey_rows
    from toylab.survey import survey

    models, device = named_models(options, rest), checked_device(options)
    out = options.out or (options.path if options.path.is_dir() else options.path.parent) / "survey.svg"
    if out.suffix not in (".svg", ".png", ".pdf"):
        raise ToylabError(f"out={out}: the name must end with .svg, .png or .pdf")
    refuse_unwritable("out", out)
    surveys = {}
    for stored in models:
        model, vocabulary = load_model(stored.path), len(stored.task.vocabulary)
        if not isinstance(model, Transformer):
            raise ToylabError(f"{stored.path}: holds a {type(model).__name__}; only a Transformer can be surveyed")
        if model.vocab != vocabulary:
            raise ToylabError(
                f"{stored.path}: has {model.vocab} tokens, and {type(stored.task).__name__} has {vocabulary}; give "
                "the task that it was trained on, with its settings: --task TASK --task.*"
            )
        reading = survey(model.to(device), survey_rows(stored.task, stored.seed))
        print(f"{stored.name}: {reading}\n\n{reading.head_table()}\n")
        surveys[stored.name] = reading
    write_bytes(out, figure_bytes(plot_heads(surveys), out.suffix[1:]))
    print(f"Figure: {out}")


def named_models(options: argparse.Namespace, rest: list[str]) -> list[StoredModel]:
    """The models of a folder with their tasks; flags give the task of a model file, or of a job of any study."""
    from toylab.files import exists
    from toylab.runs.task_training import StoredModel, is_training, seed_of, stored_models

    path = options.path
    if not exists(path):
        raise ToylabError(f"{path}: there is no such file or folder; give one that `toylab train` made")
    if options.task is None and not path.is_dir() and path.name != "model.safetensors":
        raise ToylabError(f"{path}: names no task; give the one that the model was trained on: --task TASK --task.*")
    task_class = None if options.task is None else chosen_task(options, rest)
    if task_class is None or (path.is_dir() and is_training(path)):
        word = rest[0].partition("=")[0] if rest else ""
        if "." not in word and difflib.get_close_matches(word, options.parser.options, cutoff=0.8):
            options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            raise ToylabError(f"{rest[0]}: is no option here; the settings of the task are stored, so give none")
        return stored_models(path if path.is_dir() else path.parent, task_class)
    flags_class = make_dataclass("TaskOfModel", [("task", task_class)], kw_only=True)
    task = complete(settings_from_flags(flags_class, None, options, rest).task, str(options.task))
    file = path / "model.safetensors" if path.is_dir() else path
    return [StoredModel(path.name, file, task, seed_of(file.parent))]
