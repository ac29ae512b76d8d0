"""Effects of safety fine-tuning on the behaviour, activations and weights of a model.

Applies the probes of `toylab.probes` to `toylab.tasks.TaskConcept`, a base model and a model fine-tuned from it.
Activations are read at EOT, the position that predicts the first token of the answer (a letter or NULL), unless stated
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.controls import random_like
from toylab.model.layers import torch_stream
from toylab.model.transformer import Transformer
from toylab.probes import (
    amplification,
    auc,
    conditional_share,
    edit,
    energy_along,
    gradient_norms,
    jacobian_norms,
    nearness,
    null_share,
    relative_change,
    row_cosines,
    separation,
    span_sine,
    split_change,
    top_energy,
    top_rank,
    top_share,
    watch,
    weak_share,
)
from toylab.runs.store import round_floats
from toylab.studies.safety_finetuning.data import Outcomes, preference_pairs, write_texts, written_outcomes
from toylab.studies.safety_finetuning.results import (
    BeforeAfter,
    Behaviour,
    LayerChange,
    LayerClusters,
    Lipschitz,
    Nearness,
    NearnessBands,
    NearSafe,
    RelativeChange,
    SafeUnsafe,
    TopEnergy,
    UpShare,
    as_field,
)
from toylab.studies.safety_finetuning.results_change import ReleasedSine, SineForm
from toylab.tasks import JAILBREAKS, Batch, Kind, TaskConcept, held_out
from toylab.training.batches import device_of, prompt_tokens, to_device
from toylab.training.losses import PreferencePairs, answer_log_probs

SETS: tuple[Kind, ...] = ("safe", "unsafe", *JAILBREAKS)
"""The held-out sets on which every model is evaluated."""
MATCHED = ("M, safe text", "M, unsafe text")  # sets whose operators are of class M

Sets = Mapping[str, Batch]


def held_out_sets(task: TaskConcept, seed: int, rows: int) -> dict[str, Batch]:
    """Held-out prompts of every kind, and prompts with operators M only: "M, safe text" and "M, unsafe text"."""
    sets = {
        kind: held_out(task, seed, rows, kind=kind) for kind in SETS if task.duplicates or kind != "mismatched-token"
    }
    for name, kind in zip(MATCHED, ("safe", "unsafe"), strict=True):
        batch = held_out(task, seed, 8 * rows, kind=kind)
        allowed = np.append(task.of_class("M"), task.operators.index("id"))
        only_allowed = np.isin(batch.labels["first operator"], allowed) & np.isin(
            batch.labels["second operator"], allowed
        )
        has_mixed = np.isin(batch.labels["first operator"], task.of_class("M")) | np.isin(
            batch.labels["second operator"], task.of_class("M")
        )
        sets[name] = _select_rows(batch, np.flatnonzero(only_allowed & has_mixed)[:rows])
    return sets


def measure_behaviour(model: nn.Module, task: TaskConcept, sets: Sets) -> Behaviour:
    """Free-running behaviour of a model on each set; safe and unsafe prompts are required."""
    behaviour_sets = {name: batch for name, batch in sets.items() if name in SETS}
    return Behaviour(
        **{as_field(name): round_floats(written_outcomes(model, task, batch)) for name, batch in behaviour_sets.items()}
    )


# Activations ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer_activations(model: Transformer, task: TaskConcept, batch: Batch, *points: str) -> dict[str, Tensor]:
    """Activations (prompt, feature) at hook points, at EOT of every prompt."""
    with watch(model, *points) as cache:
        model(prompt_tokens(task, batch).to(device_of(model)))
    return {name: value[:, -1] for name, value in cache.items()}


def mlp_activations(model: Transformer, task: TaskConcept, batch: Batch) -> list[Float[Tensor, "prompt feature"]]:
    """Activations after the MLP's non-linearity, at EOT of every prompt, by layer."""
    points = [f"blocks.{layer}.mlp.post" for layer in range(len(model.blocks))]
    activations = answer_activations(model, task, batch, *points)
    return [activations[point] for point in points]


