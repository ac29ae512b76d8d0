"""Analysis of a trained steering vector: positions, logit lens, path patching, baselines, persistence and features.

All measurements are on held-out prompts. `steered` is a `Steered` with one addition unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.model.controls import random_like
from toylab.model.layers import torch_stream
from toylab.model.steering import Scaled, Steered, Vector, folded_unembedding, steer
from toylab.model.transformer import Transformer
from toylab.probes import (
    Edit,
    PathPatched,
    compare_features,
    contrast_cosine,
    cosine_to,
    dead_share,
    edit,
    explained_variance,
    fit_autoencoder,
    token_cosines,
    token_ranks,
    watch,
)
from toylab.runs.store import round_floats
from toylab.studies.steering_vectors.data import measure_answers, write_answers
from toylab.studies.steering_vectors.results import (
    FeatureResult,
    FeaturesResult,
    LensReading,
    Persistence,
    TokenReading,
    TokenScales,
)
from toylab.tasks import Reasoning
from toylab.training.losses import Rollouts, kl_divergence, up_to_end

Prompts = Int[Tensor, "prompt position"]


def correct(model: nn.Module, task: Reasoning, prompts: Prompts, temperature: float | int = 1, seed: int = 0) -> float:
    """Accuracy at a temperature, rounded to four decimals."""
    return round(measure_answers(model, task, prompts, temperature, seed).accuracy, 4)


def accuracy_by_temperature(
    model: nn.Module, task: Reasoning, prompts: Prompts, seed: int = 0
) -> dict[float | int, float]:
    """Accuracy at temperatures 0, .7 and 1."""
    return {t: correct(model, task, prompts, t, seed) for t in (0, 0.7, 1)}


def only_addition(steered: Steered) -> tuple[int, nn.Module]:
    """The layer and the module of the only addition."""
    ((layer, addition),) = steered.additions.items()
    return int(layer), addition


# Positions -----------------------------------------------------------------------------------------------------------


def accuracy_by_place(steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0) -> dict[str, float]:
    """Accuracy at temperature 1 with the addition at some positions only. "first" is SEP, the last position of the
    prompt, which predicts the first generated token."""
    first = task.prompt - 1
    positions_by_name = {
        "first": slice(first, first + 1),
        "all but first": tuple(p for p in range(task.context) if p != first),
        "first two": slice(first, first + 2),
        "prompt": slice(0, first),
        "generated": slice(first, None),
    }
    return {name: correct(steered.only(at), task, prompts, seed=seed) for name, at in positions_by_name.items()}


def rollouts(
    model: nn.Module, task: Reasoning, prompts: Prompts, seed: int = 0, temperature: float | int = 1
) -> Rollouts:
    """One sampled answer per prompt, with its reward from the verifier."""
    answers = write_answers(model, task, prompts, temperature, torch_stream(seed, "rollouts"))
    rewards = torch.from_numpy(task.verify(prompts.cpu().numpy(), answers.cpu().numpy())).float().to(answers.device)
    return Rollouts(prompts, answers, up_to_end(task.token("EOS"), answers), rewards[:, None])


@torch.no_grad()
def kl_by_position(steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0) -> list[float]:
    """KL(steered || base) in nats at each generated position, on answers of the steered model; positions after the end
    count as 0."""
    sampled = rollouts(steered, task, prompts, seed)
    divergence = kl_divergence(sampled.log_probs(steered), sampled.log_probs(steered.model))
    return round_floats(divergence.masked_fill(~sampled.counted, 0).mean(dim=0))


# Logit lens and persistence ------------------------------------------------------------------------------------------


@torch.no_grad()
def residual_changes(
    steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0
) -> dict[int, Float[Tensor, "token width"]]:
    """Change of the residual stream caused by the additions, after each block from the first steered one on, at every
    position from SEP to the end of the steered model's answers."""
    sampled = rollouts(steered, task, prompts, seed)
    tokens = torch.cat([sampled.prompts, sampled.written[:, :-1]], dim=1)
    first = min(map(int, steered.additions))
    names = {layer: f"blocks.{layer}.resid_post" for layer in range(first, len(steered.model.blocks))}
    with watch(steered.model, *names.values()) as cache:
        steered.model(tokens)
        before = dict(cache)
        with edit(steered.model, steered.edits()), watch(steered.model, *names.values()) as after_cache:
            steered.model(tokens)
            after_cache = dict(after_cache)
    # Position t predicts token t + 1, so the scored positions start at SEP.
    start = task.prompt - 1
    return {
        layer: (after_cache[name] - before[name])[:, start : start + sampled.counted.shape[1]][sampled.counted]
        for layer, name in names.items()
    }


