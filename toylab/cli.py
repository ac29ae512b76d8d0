"""The command line: `toylab list | show | check | train | calibrate | run | sweep | table | plot | claims | report |
bench`.

Exit codes: 0 when it ran, whatever the verdicts; 2 for a mistake in what was asked, with a short message on stderr;
1 for a failure of ours, or a task that breaks laws; 130 after Ctrl-C. Heavy imports wait until a command needs them,
so that help comes at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from toylab import __version__
from toylab.commands.instruments import calibrate_probes, measure_speed
from toylab.commands.studies import print_claims, report_run, run_study
from toylab.commands.sweeps import plot_rows, print_table, sweep_study
from toylab.commands.tasks import check_laws, list_all, show_rows, train_model
from toylab.console import ToylabError, broken_output, safe_printing, unknown_name
from toylab.settings import check_range


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what is no mistake in what was asked keeps its traceback."""
    with safe_printing():
        try:
            _run_command(list(arguments))
            sys.stdout.flush()
        except OSError:
            broken = broken_output()
            if broken is None:  # somebody else's pipe or file
                raise
            if not isinstance(broken, BrokenPipeError):  # else the reader has seen enough, as `head` has
                return _ended(2, f"toylab: the output cannot be written ({broken.strerror})")
        except ToylabError as error:
            return _ended(2, f"toylab: {error}")
        except _jobs_failed() as error:
            return _ended(1, f"toylab: {error}")
        except KeyboardInterrupt:
            keeps = "".join(arguments[:1]) in ("run", "sweep", "report")
            kept = "; what is finished is kept, and the same command continues" if keeps else ""
            return _ended(130, f"\ntoylab: stopped{kept}")
    return 0


def _run_command(arguments: list[str]) -> None:
    parser, commands = _parser()
    if arguments and arguments[0][:1] != "-" and arguments[0] not in commands:
        raise unknown_name("command", arguments[0], commands)
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.settings:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for name, (least, most) in options.numbers.items():
        check_range(**{name: getattr(options, name)}, least=least, most=most)
    options.action(options, rest)


def _ended(code: int, message: str) -> int:
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    return code


def _jobs_failed() -> Any:
    """The error of jobs that failed; none where no job can have run, since help should not wait for torch."""
    return sys.modules["toylab.runs.jobs"].JobsFailedError if "toylab.runs.jobs" in sys.modules else ()


def _parser() -> tuple[argparse.ArgumentParser, Sequence[str]]:
    parser = argparse.ArgumentParser("toylab", description="A laboratory of toy transformers.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"toylab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, action: Any, text: str, settings: bool = False) -> argparse.ArgumentParser:
        """A command; one that takes the settings of a task or study shows the help of these as well."""
        command = commands.add_parser(name, help=text, add_help=not settings, allow_abbrev=False)
        command.set_defaults(action=action, parser=command, settings=settings, numbers={})
        return command

    _add_tasks(add)
    _add_studies(add)
    _add_tables(add)
    _add_bench(add)
    return parser, list(commands.choices)


def _add_tasks(add: Callable) -> None:
    """The commands on tasks and probes."""
    mine = "a name of ours, or package.module:Class of yours"

    command = add("list", list_all, "name the studies and tasks")

    command = add("show", show_rows, "print generated rows of a task", settings=True)
    command.add_argument("task", metavar="TASK", nargs="?", help=mine)
    _number(command, "rows", 3, "how many", 1, 10_000)
    _number(command, "seed", 0, "of the rows", 0)

    command = add("check", check_laws, "check that a task keeps every law of a task", settings=True)
    command.add_argument("task", metavar="TASK", nargs="?", help=mine)
    _number(command, "examples", 30, "batches that each law is tried on", 1)

    command = add("train", train_model, "train a model on a task and see who reads what", settings=True)
    command.add_argument("task", metavar="TASK", nargs="?", help=mine)
    command.add_argument("--out", type=Path, help="a file to keep the model in, such as model.safetensors")

    command = add("calibrate", calibrate_probes, "try the probes on cases of which the truth is known")
    text = "which in detail (default: a table of all), or `intervals`: the rules of verdict"
    command.add_argument("probe", metavar="PROBE", nargs="*", help=text)
    _number(command, "seed", 0, "of the cases", 0)
    _number(command, "each", 10, "cases of a kind, half of which are held back", 2)
    _number(command, "workers", 2, "parallel processes, of one thread each", 1)
    command.add_argument("--json", action="store_true", help="as a list of JSON objects, with all cases")


