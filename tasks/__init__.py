"""Synthetic tasks: frozen dataclasses with a sampler, a reference solution and ground-truth attention links."""

from toylab.tasks.addition import Addition
from toylab.tasks.automaton import Automaton
from toylab.tasks.base import (
    IGNORE,
    NO_POSITION,
    SPLIT_SHARES,
    SPLITS,
    Batch,
    Split,
    Task,
    decode,
    encode,
    held_out,
    render,
    split_of,
    stream,
)
from toylab.tasks.check import BrokenLawsError, LawCase, LawFailure, check_cases, check_task, law_cases
from toylab.tasks.concept_prompts import PromptsOfKind, count_texts
from toylab.tasks.counting import ContextualCounting
from toylab.tasks.dyck import Dyck
from toylab.tasks.enumeration import EnumerableTask
from toylab.tasks.grammar import ConceptGrammar
from toylab.tasks.hops import MultiHopRecall
from toylab.tasks.iterated_map import IteratedMap
from toylab.tasks.iteration import ITERATED_MAPS, Copy, ModularSum, Parity, Polynomial, WordProblem
from toylab.tasks.modular import ModularAddition
from toylab.tasks.reasoning import Reasoning, Styles
from toylab.tasks.recall import AssociativeRecall
from toylab.tasks.task_concept import JAILBREAKS, KINDS, Kind, Preferences, TaskConcept

TASKS = (
    *(*ITERATED_MAPS, Automaton, ContextualCounting, TaskConcept, Reasoning, AssociativeRecall, MultiHopRecall),
    *(ModularAddition, Addition, Dyck),
)
"""All built-in tasks, as used by `toylab list`, `toylab show` and the tests over all tasks."""

__all__ = [
    "IGNORE",
    "ITERATED_MAPS",
    "JAILBREAKS",
    "KINDS",
    "NO_POSITION",
    "SPLITS",
    "SPLIT_SHARES",
    "TASKS",
    "Addition",
    "AssociativeRecall",
    "Automaton",
    "Batch",
    "BrokenLawsError",
    "ConceptGrammar",
    "ContextualCounting",
    "Copy",
    "Dyck",
    "EnumerableTask",
    "IteratedMap",
    "Kind",
    "LawCase",
    "LawFailure",
    "ModularAddition",
    "ModularSum",
    "MultiHopRecall",
    "Parity",
    "Polynomial",
    "Preferences",
    "PromptsOfKind",
    "Reasoning",
    "Split",
    "Styles",
    "Task",
    "TaskConcept",
    "WordProblem",
    "check_cases",
    "check_task",
    "count_texts",
    "decode",
    "encode",
    "held_out",
    "law_cases",
    "render",
    "split_of",
    "stream",
]
