"""Check of a device: what every study computes, compared with the CPU, and joint training of many seeds.

    toylab bench gpu                    on cuda; a few minutes
    toylab bench gpu --device cuda:1

Per study: the logits, the loss with its gradient, a probe, and the weights after a short training. Each comparison is
the largest absolute difference, relative to the largest absolute value on the CPU. Batches and sampled answers are
made on the CPU, so both devices see the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toylab.bench import Comparison
from toylab.bench.startup import study_training
from toylab.bench.training import bench_population
from toylab.model.steering import pre_flight, steer
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.probes import null_share
from toylab.runs import registry
from toylab.studies.contextual_counting import data as counting
from toylab.studies.contextual_counting.measures import encoder_scores
from toylab.studies.safety_finetuning import data as safety
from toylab.studies.steering_vectors import data as steering
from toylab.training import evaluate
from toylab.training.batches import to_device
from toylab.training.loop import TrainConfig, train
from toylab.training.losses import DPO, PolicyGradient

POPULATIONS = (1, 16, 64, 256)
"""Numbers of seeds of the iteration-head model that are trained as one program."""
TRAINING = TrainConfig(steps=20, warmup=5, cooldown=0, evaluate_every=20)
TOLERANCES = {"logits": 1e-4, "loss and gradient": 1e-3, "probe": 1e-3, "short training": 1e-2}
"""Largest relative differences of float32 computations; optimiser steps amplify the rounding of gradients."""


@dataclass(frozen=True)
class DeviceCase:
    """What a study computes.

    Attributes:
        model: a model of the study, with the weights of seed 0.
        loss: its loss, from the model and a batch.
        batch_at: from step to batch, on the CPU.
        logits: from the model and a batch to logits.
        probe: from the model to numbers.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batch_at: Callable[[int], Any]
    logits: Callable[[Any, Any], Tensor]
    probe: Callable[[Any], Any]


def bench_gpu(device: str) -> Iterator[Comparison]:
    """Compare every study on the device with the CPU, then time populations of seeds on it."""
    for study, make in DEVICE_CASES.items():
        expected, computed = (compute_case(make, torch.device(name)) for name in ("cpu", device))
        for quantity, tolerance in TOLERANCES.items():
            difference = relative_difference(computed[quantity], expected[quantity])
            yield Comparison(f"{study}: {quantity}", difference, "of the CPU's", tolerance, difference)
    for seeds in POPULATIONS:
        yield from bench_population(device, seeds=seeds)


def compute_case(make: Callable[[torch.device], DeviceCase], device: torch.device) -> Mapping[str, Tensor]:
    """The quantities of a study on a device, by name, as vectors on the CPU."""
    case = make(device)
    first = to_device(case.batch_at(0), device)
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    loss = case.loss(case.model, first)
    values = {
        "logits": [case.logits(case.model, first)],
        "loss and gradient": [loss, *torch.autograd.grad(loss, parameters)],
        "probe": [torch.tensor(case.probe(case.model))],
    }
    train(case.model, case.loss, lambda step: to_device(case.batch_at(step), device), TRAINING)
    values["short training"] = [*parameters]
    return {name: torch.cat([x.detach().cpu().flatten() for x in parts]) for name, parts in values.items()}


def relative_difference(computed: Tensor, expected: Tensor) -> float:
    """The largest absolute difference divided by the largest absolute expected value; infinite for NaN."""
    difference = ((computed - expected).abs().max() / expected.abs().max()).item()
    return difference if math.isfinite(difference) else math.inf


def iteration_head_case(device: torch.device) -> DeviceCase:
    """Next-token loss on packed rows; the scores of the head that is found in a handwritten model."""
    model, loss, batch_at = study_training("iteration-head")
    task = registry.load_study("iteration-head").STUDY.default().task
    held_out, handwritten = evaluate.by_length(task, 0, (4, 8, 16), 32), iteration_head(task).to(device)

    def head_scores(_: Transformer) -> list[float]:
        head = evaluate.search_iteration_head(handwritten, held_out)
        return [head.carry, head.stop, head.end_of_input]

    return DeviceCase(model.to(device), loss, batch_at, lambda model, batch: batch.logits(model), head_scores)


def counting_case(device: torch.device) -> DeviceCase:
    """Cross entropy of the counts; the attention scores between token types in the encoder."""
    model, loss, batch_at = study_training("contextual-counting")
    return DeviceCase(model.to(device), loss, batch_at, counting.count_logits, encoder_scores)


def safety_case(device: torch.device) -> DeviceCase:
    """DPO on unsafe prompts; null-space share, by layer, of a fixed change of the up-projections."""
    study = registry.load_study("safety-finetuning").STUDY.default()
    model = safety.concept_model(study.task, study.model)
    reference = safety.concept_model(study.task, study.model, seed=1)
    pairs = zip(reference.mlps, model.mlps, strict=True)
    changes = [other.up.weight.detach() - mlp.up.weight.detach() for other, mlp in pairs]

    def null_shares(tuned: Transformer) -> list[float]:
        pairs = zip(changes, tuned.mlps, strict=True)
        return [null_share(change.to(device), mlp.up.weight.detach()).share for change, mlp in pairs]

    return DeviceCase(
        model.to(device),
        DPO(reference.to(device)),
        safety.fine_tuning_batches(study.task, 0, 32, 1.0),
        lambda tuned, pairs: tuned(pairs.prompts),
        null_shares,
    )


def steering_case(device: torch.device) -> DeviceCase:
    """Policy gradient of one vector a layer on answers sampled once; the terms of the pre-flight check."""
    study = registry.load_study("steering-vectors").STUDY.default()
    task = study.task
    model = steering.reasoning_model(task, study.model)
    sampler = steering.RolloutSampler(model, task, 0, reward=lambda asked, answers, step: answers[:, 0] % 2 == 0)
    rollouts = sampler(0)
    prompts = steering.reasoning_prompts(task, 0, 64)
    openers = task.token("THINK"), task.token("DIRECT")
    return DeviceCase(
        steer(model.to(device)),
        PolicyGradient(),
        lambda step: rollouts,
        lambda steered, batch: batch.log_probs(steered),
        lambda steered: astuple(pre_flight(steered.model, prompts.to(device), *openers)),
    )


DEVICE_CASES: Mapping[str, Callable[[torch.device], DeviceCase]] = {
    "iteration-head": iteration_head_case,
    "contextual-counting": counting_case,
    "safety-finetuning": safety_case,
    "steering-vectors": steering_case,
}