def logit_lens(direction: Float[Tensor, " width"], model: Transformer, task: Reasoning) -> LensReading:
    """The logit lens of a direction."""
    rows = folded_unembedding(model)
    cosines = token_cosines(direction, rows)
    order = token_ranks(cosines)
    think, direct = task.token("THINK"), task.token("DIRECT")
    marks = {"THINK": think, "DIRECT": direct, "ANS": task.token("ANS")}
    return LensReading(
        **{name: TokenReading(cosine=cosines[token].item(), rank=int(order[token])) for name, token in marks.items()},
        think_over_direct=contrast_cosine(direction, rows, think, direct).item(),
        first_dialect=cosines[: task.p].mean().item(),
        second_dialect=cosines[task.p : 2 * task.p].mean().item(),
        all=round_floats(cosines),
    )


@torch.no_grad()
def measure_persistence(
    steered: Steered,
    task: Reasoning,
    prompts: Prompts,
    trained: Mapping[int, Float[Tensor, " width"]],
    seed: int = 0,
) -> dict[int, Persistence]:
    """Mean cosine of each token's change with the mean change, and with the vector trained at the same layer, for every
    layer after the steered one."""
    changes = residual_changes(steered, task, prompts, seed)
    return {
        layer: Persistence(to_mean=cosine_to(change), to_vector=cosine_to(change, trained[layer]))
        for layer, change in list(changes.items())[1:]
        if layer in trained
    }


# Path patching -------------------------------------------------------------------------------------------------------


def skipped_readers(layer: int, last: int) -> dict[str, dict[str, tuple[str, ...]]]:
    """Readers from which a change after block `layer` is hidden, by test name: readers of the next block, and the
    unembedding."""
    block = f"blocks.{layer + 1}"
    attention, mlp, unembedding = f"{block}.ln1", f"{block}.ln2", "ln_final"
    tests = {f"skip {name}": {"clean": (f"{block}.attn.{name[0]}",)} for name in ("query", "key", "value")}
    tests |= {
        "skip attention": {"blind": (attention,)},
        "skip MLP": {"blind": (mlp,)},
        "skip block": {"blind": (attention, mlp)},
        "skip unembedding": {"blind": (unembedding,)},
    }
    if layer + 1 == last:  # otherwise later blocks read the change too
        tests |= {
            "only attention": {"blind": (mlp, unembedding)},
            "only MLP": {"blind": (attention, unembedding)},
        }
    return tests


def path_patched(steered: Steered, **skipped: Any) -> PathPatched:
    """The steered model with its addition hidden from some readers."""
    ((point, change),) = steered.edits().items()
    return PathPatched(steered.model, change, point, **skipped)


def accuracy_by_route(
    steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0, temperature: float | int = 1
) -> dict[str, float]:
    """Accuracy with the addition hidden from some readers, by test of `skipped_readers`."""
    layer, _ = only_addition(steered)
    tests = skipped_readers(layer, len(steered.model.blocks) - 1)
    return {
        name: correct(path_patched(steered, **skipped), task, prompts, temperature, seed)
        for name, skipped in tests.items()
    }


class ForcedRoute(Steered):
    """A vector hidden from the unembedding, so that it can act only through later blocks."""

    def forward(self, tokens: Int[Tensor, "batch position"], **options) -> Float[Tensor, "batch query vocab"]:
        (addition,) = self.additions.values()
        last = f"blocks.{len(self.model.blocks) - 1}.resid_post"
        with edit(self.model, self.edits()), edit(self.model, {last: lambda h: h - addition.get_parameter("vector")}):
            return self.model(tokens, **options)


def with_clean_scale(steered: Steered) -> PathPatched:
    """The steered model with the final norm's scale taken from the unsteered stream."""
    return path_patched(steered, clean_scale="ln_final")


# Baselines -----------------------------------------------------------------------------------------------------------


