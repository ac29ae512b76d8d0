"""Settings of all tests, and the trained models that they share, one quick run a study."""

import os
import time
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import HealthCheck, settings

from toylab.runs import execute
from toylab.studies.contextual_counting import ContextualCountingStudy
from toylab.studies.iteration_head import IterationHeadStudy
from toylab.studies.safety_finetuning import SafetyFinetuningStudy

matplotlib.use("Agg")
torch.set_num_threads(1)

settings.register_profile("toylab", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("toylab")


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a finished quick run of the iteration-head study, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "quick-iteration-head"
    return once(out, lambda: execute(IterationHeadStudy.quick(), "iteration-head", out, workers=1, progress=False))


@pytest.fixture(scope="session")
def quick_counting(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a finished quick run of the contextual-counting study, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "quick-contextual-counting"
    study = ContextualCountingStudy.quick()
    return once(out, lambda: execute(study, "contextual-counting", out, workers=1, progress=False))


@pytest.fixture(scope="session")
def quick_safety(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a finished quick run of the safety study: one base, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "quick-safety-finetuning"
    study = SafetyFinetuningStudy.quick()
    return once(out, lambda: execute(study, "safety-finetuning", out, workers=1, progress=False))


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
