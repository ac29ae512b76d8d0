"""The command line: `toylab list | show | run | claims | report`.

Exit codes: 0 when it ran, whatever the verdicts; 2 for a mistake in what was asked, with a short message on stderr;
1 for a failure of ours; 130 after Ctrl-C. Heavy imports wait until a command needs them, so that help comes at once.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tasks


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.command not in ("run", "show"):
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        options.action(options, rest)
    except (ValueError, OSError) as error:
        print(f"toylab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntoylab: stopped; what is finished is kept, and the same command continues", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "JobsFailedError":
            raise
        print(f"toylab: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("toylab", description="A laboratory of toy transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="name the studies and tasks")
    command.set_defaults(action=_list)

    command = commands.add_parser("show", help="print generated rows of a task", add_help=False)
    command.add_argument("task", metavar="TASK", nargs="?")
    command.add_argument("--rows", type=int, default=3, help="how many")
    command.add_argument("--seed", type=int, default=0, help="of the rows")
    command.set_defaults(action=_show, parser=command)

    command = commands.add_parser("run", help="run a study, or go on with it", add_help=False)
    command.add_argument("study", metavar="STUDY", nargs="?")
    command.add_argument(
        "--preset", default="default", choices=("quick", "default", "paper"), help="settings to start from"
    )
    command.add_argument("--workers", type=int, default=2, help="parallel processes, of one thread each")
    command.add_argument("--out", type=Path, default=None, help="folder of the run (default: runs/STUDY-PRESET)")
    command.set_defaults(action=_run, parser=command)

    command = commands.add_parser("claims", help="print the claims of a run")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a list of JSON objects")
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    command.set_defaults(action=_claims)

    command = commands.add_parser("report", help="judge and draw a run anew from what it measured")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.set_defaults(action=_report)
    return parser


def _list(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab import studies

    print("Studies (toylab run STUDY)")
    for name in studies.names():
        print(f"  {name:<16} {_first_line(studies.load(name).__doc__)}")
    print("Tasks (toylab show TASK)")
    for name, task in _tasks().items():
        print(f"  {name:<16} {_first_line(task.__doc__)}")


def _show(options: argparse.Namespace, rest: list[str]) -> None:
    known = _tasks()
    if options.task is None:
        _help_or_fail(options, rest, f"which task? there are {', '.join(known)}")
    if options.task not in known:
        near = difflib.get_close_matches(options.task, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"there is no task {options.task!r}; {hint}")
    if options.rows < 1:
        raise ValueError(f"rows={options.rows}: must be at least 1")
    if options.seed < 0:
        raise ValueError(f"seed={options.seed}: must be at least 0")
    task = _settings(known[options.task], None, rest, f"toylab show {options.task}", options.parser)
    batch = task.sample(tasks.stream(options.seed, "show"), options.rows)
    print("\n\n".join(tasks.render(task, batch, row) for row in range(options.rows)))


def _run(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab import studies

    if options.study is None:
        _help_or_fail(options, rest, f"which study? there are {', '.join(studies.names())}")
    module = studies.load(options.study)
    preset = getattr(module.STUDY, options.preset)()
    study = _settings(module.STUDY, preset, rest, f"toylab run {options.study}", options.parser)

    from toylab.finish import finish
    from toylab.runs import JobsFailedError, JobsRefusedError, execute

    out = options.out or Path("runs") / f"{options.study}-{options.preset}"
    try:
        execute(study, options.study, out, options.workers)
    except (JobsFailedError, JobsRefusedError):
        finish(out)  # what the other jobs found should not wait for it
        raise
    print(finish(out))


def _claims(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.claims import markdown, read_claims, table

    path = options.folder / "claims.json"
    claims = read_claims(path)
    if options.json:
        print(path.read_text(encoding="utf-8").rstrip())
    else:
        print(markdown(claims) if options.markdown else table(claims))


def _report(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.finish import finish

    print(finish(options.folder))


def _settings(kind: type, default: Any, arguments: list[str], program: str, parser: argparse.ArgumentParser) -> Any:
    """A dataclass of settings from flags; a mistake leaves with exit code 2."""
    import tyro

    if {"-h", "--help"} & set(arguments):
        print(parser.format_help())
    return tyro.cli(kind, default=default, args=arguments, prog=program)


def _help_or_fail(options: argparse.Namespace, rest: list[str], question: str) -> None:
    if {"-h", "--help"} & set(rest):
        options.parser.print_help()
        sys.exit(0)
    raise ValueError(question)


def _tasks() -> dict[str, type]:
    """Every task by its name in kebab case."""
    return {"".join(f"-{c.lower()}" if c.isupper() else c for c in task.__name__)[1:]: task for task in tasks.TASKS}


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]
