"""Settings of all tests, and the trained models that they share, one quick run a study."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import HealthCheck, settings

from toylab.engine import execute
from toylab.runs import Study
from toylab.studies.contextual_counting import ContextualCountingStudy
from toylab.studies.iteration_head import IterationHeadStudy
from toylab.studies.safety_finetuning import SafetyFinetuningStudy
from toylab.studies.steering_vectors import SteeringVectorsStudy

matplotlib.use("Agg")
torch.set_num_threads(1)

# `make test` draws the same examples each time: a law stands or falls with the code alone. `make soak` draws anew.
laws = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("toylab", laws, derandomize=True)
settings.register_profile("soak", laws)
settings.load_profile("toylab")


def quick(study: Study, name: str) -> Callable:
    """The fixture of a finished quick run of a study: its folder, made once for all test processes."""

    @pytest.fixture(scope="session")
    def folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
        base = tmp_path_factory.getbasetemp()
        out = (base if worker_id == "master" else base.parent) / f"quick-{name}"
        return once(out, lambda: execute(study, name, out, workers=1, progress=False))

    return folder


quick_run = quick(IterationHeadStudy.quick(), "iteration-head")
quick_counting = quick(ContextualCountingStudy.quick(), "contextual-counting")
quick_safety = quick(SafetyFinetuningStudy.quick(), "safety-finetuning")
quick_steering = quick(SteeringVectorsStudy.quick(), "steering-vectors")


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
    make()
    out.with_suffix(".made").touch()
    return out
