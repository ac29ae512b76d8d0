"""What a model does on any task: how often it is right, which head reads each link, and what it is worth.

task = AssociativeRecall()
model = trained(task, seed=0)
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
"""A small model; learned positions found the induction head on every seed tried, the other encodings on some."""
STOP_AT = 0.995
"""The share of the scored tokens that a model predicts correctly, from which on it counts as having solved the task."""
UNTIL_SOLVED = TrainConfig(steps=5000, stop_at=STOP_AT, cooldown=200)
"""Train until the task is solved on held-out rows."""


@dataclass(frozen=True)
class LinkReading:
    """The head that reads a link best.

    Attributes:
        link: its name.
        layer, head: counted from 0.
        mass: mean attention on the linked keys.
        uniform_mass: what a head has that attends evenly to everything before it.
        without: accuracy with this head zeroed.
        other_ablated_accuracy: accuracy with another head zeroed, the one that is missed most; None if there is no
        other.
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
    """How often a model is right on some rows, and who reads what. As text, it says if the task is not solved.

    Attributes:
        accuracy: share of the scored tokens that are right, given the true ones before them.
        rows: share of the rows that are right throughout.
        readings: one a link of the task.
    """

    accuracy: float
    rows: float
    readings: tuple[LinkReading, ...]

    def __str__(self) -> str:
        solved = "" if self.accuracy >= STOP_AT else ": not solved"
        lines = [f"accuracy: {self.accuracy:.3f} of the scored tokens, {self.rows:.3f} of the rows{solved}"]
        width = max((len(one.link) for one in self.readings), default=0)
        if self.readings:
            lines.append(f"{'link':<{width}}  head  attention  uniform  accuracy without it  without another")
        for one in self.readings:
            other = "-" if one.other_ablated_accuracy is None else f"{one.other_ablated_accuracy:.3f}"
            numbers = f"{one.mass:>10.3f} {one.uniform_mass:>8.3f} {one.without:>20.3f} {other:>16}"
            lines.append(f"{one.link:<{width}}  {one.layer}.{one.head:<2} {numbers}")
        return "\n".join(lines)


def train_on_task(
    task: Task,
    *,
    seed: int = 0,
    config: ModelConfig = DEFAULT_MODEL,
    training: TrainConfig = UNTIL_SOLVED,
    progress: str | None = None,
) -> Transformer:
    """A model trained on rows of a task that are never drawn twice, until it is right on held-out ones or all steps of
    the training are done; `train_with_history` also tells which."""
    return train_with_history(task, seed=seed, config=config, training=training, progress=progress)[0]


def train_with_history(
    task: Task,
    *,
    seed: int = 0,
    config: ModelConfig = DEFAULT_MODEL,
    training: TrainConfig = UNTIL_SOLVED,
    progress: str | None = None,
) -> tuple[Transformer, Training]:
    """`train_on_task`, with what was measured on the way: the accuracy that was reached stands last in its history."""
    held = held_out(task, seed, 128, "validation")
    model = Transformer.for_task(task, config, seed)
    data = training_batches(task, seed, training.rows, layout=pad)

    def right(model: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy_of(predict_tokens(model, held), held).token}

    return model, train(model, next_token_loss, data, training, evaluate=right, progress=progress)


def survey(model: nn.Module, batch: Batch) -> Survey:
    """Find the head that reads each link of a batch best, and measure what the model can do without it.

    Args:
        model: with points `blocks.N.attn.pattern` and `blocks.N.attn.z`, and logits for every position.
        batch: rows that the model has not seen; links that have no edge in it are left out.
    """
    whole = accuracy_of(predict_tokens(model, batch), batch)
    with evaluation_mode(model), watch(model, "blocks.*.attn.pattern") as seen, torch.no_grad():
        model(tokens_for(model, batch.tokens))
    patterns = list(seen.values())
    places = [(layer, head) for layer, pattern in enumerate(patterns) for head in range(pattern.shape[1])]
    off = {(layer, head): {f"blocks.{layer}.attn.z": zero_heads(head)} for layer, head in places}
    without = {place: accuracy_of(predict_tokens(model, batch, edits), batch).token for place, edits in off.items()}
    readings = []
    for name, edges in batch.links.items():
        if not len(edges):
            continue
        mass = {(layer, head): float(link_mass(patterns[layer], edges)[head]) for layer, head in places}
        layer, head = best = max(places, key=mass.__getitem__)
        others = [without[place] for place in places if place != best]
        readings.append(
            LinkReading(name, layer, head, mass[best], uniform_mass(edges), without[best], min(others, default=None))
        )
    return Survey(whole.token, whole.sequence, tuple(readings))


def copy_accuracy(
    model: nn.Module,
    batch: Batch,
    links: Int[np.ndarray, "link 3"],
    offset: int = 0,
    edits: Mapping[str, Edit] | None = None,
) -> float:
    """How often the likeliest token at a link's query is the token that stands at its key, or so many places behind it.

    Raises:
        ValueError: if there is no link, or a place lies outside the rows.
    """
    row, query, key = links.T
    place = key + offset
    if not len(links) or place.min() < 0 or place.max() >= batch.tokens.shape[1]:
        raise ToylabError(
            f"links: offset={offset} must lead from at least one of them to a place in the row; leave others out"
        )
    said = predict_tokens(model, batch, edits).cpu().numpy()
    return float((said[row, query] == batch.tokens[row, place]).mean())
