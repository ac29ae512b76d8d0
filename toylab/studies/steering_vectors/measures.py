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
    ((layer, held),) = steered.additions.items()
    return int(layer), held


# Positions -----------------------------------------------------------------------------------------------------------


def accuracy_by_place(steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0) -> dict[str, float]:
    """Accuracy at temperature 1 with the addition at some positions only. "first" is SEP, the last position of the
    prompt, which predicts the first generated token."""
    first = task.prompt - 1
    rest = tuple(p for p in range(task.context) if p != first)
    places = {
        "first": slice(first, first + 1),
        "all but first": rest,
        "first two": slice(first, first + 2),
        "prompt": slice(0, first),
        "generated": slice(first, None),
    }
    return {name: correct(steered.only(at), task, prompts, seed=seed) for name, at in places.items()}


def rollouts(
    model: nn.Module, task: Reasoning, prompts: Prompts, seed: int = 0, temperature: float | int = 1
) -> Rollouts:
    """One sampled answer per prompt, with its reward from the verifier."""
    written = write_answers(model, task, prompts, temperature, torch_stream(seed, "rollouts"))
    earned = torch.from_numpy(task.verify(prompts.cpu().numpy(), written.cpu().numpy())).float().to(written.device)
    return Rollouts(prompts, written, up_to_end(task.token("EOS"), written), earned[:, None])


@torch.no_grad()
def kl_by_position(steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0) -> list[float]:
    """KL(steered || base) in nats at each generated position, on answers of the steered model; positions after the end
    count as 0."""
    made = rollouts(steered, task, prompts, seed)
    gap = kl_divergence(made.log_probs(steered), made.log_probs(steered.model))
    return round_floats(gap.masked_fill(~made.counted, 0).mean(dim=0))


# Logit lens and persistence ------------------------------------------------------------------------------------------


