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
    """Restrict torch to one thread in this process, which is fastest for small models.

    Also keep freed memory: glibc would return large tensors to the system and request them again at every step, up to
    a tenth of the step's time.
    """
    torch.set_num_threads(1)
    with suppress(AttributeError, OSError, TypeError):  # no glibc here
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**30)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, the limits for returning and mapping memory."""


def peak_megabytes() -> float | None:
    """Peak resident memory of this process in MB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _start_worker(started: Any) -> None:
    started.set()
    # Ctrl-C reaches all processes of a command. Workers ignore it: their late results could deadlock the pool while it
    # is being interrupted. The main process handles the signal and terminates the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    single_thread()


def _unpickle_and_call(pickled: bytes) -> Any:
    # Unpickled here, since a missing class would otherwise kill the worker without an error message.
    try:
        call, arguments = pickle.loads(pickled)
    except Exception as error:
        raise ToylabError(
            f"a worker cannot import the study ({type(error).__name__}: {error}); define its class at the top of a "
            "module that the worker can import, or use one worker"
        ) from error
    return call(*arguments)


def _end_with_parent() -> None:
    # Workers of a killed main process would otherwise wait for work for ever.
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


class ProcessPool:
    """A process pool that is recreated after a worker process died.

    Raises:
        ToylabError: if processes cannot start, as in a script without a `__main__` guard.
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
                f"the study cannot be pickled ({error}); define its class at the top of a module and "
                "keep functions out of its settings, or use one worker"
            ) from error
        if self._pool is not None:
            with suppress(BrokenExecutor):
                return self._pool.submit(_unpickle_and_call, pickled)
            self._pool.shutdown()
            self.check_start()
        self._pool = ProcessPoolExecutor(
            self._workers, mp_context=self._context, initializer=_start_worker, initargs=(self._started,)
        )
        return self._pool.submit(_unpickle_and_call, pickled)

    def check_start(self) -> None:
        """Raises `ToylabError` if no worker process ever started."""
        if not self._started.is_set():
            raise ToylabError(f"workers={self._workers}: {UNGUARDED}; see their output above")

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, error_class: type | None, *_: object) -> None:
        if self._pool is None:
            return
        if error_class is not None and issubclass(error_class, KeyboardInterrupt):
            processes = dict(self._pool._processes or {})
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.join()
            for folder in self._folders:
                remove_partial_files(folder, processes)  # interrupted writes
        self._pool.shutdown(wait=True, cancel_futures=True)
        if error_class is not None and issubclass(error_class, BrokenExecutor):
            self.check_start()