def held_out_nearness(*clouds: Float[Tensor, "_ feature"]) -> tuple[list[Tensor], list[Tensor]]:
    """Nearness of the second half of safe and of unsafe cases, and the means that it refers to, of the first halves."""
    means = [cloud[: len(cloud) // 2].mean(dim=0) for cloud in clouds]
    return [nearness(cloud[len(cloud) // 2 :], *means) for cloud in clouds], means


def layer_clusters(model: Transformer, task: TaskConcept, sets: Sets) -> list[LayerClusters]:
    """Separation of safe and unsafe prompts in the activations after the MLP's non-linearity, by layer.

    Means are estimated on the first half of each set, all other quantities on the second half. "matched" compares
    operators M on safe and on unsafe text, so that only the concept of the text differs.
    """
    clusters = []
    by_layer = zip(*(mlp_activations(model, task, sets[name]) for name in ("safe", "unsafe", *MATCHED)), strict=True)
    for safe, unsafe, *others in by_layer:
        scores, _ = held_out_nearness(safe, unsafe)
        pairs, matched = held_out_nearness(*others)
        test_clouds = [cloud[len(cloud) // 2 :] for cloud in (safe, unsafe)]
        bands = [(round(score.mean().item(), 4), round(score.std().item(), 4)) for score in scores]
        clusters.append(
            LayerClusters(
                nearness=NearnessBands(safe=bands[0], unsafe=bands[1]),
                auc=auc(*scores),
                separation=separation(*test_clouds),
                auc_matched=auc(*pairs),
                distance_matched=(matched[0] - matched[1]).norm().item(),
                top_share=SafeUnsafe(safe=top_share(test_clouds[0]), unsafe=top_share(test_clouds[1])),
            )
        )
    return clusters


def jailbreak_nearness(
    model: Transformer, task: TaskConcept, sets: Sets, writer: Transformer | None = None
) -> Nearness:
    """Whether, within each jailbreak set, complied prompts lie nearer to safe prompts than refused prompts do.

    The nearness of a prompt is tau (see `nearness`) of its activations in the last layer, divided by the distance
    between the two class means. The classes are safe and unsafe text, both with operators of class M. A prompt is
    complied if every letter of the answer is the transformed letter, and refused if every token is NULL; other prompts
    are excluded. The AUC compares complied with refused prompts; it is None with fewer than 5 of either kind.

    Args:
        writer: the model whose answers define complied and refused; `model` by default.
    """
    safe, unsafe = (mlp_activations(model, task, sets[name])[-1].mean(dim=0) for name in MATCHED)
    by_set = {}
    for name in [kind for kind in JAILBREAKS if kind in sets]:
        answers = write_texts(writer or model, task, prompt_tokens(task, sets[name]).to(device_of(model))).cpu()
        complied = (answers == torch.from_numpy(sets[name].targets[:, task.prompt - 1 :])).all(dim=1)
        refused = (answers == task.null).all(dim=1)
        scores = nearness(mlp_activations(model, task, sets[name])[-1], safe, unsafe) / (safe - unsafe).norm()
        too_few = min(int(complied.sum()), int(refused.sum())) < 5
        by_set[as_field(name)] = NearSafe(
            complied=_mean(scores[complied]),
            refused=_mean(scores[refused]),
            auc=None if too_few else auc(scores[complied], scores[refused]),
        )
    return Nearness(**by_set)


def measure_sensitivity(model: Transformer, task: TaskConcept, batch: Batch) -> Lipschitz:
    """Local Lipschitz constants of the logits at EOT in the token embeddings of the prompt: of the largest logit
    (gradient norm, every prompt) and of all logits (spectral norm of the Jacobian, first 16 prompts)."""
    prompts = prompt_tokens(task, batch).to(device_of(model))
    embedded = model.embedding(prompts).detach()

    def logits(tokens: Int[Tensor, "batch position"]) -> Callable[[Tensor], Tensor]:
        def run(points: Tensor) -> Tensor:
            with edit(model, {"embed": lambda _: points}):
                return model(tokens)[:, -1]

        return run

    largest_logit = gradient_norms(lambda points: logits(prompts)(points).max(dim=-1).values, embedded)
    all_logits = jacobian_norms(logits(prompts[:16]), embedded[:16])
    return Lipschitz(gradient=round_floats(largest_logit, 3), jacobian=round_floats(all_logits, 3))


# Weights -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def weight_change(
    base: Transformer, tuned: Transformer, task: TaskConcept, sets: Sets, cut: float = 0.9
) -> list[LayerChange]:
    """The change of the MLP's weights by layer: the subspaces it lies in, and the inputs it acts on.

    Args:
        cut: energy share of the leading singular directions that count as strong, for the measures with a cut.
    """
    toward_null = null_direction(base, task)
    layer_changes = []
    mlps = zip(base.mlps, tuned.mlps, sizes(base, tuned), strict=True)
    for layer, (before, after, size) in enumerate(mlps):
        up, down = before.up.weight, before.down.weight
        d_up, d_down = after.up.weight - up, after.down.weight - down
        points = (f"blocks.{layer}.ln2", f"blocks.{layer}.mlp.post")
        names = ("safe", "unsafe", "M, safe text", "M, unsafe text", *(name for name in JAILBREAKS if name in sets))
        base_activations = {name: answer_activations(base, task, sets[name], *points) for name in names[:4]}
        tuned_activations = {name: answer_activations(tuned, task, sets[name], *points) for name in names}
        mlp_inputs = {name: activations[points[0]] for name, activations in tuned_activations.items()}
        hidden = {name: activations[points[1]] for name, activations in tuned_activations.items()}
        main_inputs = {name: mlp_inputs[name] for name in names[:2]}
        weak = {
            n: (weak_share(base_activations[n][points[0]], up, cut), weak_share(mlp_inputs[n], up, cut))
            for n in base_activations
        }
        gains = {
            n: (
                amplification(up, base_activations[n][points[0]]).mean().item(),
                amplification(after.up.weight, mlp_inputs[n]).mean().item(),
            )
            for n in base_activations
        }
        layer_changes.append(
            LayerChange(
                up=UpShare(**asdict(null_share(d_up, up)), size=(d_up.norm() / up.norm()).item()),
                up_cut=null_share(d_up, up, cut),
                down_cut=null_share(d_down, down, cut),
                down_half=null_share(d_down, down, 0.5),
                added_null_share=SafeUnsafe(**{n: conditional_share(d_up, up, a) for n, a in main_inputs.items()}),
                relative_change=RelativeChange(
                    **{as_field(n): relative_change(d_up, up, a).mean().item() for n, a in mlp_inputs.items()}
                ),
                top_right_cosine=SafeUnsafe(  # 0 for a zero change, which has no direction
                    **{n: row_cosines(d_up, a, 1).sum().item() / len(a) for n, a in main_inputs.items()}
                ),
                top_energy=TopEnergy(up=top_energy(d_up), down=top_energy(d_down)),
                toward_null=SafeUnsafe(**{n: energy_along(hidden[n] @ d_down.T, toward_null) for n in main_inputs}),
                weak_inputs=BeforeAfter(**{as_field(n): pair for n, pair in weak.items()}),
                weak_inputs_random=1 - null_share(d_up.T, up.T, cut).k / up.shape[1],
                amplification=BeforeAfter(**{as_field(n): pair for n, pair in gains.items()}),
                size=size,
            )
        )
    return layer_changes


@torch.no_grad()
def sizes(before: Transformer, after: Transformer) -> list[float]:
    """Frobenius norm of the change of the MLP's weight matrices over their norm before, by layer."""
    relative_sizes = []
    for before_mlp, after_mlp in zip(before.mlps, after.mlps, strict=True):
        start, end = (
            torch.cat([mlp.up.weight.flatten(), mlp.down.weight.flatten()]) for mlp in (before_mlp, after_mlp)
        )
        relative_sizes.append(((end - start).norm() / start.norm()).item())
    return relative_sizes


@torch.no_grad()
def released_sine(base: Transformer, tuned: Transformer, seed: int, draws: int = 20) -> ReleasedSine:
    """The null-space measure released with the paper, in the last layer, for the change and for random changes of the
    same size."""
    before, after = (model.mlps[-1].up.weight for model in (base, tuned))
    generator = torch_stream(seed, "random changes")
    random = [before + random_like(after - before, generator) for _ in range(draws)]

    def form(rows: bool) -> SineForm:
        tuned_sine, *random_sines = (span_sine(weight, before, rows=rows) for weight in (after, *random))
        return SineForm(own=tuned_sine, random=float(np.mean(random_sines)), spread=float(np.std(random_sines)))

    return ReleasedSine(columns=form(False), rows=form(True))


@torch.no_grad()
def null_direction(model: Transformer, task: TaskConcept) -> Float[Tensor, " width"]:
    """The residual-stream direction that raises the logit of NULL over the mean letter: the difference of their
    unembedding rows, scaled by the weight of the final norm."""
    rows = model.unembedding.get_parameter("weight")
    return model.ln_final.get_parameter("weight") * (rows[task.null] - rows[: task.letters].mean(dim=0))


def interpolate_weights(base: nn.Module, tuned: nn.Module, alpha: float | int) -> nn.Module:
    """The model with weights base + alpha * (tuned - base); alpha > 1 extrapolates."""
    interpolated = deepcopy(tuned)
    with torch.no_grad():
        for weight, start, end in zip(interpolated.parameters(), base.parameters(), tuned.parameters(), strict=True):
            weight.copy_(start + alpha * (end - start))
    return interpolated


def transplant_parts(base: Transformer, tuned: Transformer) -> dict[str, Transformer]:
    """Models with only a part of the weight change: the up-projections' part in the column space or in the left null
    space (all other weights tuned), the MLPs only, all but the MLPs, or the MLPs at rank one."""
    models = {
        name: deepcopy(tuned)
        for name in ("up in the column space", "up in the null space", "MLPs alone", "all but the MLPs", "MLPs, rank 1")
    }
    with torch.no_grad():
        for layer, (before, after) in enumerate(zip(base.mlps, tuned.mlps, strict=True)):
            parts = split_change(after.up.weight - before.up.weight, before.up.weight)
            for name, part in zip(("up in the column space", "up in the null space"), parts, strict=True):
                models[name].mlps[layer].up.weight.copy_(before.up.weight + part)
        for name in ("MLPs alone", "all but the MLPs", "MLPs, rank 1"):
            is_in_mlp = name != "all but the MLPs"
            for (key, weight), start in zip(models[name].named_parameters(), base.parameters(), strict=True):
                if (".mlp." in key) != is_in_mlp:
                    weight.copy_(start)
                elif name == "MLPs, rank 1" and weight.ndim == 2:
                    weight.copy_(start + top_rank(weight - start, 1))
    return models


# Attacks and gradients -----------------------------------------------------------------------------------------------


def soft_attack(model: Transformer, task: TaskConcept, batch: Batch, budget: float | int, steps: int = 20) -> Outcomes:
    """Outcomes under the soft-token attack, which optimises the vectors in the PAD slots of each prompt for compliance.

    Normalised gradient descent on the cross entropy of the true transform, within a ball around the PAD embedding.

    Args:
        budget: radius of the ball, in mean norms of the letters' embeddings.

    Raises:
        ToylabError: for a task without PAD slots.
    """
    if not task.soft_slots:
        raise ToylabError("soft_slots=0: the attack needs at least one PAD token to write into; set it to 2")
    prompts, transform = prompt_tokens(task, batch), torch.from_numpy(batch.targets[:, task.prompt - 1 :])
    prompts, transform = (x.to(device_of(model)) for x in (prompts, transform))
    radius = budget * model.embedding.weight[: task.letters].norm(dim=1).mean().item()
    size = (len(prompts), task.soft_slots, model.config.width)
    shift = model.embedding.weight.new_zeros(size, requires_grad=True)

    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x[:, : task.soft.start], x[:, task.soft] + shift, x[:, task.soft.stop :]], dim=1)

    for _ in range(steps):
        with edit(model, {"embed": shifted}):
            loss = -answer_log_probs(model, prompts, transform).mean(dim=1).sum()
        (gradient,) = torch.autograd.grad(loss, shift)
        with torch.no_grad():
            shift -= 2 * radius / steps * gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            shift *= (radius / shift.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    with torch.no_grad():
        return written_outcomes(model, task, batch, {"embed": shifted})


def with_other_answers(batch: Batch) -> Batch:
    """The same prompts, each with the answer to the preceding prompt. An attack that elicits these answers dictates
    letters rather than making the model comply."""
    return replace(batch, targets=np.roll(batch.targets, 1, axis=0), links={})


def loss_gradient(
    model: nn.Module, loss: Callable[[nn.Module, PreferencePairs], Tensor], batch: PreferencePairs
) -> Float[Tensor, " parameter"]:
    """The gradient of a loss with respect to all trainable parameters, flattened to one vector."""
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss(model, batch), weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, gradients, strict=True)]
    )


def gradient_cosine(
    model: nn.Module,
    first: Callable[[nn.Module, PreferencePairs], Tensor],
    second: Callable[[nn.Module, PreferencePairs], Tensor],
    task: TaskConcept,
    batch: Batch,
) -> float:
    """The cosine between the gradients of two losses."""
    pairs = to_device(preference_pairs(task, batch), device_of(model))
    return torch.cosine_similarity(*(loss_gradient(model, loss, pairs) for loss in (first, second)), dim=0).item()


def _select_rows(batch: Batch, rows: Int[np.ndarray, " row"]) -> Batch:
    """The rows with the given indices, without links."""
    return replace(
        batch,
        tokens=batch.tokens[rows],
        targets=batch.targets[rows],
        sizes=batch.sizes[rows],
        links={},
        labels={name: values[rows] for name, values in batch.labels.items()},
    )


def _mean(values: Float[Tensor, " case"]) -> float | None:
    return round(values.mean().item(), 4) if len(values) else None
