"""Runs and claims: a study is a list of jobs, each a folder that is finished or not, and a table of claims at the end.

    FOLDER/settings.json        what was run, with versions, revision and date
    FOLDER/seed-0/main/         one job: metrics.jsonl, model.safetensors, result.json; `done`, with their names, last
    FOLDER/claims.json          the verdicts
    FOLDER/figures/, report.html

A finished job is never repeated; an interrupted one continues from its checkpoint.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from tqdm import tqdm

from toylab.claims import Claim
from toylab.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.files import missing, read_json, read_tensors, sweep_aside, write_json, write_tensors, write_text
from toylab.model import ModelConfig, Transformer
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

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / f"seed-{self.seed}" / self.name


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


class JobsRefusedError(ValueError):
    """All jobs that failed refused their settings or a damaged file; the others are finished and kept."""


class JobsFailedError(RuntimeError):
    """Some jobs of a study failed; the others are finished and kept."""


def execute(study: Study, name: str, out: Path, workers: int, progress: bool = True) -> dict[Job, dict[str, Any]]:
    """Run the jobs of a study that are not finished yet, in parallel processes of one thread each.

    Ctrl-C stops at once; finished jobs stay, and the same call continues.

    Raises:
        ValueError: for workers below 1, a folder that holds a run of other settings or, after all other jobs were
            done, for jobs that all refused their settings or a damaged file.
        JobsFailedError: if a job failed otherwise, after all others were done.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1")
    claim_folder(study, name, out)
    unfinished = [job for job in study.jobs() if not _is_done(job, out)]
    failures: dict[str, BaseException] = {}

    def note(job: Job, error: BaseException) -> None:
        report = job.folder(out) / "error.txt"
        write_text(report, "".join(traceback.format_exception(error)))
        failures[f"{job.name} of seed {job.seed}: {error} (see {report})"] = error

    with tqdm(total=len(unfinished), desc=name, unit="job", disable=not progress or not unfinished) as bar:
        if workers == 1:
            single_thread()
            for job in unfinished:
                try:
                    if not _is_ready(job, out):
                        raise _base_failed(job, out)
                    _do(study, job, out)
                except Exception as error:
                    note(job, error)
                bar.update()
        elif unfinished:
            _run_parallel(study, unfinished, out, workers, note, bar)
    if failures:
        count = (
            f"{len(failures)} of {len(unfinished)} jobs failed, the others are kept; the same command runs those again"
        )
        # What every job refused with a ValueError is a mistake in what was asked, or a damaged file: not ours.
        ours = any(not isinstance(error, ValueError) for error in failures.values())
        raise (JobsFailedError if ours else JobsRefusedError)("\n  ".join([count, *failures]))
    return results(study, out)


def _is_done(job: Job, out: Path) -> bool:
    folder, done = job.folder(out), job.folder(out) / "done"
    # A file that others go on from may have been deleted, as it is told where one is damaged: then it is made again.
    return done.exists() and all((folder / name).exists() for name in ["result.json", *done.read_text().splitlines()])


def _is_ready(job: Job, out: Path) -> bool:
    return all(_is_done(needed, out) for needed in job.needs)


def _base_failed(job: Job, out: Path) -> ValueError:
    failed = next(needed for needed in job.needs if not _is_done(needed, out))
    return ValueError(f"{failed.name} of seed {failed.seed} failed, which this one goes on from")


def results(study: Study, out: Path) -> dict[Job, dict[str, Any]]:
    """What the finished jobs of a study measured."""
    finished = [job for job in study.jobs() if (job.folder(out) / "done").exists()]
    return {job: read_json(job.folder(out) / "result.json") for job in finished}


