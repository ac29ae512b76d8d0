"""The command line: `toylab list | show | check | export | train | survey | prove | calibrate | run | sweep | table |
plot | claims | report | bench | lessons`.

Exit codes: 0 for success, whatever the verdicts; 2 for a user error, with a short message on stderr; 1 for a failed
job, a bug, or a task that violates laws; 130 after Ctrl-C. Heavy imports are deferred so that help is immediate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from toylab import __version__
from toylab.commands.flags import known_tasks
from toylab.commands.instruments import calibrate_probes, measure_speed
from toylab.commands.lessons import write_lessons
from toylab.commands.parser import Parser
from toylab.commands.proofs import prove_property
from toylab.commands.studies import print_claims, report_run, run_study
from toylab.commands.surveys import survey_models
from toylab.commands.sweeps import plot_rows, print_table, sweep_study
from toylab.commands.tasks import check_laws, export_task, list_all, show_rows, train_model
from toylab.console import ToylabError, broken_output, safe_printing, unknown_name
from toylab.runs.registry import study_names
from toylab.settings import check_range
from toylab.tasks import SPLITS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors other than user errors keep their traceback."""
    with safe_printing():
        try:
            _run_command(list(arguments))
            sys.stdout.flush()
        except OSError:
            output_error = broken_output()
            if output_error is None:  # not standard output
                raise
            if not isinstance(output_error, BrokenPipeError):  # the reader, such as `head`, closed the pipe
                return _print_error(2, f"toylab: cannot write to standard output ({output_error.strerror})")
        except ToylabError as error:
            return _print_error(2, f"toylab: {error}")
        except _jobs_failed() as error:
            return _print_error(1, f"toylab: {error}")
        except KeyboardInterrupt:
            resumable = "".join(arguments[:1]) in ("train", "run", "sweep", "report")
            note = "; finished jobs are kept, and rerunning the command resumes" if resumable else ""
            return _print_error(130, f"\ntoylab: stopped{note}")
    return 0


def _run_command(arguments: list[str]) -> None:
    parser, commands = _parser()
    if arguments and arguments[0][:1] != "-" and arguments[0] not in commands:
        raise unknown_name("command", arguments[0], commands)
    if arguments and arguments[0][:1] == "-" and arguments[0].partition("=")[0] not in parser.options:
        raise ToylabError(f"{arguments[0]}: comes before the command; give options after it: toylab COMMAND --NAME")
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.takes_settings:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for name, (least, most) in options.integer_bounds.items():
        check_range(**{name: getattr(options, name)}, least=least, most=most)
    options.words = arguments[1:]
    options.action(options, rest)


