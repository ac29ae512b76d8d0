"""Run jobs on a Dask cluster; any other `concurrent.futures.Executor` works too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from toylab.console import ToylabError


@contextmanager
def dask_executor(address: str | None, timeout: float | int = 10) -> Iterator[Executor | None]:
    """An executor on the Dask scheduler at an address such as `tcp://10.0.0.1:8786`; None without an address.

    The machines of the cluster need this version of toylab, and the folder of the run under the same path.

    Raises:
        ToylabError: for an invalid address, if Dask is not installed, or if no scheduler answers within `timeout`
            seconds.
    """
    if address is None:
        yield None
        return
    # Checked before creating a client, which would keep trying to connect to an invalid address.
    match = re.fullmatch(r"((tcp|ws)://)?([^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", address)
    if not match or not 0 < int(match[4]) < 2**16:
        raise ToylabError(f"scheduler={address}: must be tcp://HOST:PORT, as `dask scheduler` prints it")
    try:
        from distributed import Client
    except ImportError:
        raise ToylabError(f"scheduler={address}: needs Dask; pip install 'toylab[cluster]'") from None
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ToylabError(
            f"scheduler={address}: no Dask scheduler answers ({error}); start one with `dask scheduler` and give the "
            "address that it prints"
        ) from None
    with client:
        yield client.get_executor(pure=False)
