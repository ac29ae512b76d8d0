"""Many runs of a study, each with other settings, kept in one folder and read as one table.

    from toylab import grid, load_runs, sweep
    points = grid(IterationHeadStudy.quick(), {"model.positions": ["none", "rotary"], "seed": range(20)})
    rows = sweep(points, Path("runs/positions"))

    FOLDER/sweep.json                      which runs there are
    FOLDER/model.positions=none/           one run, as `toylab run` would leave it: `toylab report` draws it
    FOLDER/model.positions=rotary/

Runs that differ in their seeds alone are one run with all of these seeds, so that its claims are judged over them.
"""

from __future__ import annotations

import difflib
import io
import itertools
import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_origin

from toylab.runs import registry
from toylab.verdicts.claim import read_claims, write_claims
from toylab.runs.jobs import Run, check_workers, raise_for, wanted, work
from toylab.files import UnwritableError, alone, digest, exists, is_one_part, read_record, refuse_links, write_record
from toylab.runs.judge import after_failures, restored
from toylab.console import ToylabError, check_option, kinds, told, unknown
from toylab.runs.store import (
    Study,
    check_jobs,
    check_study,
    claim_folder,
    read_result,
    read_settings,
    refuse_others,
    results,
    settings_of,
)
from toylab.verdicts.intervals import interval

# Settings ------------------------------------------------------------------------------------------------------------


def grid(study: Study, axes: Mapping[str, Iterable[Any]]) -> list[Study]:
    """Every combination of settings, in the order of the axes.

    Args:
        study: what all of them start from.
        axes: values by the name of a setting, such as `model.positions`; `seed` is one seed a run.

    Raises:
        ValueError: for a name that is none, an axis without values, or a combination that the study refuses.
    """
    values = {name: list(held) for name, held in axes.items()}
    for name, held in values.items():
        if not held:
            raise ToylabError(f"{name}: the grid gives it no value; give one or more, such as {name}=1,2")
        kind_of(study, name)
    return [_at(study, dict(zip(values, point, strict=True))) for point in itertools.product(*values.values())]


def _at(study: Study, point: Mapping[str, Any]) -> Study:
    changes = {name: value for name, value in point.items() if name != "seed"}
    if "seed" in point:
        changes["seeds"] = (point["seed"],)
    try:
        made = _replaced(study, changes)
        check_study(made)
        return made
    except ToylabError as error:
        where = ", ".join(f"{name}={value}" for name, value in point.items())
        raise ToylabError(f"the grid's point {where}: {error}") from None


