"""What the live panel needs to know of a task: how a reader types an input, the solution, and the measured quantity.

`live.js` has a panel for each kind of task that a study trains on, and one for every other task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from toylab.tasks import IGNORE, Batch, ContextualCounting, IteratedMap, Reasoning, Task, TaskConcept, decode


@dataclass(frozen=True)
class TaskPanel:
    """A task in a live panel.

    Attributes:
        kind: name of the panel in `live.js`.
        link: name of the links that the panel marks; "" for all.
        facts: of the task, by the names that `live.js` reads.
        typed: the token names of a row, as a reader would type its input.
    """

    kind: Literal["iteration", "counting", "refusal", "steering", "tokens"]
    link: str
    facts: Mapping[str, Any]
    typed: Callable[[list[str]], str]


def task_panel(task: Task, encoder: bool = False) -> TaskPanel:
    """The panel of a task.

    Args:
        encoder: whether the model is an encoder-decoder, which reads a string without its answer.
    """
    if isinstance(task, IteratedMap):
        return TaskPanel("iteration", "carry", _map_facts(task), lambda row: " ".join(row[1 : row.index("EoI")]))
    if isinstance(task, ContextualCounting) and encoder:
        facts = {"longest": 2 * task.max_length, "regions": task.most}
        return TaskPanel("counting", "", facts, lambda row: "".join(name for name in row if name in "01[]"))
    if isinstance(task, TaskConcept):
        facts = {
            "operators": task.operators,
            "alphabet": task.vocabulary[: task.letters],
            "letters": task.answer,
            "pads": task.soft_slots,
            "images": task.bijections.tolist(),
        }
        return TaskPanel("refusal", "operand", facts, lambda row: " ".join(row[1:3] + row[task.text]))
    if isinstance(task, Reasoning):
        facts = {
            "digits": task.vocabulary[: task.p],
            "length": task.length,
            "permutation": task.permutation.tolist(),
        }
        return TaskPanel("steering", "carry", facts, lambda row: " ".join(row[1 : task.prompt - 1]))
    return TaskPanel("tokens", "", {"longest": task.context}, " ".join)


def _map_facts(task: IteratedMap) -> dict[str, Any]:
    values = np.arange(task.values)
    return {
        "begin": task.vocabulary[task.task_token],
        "inputs": [task.vocabulary[x] for x in task.inputs],
        "longest": task.max_length,
        "first": task.first_states(values).tolist(),
        "next": [task.step(np.full_like(values, state), values).tolist() for state in values],
    }


def row_facts(task: Task, batch: Batch) -> dict[str, Any]:
    """Scored positions with their targets, and links, by the text of each row: the solutions that the panel of any
    other task knows."""
    rows = {}
    for row, size in enumerate(batch.sizes.tolist()):
        names = decode(task, batch.tokens[row, :size].tolist())
        targets = [[n, task.vocabulary[t]] for n, t in enumerate(batch.targets[row, :size].tolist()) if t != IGNORE]
        pairs = [edges[edges[:, 0] == row, 1:].tolist() for edges in batch.links.values()]
        rows[" ".join(names)] = {"targets": targets, "links": [pair for edges in pairs for pair in edges]}
    return {"rows": rows}