def random_vector(vector: Float[Tensor, " width"], layer: int, seed: int) -> Float[Tensor, " width"]:
    """A random vector of the same norm, independent for each seed and layer."""
    return random_like(vector, torch_stream(seed, f"random vector {layer}"))


def random_vectors(
    model: Transformer, task: Reasoning, prompts: Prompts, layer: int, norm: float, draws: int = 10, seed: int = 0
) -> list[float]:
    """Accuracies with vectors in random directions, of the given norm."""
    generator = torch_stream(seed, "random vectors")
    accuracies = []
    for _ in range(draws):
        vector = torch.randn(model.config.width, generator=generator)
        accuracies.append(correct(steer(model, {layer: norm * vector / vector.norm()}), task, prompts, seed=seed))
    return accuracies


@torch.no_grad()
def difference_of_means(
    model: Transformer, task: Reasoning, prompts: Prompts, layer: int, norm: float
) -> Float[Tensor, " width"]:
    """Difference-of-means steering vector: mean residual stream after the block at THINK minus the mean at DIRECT,
    rescaled to the given norm. It encodes the current token, not the next one."""
    point = f"blocks.{layer}.resid_post"
    means = []
    for opener in ("THINK", "DIRECT"):
        opened = torch.cat([prompts, torch.full((len(prompts), 1), task.token(opener), device=prompts.device)], dim=1)
        with watch(model, point) as cache:
            model(opened)
        means.append(cache[point][:, -1].mean(dim=0))
    difference = means[0] - means[1]
    return norm * difference / difference.norm()


@torch.no_grad()
def logit_bias(steered: Steered, task: Reasoning, prompts: Prompts) -> dict[str, Edit]:
    """An edit that replaces the vector by its mean shift of the logits at SEP, added at every position."""
    start = task.prompt - 1
    shift = (steered(prompts) - steered.model(prompts))[:, start].mean(dim=0)
    return {"unembedding": lambda logits: logits + shift}


class EditedModel(nn.Module):
    """A model with fixed edits applied to every call."""

    def __init__(self, model: nn.Module, edits: Mapping[str, Edit]) -> None:
        super().__init__()
        self.model, self.edits = model, dict(edits)

    def forward(self, tokens: Int[Tensor, "batch position"], **options) -> Float[Tensor, "batch query vocab"]:
        with edit(self.model, self.edits):
            return self.model(tokens, **options)


# Combination and transfer --------------------------------------------------------------------------------------------


def combined_accuracy(
    model: Transformer,
    task: Reasoning,
    prompts: Prompts,
    trained: Mapping[int, Float[Tensor, " width"]],
    layers: Sequence[int],
    scale: float | int,
    seed: int = 0,
) -> float:
    """Accuracy with separately trained vectors, added at the given layers with a common scale."""
    return correct(steer(model, {k: scale * trained[k] for k in layers}), task, prompts, seed=seed)


def mapped(vector: Float[Tensor, " width"], from_model: Transformer, to_model: Transformer) -> Float[Tensor, " width"]:
    """A vector transferred to another model through its logits: W_to^T W_from v, with W the unembedding.

    Each unembedding is normalised by the mean norm of its rows.
    """
    source_rows, target_rows = (model.unembedding.get_parameter("weight") for model in (from_model, to_model))
    scale = source_rows.norm(dim=1).mean() * target_rows.norm(dim=1).mean()
    return (target_rows.T @ (source_rows @ vector)) / scale


# Token by token ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def token_scales(steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0) -> TokenScales:
    """Mean size of the addition with a token-wise scale, by position type."""
    layer, addition = only_addition(steered)
    assert isinstance(addition, Scaled)
    sampled = rollouts(steered, task, prompts, seed)
    tokens = torch.cat([sampled.prompts, sampled.written[:, :-1]], dim=1)
    point = f"blocks.{layer}.resid_post"
    with watch(steered.model, point) as cache:
        steered.model(tokens)
    size = addition.scale(cache[point]) * addition.vector.norm()
    sep = task.prompt - 1
    size = size * size[:, sep].mean().sign()
    is_counted = torch.cat([torch.ones_like(sampled.prompts, dtype=torch.bool), sampled.counted[:, :-1]], dim=1)
    spans = {"BOS": slice(0, 1), "digits": slice(1, sep), "SEP": slice(sep, sep + 1)}
    spans |= {"opener": slice(sep + 1, sep + 2), "chain": slice(sep + 2, None)}
    signed = {name: _masked_mean(size[:, span], is_counted[:, span]) for name, span in spans.items()}
    return TokenScales(
        **{name: _masked_mean(size[:, span].abs(), is_counted[:, span]) for name, span in spans.items()},
        **{f"{name.lower()}_signed": signed[name] for name in ("SEP", "opener", "chain")},
        by_position=round_floats(_masked_column_means(size, is_counted), 3),
    )


