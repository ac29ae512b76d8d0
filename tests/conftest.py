"""Settings of all tests, and the runs of studies that they share: short ones, and for slow tests quick ones."""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from tests import type_checks
from tests.short_runs import FEW_STEPS

type_checks.install()
matplotlib.use("Agg")
torch.set_num_threads(1)

gc.set_threshold(20_000)  # a tenth of all time went into looking for garbage among the modules that are loaded


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    soak = item.config.getoption("--hypothesis-profile", None) == "soak"
    type_checks.begin(item.nodeid, every=soak or item.get_closest_marker("slow") is not None)


# `make test` draws the same examples each time: a law stands or falls with the code alone. `make soak` draws others.
laws = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("toylab", laws, derandomize=True, max_examples=20)
settings.register_profile("soak", laws, max_examples=60)
# A fault is caught by the first example that fails, and nobody reads the smallest one.
quickly = [Phase.explicit, Phase.generate]
settings.register_profile("mutants", laws, derandomize=True, max_examples=20, phases=quickly, database=None)
settings.load_profile("toylab")


def finished_run(study: str, name: str, flags: str, go: Callable[[list[str]], None]) -> Callable:
    """The fixture of a finished run of a study: its folder, made once for all test processes."""

    @pytest.fixture(scope="session")
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        base = tmp_path_factory.getbasetemp()
        out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}-{study}"
        command = ["run", study, "--preset", "quick", "--workers", "1", "--out", str(out), *flags.split()]
        return once(out, lambda: go(command))

    return folder


def here(command: list[str]) -> None:
    """In this process, which has loaded all that is needed."""
    from toylab.cli import run

    assert run(command) == 0


def outside(command: list[str]) -> None:
    """As a user does, which also spares a long run the run-time type checks of the tests."""
    subprocess.run([Path(sys.executable).with_name("toylab"), *command], check=True, capture_output=True)


def short(study: str) -> Callable:
    """A run of few steps, for the form of what a study leaves."""
    return finished_run(study, "short", FEW_STEPS[study], here)


def quick(study: str) -> Callable:
    """A run of the quick preset, for what it finds: for slow tests alone."""
    return finished_run(study, "quick", "", outside)


short_run = short("iteration-head")
short_counting = short("contextual-counting")
short_safety = short("safety-finetuning")
short_steering = short("steering-vectors")

quick_run = quick("iteration-head")
quick_counting = quick("contextual-counting")
quick_safety = quick("safety-finetuning")
quick_steering = quick("steering-vectors")


@pytest.fixture
def undrawn(short_run, tmp_path, monkeypatch) -> Path:
    """A copy of the short run of the iteration head, whose figures are not drawn anew: half of the time of its page."""
    from toylab.studies.iteration_head.study import IterationHeadStudy

    monkeypatch.setattr(IterationHeadStudy, "pictures", lambda *_: [])
    return Path(shutil.copytree(short_run, tmp_path / "undrawn"))


def once(out: Path, make) -> Path:
    """Let one process make what all wait for."""
    try:
        lock = os.open(out.with_suffix(".lock"), os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        made = out.with_suffix(".made")
        while not made.exists():
            time.sleep(0.2)
        return out
    os.close(lock)
    try:
        make()
    finally:  # or those who wait would wait for ever
        out.with_suffix(".made").touch()
    return out
