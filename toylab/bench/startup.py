"""Benchmarks outside the model: data sampling, import time, and two seeds in parallel."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from toylab import tasks
from toylab.bench import Comparison, compare_with_peer, interleaved_timings
from toylab.runs import registry
from toylab.runs.processes import ProcessPool
from toylab.tasks import Styles, stream
from toylab.training.loop import TrainConfig, train


def bench_sampling(device: str, rows: int = 2048, rounds: int = 5) -> Iterator[Comparison]:
    """Sampled tokens per second of each task, one block of training rows at a time, and the share of sampling in the
    CPU time of each study's training."""
    for task_class in tasks.TASKS:
        task = task_class()
        size = int(task.sample(stream(0, "bench"), rows).sizes.sum())
        (seconds,) = interleaved_timings(
            {"draw": lambda task=task: task.sample(stream(1, "bench"), rows)}, rounds
        ).values()
        speed = size / statistics.median(seconds) / 1e6
        yield Comparison(f"drawing {task_class.__name__}", speed, "M tokens/s", 5, speed, more=True)
    for name in ("iteration-head", "contextual-counting", "safety-finetuning", "steering-vectors"):
        share = _sampling_share(*study_training(name))
        yield Comparison(f"drawing, share of {name}", 100 * share, "%", 3, 100 * share)


def study_training(name: str, seed: int = 0) -> tuple[Any, Callable, Callable[[int], Any]]:
    """Model, loss and batches of a study's main condition."""
    from toylab.model.transformer import Transformer
    from toylab.studies.contextual_counting import data as counting
    from toylab.studies.safety_finetuning import data as concept
    from toylab.studies.steering_vectors import data as reasoning
    from toylab.training.batches import next_token_loss

    study = registry.load_study(name).STUDY.default()
    if name == "iteration-head":
        condition = study.conditions()["main"]
        model = Transformer.for_task(condition.task, condition.model, seed)
        return model, next_token_loss, study.batches_of(condition.task, seed, condition.train.rows, study.growth)
    if name == "contextual-counting":
        condition = study.conditions()["none"]
        model = counting.counting_model(condition.task, condition.model, seed)
        return (
            model,
            counting.count_loss,
            counting.fresh_strings(condition.task, seed, condition.train.rows, causal_counts=True),
        )
    if name == "safety-finetuning":
        model = concept.concept_model(study.task, study.model, seed)
        batches = concept.concept_batches(study.task, seed, study.pretrain.rows, study.pretrain.steps)
        return model, concept.language_loss, batches
    model = reasoning.reasoning_model(study.task, study.model, seed)
    styles = Styles.clean(0.9, None)
    return model, next_token_loss, reasoning.reasoning_batches(study.task, seed, study.skill.rows, styles, "bench")


def _sampling_share(model: Any, loss: Callable, batch_at: Callable[[int], Any], steps: int = 128) -> float:
    """Share of the CPU time of training that sampling takes, over two whole blocks of batches."""
    sampling_seconds = 0.0

    def timed(step: int) -> Any:
        nonlocal sampling_seconds
        start = time.process_time()
        batch = batch_at(step)
        sampling_seconds += time.process_time() - start
        return batch

    start = time.process_time()
    train(model, loss, timed, TrainConfig(steps=steps, warmup=1, cooldown=0, evaluate_every=steps))
    return sampling_seconds / (time.process_time() - start)


def bench_imports(device: str, rounds: int = 5) -> Iterator[Comparison]:
    """Import of toylab relative to import of torch, and `toylab --help`, each in a new process."""
    programs = {
        "ours": "import toylab, tasks, probes; toylab.Transformer, toylab.training_batches, toylab.save_model",
        "import torch": "import torch",
        "help": "import toylab.cli; toylab.cli.run(['--help'])",
    }

    def run(program: str) -> None:
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)

    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for round_number in range(rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            run(program)
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    yield compare_with_peer("import toylab", seconds, "import torch", 1.25, scale=1, unit="s")
    help_seconds = statistics.median(seconds["help"])
    yield Comparison("toylab --help", help_seconds, "s", 0.5, help_seconds)


def bench_two_seeds(device: str, steps: int = 300, rounds: int = 3) -> Iterator[Comparison]:
    """Training of two seeds of the iteration head in two processes, relative to sequential training in one."""
    ratios, one_seed, two_seeds = [], [], []
    with ProcessPool(2, ()) as pool:
        for warmup in [pool.submit(_some_steps, seed, 20) for seed in (0, 1)]:
            warmup.result()
        for round_number in range(rounds):
            start = time.perf_counter()
            pool.submit(_some_steps, round_number, steps).result()
            one_seed.append(time.perf_counter() - start)
            start = time.perf_counter()
            for pending in [pool.submit(_some_steps, round_number, steps) for _ in range(2)]:
                pending.result()
            two_seeds.append(time.perf_counter() - start)
            ratios.append(2 * one_seed[-1] / two_seeds[-1])
    sequential, parallel = 2 * statistics.median(one_seed), statistics.median(two_seeds)
    name = "one after the other"
    yield Comparison(
        "two seeds on two cores", parallel, "s", 1.8, statistics.median(ratios), {name: sequential}, more=True
    )


def _some_steps(seed: int, steps: int) -> None:
    model, loss, batch_at = study_training("iteration-head", seed)
    train(model, loss, batch_at, TrainConfig(steps=steps, warmup=1, cooldown=0, evaluate_every=steps))
