"""The training loop, for any model, loss function and function from step to batch."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from toylab.console import ToylabError, progress_bar
from toylab.files import read_tensors, refuse_unwritable, sha256_of, tensors_digest, write_tensors
from toylab.model.device import on_chosen_device, to_device
from toylab.model.modes import evaluation_mode, training_mode
from toylab.settings import as_json, check_range, check_settings
from toylab.training.optimizer import (
    AdamW,
    AnyOptimizer,
    OptimizerFactory,
    ParameterVector,
    TorchOptimizer,
    flat_parameters,
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training hyperparameters; the defaults are those of the iteration-head study."""

    steps: int = 3500
    """Maximum number of optimiser steps; 0 only evaluates."""
    rows: int = 32
    """Sequences per batch."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    warmup: int = 200
    """Steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up: constant until the cool-down, or cosine decay to 0."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    """Maximum gradient norm; larger gradients are rescaled."""
    evaluate_every: int = 100
    """Steps between evaluations; each evaluation writes a checkpoint."""
    stop_at: float | None = None
    """Value of the watched metric that triggers early stopping; None disables it."""
    stop_after: int = 2
    """Number of consecutive evaluations that must reach `stop_at`."""
    cooldown: int = 500
    """Steps of linear decay of the learning rate to 0 at the end of training or after early stopping. Without it, a
    constant rate lets accuracy fluctuate between evaluations."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(steps=self.steps, least=0)
        check_range(rows=self.rows, least=1)
        check_range(evaluate_every=self.evaluate_every, stop_after=self.stop_after, least=1)
        check_range(warmup=self.warmup, cooldown=self.cooldown, weight_decay=self.weight_decay, least=0)
        check_range("for example 1e-3", learning_rate=self.learning_rate, clip=self.clip, above=0)
        check_range("for example 0.9 0.98", betas=self.betas, least=0, below=1)


class DivergedError(ToylabError):
    """The loss or the gradient norm is not finite."""


History = list[dict[str, float | int]]
"""One entry per evaluation: step, loss (mean in nats since the previous one), learning_rate, and metrics."""


@dataclass
class Training:
    """State and history of a training run."""

    step: int = 0
    """Completed optimiser steps."""
    cooling_since: int | None = None
    """Step at which early stopping was triggered and the cool-down began."""
    cpu_seconds: float = 0.0
    history: History = field(default_factory=list)


_Model = TypeVar("_Model", bound=nn.Module)


