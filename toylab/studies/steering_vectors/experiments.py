"""The jobs of the steering study: train vectors, scales or whole models on a base, and measure them.

Each job function takes the settings of the study, the job and its folder; `study.py` assigns functions to jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toylab.model.checkpoint import save_model
from toylab.model.controls import random_like
from toylab.model.layers import torch_stream
from toylab.model.steering import Scaled, Steered, Vector, load_steering, pre_flight, rms_normed, save_steering, steer
from toylab.model.transformer import Transformer
from toylab.probes import watch
from toylab.runs.store import train_and_keep
from toylab.runs.study import Job
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.attention_change import attention_change
from toylab.studies.steering_vectors.bases import evaluation_prompts, first_half, load_base, train_mixture
from toylab.studies.steering_vectors.data import (
    Reward,
    RolloutSampler,
    by_temperature,
    freeze_readout,
    random_rewards,
    readout_rows,
    reasoning_batches,
    reasoning_prompts,
    weight_distance,
)
from toylab.studies.steering_vectors.lens_history import lens_history
from toylab.studies.steering_vectors.results import (
    AdaptiveResult,
    Baseline,
    BaselinesResult,
    CombineResult,
    FeaturesResult,
    FlagResult,
    FullResult,
    JointResult,
    LayerCombination,
    PathsResult,
    Persistence,
    SteeredPair,
    VectorResult,
)
from toylab.studies.steering_vectors.separability import SeparabilityResult
from toylab.studies.steering_vectors.settings import Settings
from toylab.studies.steering_vectors.transfer import FamilyResult, TransferredVector, TransferResult
from toylab.tasks import Reasoning
from toylab.training.batches import next_token_loss
from toylab.training.loop import TrainConfig, Training, train
from toylab.training.losses import PolicyGradient

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
    file: str | None = None,
    record: Callable[[Any, int], None] | None = None,
) -> Any:
    """The trained model, or the model loaded from `file`; the history is in `metrics{name}.jsonl`."""
    config = config or study.rl

    def learn(checkpoint: Path) -> tuple[nn.Module, Training]:
        sampler = RolloutSampler(
            model, task or study.task, seed, config.rows, study.samples,
            reward=reward, reference=base, purpose=purpose, record=record,
        )  # fmt: skip
        loss = PolicyGradient(kl=kl, reference=base if kl else None)
        summary = sampler.summary
        return model, train(model, loss, sampler, config, evaluate=summary, checkpoint=checkpoint, record=record)

    load, save = load_base, save_model
    if isinstance(model, Steered):
        load, save = partial(load_steering, model=base), save_steering
    return train_and_keep(folder, learn, name, file=file, load=load, save=save)[0]


def train_vector(
    study: Settings,
    job: Job,
    folder: Path,
    layer: int,
    *,
    refuse: bool = True,
    examine: bool = False,
    random_reward: bool = False,
) -> VectorResult:
    """Train a vector after one layer.

    Args:
        refuse: whether the pre-flight check may refuse a base that no vector can steer.
        examine: whether to measure also at which positions and, for the last layer, at which scale the vector acts.
        random_reward: whether to reward answers at random, as often as the base is correct.
    """
    base, prompts, seed = _start(study, job, folder)
    if refuse:
        pre_flight(base, prompts, study.task.token("THINK"), study.task.token("DIRECT")).check(study.least_shift)
    reward = random_rewards(base, study.task, first_half(study, prompts), seed) if random_reward else None
    steered = Steered(base, {layer: Vector(base.config.width)})
    record = lens_history(folder).add if layer == study.last and not random_reward else None
    steered = _reinforce(study, steered, base, seed, folder, reward=reward, file="vector.safetensors", record=record)
    vector = measures.vector_of(steered)
    random = measures.random_vector(vector, layer, seed)
    randomly_steered = steer(base, {layer: random})
    after_last = measures.residual_changes(steered, study.task, prompts[:500], seed)[study.last].mean(dim=0)
    result = VectorResult(
        answers=by_temperature(steered, study.task, prompts, seed=seed),
        norm=vector.norm().item(),
        kl=measures.kl_by_position(steered, study.task, prompts, seed),
        lens=measures.logit_lens(vector, base, study.task),
        difference_lens=measures.logit_lens(after_last, base, study.task),
        random_lens=measures.logit_lens(random, base, study.task),
        random_kl=measures.kl_by_position(randomly_steered, study.task, prompts, seed),
        random_accuracy=measures.correct(randomly_steered, study.task, prompts, seed=seed),
    )
    if not examine:
        return result
    half = first_half(study, prompts)
    result = replace(
        result,
        places=measures.accuracy_by_place(steered, study.task, half, seed),
        few=SteeredPair(
            base=measures.correct(base, study.task, half, seed=seed),
            steered=measures.correct(steered, study.task, half, seed=seed),
        ),
    )
    if layer < study.last:
        return result
    factors = (0.5, 0.75, 1.25, 1.5, 2)
    return replace(
        result,
        clean_scale=measures.correct(measures.with_clean_scale(steered), study.task, prompts, seed=seed),
        scaled={x: measures.correct(steer(base, {layer: x * vector}), study.task, half, seed=seed) for x in factors},
    )


def train_full(study: Settings, job: Job, folder: Path, rl: TrainConfig | None = None) -> FullResult:
    """Reinforcement learning of the whole model, by default as long as of a vector."""
    base, prompts, seed = _start(study, job, folder)
    config = replace(rl or study.rl, learning_rate=study.full_rate, clip=1.0)
    model = _reinforce(study, freeze_readout(deepcopy(base)), base, seed, folder, config, file="model.safetensors")
    return FullResult(answers=by_temperature(model, study.task, prompts, seed=seed))


def train_joint(study: Settings, job: Job, folder: Path, rl: TrainConfig | None = None) -> JointResult:
    """Vectors after all layers, trained together, by default as long as a single one."""
    base, prompts, seed = _start(study, job, folder)
    steered = _reinforce(study, steer(base), base, seed, folder, rl, file="vectors.safetensors")
    trained = {int(layer): addition.vector.detach() for layer, addition in steered.additions.items()}
    random = {layer: measures.random_vector(vector, layer, seed) for layer, vector in trained.items()}
    return JointResult(
        answers=by_temperature(steered, study.task, prompts, seed=seed),
        norms=[vector.norm().item() for vector in trained.values()],
        random_accuracy=measures.correct(steer(base, random), study.task, prompts, seed=seed),
    )


def train_adaptive(study: Settings, job: Job, folder: Path) -> AdaptiveResult:
    """A vector with a token-dependent scale, and a constant vector trained for as many steps."""
    base, prompts, seed = _start(study, job, folder)
    layer, width = study.last - 1, base.config.width
    steered = Steered(base, {layer: Scaled(width, generator=torch_stream(seed, "adaptive"))})
    config = replace(study.rl, steps=study.adaptive_steps, learning_rate=study.rl.learning_rate / 2)
    steered = _reinforce(study, steered, base, seed, folder, config, file="scaled.safetensors")
    constant = Steered(base, {layer: Vector(width)})
    faster = replace(config, learning_rate=study.rl.learning_rate)
    _reinforce(study, constant, base, seed, folder, faster, name="-constant")
    random_gated = deepcopy(steered)  # its scale depends on a random direction of the stream
    (gate,) = random_gated.additions.values()
    gate.weight.data = random_like(gate.weight.detach(), torch_stream(seed, "random gate"))
    sep = study.task.prompt - 1
    other_positions = tuple(p for p in range(study.task.context) if p != sep)
    return AdaptiveResult(
        answers=by_temperature(steered, study.task, prompts, seed=seed),
        constant=by_temperature(constant, study.task, prompts, seed=seed),
        scales=measures.token_scales(steered, study.task, prompts, seed),
        random_scales=measures.token_scales(random_gated, study.task, prompts, seed),
        sep_alone=measures.correct(steered.only((sep,)), study.task, first_half(study, prompts), seed=seed),
        all_but_sep=measures.correct(steered.only(other_positions), study.task, first_half(study, prompts), seed=seed),
    )


def compare_baselines(study: Settings, job: Job, folder: Path) -> BaselinesResult:
    """Baselines for the last layer's vector."""
    base, prompts, seed = _start(study, job, folder)
    prompts, task, steered = first_half(study, prompts), study.task, load_steering(job.path("vector", folder), base)
    vector = measures.vector_of(steered)
    random_rewarded = load_steering(job.path("random-reward", folder), base)
    means = measures.difference_of_means(base, task, prompts, study.last, vector.norm().item())

    def compare(model: nn.Module, **vector_fields: float) -> Baseline:
        return Baseline(accuracy=measures.accuracy_by_temperature(model, task, prompts, seed), **vector_fields)

    second_run = Steered(base, {study.last: Vector(base.config.width)})
    _reinforce(study, second_run, base, seed, folder, name="-again", purpose="other rollouts")
    rewarded = measures.vector_of(random_rewarded)
    return BaselinesResult(
        base=measures.correct(base, task, prompts, seed=seed),
        steered=measures.correct(steered, task, prompts, seed=seed),
        random_vectors=measures.random_vectors(base, task, prompts, study.last, vector.norm().item(), seed=seed),
        random_reward=compare(random_rewarded, cosine=_cosine(rewarded, vector), norm=rewarded.norm().item()),
        minus=compare(steer(base, {study.last: -vector})),
        difference_of_means=compare(steer(base, {study.last: means}), cosine=_cosine(means, vector)),
        logit_bias=compare(measures.EditedModel(base, measures.logit_bias(steered, task, prompts))),
        another_run=compare(second_run, cosine=_cosine(measures.vector_of(second_run), vector)),
    )