def by_arm(results: dict[Job, dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Results by the name of the arm and the seed."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    for job, result in results.items():
        arms.setdefault(job.name, {})[job.seed] = result
    return arms


def claim_folder(study: Study, name: str, out: Path) -> None:
    """Write the settings of a run, or check that the folder holds a run of the same.

    Seeds may be added to a run; nothing else may change.

    Raises:
        ValueError: naming the first setting that differs.
    """
    path = out / "settings.json"
    settings = json.loads(json.dumps(asdict(study)))
    if path.exists():
        try:
            held = read_json(path)
        except ValueError as error:
            raise ValueError(f"{path}: is damaged; give another folder with --out") from error
        if (
            not isinstance(held, dict)
            or not isinstance(held.get("settings"), dict)
            or not isinstance(held["settings"].get("seeds"), list)
        ):
            raise ValueError(f"{path}: is not the settings of a run; give another folder with --out")
        if held.get("study") != name:
            raise ValueError(f"{out}: holds a run of {held.get('study')!r}; give another folder with --out")
        for key, before, now in _differences(held["settings"], settings):
            if key != "seeds":
                raise ValueError(
                    f"{out}: holds a run with {key}={before}, and now {key}={now} is asked for; give another folder "
                    "with --out, or the same settings to continue"
                )
        settings["seeds"] = sorted({*held["settings"]["seeds"], *settings["seeds"]})
        if settings == held["settings"]:
            return
    elif out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is not a folder; give another one with --out")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty and holds no run; give another folder with --out")
    write_json(
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


def save_model(path: Path, model: Transformer | EncoderDecoder) -> None:
    """Save weights with the shape they belong to."""
    sizes = {name: getattr(model, name) for name in _KINDS[type(model).__name__][2]}
    about = {"kind": type(model).__name__, "config": asdict(model.config), **sizes}
    tensors = {name: t for name, t in model.state_dict().items() if not _is_tied(model, name)}
    write_tensors(path, tensors, about)


def load_model(path: Path) -> Any:
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
        raise ValueError(f"{path}: does not hold a model of this version ({error})") from None
    if wrong:
        raise ValueError(f"{path}: does not hold the weights its header speaks of ({', '.join(wrong)})")
    return model


def _encoder_decoder_config(about: dict[str, Any]) -> EncoderDecoderConfig:
    return EncoderDecoderConfig(**{**about, "encoder": ModelConfig(**about["encoder"])})


_KINDS: dict[str, tuple[type, Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "Transformer": (Transformer, lambda about: ModelConfig(**about), ("vocab", "context")),
    "EncoderDecoder": (EncoderDecoder, _encoder_decoder_config, ("symbols", "queries", "classes", "context")),
}
"""By name: the class, how its config comes back from JSON, and its sizes in the order of its arguments."""


def write_metrics(path: Path, training: Training) -> None:
    """The history of a training, one JSON object a line."""
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in training.history))


def read_metrics(path: Path) -> History:
    """Raises `ValueError` naming the file if it is missing or damaged."""
    if not path.is_file():
        raise missing(path)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); delete the folder of this job and run again") from None


def curves_of(
    results: dict[Job, dict[str, Any]], out: Path, arm: str, file: str = "metrics.jsonl", metric: str = "accuracy"
) -> dict[str, tuple[list[float | int], list[float | int]]]:
    """Steps and values of a metric, for every seed of an arm, from the histories that its jobs left."""
    kept = {job.seed: read_metrics(job.folder(out) / file) for job in results if job.name == arm}
    return {f"seed {seed}": ([e["step"] for e in h], [e[metric] for e in h]) for seed, h in kept.items()}


def single_thread() -> None:
    """Let torch use one thread in this process: at toy sizes more are slower, and far slower beside another process."""
    torch.set_num_threads(1)


def _do(study: Study, job: Job, out: Path) -> None:
    folder = job.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done").unlink(missing_ok=True)
    began, cpu = time.time(), time.process_time()
    result = study.run_job(job, folder)
    cost = {"cpu_seconds": round(time.process_time() - cpu, 2), "wall_seconds": round(time.time() - began, 2)}
    write_json(folder / "result.json", {**result, "cost": cost})
    (folder / "error.txt").unlink(missing_ok=True)
    kept = (path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("checkpoint"))
    write_text(folder / "done", "\n".join(sorted(kept)))


def _start_worker() -> None:
    # Ctrl-C reaches all processes of a command. Were workers to answer it, their results would come in while the pool
    # is being interrupted, which may then wait for ever; this way the main process alone answers, and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    single_thread()


def _end_with_parent() -> None:
    # A main process that was killed cannot end its workers, and they would wait for work for ever.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _run_parallel(
    study: Study,
    jobs: Sequence[Job],
    out: Path,
    workers: int,
    note: Callable[[Job, BaseException], None],
    bar: tqdm,
) -> None:
    # Spawned, not forked: a forked child inherits torch's thread pool in an undefined state.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
    waiting: dict[Future, Job] = {}
    left = list(jobs)
    try:
        while waiting or left:
            for job in [job for job in left if _is_ready(job, out)]:
                left.remove(job)
                waiting[pool.submit(_do, study, job, out)] = job
            if not waiting:  # what the others come after has failed
                for job in left:
                    note(job, _base_failed(job, out))
                    bar.update()
                break
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                job = waiting.pop(future)
                if error := future.exception():
                    note(job, error)
                bar.update()
    except KeyboardInterrupt:
        workers_now = dict(pool._processes or {})
        for process in workers_now.values():
            process.terminate()
        for process in workers_now.values():
            process.join()
        sweep_aside(out, workers_now)  # what they were in the middle of writing
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _revision() -> str | None:
    """The git revision of the source, with a mark if it was changed; None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _is_tied(model: Transformer | EncoderDecoder, name: str) -> bool:
    return name == "unembedding.weight" and model.config.unembedding == "tied"
