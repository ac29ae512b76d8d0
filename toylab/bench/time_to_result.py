"""Time to result: CPU time until a study's mechanism has been learned, and duration of the default studies."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from toylab.bench import Comparison
from toylab.runs import registry
from toylab.runs.jobs import execute
from toylab.runs.processes import ProcessPool
from toylab.runs.store import read_cost
from toylab.runs.study import judge_study

RECIPE_SEEDS = range(710, 720)
"""Held-out seeds, not used for any design choice."""
RECIPE_ROWS = range(710, 713)
"""The subset of them for recipes with a high cost per seed."""

RecipeResult = tuple[float, bool]
"""CPU-seconds, and whether the result was reached."""


def bench_recipes(device: str, workers: int = 2) -> Iterator[Comparison]:
    """CPU time of training, without subsequent measurements; for steering, of a complete study of one seed."""
    with ProcessPool(workers, ()) as pool:
        for name, (find, seeds, target) in RECIPES.items():
            results = [future.result() for future in [pool.submit(find, seed) for seed in seeds]]
            seconds = statistics.median(cpu_seconds for cpu_seconds, _ in results)
            range_text = f"{min(s for s, _ in results):.0f} to {max(s for s, _ in results):.0f}"
            reached = sum(is_reached for _, is_reached in results)
            note = f"{reached} of {len(results)} seeds, {range_text} CPU-s"
            yield Comparison(name, seconds, "CPU-s", target, seconds, note=note)
            if len(seeds) >= 10:
                yield Comparison(f"{name}: seeds of ten", reached, "", 9, reached, more=True)


def learn_iteration_head(seed: int) -> RecipeResult:
    """Train until the model iterates on held-out inputs, with a head peaked on x_t in at least .9 of the steps."""
    from toylab.studies.iteration_head.study import lengths_of
    from toylab.training import evaluate

    study = replace(registry.load_study("iteration-head").STUDY.default(), seeds=(seed,))
    condition = study.conditions()["main"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        model, _ = study.train_condition(condition, seed, Path(folder))
        cpu_seconds = time.process_time() - start
    batches = evaluate.by_length(condition.task, seed, lengths_of(condition.task))
    solved = statistics.mean(evaluate.free_running_accuracy(model, condition.task, batches).values()) >= 0.99
    return cpu_seconds, solved and evaluate.search_iteration_head(model, batches).carry >= 0.9


def learn_counter(seed: int) -> RecipeResult:
    """Train an encoder-decoder without positions to count in four regions, with mean accuracy of at least .9."""
    from toylab.studies.contextual_counting.data import count_accuracy, for_model, learn_counting
    from toylab.tasks import held_out

    study = registry.load_study("contextual-counting").STUDY.default()
    start = time.process_time()
    model, _ = learn_counting(study.task, study.model, study.train, seed, auxiliary=study.auxiliary)
    cpu_seconds = time.process_time() - start
    shares = count_accuracy(model, for_model(study.task, model, held_out(study.task, seed, 1000, **study.task.largest)))
    return cpu_seconds, statistics.mean(shares) >= 0.9


def learn_refusal(seed: int) -> RecipeResult:
    """Train a base and fine-tune it with the control, SSFT, unlearning and DPO. Reached if every model complies with
    safe prompts and all but the control refuse unsafe prompts (both in .95 of the tokens)."""
    from toylab.studies.safety_finetuning.measures import held_out_sets, measure_behaviour

    study = registry.load_study("safety-finetuning").STUDY.default()
    start, reached = time.process_time(), True
    with tempfile.TemporaryDirectory() as folder:
        base = study.train_base(study.bases()["base"], seed, Path(folder))
    cpu_seconds = time.process_time() - start
    sets = {name: batch for name, batch in held_out_sets(study.task, seed, 192).items() if name in ("safe", "unsafe")}
    for method in ("control", "ssft", "unlearning", "dpo"):
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            tuned = study.fine_tune(study.conditions()[method], deepcopy(base), seed, Path(folder))
        cpu_seconds += time.process_time() - start
        behaviour = measure_behaviour(tuned, study.task, sets)
        refuses = behaviour.unsafe.refuses >= 0.95
        reached &= behaviour.safe.complies >= 0.95 and refuses == (method != "control")
    return cpu_seconds, reached


FIGURE_SETTINGS = {
    "full-rl": 0.97,
    "greedy": 0.95,
    "fraction-large": 0.5,
    "depth-order": 0.0,
    "depth-joint": 0.0,
    "first-token": 0.6,
    "logit-lens": 1.0,
    "logit-lens-rival": 1.0,
}
"""Minimum value per claim for one seed, which has no verdict. Some seeds miss "fraction-large"."""


def run_steering(seed: int) -> RecipeResult:
    """The steering study of one seed: the base, vectors after each layer, and all their measurements."""
    parts = ("combine", "adaptive", "family", "features")
    study = replace(registry.load_study("steering-vectors").STUDY.default(), seeds=(seed,), parts=parts)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        measured = execute(study, "steering-vectors", out, workers=1, progress=False)
        cpu_seconds = sum(read_cost(job.folder(out)).cpu_seconds for job in measured)
    judged = judge_study(study, measured)
    values = {claim.id: float("nan") if claim.measured is None else claim.measured for claim in judged}
    return cpu_seconds, all(values[name] >= least for name, least in FIGURE_SETTINGS.items())


RECIPES: dict[str, tuple[Callable[[int], RecipeResult], range, float]] = {
    "iteration head found": (learn_iteration_head, RECIPE_SEEDS, 15),
    "counting solved": (learn_counter, RECIPE_SEEDS, 8),
    "safety: base and four fine-tunes": (learn_refusal, RECIPE_ROWS, 45),
    "steering study, one seed": (run_steering, RECIPE_ROWS, 60),
}
"""Recipe by name: function, seeds, and target in CPU-seconds."""


def bench_studies(device: str, workers: int = 2) -> Iterator[Comparison]:
    """Each default study in its own folder: wall-clock minutes, and peak memory of a process."""
    minutes = 0.0
    for name in registry.study_names():
        study = registry.load_study(name).STUDY.default()
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            out = Path(folder) / "run"
            measured = execute(study, name, out, workers)
            study_minutes = (time.perf_counter() - start) / 60
            peak = max(read_cost(job.folder(out)).peak_megabytes or 0 for job in measured) / 1000
        minutes += study_minutes
        yield Comparison(f"default {name}", study_minutes, "minutes", 4, study_minutes)
        yield Comparison(f"default {name}: memory of a process", peak, "GB", 1.5, peak)
    yield Comparison("all default studies", minutes, "minutes", 10, minutes)