def train(
    model: _Model,
    loss: Callable[[_Model, Any], Tensor],
    batch_at: Callable[[int], Any],
    config: TrainConfig,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    watched: str = "accuracy",
    checkpoint: Path | str | None = None,
    progress: str | None = None,
    record: Callable[[nn.Module, int], None] | None = None,
    optimizer: OptimizerFactory | None = None,
    schedule: Callable[[int], float | int] | None = None,
    on_evaluation: Callable[[int, dict[str, float | int]], object] | None = None,
) -> Training:
    """Train a model in place; afterwards its train/eval modes are restored. Batches are moved to the device of the
    model, which is that of `toylab.model.device.use_device`, if any, until the training ends.

    Args:
        loss: from the model and a batch to a scalar.
        batch_at: the batch of step 0, 1, 2 ...; must be a pure function, so that training can resume at any step.
        evaluate: metrics of the model, called before the first step and every `config.evaluate_every` steps, in
            evaluation mode and without gradients.
        watched: the metric that `config.stop_at` refers to.
        checkpoint: file to resume from if it exists, updated at every evaluation. A resumed run is bit-identical to
            an uninterrupted one, including draws from torch's global generators (dropout). The file is valid for one
            config and one set of initial weights.
        progress: title of a progress bar; None shows no bar.
        record: called with the model and the step at every evaluation, in evaluation mode, to store more than scalar
            metrics. After a resume it may be called again for the same step.
        optimizer: a class of torch.optim, or a function from the parameters to an optimizer or to several, such as
            `partial(torch.optim.SGD, lr=0.1, momentum=0.9)`; the default is AdamW with the settings of the config. The
            learning rate of a param group is its own `lr` times the factor of the schedule: the learning rate of the
            step divided by `config.learning_rate`. `config.clip` applies; `config.betas` do not, and
            `config.weight_decay` must be 0.
        schedule: factor of the peak learning rate at step 0, 1, ... `config.steps`, in place of `config.schedule`, its
            warm-up and its final cool-down. All factors are computed before the first step. After early stopping the
            learning rate falls to 0 in `config.cooldown` steps, and never exceeds that of the schedule.
        on_evaluation: called with the step and the entry of the history after every evaluation, also that before the
            first step, and after the checkpoint is written: a resumed run repeats no call, except for step 0 if it
            was interrupted before the first checkpoint. It must not draw from torch's global generators.

    Raises:
        DivergedError: if the loss or gradient norm is not finite; the last checkpoint is kept.
        ToylabError: for a checkpoint that cannot be written, is damaged or belongs to another run; for `stop_at`
            without its metric; for a metric that is not finite; for a parameter without gradient up to the first
            evaluation, or that `evaluate`, `record`, `loss` or `batch_at` replace, convert or freeze; for an optimizer
            that cannot train the model; for a factor of the schedule that is negative or not finite.
    """
    if optimizer is not None and config.weight_decay:
        raise ToylabError(f"weight_decay={config.weight_decay}: is of the default AdamW; set 0, give it to optimizer=")
    report = on_evaluation or (lambda step, metrics: None)
    factors = None if schedule is None else _factors(schedule, config.steps)
    state = Training()
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not os.path.exists(path):
        refuse_unwritable("checkpoint", path)

    def measure(mean_loss: float) -> None:
        metrics = {}
        vector.check()
        with evaluation_mode(model):
            if evaluate is not None:
                with torch.no_grad():
                    metrics = {name: _finite(name, value, state.step) for name, value in evaluate(model).items()}
            if record is not None:
                record(model, state.step)
        vector.check()
        vector.attach()
        if config.stop_at is not None and watched not in metrics:
            raise ToylabError(
                f"stop_at={config.stop_at}: watches {watched!r}, which evaluate= must measure; give it one"
            )
        rate = learning_rate(config, state.step, state.cooling_since, factors) * stepper.relative_rate
        state.history.append({"step": state.step, "loss": mean_loss, "learning_rate": rate, **metrics})
        if state.cooling_since is None and _stop_rule_is_met(config, state.history, watched):
            state.cooling_since = state.step

    bar = progress_bar(total=config.steps, desc=progress, disable=progress is None, unit="step")

    def batch_of(step: int) -> Any:
        return batch_at(step) if weights.is_cpu else to_device(batch_at(step), weights.device)

    with (
        bar,
        training_mode(model),
        on_chosen_device(model) as trained,
        flat_parameters(trained) as (weights, gradient),
        _Randomness(weights.device) as random,
    ):
        vector = ParameterVector(model, weights, gradient)
        stepper = (
            AdamW(weights, config.betas, config.weight_decay, config.clip)
            if optimizer is None
            else TorchOptimizer(optimizer, vector, config.clip, config.learning_rate)
        )
        peak = config.learning_rate * stepper.relative_rate
        origin = None if path is None else _origin(model, config, watched, stepper, factors)
        if path is not None and origin is not None and path.exists():
            state = _restore(path, model, stepper, origin, random)
            bar.update(state.step)
        start = time.process_time() - state.cpu_seconds
        total = 0.0
        unreached: list[str] = []
        if not state.step and not state.history:
            with torch.no_grad():
                measure(float(loss(model, batch_of(0))))
            report(state.step, dict(state.history[-1]))
        while not _finished(config, state):
            rate = learning_rate(config, state.step, state.cooling_since, factors)
            value = loss(model, batch_of(state.step))
            if not math.isfinite(value.item()):
                raise _divergence_error(f"loss={value.item()}", state.step, peak, path)
            unreached += vector.backward(value, first=not state.step)
            unreached = [name for name in unreached if not gradient[vector.places[name]].any()]
            norm = stepper.step(gradient, rate)
            if not math.isfinite(norm):
                raise _divergence_error(f"norm of the gradient={norm}", state.step, peak, path)
            total += value.item()
            state.step += 1
            bar.update()
            if state.step % config.evaluate_every == 0 or _finished(config, state):
                _refuse_unreached(unreached, state.step)
                since = state.step - state.history[-1]["step"]
                measure(total / since)
                total = 0.0
                state.cpu_seconds = time.process_time() - start
                bar.set_postfix({name: f"{v:.3g}" for name, v in state.history[-1].items() if name != "step"})
                if path is not None and origin is not None:
                    _save(path, model, stepper, state, origin, random)
                report(state.step, dict(state.history[-1]))
    return state


def learning_rate(
    config: TrainConfig, step: int, cooling_since: int | None = None, factors: Sequence[float] | None = None
) -> float:
    """Learning rate at a step: warm-up and schedule, or factors of the peak; linear cool-down after early stopping."""
    if cooling_since is not None:
        remaining = 1 - (step - cooling_since) / max(config.cooldown, 1)
        cooled = learning_rate(config, cooling_since, None, factors) * max(remaining, 0.0)
        return min(cooled, learning_rate(config, step, None, factors))  # `steps` may end before the cool-down does
    if factors is not None:
        return config.learning_rate * factors[step]
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        remaining = (config.steps - step) / max(config.cooldown, 1)
        return config.learning_rate * (min(remaining, 1.0) if config.cooldown else 1.0)
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def first_step(history: History, metric: str, threshold: float) -> int | None:
    """First evaluated step at which a metric reaches `threshold`; None if it never does."""
    return next((int(entry["step"]) for entry in history if entry.get(metric, -math.inf) >= threshold), None)


def _divergence_error(quantity: str, step: int, peak: float, checkpoint: Path | None) -> DivergedError:
    checkpoint_note = f"the last good checkpoint is kept at {checkpoint}" if checkpoint else "there is no checkpoint"
    return DivergedError(
        f"{quantity} at step {step}: training diverged; {checkpoint_note}; try a smaller learning_rate than {peak}"
    )


