"""Execute the jobs of one or several runs in parallel processes or on any `concurrent.futures.Executor`.

A failed job is recorded and the other jobs continue; an interrupted job resumes from its checkpoint.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toylab.console import UNGUARDED, ToylabError, progress_bar, refuse_while_importing, unknown_name
from toylab.files import file_errors, folder_lock, refuse_links, sha256_of, write_text
from toylab.model.device import use_device
from toylab.runs.lock import LOCK_FILE, lock_checksum, refuse_changed, write_lock
from toylab.runs.processes import ProcessPool, peak_megabytes, single_thread
from toylab.runs.store import (
    Cost,
    claim_folder,
    earlier_seconds,
    is_done,
    read_results,
    refuse_another_run,
    write_result,
)
from toylab.runs.study import Job, Study, check_jobs, check_study, with_dependencies
from toylab.settings import check_range, torch_seed


class JobsRefusedError(ToylabError):
    """Every failed job rejected its settings or a damaged file; the other jobs are finished and saved."""


class JobsFailedError(RuntimeError):
    """Some jobs failed; the other jobs are finished and saved."""


@dataclass(frozen=True)
class Run:
    """A study, its name, the folder of its results, whether a new run is judged at looks, the device of its models."""

    study: Study
    name: str
    out: Path | str
    until_decided: bool = False
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """The folder of its results."""
        return Path(self.out)


@dataclass(frozen=True)
class QueuedJob:
    """A job and its run."""

    run: Run
    job: Job

    def __str__(self) -> str:
        return f"{self.job.name} of seed {self.job.seed}"

    @property
    def folder(self) -> Path:
        """The folder of the job."""
        return self.job.folder(self.run.folder)

    @property
    def key(self) -> tuple[Path, Job]:
        """Unique key among all runs."""
        return self.run.folder, self.job

    @property
    def needs(self) -> list[tuple[Path, Job]]:
        """The keys of the jobs that must finish first."""
        return [(self.run.folder, job) for job in self.job.needs]


def execute(
    study: Study,
    name: str,
    out: Path | str,
    workers: int,
    progress: bool = True,
    executor: Executor | None = None,
    device: str = "cpu",
) -> dict[Job, Any]:
    """Run the unfinished jobs of a study, and return the results of all its jobs.

    After Ctrl-C, finished jobs are kept, and the same call resumes the run.

    Args:
        workers: number of parallel processes, each with one thread.
        executor: replaces the worker processes; it must see the same folder.
        device: of the models, in every process.

    Raises:
        ToylabError: for workers below 1, a job name that is not a valid folder name, a folder with a run of other
            settings, a folder in use by another process, or processes that cannot start. After all jobs have ended: if
            jobs failed and all of them rejected their settings or a damaged file.
        JobsFailedError: after all jobs have ended, if a job failed for another reason.
    """
    (measured,) = execute_all([Run(study, name, out, device=device)], name, workers, progress, executor)
    return measured


def execute_all(
    runs: Sequence[Run],
    title: str,
    workers: int,
    progress: bool = True,
    executor: Executor | None = None,
    on_done: Callable[[Job], None] | None = None,
) -> list[dict[Job, Any]]:
    """`execute` for several runs whose jobs share the workers, so that no worker idles while any job is left.

    Args:
        on_done: called with a job after it has succeeded; other jobs go on.
    """
    check_workers(workers)
    for run in runs:
        check_study(run.study)
        check_jobs(run.study)
        refuse_another_run(run.study, run.name, run.folder)
        refuse_links(run.folder, run.folder / "settings.json", run.folder / LOCK_FILE)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(folder_lock(run.folder))
            refuse_changed(run.study, run.folder)
        for run in runs:
            claim_folder(run.study, run.name, run.folder, run.until_decided, run.device)
            write_lock(run.study, run.folder)
        failures = execute_jobs(runs, title, workers, progress, executor, on_done=on_done)
        of = str if len(runs) == 1 else lambda task: f"{task.run.name}, {task}"
        raise_failures(failures, "rerunning the command repeats only the failed jobs", of)
        return [read_results(run.study, run.folder) for run in runs]


def execute_jobs(
    runs: Sequence[Run],
    title: str,
    workers: int,
    progress: bool = True,
    executor: Executor | None = None,
    jobs: Sequence[str] | None = None,
    on_done: Callable[[Job], None] | None = None,
) -> Failures:
    """Execute the unfinished jobs of several runs, whose folders must be claimed and locked by the caller.

    Args:
        jobs: names of the jobs to run, with their dependencies; by default all.
        on_done: see `execute_all`.

    Raises:
        ToylabError: for workers below 1, or an unknown job name.
    """
    check_workers(workers)
    tasks = [QueuedJob(run, job) for run in runs for job in select_jobs(run.study, jobs)]
    unfinished = [task for task in tasks if not is_done(task.job, task.run.folder)]
    done = {task.key for task in tasks} - {task.key for task in unfinished}
    bar = progress_bar(total=len(unfinished), desc=title, unit="job", disable=not progress or not unfinished)
    with bar:
        failures = Failures(len(unfinished), bar, on_done)
        if executor is not None:
            _submit(unfinished, done, failures, executor, room=None)
        elif workers > 1 and unfinished:
            with ProcessPool(min(workers, len(unfinished)), [run.folder for run in runs]) as pool:
                _submit(unfinished, done, failures, pool, room=workers)
        else:
            _submit(unfinished, done, failures, _InProcessExecutor(), room=1)
    return failures


@dataclass(frozen=True)
class JobFailure:
    """The error of a failed job; its traceback is in `error.txt` in the job's folder."""

    message: str
    refused: bool
    """Whether it rejected its settings, a damaged file or a disk error, as opposed to a bug in the code."""

    @classmethod
    def of(cls, error: BaseException) -> JobFailure:
        if isinstance(error, ToylabError):
            return cls(str(error), True)
        return cls(f"{type(error).__name__}: {error}".removesuffix(": "), False)


