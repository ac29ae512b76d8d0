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
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from toylab.claims import Claim
from toylab.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.files import (
    digest,
    missing,
    parse_json,
    read_json,
    read_record,
    read_tensors,
    write_record,
    write_tensors,
    write_text,
)
from toylab.model import ModelConfig, Transformer
from toylab.names import ToylabError
from toylab.report import Picture
from toylab.train import History, Training


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
    """A frozen dataclass of settings that knows its jobs, how to run one, and what follows from their results."""

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

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        """The figures of the report, from the results and what the jobs left in their folders."""
        ...


def results(study: Study, out: Path | str) -> dict[Job, dict[str, Any]]:
    """What the finished jobs of a study measured."""
    return {job: read_result(job.folder(out)) for job in study.jobs() if (job.folder(out) / "done").exists()}


def read_result(folder: Path | str) -> dict[str, Any]:
    """What a finished job measured.

    Raises:
        ValueError: naming the file, if it is missing, damaged or not what the job left.
    """
    path = Path(folder) / "result.json"
    as_left(path)
    return read_json(path)


def as_left(path: Path | str) -> None:
    """Raises `ValueError` if a file of a finished job is not what the job left."""
    path = Path(path)
    expected = _kept(path.parent).get(path.name)
    if expected is not None and path.is_file() and digest(path.read_bytes()) != expected:
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
    try:
        lines = (folder / "done").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def by_arm(results: dict[Job, dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Results by the name of the arm and the seed."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for job, result in results.items():
        arms.setdefault(job.name, {})[job.seed] = result
    return arms


def claim_folder(study: Study, name: str, out: Path | str) -> None:
    """Write the settings of a run, or check that the folder holds a run of the same.

    Seeds may be added to a run; nothing else may change.

    Raises:
        ValueError: naming the first setting that differs.
    """
    out = Path(out)
    path = out / "settings.json"
    settings = json.loads(json.dumps(asdict(study)))
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
        settings["seeds"] = sorted({*held["settings"]["seeds"], *settings["seeds"]})
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
    if out.exists() and not out.is_dir():
        raise ToylabError(f"{out}: is not a folder; give another one with --out")
    nothing = re.compile(rf"\.lock|\.{re.escape(record)}\.\d+")  # see `toylab.files.write_bytes`
    if out.exists() and not (out / record).exists() and not all(nothing.fullmatch(path.name) for path in out.iterdir()):
        raise ToylabError(f"{out}: is not empty and holds no {kind}; give another folder with --out")


def read_settings(path: Path | str) -> dict[str, Any]:
    """What a run was made with.

    Raises:
        ValueError: naming the file, if it is missing, damaged, or something else.
    """
    held = read_record(path, "give another folder with --out")
    if not isinstance(held.get("settings"), dict) or not isinstance(held["settings"].get("seeds"), list):
        raise ToylabError(f"{path}: is not the settings of a run; give another folder with --out")
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
        kind, config, sizes = _KINDS[about.get("kind", "Transformer")]
        model = kind(config(about["config"]), *(about[name] for name in sizes))
        model = model.to(next(iter(tensors.values())).dtype)
        absent, extra = model.load_state_dict(tensors, strict=False)
        wrong = [name for name in absent if not _is_tied(model, name)] + extra
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError, RuntimeError) as error:
        raise ToylabError(f"{path}: does not hold a model of this version ({error})") from None
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
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in training.history))


def read_metrics(path: Path | str) -> History:
    """Raises `ValueError` naming the file if it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise missing(path)
    as_left(path)
    try:
        return [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
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
