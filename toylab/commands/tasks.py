"""Commands on tasks: list, show, check, export, train."""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import get_type_hints

from toylab import tasks
from toylab.commands.flags import (
    checked_device,
    chosen_task,
    complete,
    known_tasks,
    packaged,
    settings_from_flags,
    task_from_flags,
)
from toylab.console import terminal_width


def list_all(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab list`."""
    from toylab.runs import registry

    print("Studies (toylab run STUDY)")
    for name in registry.study_names():
        print(_entry(name, registry.study_docstring(name)))
    print("Tasks (toylab show TASK)")
    for name, task in known_tasks().items():
        print(_entry(name, task.__doc__))
    for category in ("study", "task"):
        for name, path in packaged(category).items():
            print(_entry(name, f"{category} of an installed package, {path}"))
    print("Next: `toylab show parity` prints rows of a task; `toylab run iteration-head` takes")
    print("about ten minutes on two cores and writes a report page.")


def _entry(name: str, text: str | None) -> str:
    """A name and the first line of its docstring, wrapped to the terminal."""
    first = "".join((text or "").strip().splitlines()[:1])  # `python -OO` drops docstrings
    return textwrap.fill(f"{name:<19} {first}", terminal_width(), initial_indent="  ", subsequent_indent=" " * 22)


def show_rows(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab show`."""
    task = task_from_flags(options, rest)
    batch = task.sample(tasks.stream(options.seed, "show"), options.rows)
    columns = terminal_width()
    rule = "\n" + "-" * columns + "\n"
    print(rule.join(tasks.render(task, batch, row, columns) for row in range(options.rows)))


def check_laws(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab check`."""
    from toylab.tasks.check import LAWS, law_in_words, try_laws

    task = task_from_flags(options, rest)
    failures = []
    for law, failure in try_laws(task, examples=options.examples):
        failures.append(failure)
        if not (failure and failure.again):
            print(failure or f"holds: {law_in_words(law)}", flush=True)
    repeated = sum(failure.again for failure in failures if failure)
    note = f" ({repeated} more fail for a cause shown above)" if repeated else ""
    print(f"{failures.count(None)} of {len(LAWS)} laws hold for {task}{note}")
    if any(failures):
        sys.exit(1)


def export_task(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab export`."""
    task = task_from_flags(options, rest)

    from toylab.export import export_rows, header_path

    name = f"{options.task.replace(':', '-')}-{options.split}.{options.format}"
    out = options.out or Path(name)
    export_rows(out, task, rows=options.rows, seed=options.seed, split=options.split, form=options.format)
    print(f"{out}: {options.rows} rows; header: {header_path(out)}")


def train_model(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab train`."""
    task_class = chosen_task(options, rest)

    from toylab.files import refuse_links, write_text
    from toylab.report.canvas import to_svg
    from toylab.report.training import plot_training
    from toylab.runs.jobs import execute
    from toylab.runs.processes import single_thread
    from toylab.runs.store import metric_curves
    from toylab.runs.study import by_condition
    from toylab.runs.task_training import JOB, TaskTraining, survey_rows, training_name
    from toylab.survey import check_recipe, recipe_of

    recipe = recipe_of(task_class)
    hints = get_type_hints(type(recipe))
    defaults = [(name, hints[name], value) for name, value in vars(recipe).items()]
    flags_class = make_dataclass(
        "Training", [("task", task_class), *defaults], bases=(TaskTraining,), kw_only=True, frozen=True
    )
    settings = settings_from_flags(flags_class, None, options, rest)
    study = TaskTraining(**{field.name: getattr(settings, field.name) for field in fields(settings)})
    survey_rows(complete(study.task, options.task), study.seeds[0])  # an empty split is noticed before the training
    check_recipe(study.task, study)
    device = checked_device(options)
    single_thread()
    out = options.out or Path("runs", "train", options.task.replace(":", "-"))
    several = len(study.seeds) > 1
    workers = min(options.workers, len(study.seeds))
    results = execute(study, training_name(options.task), out, workers, progress=several, device=device)
    goal = study.train.stop_at
    for job, trained in results.items():
        seed = f"seed {job.seed}: " if several else ""
        if goal is not None and trained.validation_accuracy < goal:
            accuracy = f"accuracy {trained.validation_accuracy:.3f} on held-out rows, below {goal}"
            print(f"{seed}not solved: reached {trained.steps} steps with {accuracy}")
        print(f"{seed}{trained.survey}")
    loss, accuracy = (metric_curves(by_condition(results), out, JOB, metric=name) for name in ("loss", "accuracy"))
    refuse_links(out, out / "curves.svg")
    write_text(out / "curves.svg", to_svg(plot_training(loss, accuracy, goal)))
    print(f"Models, metrics and curves: {out}")
