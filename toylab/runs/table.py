"""Results of sweeps and runs as one table of plain rows: load, filter, average, format."""

from __future__ import annotations

import difflib
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toylab.console import ToylabError, unknown_name
from toylab.files import exists
from toylab.runs.grid import flatten_settings
from toylab.runs.store import read_measured, read_settings
from toylab.settings import check_option
from toylab.verdicts.intervals import interval
from toylab.verdicts.judgement import read_claims


def load_runs(folder: Path | str, rows: Literal["jobs", "claims"] = "jobs") -> list[dict[str, Any]]:
    """The results of a sweep, a run, or all runs in a folder, as flat dictionaries: one row per job or per claim.

    A job has `run`, `study`, `job`, `seed`, `status` (done, failed or unfinished), its settings as
    `settings.model.width`, and its results as `result.accuracy`. A claim has `run`, `study`, `claim`, `measured`,
    `low`, `high`, `seeds` (their number), `verdict` and the settings. `pandas.DataFrame(rows)` accepts these rows.

    Raises:
        ToylabError: for a folder without runs, or a damaged file in one.
    """
    check_option("rows", rows, ("jobs", "claims"))
    folder = Path(folder)
    table_rows = [row for run in _runs_in(folder) for row in _rows(run, folder, rows)]
    names = list(dict.fromkeys(name for row in table_rows for name in row))
    return [{name: row.get(name) for name in names} for row in table_rows]


def _runs_in(folder: Path) -> list[Path]:
    if exists(folder / "settings.json"):
        return [folder]
    folders = sorted(path.parent for path in folder.glob("*/settings.json"))
    if not folders:
        raise ToylabError(f"{folder}: holds no run; give the folder of a sweep or of a run, such as runs/NAME")
    return folders


def _rows(run: Path, folder: Path, rows: Literal["jobs", "claims"]) -> list[dict[str, Any]]:
    about = read_settings(run / "settings.json")
    first = {"run": run.name, "study": about["study"]}
    settings = {f"settings.{name}": v for name, v in flatten_settings(about["settings"]).items() if name != "seeds"}
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
    job_rows = []
    # Backup copies such as seed-0.bak and hidden folders are not part of a run.
    job_folders = [job for job in run.glob("seed-*/[!.]*/") if re.fullmatch(r"seed-(0|-?[1-9][0-9]*)", job.parent.name)]
    for job in sorted(job_folders, key=lambda job: (int(job.parent.name[5:]), job.name)):
        done, failed = (job / "done").exists(), (job / "error.txt").exists()
        row = {**first, "job": job.name, "seed": int(job.parent.name[5:])}
        row |= {"status": "done" if done else "failed" if failed else "unfinished", **settings}
        job_rows.append(
            row | ({f"result.{n}": v for n, v in flatten_settings(read_measured(job)).items()} if done else {})
        )
    return job_rows


def find_column(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The full name of a column, given without its prefix `settings.` or `result.`, or by the end of its name.

    Raises:
        ToylabError: for an unknown or ambiguous name.
    """
    known = list(dict.fromkeys(n for row in rows for n in row))
    column = name.replace("-", "_") if name not in known else name
    exact = [known_name for known_name in (column, f"settings.{column}", f"result.{column}") if known_name in known]
    if len(exact) == 1 or column in known:
        return exact[0]
    suffix_matches = [known_name for known_name in known if known_name.endswith(f".{column}")]
    if len(suffix_matches) == 1:
        return suffix_matches[0]
    if suffix_matches:
        raise ToylabError(f"column {name!r}: is ambiguous, {' or '.join(suffix_matches)}; give more of the name")
    similar = difflib.get_close_matches(column, known, n=3, cutoff=0.5)
    similar += [known_name for known_name in known if column in known_name and known_name not in similar][
        : 3 - len(similar)
    ]
    raise unknown_name("column", name, [*known[:12], "..."], similar)


_THRESHOLD = re.compile(r"(.+?)(>=|<=|>|<)(-?[\d.]+(?:e-?\d+)?)")


_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def with_thresholds(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows with a boolean column for every threshold such as `accuracy>=.99`, and the full names of all columns.

    Raises:
        ToylabError: for an unknown column, or a threshold on a column that is not numeric.
    """
    rows, full = [dict(row) for row in rows], []
    for name in names:
        match = _THRESHOLD.fullmatch(name)
        if not match:
            full.append(find_column(rows, name))
            continue
        column, sign, bound = find_column(rows, match[1]), match[2], match[3]
        full.append(f"{column}{sign}{bound}")
        for row in rows:
            value = row.get(column)
            if value is not None and not isinstance(value, int | float):
                raise ToylabError(f"column {column}: holds {value!r}, and {name} needs numbers")
            row[full[-1]] = None if value is None else _COMPARISONS[sign](value, float(bound))
    return rows, full


def filter_rows(rows: Sequence[dict[str, Any]], conditions: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that meet every condition, such as `job=main` or `positions=none`.

    Raises:
        ToylabError: for a condition that is not `NAME=VALUE`, or that no row meets, with the existing values.
    """
    matching = list(rows)
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not equals:
            raise ToylabError(f"where {condition!r}: must be NAME=VALUE, such as job=main")
        name = find_column(rows, name)
        values = sorted({format_value(row.get(name)) for row in matching})
        matching = [row for row in matching if format_value(row.get(name)) == value]
        if not matching:
            raise ToylabError(f"where {condition!r}: no row has this value; {name} is {', '.join(values)}")
    return matching


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its 95 % interval over `count` rows: Wilson's for booleans, else bootstrap; None for one row."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | int]) -> MeanInterval:
        """Raises `ToylabError` without a value."""
        return cls(sum(values) / (len(values) or 1), *(interval(values) or (None, None)), len(values))

    def __str__(self) -> str:
        interval_text = "" if self.low is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.mean:.3g}{interval_text} ({self.count})"


def group_means(rows: Sequence[Mapping[str, Any]], by: Sequence[str], of: Sequence[str]) -> list[dict[str, Any]]:
    """Means of the columns `of` for every combination of values of the columns `by`; rows without a number are omitted.

    For a threshold such as `accuracy>=.99`, the mean is the share of rows that meet it.

    Raises:
        ToylabError: if a column is not numeric, or no row has a number.
    """
    by = [find_column(rows, name) for name in by]
    rows, of = with_thresholds(rows, of)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row.get(name) for name in by]), []).append(row)
    means = []
    for members in groups.values():
        mean_row = {name: members[0].get(name) for name in by}
        for name in of:
            values = [row[name] for row in members if row.get(name) is not None]
            invalid = next((value for value in values if not isinstance(value, bool | int | float)), None)
            if invalid is not None:
                raise ToylabError(f"column {name}: holds {invalid!r}, and a mean needs numbers")
            mean_row[name] = MeanInterval.of(values) if values else None
        if any(mean_row[name] is not None for name in of):
            means.append(mean_row)
    if not means:
        raise ToylabError(f"columns {', '.join(of)}: no row has a number there")
    return sorted(means, key=lambda mean_row: [_sort_key(mean_row[name]) for name in by])


def _sort_key(value: Any) -> tuple[int, Any]:
    number = isinstance(value, int | float)
    return (0, value) if number else (1, format_value(value))


def format_value(value: Any) -> str:
    """A value formatted for a table cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else str(value) if isinstance(value, MeanInterval) else json.dumps(value)


def usual_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns shown by default: columns in which the rows differ, and scalar results."""
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
