"""Cases for the detectors of iteration and induction heads: disguised handwritten circuits, and controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from toylab.calibration import Detector, DetectorInput, PlantedPositive, SampledControl
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.disguise import add_heads, add_layer, add_noise, rotate_basis
from toylab.planted.handwritten import induction_head, iteration_head
from toylab.probes import find_iteration_head, link_mass
from toylab.probes.attention import Pattern
from toylab.tasks import ITERATED_MAPS, AssociativeRecall, Batch, IteratedMap, ModularSum, Parity, Task
from toylab.training import evaluate
from toylab.training.batches import next_token_loss, pad, training_batches
from toylab.training.loop import TrainConfig, train

Place = tuple[int, int]
KeyOfQuery = Int[np.ndarray, "batch query"]


@dataclass(frozen=True)
class AttentionInput:
    """Attention patterns on several batches, and the planted head.

    Attributes:
        patterns: for each batch, the pattern (batch, head, query, key) of each layer; iteration heads need several
            lengths.
        batches: the batches, with the links of the task.
        place: the planted (layer, head); None in a control.
    """

    patterns: tuple[list[Tensor], ...]
    batches: tuple[Batch, ...]
    place: Place | None = None


def iteration_score(shown: AttentionInput) -> float:
    """Scale the three thresholds of `find_iteration_head` by a common factor, in steps of .1 from .1 to 1.1; return the
    largest factor at which the planted head is found.

    In a control, which has no planted head, any head counts. 0 if there is no such factor.
    """
    patterns, links = dict(enumerate(shown.patterns)), {n: batch.links for n, batch in enumerate(shown.batches)}
    full = {"carry_threshold": 0.9, "stop_threshold": 0.5, "end_of_input_threshold": 0.25}
    for tenths in range(11, 0, -1):
        factor = tenths / 10
        thresholds = {name: threshold * factor for name, threshold in full.items()}
        candidate = find_iteration_head(patterns, links, **thresholds)
        if candidate.found and shown.place in (None, (candidate.layer, candidate.head)):
            return factor
    return 0.0


def induction_score(shown: AttentionInput) -> float:
    """Largest link mass of a head after the first layer; 0 if that head is not the planted one."""
    mass = {
        (layer, head): value
        for layer, pattern in enumerate(shown.patterns[0])
        for head, value in enumerate(link_mass(pattern, shown.batches[0].links["induction"]).tolist())
        if layer
    }
    if not mass:
        return 0.0  # no layer after the first
    best = max(mass, key=mass.__getitem__)
    return mass[best] if shown.place in (None, best) else 0.0


def _attended(
    model: Transformer, batches: Sequence[Batch], place: Place | None = None, task_accuracy: float | None = None
) -> DetectorInput:
    """The attention patterns of a model on batches."""
    patterns = tuple(evaluate.attention_patterns(model, batch) for batch in batches)
    return DetectorInput(AttentionInput(patterns, tuple(batches), place), task_accuracy)


# Planted positives ---------------------------------------------------------------------------------------------------


def _sample_iterated_map(rng: np.random.Generator) -> tuple[IteratedMap, tuple[Batch, ...]]:
    """A task of random size, and batches of inputs of three lengths."""
    task_class = ITERATED_MAPS[rng.integers(len(ITERATED_MAPS))]
    longest = int(rng.integers(5, 10))
    task = task_class(lengths=(2, longest))
    lengths = (longest - 2, longest - 1, longest)
    return task, tuple(task.batch(rng.choice(task.inputs, size=(12, n)), np.full(12, n)) for n in lengths)


def _sample_recall(rng: np.random.Generator) -> tuple[AssociativeRecall, tuple[Batch, ...]]:
    """A task of random size, and a batch."""
    task = AssociativeRecall(
        pairs=int(rng.integers(3, 7)), keys=int(rng.integers(8, 20)), values=int(rng.integers(6, 20))
    )
    return task, (task.sample(rng, 24),)


_ITERATION: tuple[Callable, Callable] = (_sample_iterated_map, iteration_head)
_INDUCTION: tuple[Callable, Callable] = (_sample_recall, induction_head)
"""The sampler of tasks and batches, and the handwritten circuit of a task."""


def _planted(
    draw: Callable, write: Callable, heads: bool = False, layers: bool = False, basis: bool = False
) -> PlantedPositive:
    def plant(rng: np.random.Generator, noise: float) -> DetectorInput:
        task, batches = draw(rng)
        model, planted_head = write(task), (1, 0)
        if heads:
            head_count = int(rng.integers(2, 5))
            planted_head = (1, int(rng.integers(head_count)))
            model = add_heads(model, head_count, planted_head[1], rng)
        if layers:
            before = int(rng.integers(3))
            planted_head = (1 + (before <= 1), planted_head[1])
            model = add_layer(model, before, rng)
        if basis:
            model = rotate_basis(model, rng)
        model = add_noise(model, noise, rng)
        task_accuracy = evaluate.accuracy(model, dict(enumerate(batches))).token
        return _attended(model, batches, planted_head, task_accuracy)

    return plant


def _planted_positives(draw: Callable, write: Callable) -> dict[str, PlantedPositive]:
    return {
        "as written": _planted(draw, write),
        "other heads beside it": _planted(draw, write, heads=True),
        "an idle layer": _planted(draw, write, layers=True),
        "rotated basis": _planted(draw, write, basis=True),
        "heads, layer and basis": _planted(draw, write, heads=True, layers=True, basis=True),
    }


# Controls ------------------------------------------------------------------------------------------------------------


def _random_weights(draw: Callable) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        task, batches = draw(rng)
        config = ModelConfig(layers=int(rng.integers(2, 4)), heads=int(rng.choice([1, 2, 4])), positions="learned")
        model = Transformer.for_task(task, config, int(rng.integers(2**31)))
        with torch.no_grad():
            for block in model.blocks:  # from nearly uniform to nearly one-hot attention
                block.attn.query.weight.mul_(float(rng.uniform(1, 20)))
        return _attended(model, batches)

    return control


def _shuffled_links(draw: Callable, write: Callable) -> SampledControl:
    def control(rng: np.random.Generator) -> DetectorInput:
        task, batches = draw(rng)
        shuffled = [replace(batch, links=_with_random_keys(batch.links, rng)) for batch in batches]
        return _attended(write(task), shuffled)

    return control


def _with_random_keys(links: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The links with a random key at or before each query."""
    shuffled = {}
    for name, edges in links.items():
        keys = (rng.random(len(edges)) * (edges[:, 1] + 1)).astype(int)
        shuffled[name] = np.stack([edges[:, 0], edges[:, 1], keys], axis=1)
    return shuffled


