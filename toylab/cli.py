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
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import tasks
from toylab.names import ToylabError, aligned, load_class, unknown


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.command not in ("run", "show", "check", "train", "sweep"):
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        options.action(options, rest)
    except BrokenPipeError:  # who reads it has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"toylab: {error}", file=sys.stderr)
        return 2
    except ToylabError as error:
        print(f"toylab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; what is finished is kept, and the same command continues" if options.command in _KEEPING else ""
        print(f"\ntoylab: stopped{kept}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "JobsFailedError":
            raise
        print(f"toylab: {error}", file=sys.stderr)
        return 1
    return 0


_KEEPING = ("run", "sweep", "report")


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

    command = commands.add_parser("check", help="check that a task keeps every law of a task", add_help=False)
    command.add_argument("task", metavar="TASK", nargs="?", help="a name of ours, or package.module:Class of yours")
    command.add_argument("--examples", type=int, default=30, help="batches that each law is tried on")
    command.set_defaults(action=_check, parser=command)

    command = commands.add_parser("train", help="train a model on a task and see who reads what", add_help=False)
    command.add_argument("task", metavar="TASK", nargs="?", help="a name of ours, or package.module:Class of yours")
    command.add_argument(
        "--out", type=Path, default=None, help="a file to keep the model in, such as model.safetensors"
    )
    command.set_defaults(action=_train, parser=command)

    command = commands.add_parser("calibrate", help="try the probes on cases of which the truth is known")
    command.add_argument("probe", metavar="PROBE", nargs="*", help="which in detail (default: a table of all)")
    command.add_argument("--seed", type=int, default=0, help="of the cases")
    command.add_argument("--each", type=int, default=10, help="cases of a kind, half of which are held back")
    command.add_argument("--workers", type=int, default=2, help="parallel processes, of one thread each")
    command.add_argument("--json", action="store_true", help="as a list of JSON objects, with all cases")
    command.set_defaults(action=_calibrate)

    command = commands.add_parser("run", help="run a study, or go on with it", add_help=False)
    _study_of(command)
    command.add_argument("--out", type=Path, default=None, help="folder of the run (default: runs/STUDY-PRESET)")
    command.set_defaults(action=_run, parser=command)

    command = commands.add_parser("sweep", help="run a study at many settings, or go on with that", add_help=False)
    _study_of(command)
    command.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="NAME=VALUES",
        help="settings to vary, such as model.positions=none,rotary seed=0..19",
    )
    command.add_argument("--jobs", nargs="+", default=None, metavar="NAME", help="only these, such as main")
    command.add_argument("--continue", type=Path, default=None, metavar="FOLDER", dest="resume", help="go on with one")
    command.add_argument("--out", type=Path, default=None, help="folder of the sweep (default: runs/STUDY-sweep)")
    command.set_defaults(action=_sweep, parser=command)

    command = commands.add_parser("table", help="print what a sweep or a run found, a row a job")
    _rows_of(command)
    command.add_argument("--columns", nargs="+", default=None, metavar="NAME", help="which, by the ends of their names")
    command.add_argument("--by", nargs="+", default=None, metavar="NAME", help="means of the columns for each of these")
    command.add_argument("--names", action="store_true", help="print the names of all columns instead")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a list of JSON objects")
    form.add_argument("--csv", action="store_true", help="as comma-separated values")
    command.set_defaults(action=_table)

    command = commands.add_parser("plot", help="draw what a sweep found, with intervals over its rows")
    _rows_of(command)
    command.add_argument("--x", required=True, metavar="NAME", help="column along the axis")
    command.add_argument(
        "--y", required=True, metavar="NAME", help="column of numbers, or a share such as accuracy>=.99"
    )
    command.add_argument("--by", default=None, metavar="NAME", help="column that tells the lines apart")
    command.add_argument("--out", type=Path, default=None, help="an .svg, .png or .pdf (default: FOLDER/Y-by-X.svg)")
    command.set_defaults(action=_plot)

    command = commands.add_parser("claims", help="print the claims of a run")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a list of JSON objects")
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    command.set_defaults(action=_claims)

    command = commands.add_parser(
        "report", help="judge and draw a run anew; for a folder of runs, the scoreboard of all"
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", default=Path("runs"), help="default: runs")
    command.add_argument("--study", metavar="module:Class", help="of a run of yours: its code runs then")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the scoreboard as a list of JSON objects")
    form.add_argument("--markdown", action="store_true", help="the scoreboard as Markdown")
    command.set_defaults(action=_report)

    command = commands.add_parser("bench", help="how fast each part is, beside the libraries that do the same")
    command.add_argument("work", metavar="WORK", nargs="*", help="which, or growth (default: all short ones)")
    command.add_argument("--device", default="cpu", help="where models are, such as cuda")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a list of JSON objects")
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    command.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of results, and of figures")
    command.set_defaults(action=_bench)
    return parser


def _study_of(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        help="a name from `toylab list`, or module:Class of yours; `run` also takes all",
    )
    command.add_argument(
        "--preset", default="default", choices=("quick", "default", "paper"), help="settings to start from"
    )
    command.add_argument("--workers", type=int, default=2, help="parallel processes, of one thread each")
    command.add_argument(
        "--scheduler", default=None, metavar="ADDRESS", help="a running Dask cluster to work there, tcp://host:port"
    )


def _rows_of(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument("--where", nargs="+", default=[], metavar="NAME=VALUE", help="only these rows")
    command.add_argument("--claims", action="store_true", help="a row a claim instead of a row a job")


def _list(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab import studies

    print("Studies (toylab run STUDY)")
    for name in studies.names():
        print(_entry(name, studies.load(name).__doc__))
    print("Tasks (toylab show TASK)")
    for name, task in _tasks().items():
        print(_entry(name, task.__doc__))
    print("Next: `toylab show parity` prints rows of a task; `toylab run iteration-head` takes")
    print("two or three minutes and ends in a page.")


def _entry(name: str, text: str | None) -> str:
    """A name and the first line of what it says of itself, on lines of 80 columns."""
    return textwrap.fill(_first_line(text), 80, initial_indent=f"  {name:<19} ", subsequent_indent=" " * 22)


def _show(options: argparse.Namespace, rest: list[str]) -> None:
    kind = _task(options, rest)
    if options.rows < 1:
        raise ToylabError(f"rows={options.rows}: must be at least 1")
    if options.seed < 0:
        raise ToylabError(f"seed={options.seed}: must be at least 0")
    task = _made(_settings(kind, None, rest, f"toylab show {options.task}", options.parser), options.task)
    batch = task.sample(tasks.stream(options.seed, "show"), options.rows)
    rule = "\n" + "-" * 80 + "\n"
    print(rule.join(tasks.render(task, batch, row, columns=80) for row in range(options.rows)))


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    from tasks.conformance import LAWS, sentence, verdicts

    kind = _task(options, rest)
    if options.examples < 1:
        raise ToylabError(f"examples={options.examples}: must be at least 1")
    task = _made(_settings(kind, None, rest, f"toylab check {options.task}", options.parser), options.task)
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

    from toylab.files import refuse_unwritable
    from toylab.model import ModelConfig
    from toylab.runs import save_model, single_thread
    from toylab.survey import GENERAL, UNTIL_SOLVED, learn, survey
    from toylab.train import TrainConfig

    settings = make_dataclass(
        "Training",
        [("task", kind), ("model", ModelConfig, GENERAL), ("train", TrainConfig, UNTIL_SOLVED), ("seed", int, 0)],
        kw_only=True,
    )
    chosen = _settings(settings, None, rest, f"toylab train {options.task}", options.parser)
    if chosen.seed < 0:
        raise ToylabError(f"seed={chosen.seed}: must be at least 0")
    if options.out is not None and options.out.exists():
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
    for name, least in (("seed", 0), ("each", 2), ("workers", 1)):
        if getattr(options, name) < least:
            raise ToylabError(f"{name}={getattr(options, name)}: must be at least {least}")

    from toylab.calibration import as_json, calibrate_all, names, table

    found = calibrate_all(options.probe or names(), options.seed, options.each, options.workers)
    if options.json:
        print(json.dumps([as_json(one) for one in found], indent=1, ensure_ascii=False))
    elif options.probe:
        print("\n\n".join(str(one) for one in found))
    else:
        print(table(found))
        print("Clean plants found and look-alikes found, held back from setting the bar, with 95 %")
        print("intervals in percent; the noise at which half are missed. More: toylab calibrate PROBE")


def _bench(options: argparse.Namespace, rest: list[str]) -> None:
    from tqdm import tqdm

    from toylab import bench
    from toylab.files import refuse_unwritable
    from toylab.runs import single_thread

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
    for one in tqdm(comparisons, desc="comparisons", bar_format="{desc}: {n} {elapsed}", disable=None, leave=False):
        found.append(one)
        path = bench.keep(options.out, found, about)  # at once: the next may take minutes, and be stopped
    if options.json:
        print(json.dumps(bench.as_json(found), indent=1, ensure_ascii=False))
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
    from tqdm import tqdm

    from toylab import bench, figures
    from toylab.bench.growth import curves
    from toylab.files import refuse_unwritable, write_json, write_text

    bench.check_device(options.device)
    refuse_unwritable("out", options.out / "growth.json")
    found = list(tqdm(curves(options.device), desc="curves", total=9, disable=None, leave=False))
    told = [{**asdict(one), "exponent": one.exponent} for one in found]
    write_json(options.out / "growth.json", {**bench.machine(), "curves": told})
    if options.json:
        print(json.dumps(told, indent=1))
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

    from toylab import studies
    from toylab.cluster import executor
    from toylab.engine import JobsFailedError, JobsRefusedError, execute
    from toylab.finish import after_failures, finish

    out = options.out or _folder(options.study, options.preset)
    try:
        with executor(options.scheduler) as cluster:
            execute(study, studies.name_of(type(study)), out, options.workers, executor=cluster)
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

    from toylab import scoreboard, studies
    from toylab.cluster import executor
    from toylab.engine import JobsFailedError, JobsRefusedError, Run, execute_all
    from toylab.finish import after_failures

    wanted = {"seeds": common.seeds and tuple(common.seeds), "control_seeds": common.control_seeds}
    folder = options.out or Path("runs")
    runs = []
    for name in studies.names():
        study = studies.preset(studies.load(name).STUDY, options.preset)
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

    from toylab.cluster import executor
    from toylab.sweeps import grid, read_axes, resume, sweep

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
    from toylab import sweeps

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
        print(json.dumps([{name: row[name] for name in names} for row in rows], indent=1, ensure_ascii=False))
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_plain(row[name]) for name in names] for row in rows])
    else:
        print(aligned([_short(names), *([sweeps.text(row[name]) for name in names] for row in rows)]))


def _plot(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab import figures, sweeps
    from toylab.files import refuse_links, refuse_unwritable, write_bytes

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
    from toylab.sweeps import load_runs, where

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
    from toylab.sweeps import Mean

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
    from toylab.claims import markdown, read_claims, table

    path = options.folder / "claims.json"
    claims = read_claims(path)
    if options.json:
        print(json.dumps([asdict(claim) for claim in claims], indent=1, ensure_ascii=False))
    else:
        print(markdown(claims) if options.markdown else table(claims))


def _report(options: argparse.Namespace, rest: list[str]) -> None:
    from toylab import studies
    from toylab.files import exists

    kind = studies.load(options.study).STUDY if options.study else None
    if exists(options.folder / "settings.json"):
        if options.json or options.markdown:
            form = "json" if options.json else "markdown"
            raise ToylabError(
                f"{form}: {options.folder} is a single run; for it, `toylab claims FOLDER --{form}` prints that"
            )
        from toylab.finish import finish

        print(finish(options.folder, kind))
        return
    from toylab import scoreboard

    if not options.json and not options.markdown:
        print(scoreboard.finish_all(options.folder, kind))
        return
    standings = scoreboard.board(options.folder, kind)
    if options.json:
        print(json.dumps([asdict(one) for one in standings], indent=1, ensure_ascii=False))
    else:
        print(scoreboard.markdown(standings))


def _study(options: argparse.Namespace, rest: list[str]) -> Any:
    """The study that was asked for, with its settings; heavy imports only for one that there is."""
    from toylab import studies

    if options.study is None:
        _help_or_fail(options, rest, f"which study? there are {', '.join(studies.names())}")
    kind = studies.load(options.study).STUDY
    program = f"toylab {options.command} {options.study}"
    return _settings(kind, studies.preset(kind, options.preset), rest, program, options.parser)


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
    raise ToylabError(question)


def _tasks() -> dict[str, type]:
    """Every task by its name in kebab case."""
    return {"".join(f"-{c.lower()}" if c.isupper() else c for c in task.__name__)[1:]: task for task in tasks.TASKS}


def _task(options: argparse.Namespace, rest: list[str]) -> type:
    """A task of ours by its name, or anybody's by `package.module:Class`; modules are looked for here first."""
    name, known = options.task, _tasks()
    if name is None:
        _help_or_fail(options, rest, f"which task? package.module:Class of yours, or one of {', '.join(known)}")
    if ":" in name:
        kind = load_class("task", name)
        _refuse_no_task(name, [part for part in ("sample", "solve") if not callable(getattr(kind, part, None))])
        return kind
    if name not in known:
        raise unknown("task", name, known)
    return known[name]


def _made(task: Any, name: str) -> Any:
    """A task from its settings, if it has all that a task has."""
    _refuse_no_task(name, [part for part in ("vocabulary", "context") if not hasattr(task, part)])
    return task


def _refuse_no_task(name: str, missing: Sequence[str]) -> None:
    if missing:
        raise ToylabError(
            f"task {name!r}: has no {' and no '.join(missing)}; a task has vocabulary, context, sample and solve (see "
            "tasks.Task)"
        )


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]
