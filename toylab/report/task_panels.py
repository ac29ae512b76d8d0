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
        facts: of the task, by the names that `live.js` reads.
        typed: the input of a row of a batch, as a reader would type it.
    """

    kind: Literal["iteration", "counting", "refusal", "steering", "tokens"]
    facts: Mapping[str, Any]
    typed: Callable[[Batch, int], str]


def task_panel(task: Task, encoder: bool = False) -> TaskPanel:
    """The panel of a task.

    Args:
        encoder: whether the model is an encoder-decoder, whose rows are strings without begin token and answer.
    """

    def names(batch: Batch, row: int) -> list[str]:
        return decode(task, batch.tokens[row, : batch.sizes[row]].tolist())

    def input_of_map(batch: Batch, row: int) -> str:
        return " ".join(names(batch, row)[1 : names(batch, row).index("EoI")])

    if isinstance(task, IteratedMap):
        return TaskPanel("iteration", _map_facts(task), input_of_map)
    if isinstance(task, ContextualCounting) and encoder:

        def string(batch: Batch, row: int) -> str:
            strings, sizes = task.strings(batch)
            return "".join(decode(task, strings[row, : sizes[row]].tolist()))

        facts = {"longest": 2 * task.max_length, "regions": task.most}
        return TaskPanel("counting", facts, string)
    if isinstance(task, TaskConcept):
        facts = {
            "operators": task.operators,
            "alphabet": task.vocabulary[: task.letters],
            "letters": task.answer,
            "pads": task.soft_slots,
            "images": task.bijections.tolist(),
        }
        return TaskPanel("refusal", facts, lambda *at: " ".join(names(*at)[1:3] + names(*at)[task.text]))
    if isinstance(task, Reasoning):
        facts = {
            "digits": task.vocabulary[: task.p],
            "length": task.length,
            "permutation": task.permutation.tolist(),
        }
        return TaskPanel("steering", facts, lambda *at: " ".join(names(*at)[1 : task.prompt - 1]))
    return TaskPanel("tokens", {"longest": task.context}, lambda *at: " ".join(names(*at)))


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
