"""Parallel processes of one torch thread each."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from toylab.console import UNGUARDED, ToylabError, refuse_while_importing
from toylab.files import remove_partial_files


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


def peak_megabytes() -> float | None:
    """The most memory that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _start_worker(started: Any) -> None:
    started.set()
    # Ctrl-C reaches all processes of a command. Were workers to answer it, their results would come in while the pool
    # is being interrupted, which may then wait for ever; this way the main process alone answers, and ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    single_thread()


def _call(pickled: bytes) -> Any:
    # Unpickled here: a class that is not found would otherwise end the worker without a word.
    try:
        call, arguments = pickle.loads(pickled)
    except Exception as error:
        raise ToylabError(
            f"a worker cannot load the study ({type(error).__name__}: {error}); define its class at the top of a "
            "module that the worker can import, or use one worker"
        ) from error
    return call(*arguments)


def _end_with_parent() -> None:
    # A main process that was killed cannot end its workers, and they would wait for work for ever.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


class ProcessPool:
    """A pool of processes of our own, made anew when one of them was lost.

    Raises:
        ValueError: where processes cannot start, as in a script that starts them while it is imported.
    """

    def __init__(self, workers: int, folders: Sequence[Path]) -> None:
        refuse_while_importing()
        self._workers, self._folders = workers, folders
        self._pool: ProcessPoolExecutor | None = None
        # Spawned, not forked: a forked child inherits torch's thread pool in an undefined state.
        self._context = multiprocessing.get_context("spawn")
        self._started = self._context.Event()

    def submit(self, call: Callable, *arguments: Any) -> Future:
        try:
            pickled = pickle.dumps((call, arguments))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ToylabError(
                f"the study cannot be sent to another process ({error}); define its class at the top of a module and "
                "keep functions out of its settings, or use one worker"
            ) from error
        if self._pool is not None:
            with suppress(BrokenExecutor):
                return self._pool.submit(_call, pickled)
            self._pool.shutdown()
            self.check_start()
        self._pool = ProcessPoolExecutor(
            self._workers, mp_context=self._context, initializer=_start_worker, initargs=(self._started,)
        )
        return self._pool.submit(_call, pickled)

    def check_start(self) -> None:
        """Raises `ValueError` if no process has ever come as far as to ask for work."""
        if not self._started.is_set():
            raise ToylabError(f"workers={self._workers}: {UNGUARDED}; what they said stands above")

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            processes = dict(self._pool._processes or {})
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.join()
            for folder in self._folders:
                remove_partial_files(folder, processes)  # what they were in the middle of writing
        self._pool.shutdown(wait=True, cancel_futures=True)
        if kind is not None and issubclass(kind, BrokenExecutor):
            self.check_start()