class Failures(dict[QueuedJob, JobFailure]):
    """The failed jobs among those requested."""

    def __init__(self, requested: int, bar: Any, on_done: Callable[[Job], None] | None = None) -> None:
        super().__init__()
        self.asked, self._bar, self._on_done = requested, bar, on_done

    def note(self, task: QueuedJob, failure: JobFailure | None) -> None:
        """Record that a job ended, with its failure if any."""
        if failure is not None:
            self[task] = failure
            self._bar.set_postfix(failed=len(self), refresh=False)
        self._bar.update()
        if failure is None and self._on_done is not None:
            self._on_done(task.job)

    def lines(self, of: Callable[[QueuedJob], str] = str) -> list[str]:
        """One line per failure."""
        return [f"{of(task)}: {failure.message} (see {_error_report(task)})" for task, failure in self.items()]


def raise_failures(failures: Failures, again: str, of: Callable[[QueuedJob], str] = str) -> None:
    """Raise an error if any job failed; `again` tells the user how to repeat the failed jobs."""
    if failures:
        count = f"{len(failures)} of {failures.asked} jobs failed, results of the others are kept; {again}"
        # If every failed job was refused, the input is at fault and not the code.
        refused = all(failure.refused for failure in failures.values())
        raise (JobsRefusedError if refused else JobsFailedError)("\n  ".join([count, *failures.lines(of)]))


def _record_failure(task: QueuedJob, message: str, refused: bool = False) -> JobFailure:
    _write_error_report(task.folder, message + "\n")
    return JobFailure(message, refused)


def _error_report(task: QueuedJob) -> Path:
    return task.folder / "error.txt"


def _write_error_report(folder: Path, text: str) -> None:
    with suppress(ToylabError):  # the disk may be full; the command still prints the message
        refuse_links(folder.parent.parent, folder / "error.txt")
        write_text(folder / "error.txt", text)


# In a worker ---------------------------------------------------------------------------------------------------------


def complete_job(study: Study, job: Job, out: Path, device: str = "cpu") -> JobFailure | None:
    """Run one job unless it is done; `done`, with the checksum of every file, is written last.

    Errors are returned, not raised, since not every exception can be pickled between processes.
    """
    single_thread()
    folder = job.folder(out)
    try:
        if not (out / "settings.json").exists():
            raise ToylabError(f"{out}: does not exist on this worker; give a folder with --out that all machines share")
        refuse_links(out, folder)
        # A worker may outlive its command, and the command may have been rerun: the lock prevents two writers.
        with folder_lock(folder, wait=True):
            if not is_done(job, out):
                with use_device(device):
                    _run_and_store(study, job, folder, out)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # including SystemExit, so that the other jobs continue
        _write_error_report(folder, traceback.format_exc())
        return JobFailure.of(error)
    return None


