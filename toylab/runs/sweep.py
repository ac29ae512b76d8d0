"""Sweeps: runs of a study at many settings, stored in one folder and read as one table.

    from toylab import grid, load_runs, sweep
    points = grid(IterationHeadStudy.quick(), {"model.positions": ["none", "rotary"], "seed": range(20)})
    rows = sweep(points, Path("runs/positions"))

    FOLDER/sweep.json                      list of the runs
    FOLDER/model.positions=none/           one run, as written by `toylab run` and read by `toylab report`
    FOLDER/model.positions=rotary/

Settings that differ only in their seeds form one run, so that its claims are judged over all these seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from toylab.console import ToylabError
from toylab.files import UnwritableError, folder_lock, is_file_name, read_record, refuse_links, sha256_of, write_record
from toylab.runs import registry
from toylab.runs.grid import flatten_settings
from toylab.runs.jobs import Run, check_workers, execute_jobs, raise_failures, select_jobs
from toylab.runs.judge import judge_unfinished, restore_settings
from toylab.runs.lock import LOCK_FILE, refuse_changed, write_lock
from toylab.runs.store import claim_folder, read_results, read_settings, refuse_others, stored_plan
from toylab.runs.study import Study, check_jobs, check_study, judge_study, settings_of, upgraded
from toylab.runs.table import load_runs
from toylab.verdicts.judgement import write_claims


def sweep(
    points: Iterable[Study],
    out: Path | str,
    *,
    workers: int = 2,
    executor: Executor | None = None,
    jobs: Sequence[str] | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Run a study at many settings, and return the table of its jobs (see `load_runs`).

    After Ctrl-C, finished jobs are kept, and the same call resumes the sweep. Points may be added later.

    Args:
        points: settings of one study.
        workers: number of parallel processes, each with one thread.
        executor: replaces the worker processes; it must see the same folder.
        jobs: names of the jobs to run, such as `main`, with their dependencies; by default all.
        device: of the models.

    Raises:
        ToylabError: before any job starts: for no points, points of several studies, an unknown job, a folder that is
            not the folder of a sweep, or a folder in use by another process. After all jobs have ended: if jobs failed
            and all of them rejected their settings.
        JobsFailedError: after all jobs have ended, if a job failed for another reason.
    """
    out = Path(out)
    check_workers(workers)
    merged = _merge_seeds(points)
    for point in merged:
        check_jobs(point)
        select_jobs(point, jobs)
    refuse_others(out, "sweep.json", "sweep")
    with folder_lock(out):
        runs = [replace(run, device=device) for run in _claim_folders(merged, out, jobs)]
        failures = execute_jobs(runs, out.name, workers, progress, executor, jobs)
        for run in runs:
            judge_unfinished(run.folder, _write_claims, run) if failures or jobs else _write_claims(run)
        study = f"{runs[0].name} " if ":" in runs[0].name else ""
        again = f"to repeat the failed jobs: toylab sweep {study}--continue {out}"
        if study.startswith("__main__:"):
            again = "rerunning the script repeats only the failed jobs"
        raise_failures(failures, again, lambda task: f"{task.run.folder.name}: {task}")
    return load_runs(out)


def _write_claims(run: Run) -> None:
    refuse_links(run.folder, run.folder / "claims.json")
    plan = stored_plan(read_settings(run.folder / "settings.json"))
    write_claims(run.folder / "claims.json", judge_study(run.study, read_results(run.study, run.folder), plan))


