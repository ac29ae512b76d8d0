"""Accuracy on held-out inputs by length, attention patterns, and iteration-head metrics during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.generate import generate
from toylab.model.modes import evaluation_mode
from toylab.probes import Edit, IterationHead, edit, find_iteration_head, link_mass, watch
from toylab.settings import check_range
from toylab.tasks import IGNORE, Batch, IteratedMap, Split, held_out
from toylab.training.batches import likeliest, refuse_unscored, tokens_for

Edits = Callable[[Batch], Mapping[str, Edit]]
"""From a batch of one length to the edits of its evaluation."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracies from 0 to 1.

    Attributes:
        sequence: sequences with all scored tokens correct (states and EoS).
        token: scored tokens.
        state: states, without EoS.
    """

    sequence: float
    token: float
    state: float


def by_length(
    task: IteratedMap, seed: int, lengths: Iterable[int], rows: int = 64, split: Split = "test"
) -> dict[int, Batch]:
    """Distinct held-out prompts per length: `rows`, or all if there are fewer; empty lengths are omitted."""
    check_range(rows=rows, least=1)
    sizes = {length: task.available(rows, length, split) for length in lengths}
    return {
        length: held_out(task, seed, size, split, purpose=length, length=length, distinct=True)
        for length, size in sizes.items()
        if size
    }


def predict_tokens(
    model: nn.Module, batch: Batch, edits: Mapping[str, Edit] | None = None
) -> Int[Tensor, "batch position"]:
    """Argmax prediction at each position under teacher forcing, optionally with edits.

    Like all functions of this module, it runs the model in evaluation mode and restores its mode.

    Raises:
        ToylabError: for NaN logits.
    """
    with torch.no_grad(), evaluation_mode(model), edit(model, edits or {}):
        return likeliest(model(tokens_for(model, batch.tokens)))


def accuracy_of(predicted: Int[Tensor, "batch position"], batch: Batch) -> Accuracy:
    """Accuracy of predictions on a batch. Raises `ToylabError` if no position is scored."""
    targets = torch.from_numpy(batch.targets)
    refuse_unscored(targets)
    scored = targets != IGNORE
    states = scored & (torch.arange(targets.shape[1]) < torch.from_numpy(batch.sizes)[:, None] - 1)
    correct = predicted.cpu() == targets
    return Accuracy(
        sequence=(correct | ~scored).all(dim=1).double().mean().item(),
        token=correct[scored].double().mean().item(),
        state=correct[states].double().mean().item(),
    )


def accuracy(model: nn.Module, batches: Mapping[int, Batch], edits: Edits | None = None) -> Accuracy:
    """Mean accuracy over lengths under teacher forcing.

    Sequence accuracy equals that of autoregressive greedy decoding: both are correct if and only if every token is
    correct given the correct prefix.

    Raises:
        ToylabError: without a batch, if no position is scored, or for NaN logits.
    """
    if not batches:
        raise ToylabError("batches: none were given, so there is no accuracy; give one per length")
    scores = [
        accuracy_of(predict_tokens(model, batch, edits(batch) if edits else None), batch) for batch in batches.values()
    ]
    return _mean(scores)


def free_running_accuracy(model: nn.Module, task: IteratedMap, batches: Mapping[int, Batch]) -> dict[int, float]:
    """Sequence accuracy by length of autoregressive greedy decoding, against the task's reference solution."""
    shares = {}
    for length, batch in batches.items():
        prompts = tokens_for(model, batch.tokens[:, : length + 2])
        solutions = torch.tensor([task.solve(prompt) for prompt in prompts.tolist()])
        with evaluation_mode(model):
            generated = generate(model, prompts, solutions.shape[1])[:, length + 2 :].cpu()
        shares[length] = (generated == solutions).all(dim=1).double().mean().item()
    return shares


def attention_patterns(model: nn.Module, batch: Batch) -> list[Float[Tensor, "batch head query key"]]:
    """Attention pattern of each layer."""
    with watch(model, "blocks.*.attn.pattern") as cache:
        predict_tokens(model, batch)
    return list(cache.values())


def search_iteration_head(model: nn.Module, batches: Mapping[int, Batch]) -> IterationHead:
    """Apply `probes.find_iteration_head` to a model; the batches must have at least two lengths."""
    return find_iteration_head(
        {length: attention_patterns(model, batch) for length, batch in batches.items()},
        {length: batch.links for length, batch in batches.items()},
    )


def evaluation_metrics(model: nn.Module, batches: Mapping[int, Batch]) -> dict[str, float]:
    """Metrics logged during training: accuracy and, with several lengths, the scores of the best heads."""
    scores, patterns = [], {}
    for length, batch in batches.items():
        with watch(model, "blocks.*.attn.pattern") as cache:
            scores.append(accuracy_of(predict_tokens(model, batch), batch))
        patterns[length] = list(cache.values())
    mean = _mean(scores)
    metrics = {"accuracy": mean.sequence, "token_accuracy": mean.token}
    links = {length: batch.links for length, batch in batches.items()}
    if len(batches) > 1 and all("carry" in batch_links for batch_links in links.values()):
        earlier = [
            torch.stack([link_mass(layer, links[length]["end of input"]).max() for layer in layers[:-1]])
            for length, layers in patterns.items()
            if len(layers) > 1
        ]
        metrics["carry"] = find_iteration_head(patterns, links).carry
        metrics["end_of_input"] = torch.stack(earlier).mean(dim=0).max().item() if earlier else 0.0
    return metrics


def _mean(scores: list[Accuracy]) -> Accuracy:
    return Accuracy(*(sum(getattr(s, name) for s in scores) / len(scores) for name in ("sequence", "token", "state")))