def cut_paths(study: Settings, job: Job, folder: Path) -> PathsResult:
    """The paths through which the penultimate vector acts, and a vector trained without its direct path."""
    base, prompts, seed = _start(study, job, folder)
    steered = load_steering(job.path("vector", folder), base)
    forced = measures.ForcedRoute(base, {study.last - 1: Vector(base.config.width)})
    # More steps at a higher rate, since these vectors reach four times the norm of others.
    longer = replace(study.rl, steps=5 * study.rl.steps // 2, learning_rate=3 * study.rl.learning_rate)
    _reinforce(study, forced, base, seed, folder, longer, name="-forced")
    free = Steered(base, {study.last - 1: Vector(base.config.width)})
    _reinforce(study, free, base, seed, folder, longer, name="-free")
    half = first_half(study, prompts)
    return PathsResult(
        routes=measures.accuracy_by_route(steered, study.task, half, seed),
        base=measures.correct(base, study.task, half, seed=seed),
        steered=measures.correct(steered, study.task, half, seed=seed),
        forced=measures.accuracy_by_temperature(forced, study.task, prompts, seed),
        forced_norm=measures.vector_of(forced).norm().item(),
        free=measures.accuracy_by_temperature(free, study.task, prompts, seed),
        attention=attention_change(steered, measures.rollouts(steered, study.task, prompts[:200], seed)),
    )


def combine_layers(study: Settings, job: Job, folder: Path) -> CombineResult:
    """The vectors of several layers combined, and the persistence of each in later layers."""
    base, prompts, seed = _start(study, job, folder)
    half, layers = first_half(study, prompts), range(study.last + 1)
    single = {layer: load_steering(job.path(f"vector-{layer}", folder), base) for layer in layers}
    trained = {layer: measures.vector_of(steered) for layer, steered in single.items()}
    pairs = [(i, j) for i in layers for j in range(i + 1, study.last + 1)]

    def combination(subset: Sequence[int]) -> LayerCombination:
        scales = sorted({1, 0.5, 1 / len(subset)}, reverse=True)
        accuracy = {x: measures.combined_accuracy(base, study.task, half, trained, subset, x, seed) for x in scales}
        return LayerCombination(layers=list(subset), accuracy=accuracy)

    def persistence(steered: Steered) -> dict[int, Persistence]:
        return measures.measure_persistence(steered, study.task, prompts[:300], trained, seed)

    early = {layer: model for layer, model in single.items() if layer < study.last}
    random = {layer: steer(base, {layer: measures.random_vector(trained[layer], layer, seed)}) for layer in early}
    return CombineResult(
        alone={layer: measures.correct(model, study.task, half, seed=seed) for layer, model in single.items()},
        combined=[combination(subset) for subset in (*pairs, layers)],
        persistence={layer: persistence(model) for layer, model in early.items()},
        random_persistence={layer: persistence(model) for layer, model in random.items()},
        cosines={f"{i}, {j}": _cosine(trained[i], trained[j]) for i, j in pairs},
    )


def find_features(study: Settings, job: Job, folder: Path) -> FeaturesResult:
    """Features of correct answers in the model steered after the penultimate layer."""
    base, prompts, seed = _start(study, job, folder)
    return measures.fit_features(load_steering(job.path("vector", folder), base), study.task, prompts, seed)


def transfer_to_child(study: Settings, job: Job, folder: Path) -> FamilyResult:
    """Transfer of the parent's vector to a child trained further on another mixture, and back."""
    parent, prompts, seed = _start(study, job, folder)
    prompts, task, child = first_half(study, prompts), study.task, freeze_readout(deepcopy(parent))
    styles = replace(study.styles, think=0.25, dialect=0.6, early=0.1)
    further = replace(study.mixture, steps=study.mixture.steps // 2, learning_rate=study.mixture.learning_rate / 2)
    train(child, next_token_loss, reasoning_batches(task, seed, further.rows, styles, "child"), further)
    steered_child = Steered(child, {study.last: Vector(child.config.width)})
    _reinforce(study, steered_child, child, seed, folder)
    parent_vector = measures.vector_of(load_steering(job.path("vector", folder), parent))
    child_vector = measures.vector_of(steered_child)

    def accuracy(model: Transformer, vector: Tensor) -> float:
        return measures.correct(steer(model, {study.last: vector}), task, prompts, seed=seed)

    return FamilyResult(
        base=measures.correct(child, task, prompts, seed=seed),
        own=accuracy(child, child_vector),
        of_the_parent=accuracy(child, parent_vector),
        of_random=accuracy(child, measures.random_vector(parent_vector, study.last, seed)),
        parent_with_that_of_the_child=accuracy(parent, child_vector),
        parent=measures.correct(parent, task, prompts, seed=seed),
        parent_own=accuracy(parent, parent_vector),
        cosine=_cosine(child_vector, parent_vector),
        weight_change=weight_distance(parent, child),
    )


def transfer(study: Settings, job: Job, folder: Path, layers: Sequence[int]) -> TransferResult:
    """The vectors of another model in this one, unmapped and mapped through the unembeddings."""
    base, prompts, seed = _start(study, job, folder)
    prompts, donor = first_half(study, prompts), load_base(job.path("donor", folder))

    def measure(layer: int) -> TransferredVector:
        own_steered = load_steering(job.path(f"own-{layer}", folder), base)
        donor_vector = measures.vector_of(load_steering(job.path(f"theirs-{layer}", folder), donor))

        def accuracy(vector: Tensor) -> float:
            return measures.correct(steer(base, {layer: vector}), study.task, prompts, seed=seed)

        return TransferredVector(
            own=measures.correct(own_steered, study.task, prompts, seed=seed),
            cosine=_cosine(donor_vector, measures.vector_of(own_steered)),
            raw=accuracy(donor_vector),
            random=accuracy(measures.random_vector(donor_vector, layer, seed)),
            mapped=accuracy(measures.mapped(donor_vector, donor, base)),
        )

    return TransferResult(
        base=measures.correct(base, study.task, prompts, seed=seed), layers={layer: measure(layer) for layer in layers}
    )


def turn_openers(study: Settings, job: Job, folder: Path, cosine: float) -> SeparabilityResult:
    """A base of the same skill with a given cosine of the openers' unembedding rows, and a vector trained on it without
    the pre-flight check."""
    model, seed = load_base(job.path("skill", folder)), job.seed
    rows = model.unembedding.get_parameter("weight")
    rows.data = rows.norm(dim=1).mean() * readout_rows(study.task, model.config.width, cosine=cosine)
    model = train_mixture(study, model, study.task, seed, folder, study.styles, "mixture")
    prompts = first_half(study, evaluation_prompts(study, seed))
    steered = Steered(model, {study.last: Vector(model.config.width)})
    _reinforce(study, steered, model, seed, folder, name="-vector")
    return SeparabilityResult(
        answers=by_temperature(model, study.task, prompts, seed=seed),
        pre_flight=pre_flight(model, prompts, study.task.token("THINK"), study.task.token("DIRECT")),
        vector=by_temperature(steered, study.task, prompts, seed=seed),
        norm=measures.vector_of(steered).norm().item(),
    )


def train_flagged(
    study: Settings, job: Job, folder: Path, training: Literal["gate", "full", "scale", "before", "last"]
) -> FlagResult:
    """One kind of training on the task whose correct opener depends on the prompt: a bounded, centred gate, the whole
    model, an unbounded scale, a vector after the penultimate layer ("before") or after the last layer."""
    task, seed = replace(study.task, flag=True), job.seed
    base, prompts = load_base(job.path("base", folder)), evaluation_prompts(study, seed, task)
    width, penultimate = base.config.width, study.last - 1
    # A token-wise scale multiplies two trained factors, which changes the effective learning rate.
    long_training = replace(study.rl, steps=5 * study.rl.steps // 2, learning_rate=study.rl.learning_rate / 2)
    if training == "full":
        model: nn.Module = freeze_readout(deepcopy(base))
        config = replace(study.rl, steps=2 * study.rl.steps, learning_rate=study.full_rate, clip=1.0)
    elif training in ("gate", "scale"):
        point = f"blocks.{penultimate}.resid_post"
        with torch.no_grad(), watch(base, point) as cache:
            base(reasoning_prompts(task, seed, 1000, "train"))
        centre = rms_normed(cache[point][:, -1]).mean(dim=0)
        gate, mean = ("tanh", centre) if training == "gate" else ("linear", None)
        scaled = Scaled(width, gate, mean, generator=torch_stream(seed, "gate"))
        model, config = Steered(base, {penultimate: scaled}), long_training
    else:
        model = Steered(base, {penultimate if training == "before" else study.last: Vector(width)})
        config = study.rl
    _reinforce(study, model, base, seed, folder, config, task, kl=study.flag_kl if training == "full" else 0.0)
    answers = by_temperature(model, task, prompts, seed=seed)
    if training not in ("before", "gate") or not isinstance(model, Steered):
        return FlagResult(answers=answers)
    half = first_half(study, prompts)
    return FlagResult(
        answers=answers,
        routes=measures.accuracy_by_route(model, task, half, seed),
        steered=measures.correct(model, task, half, seed=seed),
    )


def _start(study: Settings, job: Job, folder: Path) -> tuple[Transformer, Tensor, int]:
    """The base of a job, the held-out prompts, and the seed."""
    return load_base(job.path("base", folder)), evaluation_prompts(study, job.seed), job.seed


def _cosine(first: Tensor, second: Tensor) -> float:
    return round(torch.cosine_similarity(first, second, dim=0).item(), 4)
