"""Settings of all tests, and the runs of studies that they share: short ones, and for slow tests quick ones."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")
torch.set_num_threads(1)

# `make test` draws the same examples each time: a law stands or falls with the code alone. `make soak` draws others.
laws = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("toylab", laws, derandomize=True, max_examples=20)
settings.register_profile("soak", laws, max_examples=60)
settings.load_profile("toylab")


FEW_STEPS = {
    "iteration-head": "--train.steps 4 --train.rows 4 --train.evaluate-every 2 --control-steps 2 --transfer.steps 2 "
    "--rows 4 --model.width 16 --model.hidden 16",
    "contextual-counting": "--train.steps 4 --train.rows 4 --train.evaluate-every 2 --train.warmup 1 --plain.steps 2 "
    "--plain.rows 4 --parts encodings circuits plain ingredients --rows 100 --task.length 12 24 "
    "--model.encoder.width 8 --encoder-hidden 8",
    "safety-finetuning": "--pretrain.steps 4 --pretrain.rows 4 --pretrain.warmup 1 --finetune.steps 3 "
    "--finetune.rows 4 --finetune.warmup 1 --parts standard small-rate decay more --rows 32 --attack-steps 1 "
    "--relearning-steps 1 --model.width 16 --model.layers 1 --model.heads 2",
    "steering-vectors": "--skill.steps 4 --skill.rows 4 --mixture.steps 2 --mixture.rows 4 --rl.steps 2 --rl.rows 2 "
    "--samples 2 --adaptive-steps 2 --rows 64 --model.layers 2 --model.width 32 --model.heads 2 --task.length 3 "
    "--task.p 3 --parts combine adaptive family transfer learned separability flag --cosines 0.8 --control-seeds 1 "
    "--least-shift 0",
}
"""Flags with which a study has jobs of every kind and finds nothing: its form is there in seconds."""


def finished_run(study: str, name: str, flags: str = "") -> Callable:
    """The fixture of a finished run of a study: its folder, made once for all test processes.

    It is made as a user makes it, by the program, which also spares it the run-time type checks of the tests.
    """

    @pytest.fixture(scope="session")
    def folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
        base = tmp_path_factory.getbasetemp()
        out = (base if worker_id == "master" else base.parent) / f"{name}-{study}"
        program = Path(sys.executable).with_name("toylab")
        command = [program, "run", study, "--preset", "quick", "--workers", "1", "--out", out, *flags.split()]
        return once(out, lambda: subprocess.run(command, check=True, capture_output=True))

    return folder


def short(study: str) -> Callable:
    """A run of few steps, for the form of what a study leaves."""
    return finished_run(study, "short", FEW_STEPS[study])


def quick(study: str) -> Callable:
    """A run of the quick preset, for what it finds: for slow tests alone."""
    return finished_run(study, "quick")


short_run = short("iteration-head")
short_counting = short("contextual-counting")
short_safety = short("safety-finetuning")
short_steering = short("steering-vectors")

quick_run = quick("iteration-head")
quick_counting = quick("contextual-counting")
quick_safety = quick("safety-finetuning")
quick_steering = quick("steering-vectors")


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
