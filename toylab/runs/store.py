"""A run as a folder: settings, and per job the metrics, model and result.

    FOLDER/settings.json        settings, with versions, revision and date
    FOLDER/seed-0/main/         one job: metrics.jsonl, model.safetensors, result.json; written last, `done`: checksums;
                                .training-seconds: CPU time of its training, which counts if the job is begun again
    FOLDER/claims.json          the verdicts
    FOLDER/figures/, report.html

A finished job is never repeated; an interrupted job resumes from its checkpoint.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from toylab.console import ToylabError
from toylab.files import (
    exists,
    file_errors,
    parse_json,
    read_bytes,
    read_json,
    read_record,
    sha256_of,
    write_json,
    write_record,
    write_text,
)
from toylab.model.checkpoint import load_model, save_model
from toylab.runs.grid import flatten_settings
from toylab.runs.study import Job, Study, settings_of, upgraded
from toylab.settings import as_json, convert_value
from toylab.training.loop import History, Training
from toylab.verdicts.claim import Conditions
from toylab.verdicts.decision import Plan


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a job: CPU-seconds, with those of trainings that earlier processes began or ended; wall-clock seconds and
    peak memory in MB of the process that measured; with the checksum of the claims lock that existed before the job
    started."""

    cpu_seconds: float | int
    wall_seconds: float | int
    peak_megabytes: float | int | None
    lock: str | None = None


def read_results(study: Study, out: Path | str) -> dict[Job, Any]:
    """The results of all finished jobs of a study.

    Includes jobs that `jobs()` lists only for another order of the seeds, such as a job that starts from the model of
    the next seed, so that results survive when seeds are added.
    """
    out = Path(out)
    jobs = list(study.jobs())
    listed, names = set(jobs), {job.name for job in jobs}
    for k, seed in enumerate(study.seeds):
        unlisted = {job for job in (Job(name, seed) for name in names) if job not in listed and _is_marked(job, out)}
        if unlisted:
            reordered = replace(study, seeds=(*study.seeds[k:], *study.seeds[:k]))  # this seed first
            jobs += [job for job in reordered.jobs() if job in unlisted]
    return {job: read_result(job.folder(out), job.result_type) for job in jobs if _is_marked(job, out)}


def _is_marked(job: Job, out: Path | str) -> bool:
    return (job.folder(out) / "done").exists()


def write_result(folder: Path | str, result: Any, result_type: type, cost: Cost) -> None:
    """Write the result of a job with its cost.

    Raises:
        ToylabError: for a result of another type, or with a number that JSON cannot represent.
    """
    if not isinstance(result, result_type):
        raise ToylabError(
            f"result: is a {type(result).__name__}, but the job declares {result_type.__name__}; return that type"
        )
    record = as_json(result, "result", result_type)
    convert_value(result_type, record, "result")  # rejects a field of another type now instead of at reading
    if "cost" in record:
        raise ToylabError("cost: is reserved for the cost that toylab adds to a result; rename this field")
    write_json(Path(folder) / "result.json", record | {"cost": asdict(cost)})


