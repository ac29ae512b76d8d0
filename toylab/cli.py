"""The command line: `toylab list | show | check | train | calibrate | run | sweep | table | plot | claims | report |
bench`.

Exit codes: 0 when it ran, whatever the verdicts; 2 for a mistake in what was asked, with a short message on stderr;
1 for a failure of ours, or a task that breaks laws; 130 after Ctrl-C. Heavy imports wait until a command needs them,
so that help comes at once.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import textwrap
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from toylab import __version__, tasks
from toylab.console import ToylabError, aligned, check_seed, load_class, refuse_incomplete, unknown
from toylab.terminal import broken_output, printing, progress_bar


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what is no mistake in what was asked keeps its traceback."""
    with printing():
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
        raise unknown("command", arguments[0], commands)
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.settings:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for name, (least, most) in options.numbers.items():
        number = getattr(options, name)
        if not least <= number <= (most or number):
            raise ToylabError(f"{name}={number}: must be at least {least}" + (f" and at most {most}" if most else ""))
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

    mine = "a name of ours, or package.module:Class of yours"

    command = add("list", _list, "name the studies and tasks")

    command = add("show", _show, "print generated rows of a task", settings=True)
    command.add_argument("task", metavar="TASK", nargs="?", help=mine)
    _number(command, "rows", 3, "how many", 1, 10_000)
    _number(command, "seed", 0, "of the rows", 0)

    command = add("check", _check, "check that a task keeps every law of a task", settings=True)
    command.add_argument("task", metavar="TASK", nargs="?", help=mine)
    _number(command, "examples", 30, "batches that each law is tried on", 1)

    command = add("train", _train, "train a model on a task and see who reads what", settings=True)
    command.add_argument("task", metavar="TASK", nargs="?", help=mine)
    command.add_argument("--out", type=Path, help="a file to keep the model in, such as model.safetensors")

    command = add("calibrate", _calibrate, "try the probes on cases of which the truth is known")
    command.add_argument("probe", metavar="PROBE", nargs="*", help="which in detail (default: a table of all)")
    _number(command, "seed", 0, "of the cases", 0)
    _number(command, "each", 10, "cases of a kind, half of which are held back", 2)
    _number(command, "workers", 2, "parallel processes, of one thread each", 1)
    command.add_argument("--json", action="store_true", help="as a list of JSON objects, with all cases")

    command = add("run", _run, "run a study, or go on with it", settings=True)
    _study_of(command)
    command.add_argument("--out", type=Path, help="folder of the run (default: runs/STUDY-PRESET)")

    command = add("sweep", _sweep, "run a study at many settings, or go on with that", settings=True)
    _study_of(command)
    text = "settings to vary, such as model.positions=none,rotary seed=0..19"
    command.add_argument("--grid", nargs="+", default=[], metavar="NAME=VALUES", help=text)
    command.add_argument("--jobs", nargs="+", metavar="NAME", help="only these, such as main")
    command.add_argument("--continue", type=Path, metavar="FOLDER", dest="resume", help="go on with one")
    command.add_argument("--out", type=Path, help="folder of the sweep (default: runs/STUDY-sweep)")

    command = add("table", _table, "print what a sweep or a run found, a row a job")
    _rows_of(command)
    command.add_argument("--columns", nargs="+", metavar="NAME", help="which, by the ends of their names")
    command.add_argument("--by", nargs="+", metavar="NAME", help="means of the columns for each of these")
    command.add_argument("--names", action="store_true", help="print the names of all columns instead")
    _form_of(command, csv="comma-separated values")

    command = add("plot", _plot, "draw what a sweep found, with intervals over its rows")
    _rows_of(command)
    command.add_argument("--x", required=True, metavar="NAME", help="column along the axis")
    text = "column of numbers, or a share such as accuracy>=.99"
    command.add_argument("--y", required=True, metavar="NAME", help=text)
    command.add_argument("--by", metavar="NAME", help="column that tells the lines apart")
    command.add_argument("--out", type=Path, help="an .svg, .png or .pdf (default: FOLDER/Y-by-X.svg)")

    command = add("claims", _claims, "print the claims of a run")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    _form_of(command, markdown="a Markdown table")

    command = add("report", _report, "judge and draw a run anew; for a folder of runs, the scoreboard of all")
    command.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", default=Path("runs"), help="default: runs")
    command.add_argument("--study", metavar="module:Class", help="of a run of yours: its code runs then")
    _form_of(command, markdown="Markdown, for the scoreboard alone")

    command = add("bench", _bench, "how fast each part is, beside the libraries that do the same")
    command.add_argument("work", metavar="WORK", nargs="*", help="which, or growth (default: all short ones)")
    command.add_argument("--device", default="cpu", help="where models are, such as cuda")
    _form_of(command, markdown="a Markdown table")
    command.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of results, and of figures")
    return parser, list(commands.choices)


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


