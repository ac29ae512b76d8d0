"""Survey of a model on any task: accuracy, the head that attends to each link, and its causal effect.

task = AssociativeRecall()
model = train_on_task(task, seed=0)
print(survey(model, task.sample(stream(0, "survey"), 256, "test")))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from toylab.console import ToylabError, align_columns
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.probes import Edit, link_mass, points, uniform_mass, zero_heads
from toylab.settings import check_range, check_settings, later_field
from toylab.tasks import Batch, ContextualCounting, Dyck, IteratedMap, ModularAddition, MultiHopRecall, Task, held_out
from toylab.training.batches import (
    ScoredBatch,
    length_curriculum,
    next_token_loss,
    pack,
    pad,
    training_batches,
)
from toylab.training.evaluate import accuracy_of, attention_patterns, predict_tokens
from toylab.training.loop import TrainConfig, Training, train
from toylab.training.optimizer import OptimizerFactory

DEFAULT_MODEL = ModelConfig(positions="learned")
"""A small model; with learned positions every seed tried formed an induction head, with other encodings some did."""
UNTIL_SOLVED = TrainConfig(steps=5000, stop_at=0.995, cooldown=200)
"""Train until the task is solved on held-out rows."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained on a task: architecture, hyperparameters, batches and loss."""

    model: ModelConfig = DEFAULT_MODEL
    train: TrainConfig = UNTIL_SOLVED
    batches: Literal["padded", "packed"] = "padded"
    """One sequence per row, or several without padding."""
    end_weight: float | int = 1.0
    """Weight of the end-of-sequence token of an iterated map in the loss, relative to 1 for a state."""
    growth: int = 0
    """Optimiser steps in which the rows of an iterated map grow from at most 4 inputs to the longest, and the hops of
    multi-hop recall from 1; 0 trains on the whole task from the start."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(end_weight=self.end_weight, above=0)
        check_range("0 trains on the whole task from the start", growth=self.growth, least=0)


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


def strongest_head(model: nn.Module, batch: Batch, link: str) -> tuple[int, int]:
    """Layer and number of the head with the most attention on a link."""
    masses = [link_mass(pattern, batch.links[link]) for pattern in attention_patterns(model, batch)]
    layer = max(range(len(masses)), key=lambda at: float(masses[at].max()))
    return layer, int(masses[layer].argmax())


@dataclass(frozen=True)
class HeadReading:
    """A head with its attention on every link.

    Attributes:
        layer, head: position of the head, counted from 0.
        mass: from link to the mean attention on its keys, in the order of `Survey.readings`.
        without: accuracy with this head zero-ablated.
    """

    layer: int
    head: int
    mass: Mapping[str, float]
    without: float

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True)
class Survey:
    """Accuracy of a model and the heads that attend to each link; `str` gives a table.

    Attributes:
        accuracy: token accuracy under teacher forcing.
        rows: fraction of rows with all scored tokens correct.
        readings: one per link of the task.
        heads: one per head of the model.
    """

    accuracy: float
    rows: float
    readings: tuple[LinkReading, ...]
    heads: tuple[HeadReading, ...] = later_field(())

    def __str__(self) -> str:
        lines = [f"accuracy: {self.accuracy:.3f} of the scored tokens, {self.rows:.3f} of the rows"]
        width = max((len(reading.link) for reading in self.readings), default=0)
        if self.readings:
            lines.append(f"{'link':<{width}}  head  attention  uniform  accuracy without it  without another")
        for reading in self.readings:
            other = "-" if reading.other_ablated_accuracy is None else f"{reading.other_ablated_accuracy:.3f}"
            numbers = f"{reading.mass:>10.3f} {reading.uniform_mass:>8.3f} {reading.without:>20.3f} {other:>16}"
            lines.append(f"{reading.link:<{width}}  {reading.layer}.{reading.head:<2} {numbers}")
        return "\n".join(lines)

    def head_table(self) -> str:
        """One line per head: its attention on every link, and the accuracy with it zero-ablated."""
        links = [reading.link for reading in self.readings]
        uniform = ["uniform", *(f"{reading.uniform_mass:.3f}" for reading in self.readings), f"{self.accuracy:.3f}"]
        rows = [[str(h), *(f"{h.mass[link]:.3f}" for link in links), f"{h.without:.3f}"] for h in self.heads]
        return align_columns([["head", *links, "accuracy without it"], *rows, uniform])


_ITERATED = Recipe(
    model=ModelConfig(
        heads=4, width=48, hidden=128, activation="silu", position_width=10, position_frequency=1.6, position_base=20.0,
        position_std=1.8,
    ),
    train=TrainConfig(steps=5000, weight_decay=0.1, stop_at=0.95, cooldown=900),
    batches="packed",
    end_weight=4.0,
    growth=600,
)  # fmt: skip

_GROKKING = Recipe(
    model=ModelConfig(
        layers=1, heads=4, width=64, activation="relu", norm="none", positions="learned", embedding_std=0.125,
        position_std=0.125,
    ),
    train=TrainConfig(
        steps=5000, rows=256, learning_rate=0.01, weight_decay=0.5, warmup=10, evaluate_every=50, stop_at=0.99,
        cooldown=100,
    ),
)  # fmt: skip
"""One layer without LayerNorm, so that embeddings reach the MLP as they are; with this weight decay, memorisation comes
well before generalisation."""

RECIPE_OF_CLASS: Mapping[type, Recipe] = {
    IteratedMap: _ITERATED,
    ContextualCounting: Recipe(train=TrainConfig(steps=7000, stop_at=0.9, cooldown=1000)),
    Dyck: Recipe(train=TrainConfig(steps=1500)),  # its accuracy has a ceiling below 1
    ModularAddition: _GROKKING,
    MultiHopRecall: Recipe(
        model=ModelConfig(layers=3, heads=4, width=64, positions="learned"),
        train=replace(UNTIL_SOLVED, steps=4000, rows=64),
        growth=600,
    ),
}
"""Recipes by class of task, for tasks that the default recipe does not solve."""


def recipe_of(task_class: type) -> Recipe:
    """The recipe of the nearest class in `RECIPE_OF_CLASS`, or else the default recipe."""
    return next((RECIPE_OF_CLASS[base] for base in task_class.__mro__ if base in RECIPE_OF_CLASS), Recipe())


def train_on_task(
    task: Task, *, seed: int = 0, recipe: Recipe | None = None, progress: str | None = None
) -> Transformer:
    """Train a model on fresh samples of a task, with early stopping on held-out rows; `train_with_history` also returns
    the metrics."""
    return train_with_history(task, seed=seed, recipe=recipe, progress=progress)[0]


def train_with_history(
    task: Task,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    optimizer: OptimizerFactory | None = None,
    checkpoint: Path | str | None = None,
    progress: str | None = None,
) -> tuple[Transformer, Training]:
    """`train_on_task`, also returning the training history; its last entry has the final accuracy.

    Args:
        recipe: by default `recipe_of(task)`.
        optimizer, checkpoint, progress: as in `toylab.training.loop.train`.

    Raises:
        ToylabError: as `check_recipe`.
    """
    recipe = recipe or recipe_of(type(task))
    check_recipe(task, recipe)
    validation = held_out(task, seed, 128, "validation")
    model = Transformer.for_task(task, recipe.model, seed)

    def metrics(model: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy_of(predict_tokens(model, validation), validation).token}

    return model, train(
        model,
        _loss(task, recipe),
        _batches(task, seed, recipe),
        recipe.train,
        evaluate=metrics,
        optimizer=optimizer,
        checkpoint=checkpoint,
        progress=progress,
    )


def check_recipe(task: Task, recipe: Recipe) -> None:
    """Raises `ToylabError` for a recipe with `end_weight` or `growth` for a task that these do not apply to."""
    neutral = Recipe()
    for name, classes in {"end_weight": (IteratedMap,), "growth": (IteratedMap, MultiHopRecall)}.items():
        if getattr(recipe, name) != getattr(neutral, name) and not isinstance(task, classes):
            known = " and ".join(one.__name__ for one in classes)
            raise ToylabError(
                f"{name}={getattr(recipe, name)}: is for {known}; must be {getattr(neutral, name)} for "
                f"{type(task).__name__}"
            )


def _loss(task: Task, recipe: Recipe) -> Callable[[nn.Module, ScoredBatch], torch.Tensor]:
    if recipe.end_weight == 1:
        return next_token_loss
    weights = torch.ones(len(task.vocabulary))
    weights[cast(IteratedMap, task).end_of_sequence] = recipe.end_weight
    return partial(next_token_loss, weights=weights)


def _batches(task: Any, seed: int, recipe: Recipe) -> Callable[[int], ScoredBatch]:
    def sample(rng: np.random.Generator, rows: int, step: int) -> Batch:
        if isinstance(task, MultiHopRecall):
            return replace(task, hops=length_curriculum(1, task.hops, recipe.growth)(step)).sample(rng, rows)
        first = max(task.min_length, min(4, task.max_length))
        longest = length_curriculum(first, task.max_length, recipe.growth)(step)
        return replace(task, lengths=(task.min_length, longest)).sample(rng, rows)

    layout = pack if recipe.batches == "packed" else pad
    return training_batches(task, seed, recipe.train.rows, layout, sample if recipe.growth else None)


def survey(model: nn.Module, batch: Batch) -> Survey:
    """Find the head with the most attention on each link, and the accuracy with this head zero-ablated.

    Args:
        model: a model with hook points `blocks.N.attn.pattern` and `blocks.N.attn.z`, and logits at every position.
        batch: held-out rows; links without edges are skipped.

    Raises:
        ToylabError: for a model without these hook points.
    """
    if not any(".attn." in name for name in points(model)):
        raise ToylabError(
            f"{type(model).__name__}: has no hook points of attention heads; pass the pattern of each head through an "
            "nn.Identity called blocks.N.attn.pattern, and the output of each head through blocks.N.attn.z"
        )
    unedited = accuracy_of(predict_tokens(model, batch), batch)
    links = {name: edges for name, edges in batch.links.items() if len(edges)}
    heads = []
    for layer, pattern in enumerate(attention_patterns(model, batch)):
        masses = {name: link_mass(pattern, edges) for name, edges in links.items()}
        for head in range(pattern.shape[1]):
            ablated = predict_tokens(model, batch, {f"blocks.{layer}.attn.z": zero_heads(head)})
            mass = {name: float(by_head[head]) for name, by_head in masses.items()}
            heads.append(HeadReading(layer, head, mass, accuracy_of(ablated, batch).token))
    readings = []
    for name, edges in links.items():
        best = max(heads, key=lambda reading: reading.mass[name])
        least = min((reading.without for reading in heads if reading is not best), default=None)
        place = best.layer, best.head
        readings.append(LinkReading(name, *place, best.mass[name], uniform_mass(edges), best.without, least))
    return Survey(unedited.token, unedited.sequence, tuple(readings), tuple(heads))


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
