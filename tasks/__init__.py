"""Generated data for toy transformers: every task is a frozen dataclass with a sampler, an oracle and links."""

from tasks.base import IGNORE, NOWHERE, SHARES, SPLITS, Batch, Split, Task, decode, encode, render, split_of, stream
from tasks.conformance import BrokenLawsError, Failure, check_task
from tasks.counting import ContextualCounting
from tasks.grammar import ConceptGrammar
from tasks.iteration import ITERATED_MAPS, Copy, IteratedMap, ModularSum, Parity, Polynomial, WordProblem
from tasks.reasoning import Reasoning, Styles
from tasks.recall import AssociativeRecall
from tasks.task_concept import JAILBREAKS, KINDS, Kind, Preferences, TaskConcept

TASKS = (*ITERATED_MAPS, ContextualCounting, TaskConcept, Reasoning, AssociativeRecall)
"""Every task of the house: one line here, and `toylab list`, `toylab show` and the tests over all tasks know it."""

__all__ = [
    "IGNORE",
    "ITERATED_MAPS",
    "JAILBREAKS",
    "KINDS",
    "NOWHERE",
    "SHARES",
    "SPLITS",
    "TASKS",
    "AssociativeRecall",
    "Batch",
    "BrokenLawsError",
    "ConceptGrammar",
    "ContextualCounting",
    "Copy",
    "Failure",
    "IteratedMap",
    "Kind",
    "ModularSum",
    "Parity",
    "Polynomial",
    "Preferences",
    "Reasoning",
    "Split",
    "Styles",
    "Task",
    "TaskConcept",
    "WordProblem",
    "check_task",
    "decode",
    "encode",
    "render",
    "split_of",
    "stream",
]