def _replaced_attention(
    draw: Callable, write: Callable, rule: Callable[[Batch, np.random.Generator], KeyOfQuery]
) -> SampledControl:
    """The true circuit with the attention of its second layer replaced: up to a fifth uniform, the rest by `rule`."""

    def control(rng: np.random.Generator) -> DetectorInput:
        task, batches = draw(rng)
        model, uniform_share = write(task), float(rng.uniform(0, 0.2))
        state = rng.bit_generator.state
        patterns = []
        for batch in batches:
            rng.bit_generator.state = state  # a random rule samples the same values for every batch
            first, second = evaluate.attention_patterns(model, batch)
            patterns.append([first, _one_hot(rule(batch, rng), second, uniform_share)])
        return DetectorInput(AttentionInput(tuple(patterns), batches))

    return control


def _one_hot(keys: KeyOfQuery, like: Pattern, uniform_share: float) -> Pattern:
    positions = torch.arange(like.shape[2])
    keys = np.clip(keys, 0, np.arange(like.shape[2]))
    uniform = (positions[:, None] >= positions).to(like) / (positions[:, None] + 1)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(keys), like.shape[3]).to(like)
    return ((1 - uniform_share) * one_hot + uniform_share * uniform)[:, None]


def _positions(batch: Batch) -> KeyOfQuery:
    return np.broadcast_to(np.arange(batch.tokens.shape[1]), batch.tokens.shape)


