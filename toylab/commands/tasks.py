"""Commands on tasks: list, show, check, export, train."""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import make_dataclass
from pathlib import Path

from toylab import tasks
from toylab.commands.flags import chosen_task, complete, known_tasks, packaged, settings_from_flags
from toylab.console import ToylabError


def list_all(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab list`."""
    from toylab.runs import registry

    print("Studies (toylab run STUDY)")
    for name in registry.study_names():
        print(_entry(name, registry.load_study(name).__doc__))
    print("Tasks (toylab show TASK)")
    for name, task in known_tasks().items():
        print(_entry(name, task.__doc__))
    for category in ("study", "task"):
        for name, path in packaged(category).items():
            print(_entry(name, f"{category} of an installed package, {path}"))
    print("Next: `toylab show parity` prints rows of a task; `toylab run iteration-head` takes")
    print("two or three minutes and writes a report page.")


def _entry(name: str, text: str | None) -> str:
    """A name and the first line of its docstring, wrapped to 80 columns."""
    first = "".join((text or "").strip().splitlines()[:1])  # `python -OO` drops docstrings
    return textwrap.fill(f"{name:<19} {first}", 80, initial_indent="  ", subsequent_indent=" " * 22)


def show_rows(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab show`."""
    task_class = chosen_task(options, rest)
    task = complete(settings_from_flags(task_class, None, options, rest), options.task)
    batch = task.sample(tasks.stream(options.seed, "show"), options.rows)
    rule = "\n" + "-" * 80 + "\n"
    print(rule.join(tasks.render(task, batch, row, columns=80) for row in range(options.rows)))


def check_laws(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab check`."""
    from toylab.tasks.check import LAWS, law_in_words, try_laws

    task_class = chosen_task(options, rest)
    task = complete(settings_from_flags(task_class, None, options, rest), options.task)
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
    task_class = chosen_task(options, rest)
    task = complete(settings_from_flags(task_class, None, options, rest), options.task)

    from toylab.export import export_rows, header_path

    name = f"{options.task.replace(':', '-')}-{options.split}.{options.format}"
    out = options.out or Path(name)
    export_rows(out, task, rows=options.rows, seed=options.seed, split=options.split, form=options.format)
    print(f"{out}: {options.rows} rows; header: {header_path(out)}")


def train_model(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab train`."""
    task_class = chosen_task(options, rest)

    from toylab.files import file_errors, refuse_unwritable
    from toylab.model.checkpoint import save_model
    from toylab.model.config import ModelConfig
    from toylab.runs.processes import single_thread
    from toylab.survey import DEFAULT_MODEL, UNTIL_SOLVED, survey, train_with_history
    from toylab.training.loop import TrainConfig

    settings_class = make_dataclass(
        "Training",
        [
            ("task", task_class),
            ("model", ModelConfig, DEFAULT_MODEL),
            ("train", TrainConfig, UNTIL_SOLVED),
            ("seed", int, 0),
        ],
        kw_only=True,
    )
    settings = settings_from_flags(settings_class, None, options, rest)
    if options.out is not None:
        with file_errors(options.out):
            if options.out.exists():
                raise ToylabError(f"out={options.out}: already exists; give another file, or delete it")
    rows = complete(settings.task, options.task).sample(tasks.stream(settings.seed, "survey"), 256, "test")
    if options.out is not None:
        refuse_unwritable("out", options.out)
    single_thread()
    model, state = train_with_history(
        settings.task, seed=settings.seed, config=settings.model, training=settings.train, progress=task_class.__name__
    )
    if options.out is not None:
        save_model(options.out, model)
    accuracy, goal = state.history[-1]["accuracy"], settings.train.stop_at
    if goal is not None and accuracy < goal:
        print(f"not solved: accuracy {accuracy:.3f} on held-out rows after {state.step} steps, below {goal}")
        print("try more --train.steps, another --seed or a larger --model.width")
    print(survey(model, rows))
