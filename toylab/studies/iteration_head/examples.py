"""Held-out sequences that the study shows: those of the attention history, and one with the patterns of all heads."""

from __future__ import annotations

import torch

from toylab.model.transformer import Transformer
from toylab.runs.store import round_floats
from toylab.studies.iteration_head.measures import Example
from toylab.tasks import Batch, IteratedMap, decode
from toylab.training import evaluate
from toylab.training.attention_history import RecordedSequence


def recorded_sequences(task: IteratedMap, seed: int) -> list[RecordedSequence]:
    """Two held-out sequences for the attention history, of at most 6 and 10 inputs."""
    lengths = sorted({min(length, task.max_length) for length in (6, 10)})
    batches = evaluate.by_length(task, seed, lengths, 1)
    return [
        RecordedSequence(
            f"{length} inputs",
            torch.from_numpy(batch.tokens[0]),
            tuple(decode(task, batch.tokens[0].tolist())),
            {name: edges[:, 1:].tolist() for name, edges in batch.links.items()},
        )
        for length, batch in batches.items()
    ]


def example_of(model: Transformer, task: IteratedMap, batches: dict[int, Batch]) -> Example:
    """The attention patterns of all heads on one short held-out sequence."""
    length = min(max(batches), 8)
    batch = batches[length].rows(0, 1)
    return Example(
        tokens=list(decode(task, batch.tokens[0].tolist())),
        links={name: edges[:, 1:].tolist() for name, edges in batch.links.items()},
        patterns=[round_floats(pattern[0], 3) for pattern in evaluate.attention_patterns(model, batch)],
    )