def _end_of_input(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    edges = batch.links["end of input"]
    end_positions = np.zeros(len(batch.tokens), dtype=int)
    end_positions[edges[:, 0]] = edges[:, 2]
    return np.broadcast_to(end_positions[:, None], batch.tokens.shape)


def _carry_keys(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    """The diagonal without a stop: the last query attends to the first input instead of the end of the input."""
    keys = np.zeros(batch.tokens.shape, dtype=int)
    row, query, key = batch.links["carry"].T
    keys[row, query] = key
    return keys


def _carry_one_late(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    keys = _carry_keys(batch, rng) - 1
    row, query, key = batch.links["stop"].T
    keys[row, query] = key
    return keys


def _fixed_offset(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    return _positions(batch) - int(rng.integers(4, 9))


def _last_same_token(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    """The last earlier position of the same token."""
    tokens = batch.tokens
    positions = np.arange(tokens.shape[1])
    is_same = (tokens[:, :, None] == tokens[:, None, :]) & (positions[:, None] > positions)
    return np.where(is_same, positions, -1).max(axis=2)


def _one_value(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    """A random value from the values before the first query."""
    pairs = batch.labels["pairs"][:, None]
    return 2 * (rng.random(batch.tokens.shape) * pairs).astype(int) + 1


def _no_end_found(rng: np.random.Generator) -> DetectorInput:
    """The second layer of the circuit after a first layer with uniform attention."""
    task, batches = _sample_iterated_map(rng)
    patterns = []
    for batch in batches:
        first, second = evaluate.attention_patterns(iteration_head(task), batch)
        patterns.append([_one_hot(_positions(batch), first, 1.0), second])
    return DetectorInput(AttentionInput(tuple(patterns), batches))


def _in_the_first_layer(rng: np.random.Generator) -> DetectorInput:
    """The patterns of the circuit with the two layers swapped."""
    task, batches = _sample_iterated_map(rng)
    shown = _attended(iteration_head(task), batches).shown
    return DetectorInput(replace(shown, patterns=tuple(patterns[::-1] for patterns in shown.patterns)))


@lru_cache(maxsize=4)
def _trained(task: Task, whole_task: Task, config: ModelConfig, seed: int) -> Transformer:
    """A model of the size that `whole_task` needs, trained on `task`."""
    model = Transformer.for_task(whole_task, config, seed)
    train(model, next_token_loss, training_batches(task, seed, 64, layout=pad), TrainConfig(steps=400, rows=64))
    return model


def _one_length(rng: np.random.Generator) -> DetectorInput:
    """A model trained on inputs of length 6 only: it need not iterate, and fails at other lengths."""
    seed = int(rng.integers(2))
    task = ModularSum(p=2, lengths=6) if seed else Parity(lengths=6)
    longer = replace(task, lengths=(2, 9))
    model = _trained(task, longer, ModelConfig(positions="learned"), seed)
    batches = [longer.batch(rng.choice(task.inputs, size=(12, n)), np.full(12, n)) for n in (5, 6, 8)]
    task_accuracy = evaluate.accuracy(model, {0: batches[0], 2: batches[2]}).sequence
    return _attended(model, batches, None, task_accuracy)


def _one_layer(rng: np.random.Generator) -> DetectorInput:
    """A one-layer model, which has no earlier layer for a previous-token head. Its pattern is presented as a second
    layer, because the detector ignores the first."""
    task = AssociativeRecall()
    model = _trained(task, task, ModelConfig(positions="learned", layers=1, heads=4), int(rng.integers(2)))
    batch = task.sample(rng, 24)
    (pattern,) = evaluate.attention_patterns(model, batch)
    task_accuracy = evaluate.accuracy(model, {0: batch}).token
    return DetectorInput(AttentionInput(([pattern, pattern],), (batch,)), task_accuracy)


def _previous(batch: Batch, rng: np.random.Generator) -> KeyOfQuery:
    return _positions(batch) - 1


_ALL = (
    Detector(
        name="iteration-head",
        question="does a head attend to x_t when s_t is due, and to the end of the input after the last state?",
        score="largest common factor of the three thresholds at which the head is found",
        score_of=iteration_score,
        threshold=1.0,
        planted_positives=_planted_positives(*_ITERATION),
        controls={
            "random weights": _random_weights(_sample_iterated_map),
            "shuffled links": _shuffled_links(*_ITERATION),
            "a fixed distance back": _replaced_attention(*_ITERATION, _fixed_offset),
            "the previous token": _replaced_attention(*_ITERATION, _previous),
            "the end of the input": _replaced_attention(*_ITERATION, _end_of_input),
            "x_t, and x_1 instead of the end": _replaced_attention(*_ITERATION, _carry_keys),
            "x_(t-1) instead of x_t": _replaced_attention(*_ITERATION, _carry_one_late),
            "no head before it finds the end": _no_end_found,
            "layers exchanged": _in_the_first_layer,
            "trained at one length": _one_length,
        },
    ),
    Detector(
        name="induction-head",
        question="does a head attend to the token after an earlier occurrence of the current token?",
        score="attention on that token, of the best head after the first layer",
        score_of=induction_score,
        threshold=0.5,
        planted_positives=_planted_positives(*_INDUCTION),
        controls={
            "random weights": _random_weights(_sample_recall),
            "shuffled links": _shuffled_links(*_INDUCTION),
            "the previous token": _replaced_attention(*_INDUCTION, _previous),
            "the earlier place of its token": _replaced_attention(*_INDUCTION, _last_same_token),
            "any of the values": _replaced_attention(*_INDUCTION, _one_value),
            "a fixed distance back": _replaced_attention(*_INDUCTION, _fixed_offset),
            "trained with one layer": _one_layer,
        },
    ),
)

DETECTORS = {detector.name: detector for detector in _ALL}