def _print_json(value: Any) -> None:
    plain = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"  # an escape of ours is no JSON
    print(json.dumps(value, indent=1, ensure_ascii=plain))


def _list(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.runs import registry

    print("Studies (toylab run STUDY)")
    for name in registry.names():
        print(_entry(name, registry.load(name).__doc__))
    print("Tasks (toylab show TASK)")
    for name, task in _tasks().items():
        print(_entry(name, task.__doc__))
    print("Next: `toylab show parity` prints rows of a task; `toylab run iteration-head` takes")
    print("two or three minutes and ends in a page.")


def _entry(name: str, text: str | None) -> str:
    """A name and the first line of what it says of itself, on lines of 80 columns."""
    first = "".join((text or "").strip().splitlines()[:1])  # none under `python -OO`
    return textwrap.fill(f"{name:<19} {first}", 80, initial_indent="  ", subsequent_indent=" " * 22)


def _show(options: argparse.Namespace, rest: list[str]) -> None:
    kind = _task(options, rest)
    task = _made(_settings(kind, None, options, rest), options.task)
    batch = task.sample(tasks.stream(options.seed, "show"), options.rows)
    rule = "\n" + "-" * 80 + "\n"
    print(rule.join(tasks.render(task, batch, row, columns=80) for row in range(options.rows)))


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.tasks.laws import LAWS, sentence, verdicts

    kind = _task(options, rest)
    task = _made(_settings(kind, None, options, rest), options.task)
    broken = []
    for law, failure in verdicts(task, examples=options.examples):
        broken.append(failure)
        if not (failure and failure.again):
            print(failure or f"holds: {sentence(law)}", flush=True)
    again = sum(failure.again for failure in broken if failure)
    more = f" ({again} more are broken by a cause that is shown above)" if again else ""
    print(f"{broken.count(None)} of {len(LAWS)} laws hold for {task}{more}")
    if any(broken):
        sys.exit(1)


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    kind = _task(options, rest)

    from toylab.files import disk, refuse_unwritable
    from toylab.model.transformer import ModelConfig
    from toylab.runs.store import save_model, single_thread
    from toylab.survey import GENERAL, UNTIL_SOLVED, learn, survey
    from toylab.training.loop import TrainConfig

    settings = make_dataclass(
        "Training",
        [("task", kind), ("model", ModelConfig, GENERAL), ("train", TrainConfig, UNTIL_SOLVED), ("seed", int, 0)],
        kw_only=True,
    )
    chosen = _settings(settings, None, options, rest)
    check_seed(chosen.seed)
    if options.out is not None:
        with disk(options.out):
            if options.out.exists():
                raise ToylabError(f"out={options.out}: exists already; give another file, or delete it")
    rows = _made(chosen.task, options.task).sample(tasks.stream(chosen.seed, "survey"), 256, "test")
    if options.out is not None:
        refuse_unwritable("out", options.out)
    single_thread()
    model, state = learn(
        chosen.task, seed=chosen.seed, config=chosen.model, training=chosen.train, progress=kind.__name__
    )
    if options.out is not None:
        save_model(options.out, model)
    accuracy, goal = state.history[-1]["accuracy"], chosen.train.stop_at
    if goal is not None and accuracy < goal:
        print(f"not solved: accuracy {accuracy:.3f} on held-out rows after {state.step} steps, below {goal}")
        print("more --train.steps, another --seed or a larger --model.width may help")
    print(survey(model, rows))


def _calibrate(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.calibration import as_json, calibrate_all, names, table

    found = calibrate_all(options.probe or names(), options.seed, options.each, options.workers)
    if options.json:
        _print_json([as_json(one) for one in found])
    elif options.probe:
        print("\n\n".join(str(one) for one in found))
    else:
        print(table(found))
        print("Clean plants found and look-alikes found, held back from setting the bar, with 95 %")
        print("intervals in percent; the noise at which half are missed. More: toylab calibrate PROBE")


def _bench(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab import bench
    from toylab.files import refuse_unwritable
    from toylab.runs.store import single_thread

    single_thread()
    about = bench.machine()
    if "growth" in options.work:
        if len(options.work) > 1 or options.markdown:
            raise ToylabError("growth: draws figures and compares nothing; give it alone, with --json at the most")
        _growth(options)
        return
    comparisons = bench.measure(options.work, options.device)
    refuse_unwritable("out", options.out / "bench.json")
    limit = bench.matmul_limit(device=options.device) / 1e9
    about |= {"device": options.device, "matmul_gigaflops": round(limit, 1)}
    earlier, found = bench.before(options.out, about), []
    for one in progress_bar(
        comparisons, desc="comparisons", bar_format="{desc}: {n} {elapsed}", disable=None, leave=False
    ):
        found.append(one)
        path = bench.keep(options.out, found, about)  # at once: the next may take minutes, and be stopped
    if options.json:
        _print_json(bench.as_json(found))
        return
    if options.markdown:
        print(bench.markdown(found))
        return
    print(bench.table(found))
    print(f"{about['processor']}, torch {about['torch']}; float32 products reach {limit:.0f} GF/s on one thread")
    lines = [f"{one.work}: {one.note}" for one in found if one.note]
    short = [one for one in found if not one.met]
    lines.append(
        f"{len(found) - len(short)} of {len(found)} targets are met" + ("; short of theirs are" if short else "")
    )
    lines += [f"  {one}" for one in short]
    lines += [f"since the last bench: {line}" for line in bench.changes(found, earlier)]
    if not bench.has_lens():
        lines.append("TransformerLens is not installed: pip install 'toylab[bench]' adds it")
    print("\n".join([*lines, f"Kept in {path}"]))


def _growth(options: argparse.Namespace) -> None:
    from toylab import bench
    from toylab.bench.growth import curves
    from toylab.files import refuse_unwritable, write_json, write_text
    from toylab.report import figures

    bench.check_device(options.device)
    refuse_unwritable("out", options.out / "growth.json")
    found = list(progress_bar(curves(options.device), desc="curves", total=9, disable=None, leave=False))
    told = [{**asdict(one), "exponent": one.exponent} for one in found]
    write_json(options.out / "growth.json", {**bench.machine(), "curves": told})
    if options.json:
        _print_json(told)
    for size in dict.fromkeys(one.size for one in found):
        lines = [one for one in found if one.size == size]
        drawn = figures.growth(
            {one.work: (one.sizes, one.seconds) for one in lines},
            xlabel=size,
            exponents={one.work: one.exponent for one in lines},
            title=f"Cost against {size}",
        )
        path = options.out / f"growth-{size.replace(' ', '-')}.svg"
        write_text(path, figures.svg(drawn.figure))
        if not options.json:
            print("\n".join([*map(str, lines), f"  {path}"]))


def _run(options: argparse.Namespace, rest: list[str]) -> None:
    if options.study == "all":
        _run_all(options, rest)
        return
    study = _study(options, rest)

    from toylab.runs import registry
    from toylab.runs.dask import executor
    from toylab.runs.jobs import JobsFailedError, JobsRefusedError, execute
    from toylab.runs.judge import after_failures, finish

    out = options.out or _folder(options.study, options.preset)
    try:
        with executor(options.scheduler) as cluster:
            execute(study, registry.name_of(type(study)), out, options.workers, executor=cluster)
    except (JobsFailedError, JobsRefusedError):
        after_failures(out, finish, out, type(study))  # what the other jobs found should not wait for it
        raise
    print(finish(out, type(study)))


def _folder(study: str, kind: str) -> Path:
    """Where the runs of a study go if nobody says where."""
    return Path("runs") / f"{study.replace(':', '-')}-{kind}"


def _run_all(options: argparse.Namespace, rest: list[str]) -> None:
    if {"-h", "--help"} & set(rest):
        options.parser.print_help()
        print("\nall studies take --seeds 0 1 2 and --control-seeds N (how many of them the controls use)")
        return
    parser = argparse.ArgumentParser("toylab run all", add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--control-seeds", type=int)
    common, other = parser.parse_known_args(rest)
    if other:
        raise ToylabError(
            f"{other[0]}: is a setting of one study; `run all` takes --preset, --seeds, --control-seeds, --workers and "
            "--out"
        )

    from toylab.runs import registry, scoreboard
    from toylab.runs.dask import executor
    from toylab.runs.jobs import JobsFailedError, JobsRefusedError, Run, execute_all
    from toylab.runs.judge import after_failures

    wanted = {"seeds": common.seeds and tuple(common.seeds), "control_seeds": common.control_seeds}
    folder = options.out or Path("runs")
    runs = []
    for name in registry.names():
        study = registry.preset(registry.load(name).STUDY, options.preset)
        known = {field.name for field in fields(study)}
        study = replace(study, **{key: value for key, value in wanted.items() if value is not None and key in known})
        runs.append(Run(study, name, folder / f"{name}-{options.preset}"))
    try:
        with executor(options.scheduler) as cluster:
            execute_all(runs, "all studies", options.workers, executor=cluster)
    except (JobsFailedError, JobsRefusedError):
        after_failures(folder, scoreboard.finish_all, folder)
        raise
    print(scoreboard.finish_all(folder))


def _sweep(options: argparse.Namespace, rest: list[str]) -> None:
    own = options.resume is not None and ":" in (options.study or "")
    if options.resume is not None and (
        (options.study and not own) or options.grid or options.jobs or options.out or rest
    ):
        raise ToylabError(
            "continue: takes the study and its settings from the folder; leave them out, but for module:Class of yours"
        )
    study = None if options.resume is not None else _study(options, rest)
    if study is not None and not options.grid:
        raise ToylabError("grid: nothing is varied; add --grid NAME=VALUES, such as --grid seed=0..19")

    from toylab.runs.dask import executor
    from toylab.runs.sweep import grid, read_axes, resume, sweep

    points = None if study is None else grid(study, read_axes(study, options.grid))
    out = options.resume or options.out or _folder(options.study, "sweep")
    with executor(options.scheduler) as cluster:
        if points is None:
            kind = load_class("study", options.study) if own else None
            rows = resume(out, study=kind, workers=options.workers, executor=cluster)
        else:
            rows = sweep(points, out, workers=options.workers, executor=cluster, jobs=options.jobs)
    seconds = sum(row["result.cost.cpu_seconds"] for row in rows if row["status"] == "done")
    print(f"{len(rows)} jobs of {len({row['run'] for row in rows})} runs in {seconds:.0f} CPU-seconds.")
    print(f"To see them: toylab table {out}")


def _table(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.runs import sweep as sweeps

    rows = _selected(options)
    if options.names:
        print("\n".join(rows[0]))
        return
    if options.by and not options.columns:
        raise ToylabError("by: means of what? add --columns NAME, such as --columns accuracy")
    if options.by:
        rows = sweeps.summarise(rows, options.by, options.columns)
        if options.json or options.csv:
            rows = [_spread(row) for row in rows]
        names = list(rows[0])
    elif options.columns:
        rows, names = sweeps.with_bounds(rows, options.columns)
    else:
        names = sweeps.usual_columns(rows)
    if options.json:
        _print_json([{name: row[name] for name in names} for row in rows])
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_plain(row[name]) for name in names] for row in rows])
    else:
        print(aligned([_short(names), *([sweeps.text(row[name]) for name in names] for row in rows)]))


def _plot(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.files import refuse_links, refuse_unwritable, write_bytes
    from toylab.report import figures
    from toylab.runs import sweep as sweeps

    rows = _selected(options)
    by = [options.x, *([options.by] if options.by else [])]
    found = sweeps.summarise(rows, by, [options.y])
    x, *other, y = found[0]
    groups: dict[str, dict[Any, tuple[float, float, float]]] = {}
    for line in found:
        group = f"{_short(other)[0]} {sweeps.text(line[other[0]])}" if other else ""
        place = line[x] if isinstance(line[x], int | float) and not isinstance(line[x], bool) else sweeps.text(line[x])
        ends = (line[y].mean if end is None else end for end in (line[y].low, line[y].high))  # one row: a point alone
        groups.setdefault(group, {})[place] = (line[y].mean, *ends)
    counts = sorted({line[y].count for line in found})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    (xlabel,), (ylabel,) = _short([x]), _short([y])
    out = options.out or options.folder / f"{_file_name(ylabel)}-by-{_file_name(xlabel)}.svg"
    if out.suffix not in (".svg", ".png", ".pdf"):
        raise ToylabError(f"out={out}: the name must end with .svg, .png or .pdf")
    refuse_unwritable("out", out)
    what = "mean" if y in rows[0] else "share"  # a bound, such as accuracy>=.99, is no column
    title = f"strokes: 95 % intervals of the {what}"
    ax = figures.intervals(groups, xlabel=xlabel, ylabel=f"{ylabel}, {what} of {count}", title=title)
    if options.out is None:
        refuse_links(options.folder, out)
    write_bytes(out, figures.saved(ax.figure, out.suffix[1:]))
    print(out.resolve())


def _selected(options: argparse.Namespace) -> list[dict[str, Any]]:
    from toylab.runs.sweep import load_runs, where

    rows = where(load_runs(options.folder, "claims" if options.claims else "jobs"), options.where)
    if not rows:
        raise ToylabError(f"{options.folder}: holds no {'claims' if options.claims else 'jobs'} yet; run it first")
    return rows


def _short(names: Sequence[str]) -> list[str]:
    """The last part of each name, or more where that would be said twice."""
    ends = [name.removeprefix("settings.").removeprefix("result.") for name in names]
    return ends if len(set(ends)) == len(ends) else list(names)


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    """A mean as four columns, for programs."""
    from toylab.runs.sweep import Mean

    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mean):
            found |= {
                name: value.mean,
                f"{name}.low": value.low,
                f"{name}.high": value.high,
                f"{name}.count": value.count,
            }
        elif value is None:
            found |= {name: None, f"{name}.low": None, f"{name}.high": None, f"{name}.count": 0}
        else:
            found[name] = value
    return found


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in name).strip("-")


def _claims(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.verdicts.claim import markdown, read_claims, table

    path = options.folder / "claims.json"
    claims = read_claims(path)
    if options.json:
        _print_json([asdict(claim) for claim in claims])
    else:
        print(markdown(claims) if options.markdown else table(claims))


def _report(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab.files import exists
    from toylab.runs import registry

    kind = registry.load(options.study).STUDY if options.study else None
    if exists(options.folder / "settings.json"):
        if options.json or options.markdown:
            form = "json" if options.json else "markdown"
            raise ToylabError(
                f"{form}: {options.folder} is a single run; for it, `toylab claims FOLDER --{form}` prints that"
            )
        from toylab.runs.judge import finish

        print(finish(options.folder, kind))
        return
    from toylab.runs import scoreboard

    if not options.json and not options.markdown:
        print(scoreboard.finish_all(options.folder, kind))
        return
    standings = scoreboard.board(options.folder, kind)
    if options.json:
        _print_json([asdict(one) for one in standings])
    else:
        print(scoreboard.markdown(standings))


def _study(options: argparse.Namespace, rest: list[str]) -> Any:
    """The study that was asked for, with its settings; heavy imports only for one that there is."""
    from toylab.runs import registry

    _check_name("study", options, rest, registry.names(), _tasks())
    kind = registry.load(options.study).STUDY
    return _settings(kind, registry.preset(kind, options.preset), options, rest)


def _task(options: argparse.Namespace, rest: list[str]) -> type:
    """A task of ours by its name, or anybody's by `package.module:Class`; modules are looked for here first."""
    from toylab.runs import registry

    known = _tasks()
    _check_name("task", options, rest, known, registry.names())
    if ":" not in options.task:
        return known[options.task]
    kind = load_class("task", options.task)
    refuse_incomplete("task", options.task, kind, ("sample", "solve"))
    return kind


def _made(task: Any, name: str) -> Any:
    """A task from its settings, if it has all that a task has."""
    refuse_incomplete("task", name, task, ("vocabulary", "context"))
    return task


def _tasks() -> dict[str, type]:
    """Every task by its name in kebab case."""
    return {"".join(f"-{c.lower()}" if c.isupper() else c for c in task.__name__)[1:]: task for task in tasks.TASKS}


def _check_name(
    kind: str, options: argparse.Namespace, rest: list[str], known: Collection[str], others: Collection[str]
) -> None:
    """Help or an error, unless a study or task that there is was named; `others` are the names of the other kind."""
    name = getattr(options, kind)
    if name is None:
        if {"-h", "--help"} & set(rest):
            options.parser.print_help()
            sys.exit(0)
        raise ToylabError(f"which {kind}? package.module:Class of yours, or one of {', '.join(known)}")
    if ":" in name or name in known:
        return
    if later := [word for word in rest if word in known]:
        raise ToylabError(f"{kind} {later[0]}: give it before its settings, `toylab {options.command} {later[0]} ...`")
    if name in others:
        other, command = ("task", "train") if kind == "study" else ("study", "run")
        raise ToylabError(f"{name} is a {other}, no {kind}: give `toylab {command} {name}`")
    raise unknown(kind, name, known)


def _settings(kind: type, default: Any, options: argparse.Namespace, rest: list[str]) -> Any:
    """A dataclass of settings from the flags that are not of the command itself."""
    from toylab.flags import from_flags  # here, since help should not wait for tyro

    name = options.task if hasattr(options, "task") else options.study
    return from_flags(kind, default, rest, f"toylab {options.command} {name}", options.parser)