# Sparse autoencoders -------------------------------------------------------------------------------------------------


def fit_features(
    steered: Steered,
    task: Reasoning,
    prompts: Prompts,
    seed: int = 0,
    dictionary: int = 96,
    k: int = 4,
    steps: int = 600,
) -> FeaturesResult:
    """Train sparse autoencoders on answers of the steered model: one on its last-layer residual stream, one on that
    stream minus the base model's. Report their reconstruction, and the feature that best separates correct from
    incorrect answers, compared with chance and with two trivial indicators (the answer opens with THINK; the chain has
    all steps). The feature is selected on every second answer and evaluated on the others."""
    parts = prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]
    fitting, judged = (rollouts(steered, task, part, seed + k) for k, part in enumerate(parts))
    is_correct = judged.rewards[:, 0] > 0
    thinks = judged.written[:, 0] == task.token("THINK")
    is_complete = thinks & (judged.written[:, task.length + 1] == task.token("ANS"))
    results = {}
    for name in ("plain", "difference"):
        training, stream = (_last_layer_stream(steered, sampled, name == "difference") for sampled in (fitting, judged))
        model = fit_autoencoder(training[fitting.counted], dictionary, k, steps, seed=seed)
        with torch.no_grad():
            active = (model.encode(stream.flatten(0, 1)) > 0).view(*stream.shape[:2], -1)
            active = (active & judged.counted[..., None]).any(dim=1)
        best = compare_features(active[::2], is_correct[::2]).feature
        test = compare_features(active[1::2, best, None], is_correct[1::2], thinks[1::2], seed=seed)
        results[name] = FeatureResult(
            **asdict(test) | {"feature": best},
            explained_variance=explained_variance(model, stream[judged.counted]),
            dead=dead_share(model, stream[judged.counted]),
            trivial_difference=_rate_difference(thinks[1::2], is_correct[1::2]),
            format_difference=_rate_difference(is_complete[1::2], is_correct[1::2]),
            auc=0.5 + abs(test.difference) / 2,  # for a binary score
        )
    return FeaturesResult(**results)


@torch.no_grad()
def _last_layer_stream(steered: Steered, sampled: Rollouts, minus_base: bool) -> Float[Tensor, "row step width"]:
    """The last layer's residual stream at the generated positions; with `minus_base`, minus the base model's."""
    tokens = torch.cat([sampled.prompts, sampled.written[:, :-1]], dim=1)
    point = f"blocks.{len(steered.model.blocks) - 1}.resid_post"
    streams = []
    for model in (steered, steered.model) if minus_base else (steered,):
        with watch(steered.model, point) as cache:
            model(tokens)
        streams.append(cache[point][:, sampled.prompts.shape[1] - 1 :])
    return streams[0] - streams[1] if minus_base else streams[0]


def _rate_difference(indicator: Bool[Tensor, " case"], is_correct: Bool[Tensor, " case"]) -> float:
    return (indicator[is_correct].float().mean() - indicator[~is_correct].float().mean()).abs().item()


def _masked_mean(values: Float[Tensor, "row place"], mask: Bool[Tensor, "row place"]) -> float:
    return round(values[mask].mean().item(), 3) if mask.any() else 0.0


def _masked_column_means(values: Float[Tensor, "row place"], mask: Bool[Tensor, "row place"]) -> list[float]:
    return (values.masked_fill(~mask, 0).sum(dim=0) / mask.sum(dim=0).clamp(min=1)).tolist()


def vector_of(steered: Steered) -> Float[Tensor, " width"]:
    """The vector of a model with one constant addition."""
    _, addition = only_addition(steered)
    assert isinstance(addition, Vector)
    return addition.vector.detach()
