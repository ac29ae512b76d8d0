"""Commands on many runs: sweep, table, plot."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

from toylab.commands.flags import checked_device, chosen_study, print_json, usual_folder
from toylab.console import ToylabError, align_columns
from toylab.runs.registry import load_class


def sweep_study(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab sweep`."""
    is_user_study = options.resume is not None and ":" in (options.study or "")
    if options.resume is not None and (
        (options.study and not is_user_study) or options.grid or options.jobs or options.out or rest
    ):
        raise ToylabError(
            "continue: reads the study and its settings from the folder; omit them, except your own module:Class"
        )
    study = None if options.resume is not None else chosen_study(options, rest)
    if study is not None and not options.grid:
        raise ToylabError("grid: is empty; add --grid NAME=VALUES, such as --grid seed=0..19")

    from toylab.runs.dask import dask_executor
    from toylab.runs.grid import grid, read_axes
    from toylab.runs.sweep import resume_sweep, sweep

    device = checked_device(options)
    points = None if study is None else grid(study, read_axes(study, options.grid))
    out = options.resume or options.out or usual_folder(options.study, "sweep")
    with dask_executor(options.scheduler) as cluster:
        if points is None:
            study_class = load_class("study", options.study) if is_user_study else None
            rows = resume_sweep(out, study=study_class, workers=options.workers, executor=cluster, device=device)
        else:
            rows = sweep(points, out, workers=options.workers, executor=cluster, jobs=options.jobs, device=device)
    seconds = sum(row["result.cost.cpu_seconds"] for row in rows if row["status"] == "done")
    print(f"{len(rows)} jobs of {len({row['run'] for row in rows})} runs in {seconds:.0f} CPU-seconds.")
    print(f"Results: toylab table {out}")


def print_table(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab table`."""
    from toylab.runs import table

    rows = _filtered_rows(options)
    if options.names:
        print("\n".join(rows[0]))
        return
    if options.by and not options.columns:
        raise ToylabError("by: needs columns to average; add --columns NAME, such as --columns accuracy")
    if options.by:
        rows = table.group_means(rows, options.by, options.columns)
        if options.json or options.csv:
            rows = [_interval_columns(row) for row in rows]
        names = list(rows[0])
    elif options.columns:
        rows, names = table.with_thresholds(rows, options.columns)
    else:
        names = table.usual_columns(rows)
    if options.json:
        print_json([{name: row[name] for name in names} for row in rows])
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_json_cell(row[name]) for name in names] for row in rows])
    else:
        cells = ([table.format_value(row[name]) for name in names] for row in rows)
        print(align_columns([_short_names(names), *cells]))


def plot_rows(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab plot`."""
    from toylab.files import refuse_links, refuse_unwritable, write_bytes
    from toylab.report import canvas, figures
    from toylab.runs import table

    rows = _filtered_rows(options)
    by = [options.x, *([options.by] if options.by else [])]
    means = table.group_means(rows, by, [options.y])
    x, *other, y = means[0]
    groups: dict[str, dict[Any, tuple[float, float, float]]] = {}
    for mean_row in means:
        group = f"{_short_names(other)[0]} {table.format_value(mean_row[other[0]])}" if other else ""
        x_value, interval = mean_row[x], mean_row[y]
        if isinstance(x_value, bool) or not isinstance(x_value, int | float):
            x_value = table.format_value(x_value)
        # A single row has no interval.
        bounds = (interval.mean if bound is None else bound for bound in (interval.low, interval.high))
        groups.setdefault(group, {})[x_value] = (interval.mean, *bounds)
    counts = sorted({mean_row[y].count for mean_row in means})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    (xlabel,), (ylabel,) = _short_names([x]), _short_names([y])
    out = options.out or options.folder / f"{_file_name(ylabel)}-by-{_file_name(xlabel)}.svg"
    if out.suffix not in (".svg", ".png", ".pdf"):
        raise ToylabError(f"out={out}: the name must end with .svg, .png or .pdf")
    refuse_unwritable("out", out)
    statistic = "mean" if y in rows[0] else "share"  # a threshold such as accuracy>=.99 is not a column
    title = f"vertical lines: 95 % intervals of the {statistic}"
    ax = figures.plot_intervals(groups, xlabel=xlabel, ylabel=f"{ylabel}, {statistic} of {count}", title=title)
    if options.out is None:
        refuse_links(options.folder, out)
    write_bytes(out, canvas.figure_bytes(canvas.whole_figure(ax), out.suffix[1:]))
    print(out.resolve())


def _filtered_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    from toylab.runs.table import filter_rows, load_runs

    rows = filter_rows(load_runs(options.folder, "claims" if options.claims else "jobs"), options.where)
    if not rows:
        raise ToylabError(f"{options.folder}: holds no {'claims' if options.claims else 'jobs'} yet; run it first")
    return rows


def _short_names(names: Sequence[str]) -> list[str]:
    """The last part of each name, or the full names if the last parts are not unique."""
    short_names = [name.removeprefix("settings.").removeprefix("result.") for name in names]
    return short_names if len(set(short_names)) == len(short_names) else list(names)


def _interval_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Each mean as four columns (mean, low, high, count), for CSV and JSON."""
    from toylab.runs.table import MeanInterval

    columns: dict[str, Any] = {}
    for name, value in row.items():
        columns[name] = value.mean if isinstance(value, MeanInterval) else value
        if value is None or isinstance(value, MeanInterval):
            absent = {"low": None, "high": None, "count": 0}
            columns |= {f"{name}.{part}": getattr(value, part, default) for part, default in absent.items()}
    return columns


def _json_cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in name).strip("-")