def resume_sweep(
    out: Path | str,
    *,
    study: type | None = None,
    workers: int = 2,
    executor: Executor | None = None,
    progress: bool = True,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Resume an interrupted sweep, and repeat its failed jobs.

    Args:
        study: the class of a user's own study, which must be passed since a folder may not choose the code to run.

    Raises:
        ToylabError: if the folder holds no sweep of this version, or a sweep of another study; also as in `sweep`.
        JobsFailedError: as in `sweep`.
    """
    out = Path(out)
    path = out / "sweep.json"
    record = _read_sweep(path)
    study_class = registry.study_of_folder(
        record["study"], out, study, "toylab sweep {study} --continue {folder}"
    ).STUDY
    points = [
        restore_settings(registry.preset_settings(study_class, "default"), settings, path)
        for settings in record["runs"].values()
    ]
    try:
        jobs = record.get("jobs")
        return sweep(points, out, workers=workers, executor=executor, jobs=jobs, progress=progress, device=device)
    except UnwritableError as error:
        raise ToylabError(f"{out}: is not writable; copy it, and resume the copy") from error


def _merge_seeds(points: Iterable[Study]) -> list[Study]:
    """The points; points that differ only in their seeds are merged into one study."""
    merged_points: dict[tuple[type, str], Study] = {}
    for point in points:
        check_study(point)
        key = type(point), _key_without_seeds(settings_of(point))
        existing = merged_points.get(key)
        seeds = {*(existing.seeds if existing else ()), *point.seeds}
        merged_points[key] = replace(point, seeds=tuple(sorted(seeds)))
    study_classes = {study_class for study_class, _ in merged_points}
    if len(study_classes) != 1:
        raise ToylabError(
            f"points: belong to {len(study_classes)} studies; sweep each study in a folder of its own"
            if study_classes
            else "points: a sweep needs at least one"
        )
    return list(merged_points.values())


def _key_without_seeds(settings: Mapping[str, Any]) -> str:
    """A key that is equal for settings that differ only in their seeds."""
    return json.dumps({**settings, "seeds": None}, sort_keys=True)


def _claim_folders(points: Sequence[Study], out: Path, jobs: Sequence[str] | None) -> list[Run]:
    """The run of every point, in the folder that already holds its settings or a new one; `sweep.json` is written
    before any job starts."""
    study_class, path = type(points[0]), out / "sweep.json"
    about = _read_sweep(path) if path.exists() else {"study": registry.study_name(study_class), "runs": {}}
    name = about["study"]  # may be `__main__:Class` from a script that is now imported as a module
    if not registry.is_study_name(study_class, name):
        raise ToylabError(f"{out}: holds a sweep of {name!r}; give another folder with --out")
    stored_runs = {folder: upgraded(settings, study_class) for folder, settings in about["runs"].items()}
    folder_of_key = {_key_without_seeds(settings): folder for folder, settings in stored_runs.items()}
    all_settings = [settings_of(point) for point in points]
    varied = _varied_names([*stored_runs.values(), *all_settings])
    runs, updated_runs = [], dict(stored_runs)
    for point, settings in zip(points, all_settings, strict=True):
        key = _key_without_seeds(settings)
        folder = folder_of_key.get(key) or _folder_name(settings, varied, key, updated_runs)
        # New seeds are appended, since looks judge the first seeds first.
        seeds = list(dict.fromkeys([*updated_runs.get(folder, settings)["seeds"], *settings["seeds"]]))
        updated_runs[folder] = {**settings, "seeds": seeds}
        runs.append(Run(replace(point, seeds=tuple(seeds)), name, out / folder))
    record = {"study": name, "jobs": None if jobs is None else list(jobs), "runs": updated_runs}
    refuse_links(out, path, *(run.folder / name for run in runs for name in ("settings.json", LOCK_FILE)))
    for run in runs:
        refuse_changed(run.study, run.folder)
    if record != about:
        write_record(path, record)
    for run in runs:
        claim_folder(run.study, name, run.folder)
        write_lock(run.study, run.folder)
    return runs


def _varied_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings that vary, except seeds."""
    leaves = [flatten_settings(flat) for flat in settings]
    names = {name: None for flat in leaves for name in flat if name != "seeds"}
    return [name for name in names if len({json.dumps(flat.get(name)) for flat in leaves}) > 1]


def _folder_name(settings: Mapping[str, Any], varied: Sequence[str], key: str, used_names: Mapping[str, Any]) -> str:
    """A folder name made of the settings that vary."""
    leaves = flatten_settings(settings)
    parts = (f"{name}={_value_in_name(leaves.get(name))}" for name in varied)
    name = re.sub(r"[^\w.=,+-]", "_", ",".join(parts)) or "run"
    digest = sha256_of(key.encode())[:8]
    return f"{name[:100]}-{digest}" if len(name) > 100 or name in used_names else name


def _value_in_name(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _read_sweep(path: Path) -> dict[str, Any]:
    record = read_record(path)
    runs, jobs = record.get("runs"), record.get("jobs") or []
    if not (
        isinstance(record.get("study"), str)
        and isinstance(jobs, list)
        and all(isinstance(job, str) for job in jobs)
        and isinstance(runs, dict)
        and all(isinstance(settings, dict) and isinstance(settings.get("seeds"), list) for settings in runs.values())
    ):
        raise ToylabError(f"{path}: is not a sweep; give another folder")
    for name in runs:
        if not is_file_name(name):
            raise ToylabError(f"{path}: names a run {name!r}, which is not a valid folder name; give another sweep")
    return record
