"""Runs and claims: a study is a list of jobs, each a folder that is finished or not, and a table of claims at the end.

    FOLDER/settings.json        what was run, with versions, revision and date
    FOLDER/seed-0/main/         one job: metrics.jsonl, model.safetensors, result.json; last `done`, their checksums
    FOLDER/claims.json          the verdicts
    FOLDER/figures/, report.html

A finished job is never repeated; an interrupted one continues from its checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from toylab.verdicts.claim import Claim
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.files import (
    digest,
    disk,
    exists,
    is_one_part,
    parse_json,
    read_bytes,
    read_json,
    read_record,
    read_tensors,
    write_record,
    write_tensors,
    write_text,
)
from toylab.model.transformer import ModelConfig, Transformer
from toylab.console import ToylabError, as_json, check_seeds, check_settings, fit
from toylab.training.loop import History, Training


@dataclass(frozen=True)
class Job:
    """One training with what is measured on it."""

    name: str
    seed: int
    after: str | tuple[Job, ...] | None = field(default=None, compare=False)
    """What must be done first, so that what several jobs go on from is made once: the name of a job of the same seed,
    or jobs."""

    @property
    def needs(self) -> tuple[Job, ...]:
        """The jobs that must be done first."""
        if isinstance(self.after, str):
            return (Job(self.after, self.seed),)
        return self.after or ()

    def folder(self, out: Path | str) -> Path:
        """Where it is kept."""
        return Path(out) / f"seed-{self.seed}" / self.name


def with_needs(jobs: Iterable[Job], among: Iterable[Job]) -> set[Job]:
    """Some of the jobs of a study, and all that is made first so that they can go on from it."""
    known, found = {job: job for job in among}, set(jobs)
    while more := {known[need] for job in found for need in job.needs if need in known} - found:
        found |= more
    return found


@runtime_checkable
class Study(Protocol):
    """A frozen dataclass of settings that knows its jobs, how to run one, and what follows from their results.

    For the page it may have `pictures(results, out)`, a list of `toylab.report.page.Picture` from the results and what the
    jobs left in their folders, and `film(results, out)`, a `toylab.training.attention_history.Shown` or None.
    """

    seeds: tuple[int, ...]

    def jobs(self) -> list[Job]:
        """In the order in which they should start: the longest first keeps all workers busy to the end, and what others
        come after before those."""
        ...

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        """Do one job, a pure function of the settings and the job; what it returns is kept as `result.json`."""
        ...

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Claim]:
        """The claims, from the results of the jobs that finished."""
        ...


def check_jobs(study: Study) -> None:
    """Raises `ValueError` for a job whose name cannot be a folder, or that goes on from one that the study lacks."""
    jobs = study.jobs()
    for job in jobs:
        if not is_one_part(job.name):
            raise ToylabError(
                f"job {job.name!r} of {type(study).__name__}: must be a name for a folder, without separators, not "
                "hidden and not long; rename it in jobs(), for example to letters, digits and -"
            )
        if not isinstance(job.seed, Integral):
            raise ToylabError(f"job {job.name!r} of {type(study).__name__}: seed {job.seed!r} must be an integer")
    known = set(jobs)
    for job in jobs:
        for need in job.needs:
            if need not in known:
                raise ToylabError(
                    f"job {job.name!r} of seed {job.seed}: goes on from {need.name!r} of seed {need.seed}, which "
                    "jobs() does not list; add that one, or correct the name"
                )


def results(study: Study, out: Path | str) -> dict[Job, dict[str, Any]]:
    """What the finished jobs of a study measured.

    Also those that it lists for another order of its seeds: controls are trained on the first of the seeds, and those
    that are finished stay when seeds are added.
    """
    out = Path(out)
    jobs = list(study.jobs())
    listed, names = set(jobs), {job.name for job in jobs}
    for k, seed in enumerate(study.seeds):
        left = {job for job in (Job(name, seed) for name in names) if job not in listed and _is_marked(job, out)}
        if left:
            turned = replace(study, seeds=(*study.seeds[k:], *study.seeds[:k]))  # this seed first
            jobs += [job for job in turned.jobs() if job in left]
    return {job: read_result(job.folder(out)) for job in jobs if _is_marked(job, out)}


def _is_marked(job: Job, out: Path | str) -> bool:
    return (job.folder(out) / "done").exists()


def read_result(folder: Path | str) -> dict[str, Any]:
    """What a finished job measured.

    Raises:
        ValueError: naming the file, if it is missing, damaged or not what the job left.
    """
    path = Path(folder) / "result.json"
    as_left(path)
    held = read_json(path)
    spent = held.get("cost") if isinstance(held, dict) else None
    if not isinstance(spent, dict) or not isinstance(spent.get("cpu_seconds"), int | float):
        raise ToylabError(f"{path}: is not the result of a job; delete this file and run the same command again")
    return held


def as_left(path: Path | str) -> None:
    """Raises `ValueError` if a file of a finished job is not what the job left."""
    path = Path(path)
    expected = _kept(path.parent).get(path.name)
    if expected is not None and path.is_file() and digest(read_bytes(path)) != expected:
        raise ToylabError(
            f"{path}: is damaged (its content does not match its checksum in `done`); delete this file and run the "
            "same command again: the job is made anew"
        )


def is_done(job: Job, out: Path | str) -> bool:
    """Whether a job is finished and all that it left is still there."""
    folder = job.folder(out)
    # A file that others go on from may have been deleted, as it is told where one is damaged: then it is made again.
    kept = _kept(folder)
    return "result.json" in kept and all(os.path.exists(folder / name) for name in kept)


def _kept(folder: Path) -> dict[str, str]:
    """The files that a finished job left, with the checksum of each, as `sha256sum` would print them."""
    path = folder / "done"
    try:
        lines = read_bytes(path).decode().splitlines() if path.exists() else []
    except UnicodeDecodeError:
        return {}
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def by_arm(results: dict[Job, dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Results by the name of the arm and the seed."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for job, result in results.items():
        arms.setdefault(job.name, {})[job.seed] = result
    return arms


def check_study(study: Study) -> None:
    """Check the settings of a study, which may have no check of its own, and make its seeds a tuple of integers.

    Raises:
        ToylabError: naming the setting that is wrong, or that `settings.json` could not give back.
    """
    check_settings(study)
    object.__setattr__(study, "seeds", check_seeds(study.seeds))
    fit(type(study), settings_of(study), "settings")


def settings_of(study: Study) -> dict[str, Any]:
    """The settings of a study as `settings.json` holds them; `toylab.runs.judge.rebuild` reads them."""
    return json.loads(json.dumps(as_json(study, "settings", type(study))))


def claim_folder(study: Study, name: str, out: Path | str) -> None:
    """Write the settings of a run, or check that the folder holds a run of the same.

    Seeds may be added to a run, behind those that it has: the first ones train controls. Nothing else may change.

    Raises:
        ValueError: naming the first setting that differs.
    """
    out = Path(out)
    path = out / "settings.json"
    settings = settings_of(study)
    if path.exists():
        held = read_settings(path)
        if held["study"] != name:
            raise ToylabError(f"{out}: holds a run of {held['study']!r}; give another folder with --out")
        for key, before, now in _differences(held["settings"], settings):
            if key != "seeds":
                raise ToylabError(
                    f"{out}: holds a run with {key}={before}, and now {key}={now} is asked for; give another folder "
                    "with --out, or the same settings to continue"
                )
        settings["seeds"] = list(dict.fromkeys([*held["settings"]["seeds"], *settings["seeds"]]))
        if settings == held["settings"]:
            return
    else:
        refuse_others(out, path.name, "run")
    write_record(
        path,
        {
            "study": name,
            "settings": settings,
            "versions": {"toylab": version("toylab"), "torch": torch.__version__, "python": platform.python_version()},
            "machine": f"{platform.system()} {platform.machine()}",
            "revision": _revision(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def refuse_others(out: Path | str, record: str, kind: str) -> None:
    """Raises `ValueError` for a path that is a file, or a folder that holds something and not this record.

    The lock, and a record that a process was writing aside when it was killed, count as nothing.
    """
    out = Path(out)
    if exists(out) and not out.is_dir():
        raise ToylabError(f"{out}: is not a folder; give another one with --out")
    nothing = re.compile(rf"\.lock|\.{re.escape(record)}\.\d+")  # see `toylab.files.write_bytes`
    with disk(out):
        names = [path.name for path in out.iterdir()] if out.exists() and not (out / record).exists() else []
    if not all(map(nothing.fullmatch, names)):
        raise ToylabError(f"{out}: is not empty and holds no {kind}; give another folder with --out")


def read_settings(path: Path | str) -> dict[str, Any]:
    """What a run was made with.

    Raises:
        ValueError: naming the file, if it is missing, damaged, or something else.
    """
    held = read_record(path, "give another folder")
    settings, versions = held.get("settings"), held.get("versions")
    if not (
        isinstance(settings, dict)
        and isinstance(settings.get("seeds"), list)
        and isinstance(versions, dict)
        and all(isinstance(one, str) for one in (versions.get("torch"), *map(held.get, ("study", "machine", "date"))))
        and isinstance(held.get("revision"), str | None)
    ):
        raise ToylabError(f"{path}: is not the settings of a run; give another folder")
    return held


def save_model(path: Path | str, model: Transformer | EncoderDecoder) -> None:
    """Save weights with the shape they belong to."""
    sizes = {name: getattr(model, name) for name in _KINDS[type(model).__name__][2]}
    about = {"kind": type(model).__name__, "config": asdict(model.config), **sizes}
    tensors = {name: t for name, t in model.state_dict().items() if not _is_tied(model, name)}
    write_tensors(path, tensors, about)


def load_model(path: Path | str) -> Any:
    """A model from its file: a `Transformer` or an `EncoderDecoder`, as it was saved.

    Raises:
        ValueError: if the file is missing, damaged or not a model.
    """
    tensors, about = read_tensors(path)
    try:
        kind, read_config, names = _KINDS[about.get("kind", "Transformer")]
        config, sizes = read_config(about["config"]), [about[name] for name in names]
        first = next(iter(tensors.values()), None)
        if first is None or not first.is_floating_point() or not all(type(size) is int for size in sizes):
            raise TypeError("weights or sizes are missing")
    except (AttributeError, KeyError, TypeError, ToylabError) as error:
        raise ToylabError(f"{path}: does not hold a model of this version ({type(error).__name__}: {error})") from None
    try:  # an encoding of somebody else's, which may be part of the model, raises what it will
        model = kind(config, *sizes).to(first.dtype)
        absent, extra = model.load_state_dict(tensors, strict=False)
    except (ToylabError, RuntimeError, TypeError) as error:
        raise ToylabError(f"{path}: does not hold a model of this version ({error})") from error
    wrong = [name for name in absent if not _is_tied(model, name)] + extra
    if wrong:
        raise ToylabError(f"{path}: does not hold the weights its header speaks of ({', '.join(wrong)})")
    return model


def _encoder_decoder_config(about: dict[str, Any]) -> EncoderDecoderConfig:
    return EncoderDecoderConfig(**{**about, "encoder": ModelConfig(**about["encoder"])})


_KINDS: dict[str, tuple[type, Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "Transformer": (Transformer, lambda about: ModelConfig(**about), ("vocab", "context")),
    "EncoderDecoder": (EncoderDecoder, _encoder_decoder_config, ("symbols", "queries", "classes", "context")),
}
"""By name: the class, how its config comes back from JSON, and its sizes in the order of its arguments."""


def write_metrics(path: Path | str, training: Training) -> None:
    """The history of a training, one JSON object a line."""
    write_text(path, "".join(json.dumps(as_json(entry, Path(path).stem)) + "\n" for entry in training.history))


def read_metrics(path: Path | str) -> History:
    """Raises `ValueError` naming the file if it is missing or damaged."""
    path = Path(path)
    content = read_bytes(path)
    as_left(path)
    try:  # a metric may be undefined at a step, and is NaN there
        return [parse_json(line, finite=False) for line in content.decode().splitlines()]
    except ValueError as error:
        raise ToylabError(f"{path}: is damaged ({error}); delete the folder of this job and run again") from None


def curves_of(
    results: dict[Job, dict[str, Any]], out: Path | str, arm: str, file: str = "metrics.jsonl", metric: str = "accuracy"
) -> dict[str, tuple[list[float | int], list[float | int]]]:
    """Steps and values of a metric, for every seed of an arm, from the histories that its jobs left."""
    kept = {job.seed: read_metrics(job.folder(out) / file) for job in results if job.name == arm}
    return {f"seed {seed}": ([e["step"] for e in h], [e[metric] for e in h]) for seed, h in kept.items()}


def single_thread() -> None:
    """Let torch use one thread in this process: at toy sizes more are slower, and far slower beside another process.

    Freed memory is kept, too: the C library would give large tensors back to the system and ask for them anew at each
    step, up to a tenth of its time.
    """
    torch.set_num_threads(1)
    with suppress(AttributeError, OSError, TypeError):  # no glibc here
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**30)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much free memory is kept, and from which size on a tensor gets memory of its own."""


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves at which two nested settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [
            found
            for name in names
            for found in _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if before == now else [(key, before, now)]


@cache
def _revision() -> str | None:
    """The git revision of the source, with a mark if it was changed; None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _is_tied(model: Transformer | EncoderDecoder, name: str) -> bool:
    return name == "unembedding.weight" and model.config.unembedding == "tied"