def round_floats(value: Any, places: int = 4) -> Any:
    """Round every float in numbers, tensors, and nested lists, mappings and dataclasses."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: round_floats(inner, places) for name, inner in vars(value).items()})
    if isinstance(value, Mapping):
        return {name: round_floats(inner, places) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(round_floats(inner, places) for inner in value)
    return round(value, places) if isinstance(value, float) else value


def read_result(folder: Path | str, result_type: type = dict) -> Any:
    """The result of a finished job.

    Raises:
        ToylabError: naming the file, if it is missing, damaged or not a result of this version.
    """
    fields = {name: value for name, value in read_measured(folder).items() if name != "cost"}
    try:
        return convert_value(result_type, fields, "result")
    except ToylabError as error:
        path = Path(folder) / "result.json"
        raise ToylabError(f"{path}: is not a result of this version ({error}); rerun in another folder") from None


def read_cost(folder: Path | str) -> Cost:
    """The cost of a finished job. Raises `ToylabError` as `read_result` does."""
    return convert_value(Cost, read_measured(folder)["cost"], f"{folder}: cost")


def read_measured(folder: Path | str) -> dict[str, Any]:
    """Result and cost of a finished job in JSON form. Raises `ToylabError` as `read_result` does."""
    path = Path(folder) / "result.json"
    check_unchanged(path)
    record = read_json(path)
    cost = record.get("cost") if isinstance(record, dict) else None
    if not isinstance(cost, dict) or not isinstance(cost.get("cpu_seconds"), int | float):
        raise ToylabError(f"{path}: is not the result of a job; delete this file and rerun the command")
    return record


def check_unchanged(path: Path | str) -> None:
    """Raises `ToylabError` if a file of a finished job does not match its checksum."""
    path = Path(path)
    expected = _stored_checksums(path.parent).get(path.name)
    if expected is not None and path.is_file() and sha256_of(read_bytes(path)) != expected:
        raise ToylabError(
            f"{path}: is damaged (its content does not match its checksum in `done`); delete this file and rerun the "
            "command, which repeats the job"
        )


def is_done(job: Job, out: Path | str) -> bool:
    """Whether a job is finished and none of its files is missing."""
    folder = job.folder(out)
    # Error messages tell users to delete damaged files, so a job with a missing file counts as not done.
    checksums = _stored_checksums(folder)
    return "result.json" in checksums and all(os.path.exists(folder / name) for name in checksums)


def _stored_checksums(folder: Path) -> dict[str, str]:
    """The files of a finished job and their SHA-256 checksums, from `done` in the format of `sha256sum`."""
    path = folder / "done"
    try:
        lines = read_bytes(path).decode().splitlines() if path.exists() else []
    except UnicodeDecodeError:
        return {}
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def claim_folder(study: Study, name: str, out: Path | str, until_decided: bool = False, device: str = "cpu") -> None:
    """Write the settings of a run, or check that the folder holds a run with the same settings.

    New seeds are appended, since looks judge the first seeds first; no other setting may change.

    Args:
        until_decided: whether a new run is judged at looks instead of at a fixed number of seeds.
        device: of the models, which is part of the machine.

    Raises:
        ToylabError: naming the first setting that differs.
    """
    path = Path(out) / "settings.json"
    settings = settings_of(study)
    refuse_another_run(study, name, out)
    if path.exists():
        stored = read_settings(path)
        settings["seeds"] = list(dict.fromkeys([*stored["settings"]["seeds"], *settings["seeds"]]))
        if settings == upgraded(stored["settings"], type(study)):
            return
        fixed = stored["fixed"]
    else:
        fixed = 0 if until_decided else len(settings["seeds"])
    write_record(
        path,
        {
            "study": name,
            "settings": settings,
            "fixed": fixed,
            "versions": {"toylab": version("toylab"), "torch": torch.__version__, "python": platform.python_version()},
            "machine": f"{platform.system()} {platform.machine()}" + (f", {device}" if device != "cpu" else ""),
            "revision": _revision(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def refuse_another_run(study: Study, name: str, out: Path | str) -> None:
    """Raises `ToylabError`, naming the first setting that differs, unless the folder is empty or holds this run; the
    seeds may differ."""
    out = Path(out)
    refuse_others(out, "settings.json", "run")
    if not (out / "settings.json").exists():
        return
    stored = read_settings(out / "settings.json")
    if stored["study"] != name:
        raise ToylabError(f"{out}: holds a run of {stored['study']!r}; give another folder with --out")
    for key, before, given in _differences(upgraded(stored["settings"], type(study)), settings_of(study)):
        if key != "seeds":
            raise ToylabError(
                f"{out}: holds a run with {key}={before}, but {key}={given} was given; give another folder "
                "with --out, or the same settings to resume"
            )


def refuse_others(out: Path | str, record: str, content: str) -> None:
    """Raises `ToylabError` for a path that is a file, or a non-empty folder without this record.

    Lock files and temporary files of a killed process do not count.
    """
    out = Path(out)
    if exists(out) and not out.is_dir():
        raise ToylabError(f"{out}: is not a folder; give another one with --out")
    ignored = re.compile(rf"\.lock|\.{re.escape(record)}\.\d+")  # see `toylab.files.write_bytes`
    with file_errors(out):
        names = [path.name for path in out.iterdir()] if out.exists() and not (out / record).exists() else []
    if not all(map(ignored.fullmatch, names)):
        raise ToylabError(f"{out}: is not empty and holds no {content}; give another folder with --out")


def read_settings(path: Path | str) -> dict[str, Any]:
    """The record of a run: study, settings, versions, machine, revision and date.

    Raises:
        ToylabError: naming the file, if it is missing, damaged, or not such a record.
    """
    record = read_record(path, "give another folder")
    settings, versions = record.get("settings"), record.get("versions")
    if not (
        isinstance(settings, dict)
        and isinstance(settings.get("seeds"), list)
        and isinstance(record.get("fixed"), int)
        and isinstance(versions, dict)
        and all(
            isinstance(text, str) for text in (versions.get("torch"), *map(record.get, ("study", "machine", "date")))
        )
        and isinstance(record.get("revision"), str | None)
    ):
        raise ToylabError(f"{path}: does not hold the settings of a run; give another folder")
    return record


def stored_plan(about: Mapping[str, Any]) -> Plan:
    """The plan of looks of a run, from the record that `read_settings` returns."""
    return Plan(tuple(about["settings"]["seeds"]), about["fixed"])


earlier_seconds: ContextVar[list[float | int] | None] = ContextVar("earlier_seconds", default=None)
"""CPU-seconds that earlier processes spent on the trainings of the job that runs, whose cost includes them."""


def _note_earlier(seconds: float | int) -> None:
    if (noted := earlier_seconds.get()) is not None:
        noted.append(seconds)


def train_and_keep(
    folder: Path | str,
    train: Callable[[Path], tuple[Any, Training]],
    name: str = "",
    *,
    file: str | None = "model.safetensors",
    load: Callable[[Path], Any] = load_model,
    save: Callable[[Path, Any], None] = save_model,
) -> tuple[Any, History]:
    """The trained model of a job and its history: loaded from its folder, or trained (resuming from a checkpoint) and
    saved.

    Args:
        train: maps a checkpoint path to the trained model and its `Training`.
        name: suffix of `metrics{name}.jsonl` and `checkpoint{name}.safetensors`, for jobs with several trainings.
        file: file of the trained model, written by `save` and read by `load`; None to save no model.

    Raises:
        ToylabError: naming the file, if one of them is damaged.
    """
    folder = Path(folder)
    metrics, seconds = folder / f"metrics{name}.jsonl", folder / f".training-seconds{name}"
    if file is not None and (folder / file).exists():
        if seconds.exists():
            _note_earlier(convert_value(float | int, read_json(seconds), str(seconds)))
        return load(folder / file), read_metrics(metrics)
    start = time.process_time()
    with torch.random.fork_rng(devices=[]):  # what follows draws the same numbers if the model is loaded instead
        trained, training = train(folder / f"checkpoint{name}.safetensors")
    here = time.process_time() - start
    _note_earlier(max(training.cpu_seconds - here, 0.0))
    write_json(seconds, max(training.cpu_seconds, here))
    write_metrics(metrics, training)
    if file is not None:
        save(folder / file, trained)
    return trained, training.history


def models_of_condition(out: Path | str, condition: str, seeds: Iterable[int]) -> dict[str, Any]:
    """The trained models of a condition by the title "seed N", for the seeds whose model is stored."""
    files = {seed: Job(condition, seed).folder(out) / "model.safetensors" for seed in seeds}
    return {f"seed {seed}": load_model(file) for seed, file in files.items() if file.exists()}


def write_metrics(path: Path | str, training: Training) -> None:
    """Write the history of a training, one JSON object per line."""
    write_text(path, "".join(json.dumps(as_json(entry, Path(path).stem)) + "\n" for entry in training.history))


def read_metrics(path: Path | str) -> History:
    """The history of a training. Raises `ToylabError`, naming the file, if it is missing or damaged."""
    path = Path(path)
    content = read_bytes(path)
    check_unchanged(path)
    try:  # an undefined metric is NaN
        return [parse_json(line, finite=False) for line in content.decode().splitlines()]
    except ValueError as error:
        raise ToylabError(f"{path}: is damaged ({error}); delete the folder of this job and rerun") from None


def metric_curves(
    results: Conditions, out: Path | str, condition: str, file: str = "metrics.jsonl", metric: str = "accuracy"
) -> dict[str, tuple[list[float | int], list[float | int]]]:
    """Steps and values of a metric by seed of a condition, from the stored histories."""
    histories = {seed: read_metrics(Job(condition, seed).folder(out) / file) for seed in results[condition]}
    return {f"seed {seed}": ([e["step"] for e in h], [e[metric] for e in h]) for seed, h in histories.items()}


def _differences(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """Dotted name and both values of each setting that differs."""
    first, second = flatten_settings(before), flatten_settings(after)
    names = sorted({*first, *second})
    return [(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


@cache
def _revision() -> str | None:
    """The git revision of the source, marked "-dirty" if modified; None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