def _run_and_store(study: Study, job: Job, folder: Path, out: Path) -> None:
    with file_errors(folder):
        # A folder from another person may contain a link where the job writes a file.
        refuse_links(out, *(path for path in folder.iterdir() if path.is_symlink() and not path.is_dir()))
        for name in ("done", "error.txt"):
            (folder / name).unlink(missing_ok=True)
    earlier_seconds.set(earlier := [])
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):  # dropout: a job has the same bits in every worker
        torch.manual_seed(torch_seed(job.seed, job.name))
        result = study.run_job(job, folder)
    cost = Cost(
        cpu_seconds=round(time.process_time() - cpu_start + sum(earlier), 2),
        wall_seconds=round(time.perf_counter() - wall_start, 2),
        peak_megabytes=peak_megabytes(),
        lock=lock_checksum(out),
    )
    write_result(folder, result, job.result_type, cost)
    for path in folder.glob("checkpoint*"):  # large, and only needed to resume
        if path.is_file():
            path.unlink()
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(_WITHOUT_CHECKSUM))
    write_text(folder / "done", "".join(f"{sha256_of(path.read_bytes())}  {path.name}\n" for path in files))


_WITHOUT_CHECKSUM = (".", "error.txt")
"""Prefixes of files without a checksum: hidden files and error reports."""


# Beside the workers --------------------------------------------------------------------------------------------------


class _InProcessExecutor:
    """Executor that runs each call in this process."""

    def submit(self, call: Callable, *arguments: Any) -> Future:
        done: Future = Future()
        done.set_result(call(*arguments))
        return done


def _submit(
    queue: list[QueuedJob], done: set[tuple[Path, Job]], failures: Failures, executor: Any, room: int | None
) -> None:
    """Submit jobs as soon as their dependencies are done, at most `room` at a time.

    If a worker process is killed or runs out of memory, the whole pool breaks and all submitted jobs are lost, without
    a trace of which one caused it. Lost jobs are therefore repeated one at a time; a job lost twice counts as failed.
    """
    queue, waiting, suspects = list(queue), {}, set()
    try:
        while waiting or queue:
            for task in _jobs_to_submit(queue, done, suspects, room, len(waiting)):
                queue.remove(task)
                run = task.run
                waiting[executor.submit(complete_job, run.study, task.job, run.folder.resolve(), run.device)] = task
            if not waiting:  # a dependency of every remaining job failed
                for task in queue:
                    failures.note(task, _dependency_failure(task, done))
                return
            finished = wait(waiting, return_when=FIRST_COMPLETED).done
            if room is not None and any(isinstance(future.exception(), BrokenExecutor) for future in finished):
                finished = wait(waiting).done  # the whole pool is lost
            for future in finished:
                task, error = waiting.pop(future), future.exception()
                if isinstance(error, KeyboardInterrupt):
                    raise error
                if isinstance(error, BrokenExecutor) and room is not None and task.key not in suspects:
                    executor.check_start()
                    suspects.add(task.key)
                    queue.insert(0, task)
                    continue
                suspects.discard(task.key)
                if error is None:
                    failure = future.result()
                elif isinstance(error, BrokenExecutor):
                    # Processes of an external executor may never have started.
                    why = "was it killed, or out of memory?" + (f" Or: {UNGUARDED}" if room is None else "")
                    failure = _record_failure(task, f"its process ended abruptly: {why}")
                else:  # raised by the executor, or a study that a worker cannot import
                    failure = JobFailure.of(error)
                    _write_error_report(task.folder, failure.message + "\n")
                failures.note(task, failure)
                if failure is None:
                    done.add(task.key)
    except BaseException:
        for future in waiting:
            future.cancel()
        raise


def _jobs_to_submit(
    queue: Sequence[QueuedJob],
    done: set[tuple[Path, Job]],
    suspects: set[tuple[Path, Job]],
    room: int | None,
    busy: int,
) -> list[QueuedJob]:
    """The jobs to submit now, while `busy` jobs are running."""
    if suspects:
        return [] if busy else [next(task for task in queue if task.key in suspects)]
    ready = (task for task in queue if done.issuperset(task.needs))
    return [task for _, task in zip(range(room - busy), ready, strict=False)] if room is not None else list(ready)


def _dependency_failure(task: QueuedJob, done: set[tuple[Path, Job]]) -> JobFailure:
    failed = next(job for job in task.job.needs if (task.run.folder, job) not in done)
    return _record_failure(task, f"{failed.name} of seed {failed.seed} failed, and this job depends on it", True)


def select_jobs(study: Study, names: Sequence[str] | None) -> list[Job]:
    """The jobs of these names with their dependencies.

    Raises:
        ToylabError: for an unknown name, with the nearest one.
    """
    jobs = study.jobs()
    if names is None:
        return jobs
    known = list(dict.fromkeys(job.name for job in jobs))
    for name in names:
        if name not in known:
            raise unknown_name("job", name, known)
    selected = with_dependencies((job for job in jobs if job.name in names), jobs)
    return [job for job in jobs if job in selected]


def check_workers(workers: int) -> None:
    """Raises `ToylabError` for workers below 1, and in a worker process that is importing its parent's script."""
    refuse_while_importing()
    check_range(workers=workers, least=1)
