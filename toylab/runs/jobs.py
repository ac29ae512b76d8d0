"""Jobs of one run or of many, in parallel processes or on any `concurrent.futures.Executor`.

A job is done once and whole. What fails is recorded and the rest goes on; what was stopped goes on where it was.
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

from toylab.console import UNGUARDED, ToylabError, progress_bar, refuse_while_importing, unknown_name
from toylab.files import file_errors, folder_lock, refuse_links, sha256_of, write_text
from toylab.runs.lock import LOCK_FILE, lock_checksum, refuse_changed, write_lock
from toylab.runs.processes import ProcessPool, peak_megabytes, single_thread
from toylab.runs.store import Cost, claim_folder, is_done, read_results, refuse_another_run, write_result
from toylab.runs.study import Job, Study, check_jobs, check_study, with_dependencies
from toylab.settings import check_range


class JobsRefusedError(ToylabError):
    """All jobs that failed refused their settings or a damaged file; the others are finished and kept."""


class JobsFailedError(RuntimeError):
    """Some jobs failed; the others are finished and kept."""


@dataclass(frozen=True)
class Run:
    """A study, its name, the folder that keeps what it finds, and whether a new run is one of looks."""

    study: Study
    name: str
    out: Path
    until_decided: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))


@dataclass(frozen=True)
class QueuedJob:
    """A job with the run it belongs to."""

    run: Run
    job: Job

    def __str__(self) -> str:
        return f"{self.job.name} of seed {self.job.seed}"

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.job.folder(self.run.out)

    @property
    def key(self) -> tuple[Path, Job]:
        """What tells it from all others."""
        return self.run.out, self.job

    @property
    def needs(self) -> list[tuple[Path, Job]]:
        """The keys of those that must be done first."""
        return [(self.run.out, job) for job in self.job.needs]


def execute(
    study: Study,
    name: str,
    out: Path | str,
    workers: int,
    progress: bool = True,
    executor: Executor | None = None,
) -> dict[Job, Any]:
    """Run the jobs of a study that are not finished yet, and return what all of them measured.

    Ctrl-C stops at once; finished jobs stay, and the same call continues.

    Args:
        workers: parallel processes, of one thread each.
        executor: where the jobs run instead; it must see the same folder.

    Raises:
        ValueError: for workers below 1, a job whose name cannot be a folder, a folder that holds a run of other
            settings or that another process writes to, processes that cannot start or, after all other jobs were done,
            for jobs that all refused their settings or a damaged file.
        JobsFailedError: if a job failed otherwise, after all others were done.
    """
    (measured,) = execute_all([Run(study, name, Path(out))], name, workers, progress, executor)
    return measured


def execute_all(
    runs: Sequence[Run], title: str, workers: int, progress: bool = True, executor: Executor | None = None
) -> list[dict[Job, Any]]:
    """`execute` for several runs, whose jobs share the workers: none idles while another study has work left."""
    check_workers(workers)
    for run in runs:
        check_study(run.study)
        check_jobs(run.study)
        refuse_another_run(run.study, run.name, run.out)
        refuse_links(run.out, run.out / "settings.json", run.out / LOCK_FILE)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(folder_lock(run.out))
            refuse_changed(run.study, run.out)
        for run in runs:
            claim_folder(run.study, run.name, run.out, run.until_decided)
            write_lock(run.study, run.out)
        failures = execute_jobs(runs, title, workers, progress, executor)
        of = str if len(runs) == 1 else lambda task: f"{task.run.name}, {task}"
        raise_failures(failures, "the same command runs those again", of)
        return [read_results(run.study, run.out) for run in runs]


def execute_jobs(
    runs: Sequence[Run],
    title: str,
    workers: int,
    progress: bool = True,
    executor: Executor | None = None,
    jobs: Sequence[str] | None = None,
) -> Failures:
    """Do the jobs of some runs that are not finished yet. Their folders must be claimed, and be ours alone.

    Args:
        jobs: names of those that are wanted, with all that they go on from; all, if not given.

    Raises:
        ValueError: for workers below 1, or a job that no study has.
    """
    check_workers(workers)
    tasks = [QueuedJob(run, job) for run in runs for job in select_jobs(run.study, jobs)]
    left = [task for task in tasks if not is_done(task.job, task.run.out)]
    done = {task.key for task in tasks} - {task.key for task in left}
    bar = progress_bar(total=len(left), desc=title, unit="job", disable=not progress or not left)
    with bar:
        failures = Failures(len(left), bar)
        if executor is not None:
            _submit(left, done, failures, executor, room=None)
        elif workers > 1 and left:
            with ProcessPool(min(workers, len(left)), [run.out for run in runs]) as pool:
                _submit(left, done, failures, pool, room=workers)
        else:
            _submit(left, done, failures, _Here(), room=1)
    return failures


@dataclass(frozen=True)
class JobFailure:
    """What a job ended with; its traceback is in `error.txt` in its folder."""

    message: str
    refused: bool
    """Whether it refused its settings, a damaged file or what the disk said, as opposed to a fault in the code."""

    @classmethod
    def of(cls, error: BaseException) -> JobFailure:
        if isinstance(error, ToylabError):
            return cls(str(error), True)
        return cls(f"{type(error).__name__}: {error}".removesuffix(": "), False)


class Failures(dict[QueuedJob, JobFailure]):
    """The tasks that failed, of those that were asked for."""

    def __init__(self, asked: int, bar: Any) -> None:
        super().__init__()
        self.asked, self._bar = asked, bar

    def note(self, task: QueuedJob, failure: JobFailure | None) -> None:
        """A task has come to its end."""
        if failure is not None:
            self[task] = failure
            self._bar.set_postfix(failed=len(self), refresh=False)
        self._bar.update()

    def lines(self, of: Callable[[QueuedJob], str] = str) -> list[str]:
        """One a failure."""
        return [f"{of(task)}: {failure.message} (see {_report(task)})" for task, failure in self.items()]


def raise_failures(failures: Failures, again: str, of: Callable[[QueuedJob], str] = str) -> None:
    """Raise what failed, if anything did; `again` says how to run those again."""
    if failures:
        count = f"{len(failures)} of {failures.asked} jobs failed, the others are kept; {again}"
        # What every job refused is a mistake in what was asked, or a damaged file: not ours.
        refused = all(failure.refused for failure in failures.values())
        raise (JobsRefusedError if refused else JobsFailedError)("\n  ".join([count, *failures.lines(of)]))


def _never_started(task: QueuedJob, message: str, refused: bool = False) -> JobFailure:
    _keep_report(task.folder, message + "\n")
    return JobFailure(message, refused)


def _report(task: QueuedJob) -> Path:
    return task.folder / "error.txt"


def _keep_report(folder: Path, told: str) -> None:
    with suppress(ToylabError):  # the disk may be full: the message of the command is left then
        refuse_links(folder.parent.parent, folder / "error.txt")
        write_text(folder / "error.txt", told)


# In a worker ---------------------------------------------------------------------------------------------------------


def complete_job(study: Study, job: Job, out: Path) -> JobFailure | None:
    """Do one job, if it is not done: its files first, `done` last, with the checksum of each.

    Errors come back as values: not every exception survives the way between two processes.
    """
    single_thread()
    folder = job.folder(out)
    try:
        if not (out / "settings.json").exists():
            raise ToylabError(f"{out}: is not seen by this worker; give a folder with --out that all machines share")
        refuse_links(out, folder)
        # A worker may outlive the command that asked for a job, and that may have been given again.
        with folder_lock(folder, wait=True):
            if not is_done(job, out):
                _do(study, job, folder, out)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what ends a process, such as sys.exit: the other jobs go on
        _keep_report(folder, traceback.format_exc())
        return JobFailure.of(error)
    return None


def _do(study: Study, job: Job, folder: Path, out: Path) -> None:
    with file_errors(folder):
        # A folder that was received may hold a link in the place of a file that the job writes.
        refuse_links(out, *(path for path in folder.iterdir() if path.is_symlink() and not path.is_dir()))
        for name in ("done", "error.txt"):
            (folder / name).unlink(missing_ok=True)
    began, cpu = time.perf_counter(), time.process_time()
    result = study.run_job(job, folder)
    cost = Cost(
        cpu_seconds=round(time.process_time() - cpu, 2),
        wall_seconds=round(time.perf_counter() - began, 2),
        peak_megabytes=peak_megabytes(),
        lock=lock_checksum(out),
    )
    write_result(folder, result, job.result_type, cost)
    for path in folder.glob("checkpoint*"):  # to go on from when interrupted, and large
        if path.is_file():
            path.unlink()
    kept = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(_PASSING))
    write_text(folder / "done", "".join(f"{sha256_of(path.read_bytes())}  {path.name}\n" for path in kept))


_PASSING = (".", "error.txt")
"""How the names of files begin that a job may leave, but that nothing needs."""


# Beside the workers --------------------------------------------------------------------------------------------------


class _Here:
    """This process, in the place of a pool."""

    def submit(self, call: Callable, *arguments: Any) -> Future:
        done: Future = Future()
        done.set_result(call(*arguments))
        return done


def _submit(
    left: list[QueuedJob], done: set[tuple[Path, Job]], failures: Failures, executor: Any, room: int | None
) -> None:
    """Submit tasks as soon as what they need is done, no more than `room` at a time.

    When a process of ours is lost (killed, out of memory), all that was submitted is lost with it, and nobody knows who
    was to blame. So `room` is kept tight, and those that were lost run again one at a time: whoever is lost a second
    time is recorded as a failure.
    """
    left, waiting, suspects = list(left), {}, set()
    try:
        while waiting or left:
            for task in _next(left, done, suspects, room, len(waiting)):
                left.remove(task)
                waiting[executor.submit(complete_job, task.run.study, task.job, task.run.out.resolve())] = task
            if not waiting:  # what the others come after has failed
                for task in left:
                    failures.note(task, _base_failed(task, done))
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
                    left.insert(0, task)
                    continue
                suspects.discard(task.key)
                if error is None:
                    failure = future.result()
                elif isinstance(error, BrokenExecutor):
                    # Of processes that are not ours, nobody knows whether they ever started.
                    why = "was it killed, or out of memory?" + (f" Or: {UNGUARDED}" if room is None else "")
                    failure = _never_started(task, f"its process ended abruptly: {why}")
                else:  # the executor's own word, or a study that a worker cannot load
                    failure = JobFailure.of(error)
                    _keep_report(task.folder, failure.message + "\n")
                failures.note(task, failure)
                if failure is None:
                    done.add(task.key)
    except BaseException:
        for future in waiting:
            future.cancel()
        raise


def _next(
    left: Sequence[QueuedJob], done: set[tuple[Path, Job]], suspects: set[tuple[Path, Job]], room: int | None, busy: int
) -> list[QueuedJob]:
    """The tasks to submit now, where `busy` others are running."""
    if suspects:
        return [] if busy else [next(task for task in left if task.key in suspects)]
    ready = (task for task in left if done.issuperset(task.needs))
    return [task for _, task in zip(range(room - busy), ready, strict=False)] if room is not None else list(ready)


def _base_failed(task: QueuedJob, done: set[tuple[Path, Job]]) -> JobFailure:
    failed = next(job for job in task.job.needs if (task.run.out, job) not in done)
    return _never_started(task, f"{failed.name} of seed {failed.seed} failed, which this one goes on from", True)


def select_jobs(study: Study, names: Sequence[str] | None) -> list[Job]:
    """The jobs of these names, with all that they go on from.

    Raises:
        ValueError: for a name that is none, with the nearest one.
    """
    jobs = study.jobs()
    if names is None:
        return jobs
    known = list(dict.fromkeys(job.name for job in jobs))
    for name in names:
        if name not in known:
            raise unknown_name("job", name, known)
    chosen = with_dependencies((job for job in jobs if job.name in names), jobs)
    return [job for job in jobs if job in chosen]


def check_workers(workers: int) -> None:
    """Raises `ValueError` for less than one, and in a process that only imports the script of its parent."""
    refuse_while_importing()
    check_range(workers=workers, least=1)
