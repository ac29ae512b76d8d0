"""The jobs of the study on steering vectors: pre-train a base, train something on one, and measure it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toylab.model.checkpoint import load_model, save_model
from toylab.model.layers import source
from toylab.model.steering import Scaled, Steered, Vector, load_steering, pre_flight, rms_normed, save_steering, vectors
from toylab.model.transformer import Transformer
from toylab.probes import watch
from toylab.runs.store import write_metrics
from toylab.runs.study import Job
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.bases import evaluation_prompts, few_of, mix, pretrain_base
from toylab.studies.steering_vectors.data import (
    Reward,
    Sampler,
    answers,
    by_temperature,
    freeze_readout,
    held_out_questions,
    readout_rows,
    reasoning_batches,
)
from toylab.studies.steering_vectors.quantities import FROM
from toylab.studies.steering_vectors.settings import Settings
from toylab.tasks import Reasoning, stream
from toylab.training.batches import next_token_loss
from toylab.training.loop import TrainConfig, train
from toylab.training.losses import PolicyGradient


def run_experiment(study: Settings, job: Job, folder: Path) -> dict[str, Any]:
    """Pre-train a base, or train something on one, and measure it."""
    at = folder.parent
    kind, _, which = job.name.partition("-")
    if kind == "base":
        return pretrain_base(study, which, job.seed, folder)
    if kind == "vector" and which in ("learned", "apart"):
        return _vector(study, at / job.name.replace("vector", "base"), study.last, job.seed, folder)
    if kind == "cosine":
        return _separability(study, float(which), at, job.seed, folder)
    if kind == "flag":
        return _flag(study, which, at, job.seed, folder)
    if kind == "vector":
        return _vector(study, at / "base", int(which), job.seed, folder)
    if job.name.startswith(FROM):
        return _transfer(study, at, at.parent / f"seed-{job.name.removeprefix(FROM)}", job.seed)
    if job.name == "transfer-apart":
        return _transfer(study, at, at, job.seed, "vector-apart", "base-apart")
    return {
        "full": _full,
        "joint": _joint,
        "adaptive": _adaptive,
        "baselines": _baselines,
        "paths": _paths,
        "combine": _combine,
        "family": _family,
        "features": _features,
    }[job.name](study, at, job.seed, folder)


# Reinforcement learning -----------------------------------------------------------------------------------------------


def _reinforce(
    study: Settings,
    model: nn.Module,
    base: Transformer,
    seed: int,
    folder: Path,
    config: TrainConfig | None = None,
    task: Reasoning | None = None,
    reward: Reward | None = None,
    name: str = "",
    purpose: str = "rollouts",
    kl: float | int = 0.0,
) -> None:
    """Train in place; the steps are in `metrics{name}.jsonl`."""
    config = config or study.rl
    sampler = Sampler(
        model, task or study.task, seed, config.rows, study.samples, reward=reward, reference=base, purpose=purpose
    )
    training = train(
        model,
        PolicyGradient(kl=kl, reference=base if kl else None),
        sampler,
        config,
        evaluate=sampler.summary,
        checkpoint=folder / f"checkpoint{name}.safetensors",
    )
    write_metrics(folder / f"metrics{name}.jsonl", training)


def _vector(study: Settings, base_folder: Path, layer: int, seed: int, folder: Path) -> dict[str, Any]:
    base, prompts = _load(base_folder), evaluation_prompts(study, seed)
    if base_folder.name != "base-learned":  # the lesson of what happens all the same
        pre_flight(base, prompts, study.task.token("THINK"), study.task.token("DIRECT")).check(study.least_shift)
    steered = Steered(base, {layer: Vector(base.config.width)})
    _reinforce(study, steered, base, seed, folder)
    save_steering(folder / "vector.safetensors", steered)
    vector = measures.vector_of(steered)
    kl = measures.kl_by_position(steered, study.task, prompts, seed)
    after_last = measures.residual_changes(steered, study.task, prompts[:500], seed)[study.last].mean(dim=0)
    found = {
        "answers": by_temperature(steered, study.task, prompts, seed=seed),
        "norm": vector.norm().item(),
        "kl": kl,
        "lens": measures.says(vector, base, study.task),
        "difference lens": measures.says(after_last, base, study.task),
    }
    if base_folder.name == "base" and layer >= study.last - 1:
        few = few_of(study, prompts)
        found["places"] = measures.by_place(steered, study.task, few, seed)
        found["few"] = {
            "base": measures.right(base, study.task, few, seed=seed),
            "steered": measures.right(steered, study.task, few, seed=seed),
        }
    if base_folder.name == "base" and layer == study.last:
        found["clean scale"] = measures.right(measures.with_clean_scale(steered), study.task, prompts, seed=seed)
        found["scaled"] = {
            f"{scale:g}": measures.right(vectors(base, {layer: scale * vector}), study.task, few, seed=seed)
            for scale in (0.5, 0.75, 1.25, 1.5, 2)
        }
    return found


def _full(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base = _load(at / "base")
    model = freeze_readout(deepcopy(base))
    _reinforce(study, model, base, seed, folder, replace(study.rl, learning_rate=study.full_rate, clip=1.0))
    save_model(folder / "model.safetensors", model)
    return {"answers": by_temperature(model, study.task, evaluation_prompts(study, seed), seed=seed)}


def _joint(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base = _load(at / "base")
    steered = vectors(base)
    _reinforce(study, steered, base, seed, folder)
    save_steering(folder / "vectors.safetensors", steered)
    return {
        "answers": by_temperature(steered, study.task, evaluation_prompts(study, seed), seed=seed),
        "norms": [held.vector.norm().item() for held in steered.additions.values()],
    }


def _adaptive(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base, prompts = _load(at / "base"), evaluation_prompts(study, seed)
    layer, width = study.last - 1, base.config.width
    steered = Steered(base, {layer: Scaled(width, generator=source(seed, "adaptive"))})
    config = replace(study.rl, steps=study.adaptive_steps, learning_rate=study.rl.learning_rate / 2)
    _reinforce(study, steered, base, seed, folder, config)
    save_steering(folder / "scaled.safetensors", steered)
    constant = Steered(base, {layer: Vector(width)})
    _reinforce(
        study, constant, base, seed, folder, replace(config, learning_rate=study.rl.learning_rate), name="-constant"
    )
    sep = study.task.prompt - 1
    rest = tuple(p for p in range(study.task.context) if p != sep)
    return {
        "answers": by_temperature(steered, study.task, prompts, seed=seed),
        "constant, as long": by_temperature(constant, study.task, prompts, seed=seed),
        "scales": measures.scales(steered, study.task, prompts, seed),
        "SEP alone": measures.right(steered.only((sep,)), study.task, few_of(study, prompts), seed=seed),
        "all but SEP": measures.right(steered.only(rest), study.task, few_of(study, prompts), seed=seed),
    }


# Measured on trained vectors ------------------------------------------------------------------------------------------


def _baselines(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base, prompts, task = _load(at / "base"), few_of(study, evaluation_prompts(study, seed)), study.task
    steered = load_steering(at / f"vector-{study.last}" / "vector.safetensors", base)
    vector = measures.vector_of(steered)
    norm = vector.norm().item()
    rate = answers(base, task, prompts, 1, seed).right

    def luck(asked: Any, said: Any, step: int) -> Any:
        return stream(seed, "random reward", step).random(len(said)) < rate

    blind = Steered(base, {study.last: Vector(base.config.width)})
    _reinforce(study, blind, base, seed, folder, reward=luck, name="-luck")
    means = measures.difference_of_means(base, task, prompts, study.last, norm)
    bias = measures.Edited(base, measures.logit_bias(steered, task, prompts))

    def compare(model: nn.Module) -> dict[str, float]:
        return measures.right_by_temperature(model, task, prompts, seed)

    found = {
        "base": measures.right(base, task, prompts, seed=seed),
        "steered": measures.right(steered, task, prompts, seed=seed),
        "random vectors": measures.random_vectors(base, task, prompts, study.last, norm, seed=seed),
        "random reward": compare(blind)
        | {"cosine": _cosine(measures.vector_of(blind), vector), "norm": measures.vector_of(blind).norm().item()},
        "minus": compare(vectors(base, {study.last: -vector})),
        "difference of means": compare(vectors(base, {study.last: means})) | {"cosine": _cosine(means, vector)},
        "logit bias": compare(bias),
    }
    if seed in study.controls:
        again = Steered(base, {study.last: Vector(base.config.width)})
        _reinforce(study, again, base, seed, folder, name="-again", purpose="other rollouts")
        found["another run"] = compare(again) | {"cosine": _cosine(measures.vector_of(again), vector)}
    return found


def _paths(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base, prompts = _load(at / "base"), evaluation_prompts(study, seed)
    before = study.last - 1
    steered = load_steering(at / f"vector-{before}" / "vector.safetensors", base)
    forced = measures.ForcedRoute(base, {before: Vector(base.config.width)})
    # For a longer way: these vectors end four times as long as others.
    longer = replace(study.rl, steps=5 * study.rl.steps // 2, learning_rate=3 * study.rl.learning_rate)
    _reinforce(study, forced, base, seed, folder, longer, name="-forced")
    few = few_of(study, prompts)
    return {
        "routes": measures.by_route(steered, study.task, few, seed),
        "base": measures.right(base, study.task, few, seed=seed),
        "steered": measures.right(steered, study.task, few, seed=seed),
        "forced": measures.right_by_temperature(forced, study.task, prompts, seed),
        "forced norm": measures.vector_of(forced).norm().item(),
    }


def _combine(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base, prompts, layers = _load(at / "base"), evaluation_prompts(study, seed), range(study.last + 1)
    alone = {layer: load_steering(at / f"vector-{layer}" / "vector.safetensors", base) for layer in layers}
    trained = {layer: measures.vector_of(steered) for layer, steered in alone.items()}
    pairs = [(i, j) for i in layers for j in range(i + 1, study.last + 1)]
    few = few_of(study, prompts)
    every = (*pairs, tuple(layers))
    return {
        "alone": {str(layer): measures.right(one, study.task, few, seed=seed) for layer, one in alone.items()},
        "combined": {
            "+".join(map(str, chosen)): {
                f"{scale:g}": measures.combined(base, study.task, few, trained, chosen, scale, seed)
                for scale in sorted({1.0, 0.5, 1 / len(chosen)}, reverse=True)
            }
            for chosen in every
        },
        "persistence": {
            str(layer): measures.persistence(one, study.task, prompts[:300], trained, seed)
            for layer, one in alone.items()
            if layer < study.last
        },
        "cosines": {f"{i}, {j}": _cosine(trained[i], trained[j]) for i, j in pairs},
    }


def _features(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    base = _load(at / "base")
    steered = load_steering(at / f"vector-{study.last - 1}" / "vector.safetensors", base)
    return measures.features(steered, study.task, evaluation_prompts(study, seed), seed)


# Elsewhere ------------------------------------------------------------------------------------------------------------


def _family(study: Settings, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    """A child of the base, trained further on another mixture: does the parent's vector work in it?"""
    parent, prompts, task = _load(at / "base"), few_of(study, evaluation_prompts(study, seed)), study.task
    child = freeze_readout(deepcopy(parent))
    styles = replace(study.styles, think=0.25, dialect=0.6, early=0.1)
    further = replace(study.mixture, steps=study.mixture.steps // 2, learning_rate=study.mixture.learning_rate / 2)
    train(child, next_token_loss, reasoning_batches(task, seed, further.rows, styles, "child"), further)
    own = Steered(child, {study.last: Vector(child.config.width)})
    _reinforce(study, own, child, seed, folder)
    theirs = measures.vector_of(load_steering(at / f"vector-{study.last}" / "vector.safetensors", parent))
    mine = measures.vector_of(own)
    return {
        "base": measures.right(child, task, prompts, seed=seed),
        "own": measures.right(own, task, prompts, seed=seed),
        "of the parent": measures.right(vectors(child, {study.last: theirs}), task, prompts, seed=seed),
        "parent with that of the child": measures.right(vectors(parent, {study.last: mine}), task, prompts, seed=seed),
        "parent": measures.right(parent, task, prompts, seed=seed),
        "parent, own": measures.right(vectors(parent, {study.last: theirs}), task, prompts, seed=seed),
        "cosine": _cosine(mine, theirs),
        "weight change": _distance(parent, child),
    }


def _transfer(
    study: Settings, at: Path, donor_at: Path, seed: int, donor_vector: str = "", donor_base: str = "base"
) -> dict[str, Any]:
    """The vectors of another model in this one, as they are and mapped through the unembeddings."""
    base, donor, prompts = (
        _load(at / "base"),
        _load(donor_at / donor_base),
        few_of(study, evaluation_prompts(study, seed)),
    )
    found: dict[str, Any] = {"base": measures.right(base, study.task, prompts, seed=seed)}
    for layer in (study.last,) if donor_vector else (study.last - 1, study.last):
        own = load_steering(at / f"vector-{layer}" / "vector.safetensors", base)
        theirs = measures.vector_of(
            load_steering(donor_at / (donor_vector or f"vector-{layer}") / "vector.safetensors", donor)
        )
        carried = {"raw": theirs, "mapped": measures.mapped(theirs, donor, base)}
        found[str(layer)] = {
            "own": measures.right(own, study.task, prompts, seed=seed),
            "cosine": _cosine(theirs, measures.vector_of(own)),
        } | {
            name: measures.right(vectors(base, {layer: v}), study.task, prompts, seed=seed)
            for name, v in carried.items()
        }
    return found


def _separability(study: Settings, cosine: float, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    """The same skill, read out with openers whose rows have a given cosine; then a vector, whatever the pre-flight
    check says."""
    model = _load(at / "base", "skill.safetensors")
    length = model.unembedding.weight.norm(dim=1).mean()
    model.unembedding.weight.data = length * readout_rows(study.task, model.config.width, cosine=cosine)
    mix(study, model, study.task, seed, folder, study.styles, "mixture")
    prompts = few_of(study, evaluation_prompts(study, seed))
    steered = Steered(model, {study.last: Vector(model.config.width)})
    _reinforce(study, steered, model, seed, folder, name="-vector")
    return {
        "answers": by_temperature(model, study.task, prompts, seed=seed),
        "pre-flight": asdict(pre_flight(model, prompts, study.task.token("THINK"), study.task.token("DIRECT"))),
        "vector": by_temperature(steered, study.task, prompts, seed=seed),
        "norm": measures.vector_of(steered).norm().item(),
    }


def _flag(study: Settings, which: str, at: Path, seed: int, folder: Path) -> dict[str, Any]:
    """The task whose right opener depends on the prompt, under one kind of training."""
    task = replace(study.task, flag=True)
    base, prompts = _load(at / "base-flag"), evaluation_prompts(study, seed, task)
    width, before = base.config.width, study.last - 1
    # The pace of a token-wise scale is that of a product of two trained factors.
    long = replace(study.rl, steps=5 * study.rl.steps // 2, learning_rate=study.rl.learning_rate / 2)
    if which == "full":
        model: nn.Module = freeze_readout(deepcopy(base))
        config = replace(study.rl, steps=2 * study.rl.steps, learning_rate=study.full_rate, clip=1.0)
    elif which in ("gate", "scale"):
        point = f"blocks.{before}.resid_post"
        with torch.no_grad(), watch(base, point) as seen:
            base(held_out_questions(task, seed, 1000, "train"))
        centre = rms_normed(seen[point][:, -1]).mean(dim=0)
        held = (
            Scaled(width, "tanh", centre, source(seed, "gate"))
            if which == "gate"
            else Scaled(width, generator=source(seed, "gate"))
        )
        model, config = Steered(base, {before: held}), long
    else:
        model = Steered(base, {before if which == "before" else study.last: Vector(width)})
        config = study.rl
    _reinforce(study, model, base, seed, folder, config, task, kl=study.flag_kl if which == "full" else 0.0)
    found = {"answers": by_temperature(model, task, prompts, seed=seed)}
    if which == "before":
        found["routes"] = measures.by_route(model, task, few_of(study, prompts), seed)
        found["steered"] = measures.right(model, task, few_of(study, prompts), seed=seed)
    return found


def _load(folder: Path, name: str = "model.safetensors") -> Transformer:
    return freeze_readout(load_model(folder / name))


def _cosine(one: Tensor, other: Tensor) -> float:
    return round(torch.cosine_similarity(one, other, dim=0).item(), 4)


def _distance(one: nn.Module, other: nn.Module) -> float:
    """Length of the change of all weights over the length of all weights."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    change = sum((b - a).square().sum().item() for a, b in pairs)
    return round((change / sum(a.square().sum().item() for a, _ in pairs)) ** 0.5, 4)