def _print_error(exit_code: int, message: str) -> int:
    """Print a message to stderr, and return the exit code."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    return exit_code


def _jobs_failed() -> Any:
    """`JobsFailedError` if its module is loaded, else an empty tuple, since help should not import torch."""
    return sys.modules["toylab.runs.jobs"].JobsFailedError if "toylab.runs.jobs" in sys.modules else ()


def _parser() -> tuple[Parser, Sequence[str]]:
    parser = Parser("toylab", description="Train small transformers and judge claims of papers on them.")
    parser.add_argument("--version", action="version", version=f"toylab {__version__}")
    text = "print a completion script, such as `toylab --print-completion bash > ~/.toylab && . ~/.toylab`"
    parser.add_argument("--print-completion", choices=("bash", "zsh"), action=_PrintCompletion, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, action: Any, text: str, takes_settings: bool = False, add_help: bool = False) -> Any:
        """Add a command; with `takes_settings`, every setting of its task or study is an option, and part of its help
        unless `add_help`."""
        command = commands.add_parser(name, help=text, add_help=add_help or not takes_settings)
        command.set_defaults(action=action, parser=command, takes_settings=takes_settings, integer_bounds={})
        return command

    _add_tasks(add)
    _add_studies(add)
    _add_tables(add)
    _add_bench(add)
    _add_lessons(add)
    parser.commands = commands.choices
    return parser, list(commands.choices)


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        import shtab  # lazily, for a fast start

        for command in parser.commands.values():
            command.complete({"task": list(known_tasks()), "study": study_names()}, shtab.FILE)
        print(shtab.complete(parser, values))
        parser.exit()


def _add_tasks(add: Callable) -> None:
    """The commands on tasks and probes."""

    def of_task(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        command = add(name, action, text, takes_settings=True)
        text = "a name from `toylab list`, or package.module:Class of your own task"
        command.add_argument("task", metavar="TASK", nargs="?", help=text)
        return command

    def of_model(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        command = add(name, action, text, takes_settings=True, add_help=True)
        text = "a folder of `toylab train`, a job of a run such as RUN/seed-0/main, or a model file"
        command.add_argument("path", metavar="FOLDER", type=Path, help=text)
        command.add_argument("--task", help="task of a model file, or of your own study; its settings are --task.*")
        return command

    add("list", list_all, "list all studies and tasks")

    command = of_task("show", show_rows, "print generated rows of a task")
    _add_integer(command, "rows", 3, "number of rows", 1, 10_000)
    _add_integer(command, "seed", 0, "seed of the rows", 0)

    command = of_task("check", check_laws, "check a task against the laws that every task must satisfy")
    _add_integer(command, "examples", 30, "sampled batches per law", 1)

    command = of_task("export", export_task, "write rows of a task to a file for other libraries")
    _add_integer(command, "rows", 1000, "number of rows", 1, 10_000_000)
    _add_integer(command, "seed", 0, "seed of the rows", 0)
    command.add_argument("--split", default="train", choices=SPLITS, help="split of the rows")
    command.add_argument("--format", default="jsonl", choices=("jsonl", "parquet"), help="JSON lines or Parquet")
    command.add_argument("--out", type=Path, help="file for the rows (default: TASK-SPLIT.FORMAT)")

    command = of_task("train", train_model, "train a model on a task and report which heads attend to its links")
    _add_integer(command, "workers", 2, "number of parallel processes, each with one thread", 1)
    _add_device(command)
    command.add_argument("--out", type=Path, help="folder of the models (default: runs/train/TASK)")

    command = of_model("survey", survey_models, "show what every head of a stored model attends to and does")
    _add_device(command)
    command.add_argument("--out", type=Path, help=".svg, .png or .pdf file (default: FOLDER/survey.svg)")

    command = of_model("prove", prove_property, "prove a property of a stored model on all inputs")
    text = "answers (default), free-running, attention:LINK or ideal-pattern:LINK, for the best head of a link"
    command.add_argument("--property", default="answers", metavar="NAME", help=text)
    command.add_argument("--lengths", metavar="1..6", help="lengths of the inputs (default: all that the task samples)")
    _add_integer(command, "budget", 60, "CPU-seconds after which the other inputs are sampled", 0)
    _add_integer(command, "workers", 1, "number of parallel processes, each with one thread", 1)
    command.add_argument("--out", type=Path, help="certificate; the same command resumes the proof in it")

    command = add("calibrate", calibrate_probes, "measure error rates of the probes on cases with known ground truth")
    text = "probes to report in detail, or `intervals` for the verdict rules (default: a table of all probes)"
    command.add_argument("probe", metavar="PROBE", nargs="*", help=text)
    _add_integer(command, "seed", 0, "seed of the cases", 0)
    _add_integer(command, "each", 10, "cases per kind; half set the threshold, half are held out", 2)
    _add_integer(command, "workers", 2, "number of parallel processes, each with one thread", 1)
    command.add_argument("--json", action="store_true", help="print a list of JSON objects, including all cases")


def _add_studies(add: Callable) -> None:
    """The commands that run studies."""
    command = add("run", run_study, "run or resume a study", takes_settings=True)
    _add_study_arguments(command)
    text = "judge after 10, 20 and 30 consecutive seeds, and stop when every claim is decided"
    command.add_argument("--until-decided", action="store_true", help=text)
    text = "also run every measurement on untrained weights, as a sham"
    command.add_argument("--sham", action="store_true", help=text)
    command.add_argument("--out", type=Path, help="folder of the run (default: runs/STUDY-PRESET)")

    command = add("sweep", sweep_study, "run a study at every combination of settings in a grid", takes_settings=True)
    _add_study_arguments(command)
    text = "settings to vary, such as model.positions=none,rotary seed=0..19"
    command.add_argument("--grid", nargs="+", default=[], metavar="NAME=VALUES", help=text)
    text = "run only these jobs and their dependencies, such as main"
    command.add_argument("--jobs", nargs="+", metavar="NAME", help=text)
    text = "resume the sweep in this folder"
    command.add_argument("--continue", type=Path, metavar="FOLDER", dest="resume", help=text)
    command.add_argument("--out", type=Path, help="folder of the sweep (default: runs/STUDY-sweep)")


def _add_tables(add: Callable) -> None:
    """The commands that read stored runs."""
    command = add("table", print_table, "print the results of a sweep or a run, one row per job")
    _add_row_arguments(command)
    command.add_argument("--columns", nargs="+", metavar="NAME", help="columns to print; the end of a name suffices")
    command.add_argument("--by", nargs="+", metavar="NAME", help="group rows by these columns and print means")
    command.add_argument("--names", action="store_true", help="print only the names of all columns")
    _add_format_arguments(command, csv="comma-separated values")

    command = add("plot", plot_rows, "plot means of a sweep or a run with intervals")
    _add_row_arguments(command)
    command.add_argument("--x", required=True, metavar="NAME", help="column for the x-axis")
    text = "column of numbers for the y-axis, or a share of rows such as accuracy>=.99"
    command.add_argument("--y", required=True, metavar="NAME", help=text)
    command.add_argument("--by", metavar="NAME", help="column that groups rows into lines")
    command.add_argument("--out", type=Path, help=".svg, .png or .pdf file (default: FOLDER/Y-by-X.svg)")

    command = add("claims", print_claims, "print the verdicts of a run, or check them against the claims lock")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument("--check", action="store_true", help="compare run, claims lock and code")
    command.add_argument("--study", metavar="module:Class", help="class of your own study, which is then executed")
    _add_format_arguments(command, markdown="a Markdown table")

    command = add("report", report_run, "rewrite the report of a run, or the scoreboard of a folder of runs")
    command.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", default=Path("runs"), help="default: runs")
    command.add_argument("--study", metavar="module:Class", help="class of your own study, which is then executed")
    _add_format_arguments(command, markdown="Markdown (scoreboard only)")


def _add_bench(add: Callable) -> None:
    command = add("bench", measure_speed, "measure speed, compared with other libraries")
    text = "benchmarks, or growth (default: all short benchmarks)"
    command.add_argument("work", metavar="WORK", nargs="*", help=text)
    command.add_argument("--device", help="device of the models (default: cpu; for gpu, cuda)")
    _add_format_arguments(command, markdown="a Markdown table")
    command.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results and figures")


def _add_lessons(add: Callable) -> None:
    command = add("lessons", write_lessons, "copy the lessons to a folder: to work in, with solutions, or to grade")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--solutions", action="store_true", help="fill in the exercises and unfold all answers")
    form.add_argument("--otter", action="store_true", help="write assignments for `otter assign` of otter-grader")
    command.add_argument("--out", type=Path, help="folder (default: runs/lessons, or runs/lessons-solutions or -otter)")


def _add_integer(
    command: argparse.ArgumentParser, name: str, default: int, text: str, least: int, most: int | None = None
) -> None:
    """Add an integer option; its bounds are checked before the command starts."""
    command.add_argument(f"--{name}", type=int, default=default, metavar="INT", help=f"{text} (default: {default})")
    command.set_defaults(integer_bounds={**command.get_default("integer_bounds"), name: (least, most)})


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="device of the models, such as cuda or cuda:1 (default: cpu)")


def _add_study_arguments(command: argparse.ArgumentParser) -> None:
    text = "a name from `toylab list`, or module:Class of your own study; `run` also accepts `all`"
    command.add_argument("study", metavar="STUDY", nargs="?", help=text)
    presets = ("quick", "default", "paper")
    command.add_argument("--preset", default="default", choices=presets, help="default values of all settings")
    _add_integer(command, "workers", 2, "number of parallel processes, each with one thread", 1)
    _add_device(command)
    text = "run on the Dask cluster at this address, tcp://host:port"
    command.add_argument("--scheduler", metavar="ADDRESS", help=text)


def _add_row_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER")
    text = "keep only rows with these values"
    command.add_argument("--where", nargs="+", default=[], metavar="NAME=VALUE", help=text)
    command.add_argument("--claims", action="store_true", help="one row per claim instead of per job")


def _add_format_arguments(command: argparse.ArgumentParser, **other: str) -> None:
    form = command.add_mutually_exclusive_group()
    for name, text in ("json", "a list of JSON objects"), *other.items():
        form.add_argument(f"--{name}", action="store_true", help=f"print {text}")