def _replaced(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Nested settings with other values, by dotted name; all of them at once, so that only the whole is checked."""
    own = {name: value for name, value in changes.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if "." in name:
            head, _, rest = name.partition(".")
            inner.setdefault(head, {})[rest] = value
    own |= {head: _replaced(_held(settings, head), deeper) for head, deeper in inner.items()}
    return {**settings, **own} if isinstance(settings, Mapping) else replace(settings, **own)


def kind_of(study: Study, name: str) -> Any:
    """The type of a setting.

    Raises:
        ValueError: for a name that is none, with those that are near.
    """
    if name == "seed":
        return int
    known = _flat(study)
    if name not in known:
        near = [one for one in known if one.endswith(f".{name}")]
        near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise unknown("setting", name, known, near)
    settings: Any = study
    *way, last = name.split(".")
    for step in way:
        settings = _held(settings, step)
    return type(settings[last]) if isinstance(settings, Mapping) else kinds(type(settings))[last]


def _held(settings: Any, name: str) -> Any:
    return settings[name] if isinstance(settings, Mapping) else getattr(settings, name)


def read_axes(study: Study, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Axes of a grid from the command line: `model.positions=none,rotary`, `seed=0..19`, `train.rows=16,32`.

    A value of several parts, such as a pair of lengths, joins them with `+`.

    Raises:
        ValueError: for an axis that is no `NAME=VALUES`, given twice, or with a value of the wrong type.
    """
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not name:
            raise ToylabError(f"grid {text!r}: must be NAME=VALUES, such as model.positions=none,rotary or seed=0..19")
        if name in axes:
            raise ToylabError(f"grid {name}: is given twice; give all its values at once, separated by commas")
        kind = kind_of(study, name)
        axes[name] = [one for part in values.split(",") for one in _read(kind, name, part)]
    return axes


_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def _read(kind: Any, name: str, text: str) -> list[Any]:
    import tyro

    if (ends := _RANGE.fullmatch(text)) and kind is int:
        first, last = map(int, ends.groups())
        if last < first:
            raise ToylabError(f"grid {name}={text}: the range is empty; put the smaller number first")
        return list(range(first, last + 1))
    if is_dataclass(kind):
        raise ToylabError(f"grid {name}: is a group of settings; give one of {', '.join(f.name for f in fields(kind))}")
    try:
        parts = text.split("+") if get_origin(kind) is tuple else [text]
        with redirect_stderr(io.StringIO()):  # one line of ours follows
            return [tyro.cli(kind, args=parts, console_outputs=False)]
    except SystemExit:
        raise ToylabError(f"grid {name}={text}: must be {told(kind)}") from None


def _flat(held: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name."""
    if is_dataclass(held):
        held = {field.name: getattr(held, field.name) for field in fields(held)}
    found: dict[str, Any] = {}
    for name, value in held.items():
        if is_dataclass(value) or (isinstance(value, dict) and value):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


# Sweeps --------------------------------------------------------------------------------------------------------------


def sweep(
    points: Iterable[Study],
    out: Path | str,
    *,
    workers: int = 2,
    executor: Executor | None = None,
    jobs: Sequence[str] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Run a study at many settings, and return the table of its jobs (see `load_runs`).

    Ctrl-C stops at once; what is finished stays, and the same call continues. Points may be added later.

    Args:
        points: settings, of one study.
        workers: parallel processes, of one thread each.
        executor: where the jobs run instead; it must see the same folder.
        jobs: names of the jobs that are wanted, such as `main`, with all that they go on from; all, if not given.

    Raises:
        ValueError: without a point, for points of several studies, for a job that they do not have, for a folder that
            holds something else or that another process writes to; after all other jobs were done, for jobs that all
            refused their settings.
        JobsFailedError: if a job failed otherwise, after all others were done.
    """
    out = Path(out)
    check_workers(workers)
    merged = _merged(points)
    for point in merged:
        check_jobs(point)
        wanted(point, jobs)
    refuse_others(out, "sweep.json", "sweep")
    with alone(out):
        runs = _claimed(merged, out, jobs)
        failures = work(runs, out.name, workers, progress, executor, jobs)
        for run in runs:
            after_failures(run.out, _conclude, run) if failures or jobs else _conclude(run)
        study = f"{runs[0].name} " if ":" in runs[0].name else ""
        again = f"to run those again: toylab sweep {study}--continue {out}"
        if study.startswith("__main__:"):
            again = "the same script runs those again"
        raise_for(failures, again, lambda task: f"{task.run.out.name}: {task}")
    return load_runs(out)


def _conclude(run: Run) -> None:
    refuse_links(run.out, run.out / "claims.json")
    write_claims(run.out / "claims.json", list(run.study.conclude(results(run.study, run.out))))


def resume(
    out: Path | str,
    *,
    study: type | None = None,
    workers: int = 2,
    executor: Executor | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Go on with a sweep that was stopped, or run again what failed in it.

    Args:
        study: the class of the study, where it is not one of ours: a folder does not choose the code that runs.

    Raises:
        ValueError: for a folder that holds no sweep of this version, or one of another study; else as `sweep`.
    """
    out = Path(out)
    path = out / "sweep.json"
    held = _read_sweep(path)
    kind = registry.of_folder(held["study"], out, study, "toylab sweep {study} --continue {folder}").STUDY
    points = [restored(registry.preset(kind, "default"), settings, path) for settings in held["runs"].values()]
    try:
        return sweep(points, out, workers=workers, executor=executor, jobs=held.get("jobs"), progress=progress)
    except UnwritableError as error:
        raise ToylabError(f"{out}: may not be written; copy it, and go on with the copy") from error


def _merged(points: Iterable[Study]) -> list[Study]:
    """One study for all points that differ in nothing but their seeds."""
    found: dict[tuple[type, str], Study] = {}
    for point in points:
        check_study(point)
        key = type(point), _key(settings_of(point))
        known = found.get(key)
        seeds = {*(known.seeds if known else ()), *point.seeds}
        found[key] = replace(point, seeds=tuple(sorted(seeds)))
    kinds = {kind for kind, _ in found}
    if len(kinds) != 1:
        raise ToylabError(
            f"points: are settings of {len(kinds)} studies; a sweep needs one, and each other study its own folder"
            if kinds
            else "points: a sweep needs at least one"
        )
    return list(found.values())


def _key(settings: Mapping[str, Any]) -> str:
    """The same for settings that differ in nothing but their seeds."""
    return json.dumps({**settings, "seeds": None}, sort_keys=True)


def _claimed(points: Sequence[Study], out: Path, jobs: Sequence[str] | None) -> list[Run]:
    """A folder for every point: that which holds its settings, or a new one; all are written down before any starts."""
    kind, path = type(points[0]), out / "sweep.json"
    about = _read_sweep(path) if path.exists() else {"study": registry.name_of(kind), "runs": {}}
    name = about["study"]  # that of a script, where its class is imported from a module now
    if not registry.is_named(kind, name):
        raise ToylabError(f"{out}: holds a sweep of {name!r}; give another folder with --out")
    held = about["runs"]
    known = {_key(settings): folder for folder, settings in held.items()}
    asked = [settings_of(point) for point in points]
    varied = _varied([*held.values(), *asked])
    runs, told = [], dict(held)
    for point, settings in zip(points, asked, strict=True):
        key = _key(settings)
        folder = known.get(key) or _folder(settings, varied, key, told)
        # Behind those that are there: the first ones train controls.
        seeds = list(dict.fromkeys([*told.get(folder, settings)["seeds"], *settings["seeds"]]))
        told[folder] = {**settings, "seeds": seeds}
        runs.append(Run(replace(point, seeds=tuple(seeds)), name, out / folder))
    now = {"study": name, "jobs": None if jobs is None else list(jobs), "runs": told}
    refuse_links(out, path, *(run.out / "settings.json" for run in runs))
    if now != about:
        write_record(path, now)
    for run in runs:
        claim_folder(run.study, name, run.out)
    return runs


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings that are not the same everywhere, but for seeds."""
    flat = [_flat(one) for one in settings]
    names = {name: None for one in flat for name in one if name != "seeds"}
    return [name for name in names if len({json.dumps(one.get(name)) for one in flat}) > 1]


def _folder(settings: Mapping[str, Any], varied: Sequence[str], key: str, taken: Mapping[str, Any]) -> str:
    """A name that says what is special about a run."""
    flat = _flat(settings)
    parts = (f"{name}={_joined(flat.get(name))}" for name in varied)
    name = re.sub(r"[^\w.=,+-]", "_", ",".join(parts)) or "run"
    mark = digest(key.encode())[:8]
    return f"{name[:100]}-{mark}" if len(name) > 100 or name in taken else name


def _joined(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_sweep(path: Path) -> dict[str, Any]:
    held = read_record(path)
    runs, jobs = held.get("runs"), held.get("jobs") or []
    if not (
        isinstance(held.get("study"), str)
        and isinstance(jobs, list)
        and all(isinstance(job, str) for job in jobs)
        and isinstance(runs, dict)
        and all(isinstance(one, dict) and isinstance(one.get("seeds"), list) for one in runs.values())
    ):
        raise ToylabError(f"{path}: is not a sweep; give another folder")
    for name in runs:
        if not is_one_part(name):
            raise ToylabError(f"{path}: names a run {name!r}, which is no name of a folder in it; give another sweep")
    return held


# Tables --------------------------------------------------------------------------------------------------------------


def load_runs(folder: Path | str, rows: Literal["jobs", "claims"] = "jobs") -> list[dict[str, Any]]:
    """What a sweep, a run, or all runs in a folder found: plain dicts of one level, a row a job or a claim.

    A job has `run`, `study`, `job`, `seed`, `status` (done, failed or unfinished), its settings as
    `settings.model.width`, and what it measured as `result.accuracy`. A claim has `run`, `study`, `claim`, `measured`,
    `low`, `high`, `seeds` (how many), `verdict` and the settings. `pandas.DataFrame(rows)` takes them as they are.

    Raises:
        ValueError: for a folder without runs, or a damaged file in one.
    """
    check_option("rows", rows, ("jobs", "claims"))
    folder = Path(folder)
    found = [row for run in _runs_in(folder) for row in _rows(run, folder, rows)]
    names = list(dict.fromkeys(name for row in found for name in row))
    return [{name: row.get(name) for name in names} for row in found]


def _runs_in(folder: Path) -> list[Path]:
    if exists(folder / "settings.json"):
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/settings.json"))
    if not found:
        raise ToylabError(f"{folder}: holds no run; give the folder of a sweep or of a run, such as runs/NAME")
    return found


def _rows(run: Path, folder: Path, rows: Literal["jobs", "claims"]) -> list[dict[str, Any]]:
    about = read_settings(run / "settings.json")
    first = {"run": run.name, "study": about["study"]}
    settings = {f"settings.{name}": v for name, v in _flat(about["settings"]).items() if name != "seeds"}
    if rows == "claims":
        if not (run / "claims.json").exists():
            return []
        return [
            {
                **first,
                "claim": claim.id,
                "measured": claim.measured,
                "low": claim.interval[0] if claim.interval else None,
                "high": claim.interval[1] if claim.interval else None,
                "seeds": len(claim.seeds),
                "verdict": claim.verdict,
                **settings,
            }
            for claim in read_claims(run / "claims.json")
        ]
    found = []
    # A copy such as seed-0.bak, and what is hidden, is no part of a run.
    kept = [job for job in run.glob("seed-*/[!.]*/") if re.fullmatch(r"seed-(0|-?[1-9][0-9]*)", job.parent.name)]
    for job in sorted(kept, key=lambda job: (int(job.parent.name[5:]), job.name)):
        done, failed = (job / "done").exists(), (job / "error.txt").exists()
        row = {**first, "job": job.name, "seed": int(job.parent.name[5:])}
        row |= {"status": "done" if done else "failed" if failed else "unfinished", **settings}
        found.append(row | ({f"result.{n}": v for n, v in _flat(read_result(job)).items()} if done else {}))
    return found


def column(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The full name of a column, which may be asked for without `settings.` or `result.`, or by its end alone.

    Raises:
        ValueError: for a name that is none, or the end of several.
    """
    known = list(dict.fromkeys(n for row in rows for n in row))
    wanted = name.replace("-", "_") if name not in known else name
    whole = [one for one in (wanted, f"settings.{wanted}", f"result.{wanted}") if one in known]
    if len(whole) == 1 or wanted in known:
        return whole[0]
    ends = [one for one in known if one.endswith(f".{wanted}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ToylabError(f"column {name!r}: may be {' or '.join(ends)}; give more of the name")
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    near += [one for one in known if wanted in one and one not in near][: 3 - len(near)]
    raise unknown("column", name, [*known[:12], "..."], near)


_BOUND = re.compile(r"(.+?)(>=|<=|>|<)(-?[\d.]+(?:e-?\d+)?)")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def with_bounds(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows with a yes or no for every name such as `accuracy>=.99`, and the full names of all columns.

    Raises:
        ValueError: for a column that is none, or that holds something else than numbers.
    """
    rows, full = [dict(row) for row in rows], []
    for name in names:
        found = _BOUND.fullmatch(name)
        if not found:
            full.append(column(rows, name))
            continue
        of, sign, bound = column(rows, found[1]), found[2], found[3]
        full.append(f"{of}{sign}{bound}")
        for row in rows:
            value = row.get(of)
            if value is not None and not isinstance(value, int | float):
                raise ToylabError(f"column {of}: holds {value!r}, and {name} needs numbers")
            row[full[-1]] = None if value is None else _COMPARE[sign](value, float(bound))
    return rows, full


def where(rows: Sequence[dict[str, Any]], conditions: Sequence[str]) -> list[dict[str, Any]]:
    """The rows in which columns have these values: `job=main`, `positions=none`.

    Raises:
        ValueError: for a condition that is no `NAME=VALUE`, or that no row meets, with the values there are.
    """
    kept = list(rows)
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise ToylabError(f"where {condition!r}: must be NAME=VALUE, such as job=main")
        name = column(rows, name)
        values = sorted({text(row.get(name)) for row in kept})
        kept = [row for row in kept if text(row.get(name)) == value]
        if not kept:
            raise ToylabError(f"where {condition!r}: no row has it; {name} is {', '.join(values)}")
    return kept


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval over `count` rows: Wilson's for shares of yes and no, else by bootstrap; from one
    row there is none."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | int]) -> Mean:
        """Raises `ValueError` without a value."""
        return cls(sum(values) / (len(values) or 1), *(interval(values) or (None, None)), len(values))

    def __str__(self) -> str:
        ends = "" if self.low is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.mean:.3g}{ends} ({self.count})"


def summarise(rows: Sequence[Mapping[str, Any]], by: Sequence[str], of: Sequence[str]) -> list[dict[str, Any]]:
    """Means of some columns for every combination of the values of others; rows without a number there are left out.

    `accuracy>=.99` is the share of rows in which it is so.

    Raises:
        ValueError: if a column holds something that is not a number, or no row has one.
    """
    by = [column(rows, name) for name in by]
    rows, of = with_bounds(rows, of)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row.get(name) for name in by]), []).append(row)
    found = []
    for members in groups.values():
        line = {name: members[0].get(name) for name in by}
        for name in of:
            values = [row[name] for row in members if row.get(name) is not None]
            wrong = next((value for value in values if not isinstance(value, bool | int | float)), None)
            if wrong is not None:
                raise ToylabError(f"column {name}: holds {wrong!r}, and a mean needs numbers")
            line[name] = Mean.of(values) if values else None
        if any(line[name] is not None for name in of):
            found.append(line)
    if not found:
        raise ToylabError(f"columns {', '.join(of)}: no row has a number there")
    return sorted(found, key=lambda line: [_order(line[name]) for name in by])


def _order(value: Any) -> tuple[int, Any]:
    number = isinstance(value, int | float)
    return (0, value) if number else (1, text(value))


def text(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else str(value) if isinstance(value, Mean) else json.dumps(value)


def usual_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the rows apart, and the plain numbers that were measured."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = [name for name in names if "." not in name and name != "study"]
    varied = [n for n in names if n.startswith("settings.") and len({json.dumps(row.get(n)) for row in rows}) > 1]
    measured = [
        n
        for n in names
        if (n.startswith("result.") and n.count(".") == 1) or n == "result.cost.cpu_seconds"
        if all(isinstance(row.get(n), int | float | None) for row in rows)
    ]
    return first + varied + measured