def _finished(config: TrainConfig, state: Training) -> bool:
    if state.cooling_since is not None and state.step >= state.cooling_since + config.cooldown:
        return True
    return state.step >= config.steps


def _stop_rule_is_met(config: TrainConfig, history: History, watched: str) -> bool:
    """Early stopping: whether the last `stop_after` evaluations all reached `stop_at`."""
    latest = [entry.get(watched, -math.inf) for entry in history[-config.stop_after :]]
    return config.stop_at is not None and len(latest) == config.stop_after and min(latest) >= config.stop_at


def _refuse_unreached(names: Sequence[str], steps: int) -> None:
    """Raises `ToylabError` for a parameter whose gradient was zero at every step so far."""
    if names:
        raise ToylabError(
            f"parameter {names[0]!r}: the loss does not depend on it in the first {steps} steps; use it, or leave it "
            "out of training with requires_grad_(False)"
        )


def _factors(schedule: Callable[[int], float | int], steps: int) -> list[float]:
    """The factor of every step, and of the last evaluation."""
    factors = [float(schedule(step)) for step in range(steps + 1)]
    for step, factor in enumerate(factors):
        check_range("1 is the peak learning rate", **{f"schedule({step})": factor}, least=0, below=math.inf)
    return factors


def _finite(name: str, value: Any, step: int) -> float | int:
    """A metric as a Python number, which a checkpoint can store."""
    number = value.item() if hasattr(value, "item") else value
    if not math.isfinite(number):
        raise ToylabError(f"{name}={number}: evaluate= must measure finite numbers, at step {step}; leave it out there")
    return number


def _origin(
    model: nn.Module, config: TrainConfig, watched: str, optimizer: AnyOptimizer, factors: Sequence[float] | None
) -> dict[str, Any]:
    """Identity of a training run, stored in its checkpoint: settings and digest of the initial weights."""
    settings = {**asdict(config), **({"watched": watched} if config.stop_at is not None else {})}
    if isinstance(optimizer, TorchOptimizer):
        settings["optimizer"] = str(optimizer)
    if factors is not None:
        settings["schedule"] = f"a function with digest {sha256_of(json.dumps(factors).encode())[:8]}"
    return {"settings": as_json(settings, "settings"), "weights": tensors_digest(model.state_dict())}


class _Randomness:
    """States of torch's global generators, of the CPU and of the GPU in use.

    A resumed run sets them from the checkpoint; on exit the previous states are restored if nothing was sampled.
    """

    def __init__(self, device: torch.device) -> None:
        self.generators = {"random.cpu": torch.default_generator}
        if device.type == "cuda":
            self.generators["random.cuda"] = torch.cuda.default_generators[device.index]
        self.before: dict[str, Tensor] = {}
        self.resumed: dict[str, Tensor] = {}

    def __enter__(self) -> _Randomness:
        return self

    def __exit__(self, *error: object) -> None:
        states = self.states()
        if all(torch.equal(states[name], state) for name, state in self.resumed.items()):
            self._set(self.before)

    def states(self) -> dict[str, Tensor]:
        return {name: generator.get_state() for name, generator in self.generators.items()}

    def resume(self, saved: dict[str, Tensor]) -> None:
        self.before, self.resumed = self.states(), {name: saved[name] for name in self.generators if name in saved}
        self._set(self.resumed)

    def _set(self, states: dict[str, Tensor]) -> None:
        for name, state in states.items():
            self.generators[name].set_state(state)


def _save(
    path: Path, model: nn.Module, optimizer: AnyOptimizer, state: Training, origin: dict[str, Any], random: _Randomness
) -> None:
    tensors = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}  # tied weights
    held, numbers = optimizer.state()
    tensors |= {f"optimizer.{name}": tensor for name, tensor in held.items()}
    about = {**vars(state), "origin": origin, **({"optimizer": numbers} if numbers else {})}
    write_tensors(path, tensors | random.states(), about)


def _restore(
    path: Path, model: nn.Module, optimizer: AnyOptimizer, origin: dict[str, Any], random: _Randomness
) -> Training:
    tensors, about = read_tensors(path)
    if not isinstance(about, dict) or "origin" not in about:
        raise ToylabError(f"{path}: is not a checkpoint of this version of toylab; delete it to restart training")
    weights = model.state_dict()
    saved = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in saved.items()}:
        raise ToylabError(
            f"{path}: holds a model of another shape; use the settings it was made with, or another folder"
        )
    stored = about.pop("origin")
    before, now = stored["settings"], origin["settings"]
    differences = [
        f"{name}={before.get(name)} (now {now.get(name)})"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if stored["weights"] != origin["weights"]:
        differences.append("other initial weights (another seed, or already trained)")
    if differences:
        raise ToylabError(
            f"{path}: belongs to a training with {', '.join(differences)}; use the same model and settings, give "
            "another file, or delete this one to restart"
        )
    model.load_state_dict(saved)
    random.resume(tensors)
    moments = {name.removeprefix("optimizer."): t for name, t in tensors.items() if name.startswith("optimizer.")}
    optimizer.restore(moments, about.pop("optimizer", {}), about["step"])
    return Training(**about)
