"""Survey of a model on any task: accuracy, the head that attends to each link, and its causal effect.

task = AssociativeRecall()
model = train_on_task(task, seed=0)
print(survey(model, task.sample(stream(0, "survey"), 256, "test")))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.probes import Edit, link_mass, uniform_mass, watch, zero_heads
from toylab.tasks import Batch, Task, held_out
from toylab.training.batches import next_token_loss, pad, tokens_for, training_batches
from toylab.training.evaluate import accuracy_of, predict_tokens
from toylab.training.loop import TrainConfig, Training, train
from toylab.training.modes import evaluation_mode

DEFAULT_MODEL = ModelConfig(positions="learned")
"""A small model; with learned positions every seed tried formed an induction head, with other encodings some did."""
STOP_AT = 0.995
"""Token accuracy from which a task counts as solved."""
UNTIL_SOLVED = TrainConfig(steps=5000, stop_at=STOP_AT, cooldown=200)
"""Train until the task is solved on held-out rows."""


@dataclass(frozen=True)
class LinkReading:
    """The head with the most attention on a link.

    Attributes:
        link: name of the link.
        layer, head: position of the head, counted from 0.
        mass: mean attention of the head on the keys of the links.
        uniform_mass: mean attention on the same keys for uniform causal attention (chance level).
        without: accuracy with this head zero-ablated.
        other_ablated_accuracy: lowest accuracy with one other head zero-ablated; None if there is no other head.
    """

    link: str
    layer: int
    head: int
    mass: float
    uniform_mass: float
    without: float
    other_ablated_accuracy: float | None


@dataclass(frozen=True)
class Survey:
    """Accuracy of a model and the heads that attend to each link. `str` gives a table and notes an unsolved task.

    Attributes:
        accuracy: token accuracy under teacher forcing.
        rows: fraction of rows with all scored tokens correct.
        readings: one per link of the task.
    """

    accuracy: float
    rows: float
    readings: tuple[LinkReading, ...]

    def __str__(self) -> str:
        solved = "" if self.accuracy >= STOP_AT else ": not solved"
        lines = [f"accuracy: {self.accuracy:.3f} of the scored tokens, {self.rows:.3f} of the rows{solved}"]
        width = max((len(reading.link) for reading in self.readings), default=0)
        if self.readings:
            lines.append(f"{'link':<{width}}  head  attention  uniform  accuracy without it  without another")
        for reading in self.readings:
            other = "-" if reading.other_ablated_accuracy is None else f"{reading.other_ablated_accuracy:.3f}"
            numbers = f"{reading.mass:>10.3f} {reading.uniform_mass:>8.3f} {reading.without:>20.3f} {other:>16}"
            lines.append(f"{reading.link:<{width}}  {reading.layer}.{reading.head:<2} {numbers}")
        return "\n".join(lines)


def train_on_task(
    task: Task,
    *,
    seed: int = 0,
    config: ModelConfig = DEFAULT_MODEL,
    training: TrainConfig = UNTIL_SOLVED,
    progress: str | None = None,
) -> Transformer:
    """Train a model on fresh samples of a task, with early stopping on held-out rows; `train_with_history` also returns
    the metrics."""
    return train_with_history(task, seed=seed, config=config, training=training, progress=progress)[0]


def train_with_history(
    task: Task,
    *,
    seed: int = 0,
    config: ModelConfig = DEFAULT_MODEL,
    training: TrainConfig = UNTIL_SOLVED,
    progress: str | None = None,
) -> tuple[Transformer, Training]:
    """`train_on_task`, also returning the training history; its last entry has the final accuracy."""
    validation = held_out(task, seed, 128, "validation")
    model = Transformer.for_task(task, config, seed)
    data = training_batches(task, seed, training.rows, layout=pad)

    def metrics(model: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy_of(predict_tokens(model, validation), validation).token}

    return model, train(model, next_token_loss, data, training, evaluate=metrics, progress=progress)


def survey(model: nn.Module, batch: Batch) -> Survey:
    """Find the head with the most attention on each link, and the accuracy with this head zero-ablated.

    Args:
        model: a model with hook points `blocks.N.attn.pattern` and `blocks.N.attn.z`, and logits at every position.
        batch: held-out rows; links without edges are skipped.
    """
    unedited = accuracy_of(predict_tokens(model, batch), batch)
    with evaluation_mode(model), watch(model, "blocks.*.attn.pattern") as cache, torch.no_grad():
        model(tokens_for(model, batch.tokens))
    patterns = list(cache.values())
    heads = [(layer, head) for layer, pattern in enumerate(patterns) for head in range(pattern.shape[1])]
    ablations = {(layer, head): {f"blocks.{layer}.attn.z": zero_heads(head)} for layer, head in heads}
    without = {
        head_position: accuracy_of(predict_tokens(model, batch, edits), batch).token
        for head_position, edits in ablations.items()
    }
    readings = []
    for name, edges in batch.links.items():
        if not len(edges):
            continue
        mass = {(layer, head): float(link_mass(patterns[layer], edges)[head]) for layer, head in heads}
        layer, head = best = max(heads, key=mass.__getitem__)
        other_accuracies = [without[head_position] for head_position in heads if head_position != best]
        readings.append(
            LinkReading(
                name, layer, head, mass[best], uniform_mass(edges), without[best], min(other_accuracies, default=None)
            )
        )
    return Survey(unedited.token, unedited.sequence, tuple(readings))


def copy_accuracy(
    model: nn.Module,
    batch: Batch,
    links: Int[np.ndarray, "link 3"],
    offset: int = 0,
    edits: Mapping[str, Edit] | None = None,
) -> float:
    """Fraction of links at whose query the model predicts the token at the key (plus `offset` positions).

    Raises:
        ToylabError: without links, or for a position outside the rows.
    """
    row, query, key = links.T
    target = key + offset
    if not len(links) or target.min() < 0 or target.max() >= batch.tokens.shape[1]:
        raise ToylabError(
            f"links: offset={offset} needs at least one link, and a position inside the row; remove all others"
        )
    predicted = predict_tokens(model, batch, edits).cpu().numpy()
    return float((predicted[row, query] == batch.tokens[row, target]).mean())