def _add_studies(add: Callable) -> None:
    """The commands that run studies."""
    command = add("run", run_study, "run a study, or go on with it", settings=True)
    _study_of(command)
    text = "look at 10, 20 and 30 seeds, counted on from the first one, until every claim is decided"
    command.add_argument("--until-decided", action="store_true", help=text)
    command.add_argument("--sham", action="store_true", help="measure the same on untrained weights, then judge both")
    command.add_argument("--out", type=Path, help="folder of the run (default: runs/STUDY-PRESET)")

    command = add("sweep", sweep_study, "run a study at many settings, or go on with that", settings=True)
    _study_of(command)
    text = "settings to vary, such as model.positions=none,rotary seed=0..19"
    command.add_argument("--grid", nargs="+", default=[], metavar="NAME=VALUES", help=text)
    command.add_argument("--jobs", nargs="+", metavar="NAME", help="only these, such as main")
    command.add_argument("--continue", type=Path, metavar="FOLDER", dest="resume", help="go on with one")
    command.add_argument("--out", type=Path, help="folder of the sweep (default: runs/STUDY-sweep)")


def _add_tables(add: Callable) -> None:
    """The commands that read what was run."""
    command = add("table", print_table, "print what a sweep or a run found, a row a job")
    _rows_of(command)
    command.add_argument("--columns", nargs="+", metavar="NAME", help="which, by the ends of their names")
    command.add_argument("--by", nargs="+", metavar="NAME", help="means of the columns for each of these")
    command.add_argument("--names", action="store_true", help="print the names of all columns instead")
    _form_of(command, csv="comma-separated values")

    command = add("plot", plot_rows, "draw what a sweep found, with intervals over its rows")
    _rows_of(command)
    command.add_argument("--x", required=True, metavar="NAME", help="column along the axis")
    text = "column of numbers, or a share such as accuracy>=.99"
    command.add_argument("--y", required=True, metavar="NAME", help=text)
    command.add_argument("--by", metavar="NAME", help="column that tells the lines apart")
    command.add_argument("--out", type=Path, help="an .svg, .png or .pdf (default: FOLDER/Y-by-X.svg)")

    command = add("claims", print_claims, "print the claims of a run, or check them against their lock")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument("--check", action="store_true", help="compare run, lock and code")
    command.add_argument("--study", metavar="module:Class", help="of a run of yours, to check it: its code runs then")
    _form_of(command, markdown="a Markdown table")

    command = add("report", report_run, "judge and draw a run anew; for a folder of runs, the scoreboard of all")
    command.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", default=Path("runs"), help="default: runs")
    command.add_argument("--study", metavar="module:Class", help="of a run of yours: its code runs then")
    _form_of(command, markdown="Markdown, for the scoreboard alone")


def _add_bench(add: Callable) -> None:
    command = add("bench", measure_speed, "how fast each part is, beside the libraries that do the same")
    command.add_argument("work", metavar="WORK", nargs="*", help="which, or growth (default: all short ones)")
    command.add_argument("--device", default="cpu", help="where models are, such as cuda")
    _form_of(command, markdown="a Markdown table")
    command.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of results, and of figures")


def _number(
    command: argparse.ArgumentParser, name: str, default: int, text: str, least: int, most: int | None = None
) -> None:
    """A whole number with its bounds, which are checked in one place before the command begins."""
    command.add_argument(f"--{name}", type=int, default=default, help=text)
    command.set_defaults(numbers={**command.get_default("numbers"), name: (least, most)})


def _study_of(command: argparse.ArgumentParser) -> None:
    text = "a name from `toylab list`, or module:Class of yours; `run` also takes all"
    command.add_argument("study", metavar="STUDY", nargs="?", help=text)
    presets = ("quick", "default", "paper")
    command.add_argument("--preset", default="default", choices=presets, help="settings to start from")
    _number(command, "workers", 2, "parallel processes, of one thread each", 1)
    text = "a running Dask cluster to work there, tcp://host:port"
    command.add_argument("--scheduler", metavar="ADDRESS", help=text)


def _rows_of(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument("--where", nargs="+", default=[], metavar="NAME=VALUE", help="only these rows")
    command.add_argument("--claims", action="store_true", help="a row a claim instead of a row a job")


def _form_of(command: argparse.ArgumentParser, **other: str) -> None:
    form = command.add_mutually_exclusive_group()
    for name, text in ("json", "a list of JSON objects"), *other.items():
        form.add_argument(f"--{name}", action="store_true", help=f"as {text}")
