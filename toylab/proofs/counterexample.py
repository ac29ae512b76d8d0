"""A counterexample as text: the row with its links, what was decided, and the attention where the decision is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from toylab.model.encoder_decoder import EncoderDecoder
from toylab.probes import points, watch
from toylab.proofs.properties import UNDECIDED, Property
from toylab.proofs.routes import answers_due
from toylab.tasks import IGNORE, Batch, EnumerableTask, render
from toylab.training.batches import tokens_for


@torch.inference_mode()
def describe_failure(model: nn.Module, task: EnumerableTask, property: Property, length: int, number: int) -> str:
    """The row with this number, its decisions and, at the first one that is not as demanded, the head with the most
    attention on each link."""
    batch = task.enumerate(length, np.array([number]))
    outcome = property(model, batch)
    lines = [f"smallest counterexample: row {number} of length {length}, margin {outcome.margins[0]:.3g}"]
    lines += [f"  {line}" for line in render(task, batch, 0, columns=100).splitlines()]
    decided, due = outcome.decisions[0], answers_due(model, batch)[0]
    names = _names_of_answers(model, task) if decided.shape == due.shape else [str(n) for n in range(decided.max() + 1)]
    lines.append("  decided  " + " ".join(names[one] for one in decided if one != UNDECIDED))
    if decided.shape == due.shape:
        lines.append("  correct  " + " ".join(names[one] for one in due if one != IGNORE))
    if isinstance(model, EncoderDecoder):
        return "\n".join(lines)
    answers = np.flatnonzero(batch.targets[0] != IGNORE)
    position = int((outcome.fulfilled[0]).argmin())  # of the first decision that is not as demanded
    if len(decided) != batch.tokens.shape[1]:
        position = int(answers[position % len(answers)])
    return "\n".join(lines + _attention_lines(model, batch, position))


def _names_of_answers(model: nn.Module, task: EnumerableTask) -> tuple[str, ...]:
    if isinstance(model, EncoderDecoder):
        return tuple(map(str, range(model.classes)))
    return tuple(task.vocabulary)


def _attention_lines(model: nn.Module, batch: Batch, position: int) -> list[str]:
    """For each link of a position, the head that attends most to its keys; and where that head attends most."""
    patterns: dict[str, Any] = {}
    names = [name for name in points(model) if name.endswith(".attn.pattern")]
    if names:
        with watch(model, *names) as patterns:
            model(tokens_for(model, batch.tokens))
    lines = []
    for link, edges in batch.links.items():
        keys = edges[edges[:, 1] == position][:, 2]
        attention = {
            (name, head): weights
            for name, pattern in patterns.items()
            for head, weights in enumerate(pattern[0, :, position])
        }
        if not len(keys) or not attention:
            continue
        (name, head), weights = max(attention.items(), key=lambda item: float(item[1][keys].sum()))
        layer = name.split(".")[1] if name.startswith("blocks.") else name
        lines.append(
            f"  position {position}, link {link!r}: head {layer}.{head} has the most attention on "
            f"{', '.join(map(str, keys))}, {weights[keys].sum():.3f}; its largest is {weights.max():.3f}, on "
            f"{int(weights.argmax())}"
        )
    return lines