@torch.no_grad()
def residual_changes(
    steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0
) -> dict[int, Float[Tensor, "token width"]]:
    """Change of the residual stream caused by the additions, after each block from the first steered one on, at every
    position from SEP to the end of the steered model's answers."""
    made = rollouts(steered, task, prompts, seed)
    tokens = torch.cat([made.prompts, made.written[:, :-1]], dim=1)
    first = min(map(int, steered.additions))
    names = {layer: f"blocks.{layer}.resid_post" for layer in range(first, len(steered.model.blocks))}
    with watch(steered.model, *names.values()) as seen:
        steered.model(tokens)
        before = dict(seen)
        with edit(steered.model, steered.edits()), watch(steered.model, *names.values()) as after:
            steered.model(tokens)
            after = dict(after)
    # Position t predicts token t + 1, so the scored positions start at SEP.
    start = task.prompt - 1
    return {
        layer: (after[name] - before[name])[:, start : start + made.counted.shape[1]][made.counted]
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
        **{name: TokenReading(cosine=cosines[at].item(), rank=int(order[at])) for name, at in marks.items()},
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
    made = residual_changes(steered, task, prompts, seed)
    return {
        layer: Persistence(to_mean=cosine_to(change), to_vector=cosine_to(change, trained[layer]))
        for layer, change in list(made.items())[1:]
        if layer in trained
    }


# Path patching -------------------------------------------------------------------------------------------------------


def skipped_readers(layer: int, last: int) -> dict[str, dict[str, tuple[str, ...]]]:
    """Readers from which a change after block `layer` is hidden, by test name: readers of the next block, and the
    unembedding."""
    block = f"blocks.{layer + 1}"
    attention, mlp, unembedding = f"{block}.ln1", f"{block}.ln2", "ln_final"
    found = {f"skip {name}": {"clean": (f"{block}.attn.{name[0]}",)} for name in ("query", "key", "value")}
    found |= {
        "skip attention": {"blind": (attention,)},
        "skip MLP": {"blind": (mlp,)},
        "skip block": {"blind": (attention, mlp)},
        "skip unembedding": {"blind": (unembedding,)},
    }
    if layer + 1 == last:  # otherwise later blocks read the change too
        found |= {
            "only attention": {"blind": (mlp, unembedding)},
            "only MLP": {"blind": (attention, unembedding)},
        }
    return found


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
        (held,) = self.additions.values()
        last = f"blocks.{len(self.model.blocks) - 1}.resid_post"
        with edit(self.model, self.edits()), edit(self.model, {last: lambda h: h - held.get_parameter("vector")}):
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
    found = []
    for _ in range(draws):
        vector = torch.randn(model.config.width, generator=generator)
        found.append(correct(steer(model, {layer: norm * vector / vector.norm()}), task, prompts, seed=seed))
    return found


@torch.no_grad()
def difference_of_means(
    model: Transformer, task: Reasoning, prompts: Prompts, layer: int, norm: float
) -> Float[Tensor, " width"]:
    """Difference-of-means steering vector: mean residual stream after the block at THINK minus the mean at DIRECT,
    rescaled to the given norm. It encodes the current token, not the next one."""
    point = f"blocks.{layer}.resid_post"
    means = []
    for opener in ("THINK", "DIRECT"):
        begun = torch.cat([prompts, torch.full((len(prompts), 1), task.token(opener), device=prompts.device)], dim=1)
        with watch(model, point) as seen:
            model(begun)
        means.append(seen[point][:, -1].mean(dim=0))
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
    read, write_ = (model.unembedding.get_parameter("weight") for model in (from_model, to_model))
    scale = read.norm(dim=1).mean() * write_.norm(dim=1).mean()
    return (write_.T @ (read @ vector)) / scale


# Token by token ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def token_scales(steered: Steered, task: Reasoning, prompts: Prompts, seed: int = 0) -> TokenScales:
    """Mean size of the addition with a token-wise scale, by position type."""
    layer, held = only_addition(steered)
    assert isinstance(held, Scaled)
    made = rollouts(steered, task, prompts, seed)
    tokens = torch.cat([made.prompts, made.written[:, :-1]], dim=1)
    point = f"blocks.{layer}.resid_post"
    with watch(steered.model, point) as seen:
        steered.model(tokens)
    size = held.scale(seen[point]) * held.vector.norm()
    sep = task.prompt - 1
    size = size * size[:, sep].mean().sign()
    told = torch.cat([torch.ones_like(made.prompts, dtype=torch.bool), made.counted[:, :-1]], dim=1)
    kinds = {"BOS": slice(0, 1), "digits": slice(1, sep), "SEP": slice(sep, sep + 1)}
    kinds |= {"opener": slice(sep + 1, sep + 2), "chain": slice(sep + 2, None)}
    signed = {f"{name.lower()}_signed": _over(size[:, at], told[:, at]) for name, at in list(kinds.items())[2:]}
    return TokenScales(
        **{name: _over(size[:, at].abs(), told[:, at]) for name, at in kinds.items()},
        **signed,
        by_position=round_floats(_columns(size, told), 3),
    )


# Sparse autoencoders -------------------------------------------------------------------------------------------------


@torch.no_grad()
def _last_stream(model: nn.Module, of: Transformer, made: Rollouts) -> Float[Tensor, "row step width"]:
    tokens = torch.cat([made.prompts, made.written[:, :-1]], dim=1)
    point = f"blocks.{len(of.blocks) - 1}.resid_post"
    with watch(of, point) as seen:
        model(tokens)
    return seen[point][:, made.prompts.shape[1] - 1 :]


def fit_features(
    steered: Steered,
    task: Reasoning,
    prompts: Prompts,
    seed: int = 0,
    dictionary: int = 96,
    k: int = 4,
    steps: int = 600,
) -> FeaturesResult:
    """Sparse autoencoders on the last layer's residual stream of the steered model, and on its difference to the base,
    over answers of the steered model: their reconstruction, and the feature that best separates correct from incorrect
    answers, compared with chance and with two trivial indicators (the answer opens with THINK; the chain has all
    steps). The feature is selected on every second answer and evaluated on the others."""
    half = len(prompts) // 2
    made = [rollouts(steered, task, prompts[:half], seed), rollouts(steered, task, prompts[half:], seed + 1)]
    found = {}
    for kind in ("plain", "difference"):
        fit, judged = ([_last_stream(steered, steered.model, m), m.counted] for m in made)
        if kind == "difference":
            for held, m in zip((fit, judged), made, strict=True):
                held[0] = held[0] - _last_stream(steered.model, steered.model, m)
        model = fit_autoencoder(fit[0][fit[1]], dictionary, k, steps, seed=seed)
        with torch.no_grad():
            fires = (model.encode(judged[0].flatten(0, 1)) > 0).view(*judged[0].shape[:2], -1)
            fires = (fires & judged[1][..., None]).any(dim=1)
        good = made[1].rewards[:, 0] > 0
        thinks = made[1].written[:, 0] == task.token("THINK")
        whole = thinks & (made[1].written[:, task.length + 1] == task.token("ANS"))
        chosen = compare_features(fires[::2], good[::2]).feature
        test = compare_features(fires[1::2, chosen, None], good[1::2], thinks[1::2], seed=seed)
        found[kind] = FeatureResult(
            **asdict(test) | {"feature": chosen},
            explained_variance=explained_variance(model, judged[0][judged[1]]),
            dead=dead_share(model, judged[0][judged[1]]),
            trivial_difference=_gap(thinks[1::2], good[1::2]),
            format_difference=_gap(whole[1::2], good[1::2]),
            auc=0.5 + abs(test.difference) / 2,  # for a binary score
        )
    return FeaturesResult(**found)


def _gap(held: Bool[Tensor, " case"], good: Bool[Tensor, " case"]) -> float:
    return (held[good].float().mean() - held[~good].float().mean()).abs().item()


def _over(values: Float[Tensor, "row place"], told: Bool[Tensor, "row place"]) -> float:
    return round(values[told].mean().item(), 3) if told.any() else 0.0


def _columns(values: Float[Tensor, "row place"], told: Bool[Tensor, "row place"]) -> list[float]:
    return (values.masked_fill(~told, 0).sum(dim=0) / told.sum(dim=0).clamp(min=1)).tolist()


def vector_of(steered: Steered) -> Float[Tensor, " width"]:
    """The vector of a model with one constant addition."""
    _, held = only_addition(steered)
    assert isinstance(held, Vector)
    return held.vector.detach()
