"""Generated data for toy transformers: every task is a frozen dataclass with a sampler, an oracle and links."""

from tasks.base import IGNORE, NOWHERE, SHARES, SPLITS, Batch, Split, Task, decode, encode, render, split_of, stream
from tasks.counting import ContextualCounting
from tasks.iteration import ITERATED_MAPS, Copy, IteratedMap, ModularSum, Parity, Polynomial, WordProblem

TASKS = (*ITERATED_MAPS, ContextualCounting)
"""Every task of the house: one line here, and `toylab list`, `toylab show` and the tests over all tasks know it."""

__all__ = [
    "IGNORE",
    "ITERATED_MAPS",
    "NOWHERE",
    "SHARES",
    "SPLITS",
    "TASKS",
    "Batch",
    "ContextualCounting",
    "Copy",
    "IteratedMap",
    "ModularSum",
    "Parity",
    "Polynomial",
    "Split",
    "Task",
    "WordProblem",
    "decode",
    "encode",
    "render",
    "split_of",
    "stream",
]
