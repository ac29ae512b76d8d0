"""Hypothesis strategies for tests of tasks: instances with random settings, batches, prompts.

    from hypothesis import given
    from toylab.tasks.strategies import batches, instances, prompts

    @given(batches(MyTask()))
    def test_the_first_token_names_the_task(batch): ...

Only this module requires hypothesis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks.addition import Addition
from toylab.tasks.automaton import Automaton
from toylab.tasks.base import Batch, Split, Task, span_ends, stream
from toylab.tasks.counting import ContextualCounting
from toylab.tasks.dyck import Dyck
from toylab.tasks.hops import MultiHopRecall
from toylab.tasks.iterated_map import IteratedMap
from toylab.tasks.laws import nonempty_splits, prompts_of
from toylab.tasks.modular import ModularAddition
from toylab.tasks.reasoning import Reasoning
from toylab.tasks.recall import AssociativeRecall
from toylab.tasks.task_concept import TaskConcept

seeds = st.integers(0, 2**31)
"""Random seeds."""


@st.composite
def batches(draw: Callable, task: Task, split: Split | None = None, most: int = 20) -> Batch:
    """A batch of 1 to `most` rows of one split, by default any nonempty one; shrinks to one row of seed 0."""
    sampled_split = split or draw(st.sampled_from(nonempty_splits(task)))
    rows, seed = draw(st.integers(1, most)), draw(seeds)
    return task.sample(stream(seed), rows, sampled_split)


@st.composite
def prompts(draw: Callable, task: Task, split: Split | None = None) -> list[int]:
    """One prompt, up to and including the first scored position, as `task.solve` takes it."""
    return list(prompts_of(draw(batches(task, split, most=1)))[0])


def instances(task_class: type) -> st.SearchStrategy[Any]:
    """Instances of a task class with random settings, small enough for tests.

    For user-defined classes, boolean and `Literal` fields are sampled and all others keep their defaults; combinations
    that raise `ToylabError` are filtered out.
    """
    for base_class, strategy in _STRATEGIES.items():
        if issubclass(task_class, base_class):
            return st.builds(task_class, **strategy) if isinstance(strategy, dict) else strategy(task_class)
    hints = get_type_hints(task_class)
    choices: dict[str, st.SearchStrategy] = {}
    for field in dataclasses.fields(task_class):
        hint = hints[field.name]
        if hint is bool:
            choices[field.name] = st.booleans()
        elif get_origin(hint) is Literal:
            choices[field.name] = st.sampled_from(get_args(hint))
    return (
        st.fixed_dictionaries({}, optional=choices)
        .map(lambda fields: _task_or_none(task_class, fields))
        .filter(_is_valid)
    )


def _task_or_none(task_class: type, fields: dict[str, Any]) -> Task | None:
    """The task with these fields; None if the class rejects the combination."""
    try:
        return task_class(**fields)
    except ToylabError:
        return None


def _is_valid(task: Task | None) -> bool:
    return task is not None


# Built-in tasks ------------------------------------------------------------------------------------------------------

_OWN_FIELDS = {
    "p": st.sampled_from((3, 5, 11)),
    "group": st.sampled_from(("S3", "A5")),
    "zero_input": st.booleans(),
    "coefficients": st.tuples(*[st.integers(-3, 12)] * 4),
}
"""Values of fields that subclasses of `IteratedMap` add."""


@st.composite
def _iterated(draw: Callable, task_class: type[IteratedMap]) -> IteratedMap:
    """Iterated maps with inputs of up to 12 tokens, with and without chain of thought and spare alphabet symbols.

    All fields are sampled before the task is built: run-time type checks use `random`, which breaks hypothesis's
    replay.
    """
    low = draw(st.integers(1, 6))
    fields: dict[str, Any] = {
        "lengths": draw(st.one_of(st.just(low), st.integers(low, low + 6).map(lambda high: (low, high)))),
        "chain_of_thought": draw(st.booleans()),
        "start": draw(st.sampled_from(("first-input", "zero"))),
        "score_padding": draw(st.booleans()),
    }
    fields |= {f.name: draw(_OWN_FIELDS[f.name]) for f in dataclasses.fields(task_class) if f.name in _OWN_FIELDS}
    spare = draw(st.one_of(st.none(), st.integers(0, 4)))
    task = task_class(**fields)
    return task if spare is None else dataclasses.replace(task, alphabet=task.values + spare)


@st.composite
def _counting(draw: Callable, task_class: type[ContextualCounting]) -> ContextualCounting:
    """Counting tasks with one to five regions and at least eight bits, so that no split is empty."""
    fewest, more = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    shortest, longer = 2 * (fewest + more) + 8 + draw(st.integers(0, 8)), draw(st.integers(0, 8))
    regions = (fewest, fewest + more) if more else draw(st.sampled_from((fewest, (fewest, fewest))))
    return task_class(
        length=draw(st.sampled_from((shortest, (shortest, shortest + longer)))),
        regions=regions,
        p=draw(st.sampled_from((0.2, 0.5, 0.8))),
        begin=draw(st.booleans()),
        answer=draw(st.sampled_from(("counts", "regions", "running"))),
    )


@st.composite
def _concept(draw: Callable, task_class: type[TaskConcept]) -> TaskConcept:
    """Tasks of the safety study with grammars of several sizes and few or many operators."""
    grammars = ((6, 2, 1, False), (6, 2, 2, True), (12, 2, 2, False), (12, 3, 1, True), (8, 3, 2, True))
    letters, levels, alternatives, sharing = draw(st.sampled_from(grammars))
    unsafe = draw(st.integers(1, 3))
    return task_class(
        letters=letters,
        levels=levels,
        alternatives=alternatives,
        sharing=sharing,
        nodes=draw(st.integers(1, 3)),
        safe=draw(st.integers(1, 3)),
        unsafe=unsafe,
        mixed=draw(st.integers(1, 3)),
        duplicates=draw(st.integers(0, unsafe)),
        soft_slots=draw(st.integers(0, 3)),
        seed=draw(seeds),
    )


@st.composite
def _recall(draw: Callable, task_class: type[AssociativeRecall]) -> AssociativeRecall:
    """Associative recall with one to seven pairs, with some or all keys queried."""
    fewest, more = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    return task_class(
        pairs=draw(st.sampled_from((fewest + more, (fewest, fewest + more)))),
        queries=draw(st.one_of(st.none(), st.integers(1, fewest))),
        keys=draw(st.integers(max(fewest + more, 4), 9)),
        values=draw(st.integers(4, 9)),
    )


@st.composite
def _automata(draw: Callable, task_class: type[Automaton]) -> Automaton:
    """Random transition tables of up to five states and four symbols."""
    states, symbols = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    low, more = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    table = draw(st.lists(st.integers(0, states - 1), min_size=states * symbols, max_size=states * symbols))
    accepting = draw(st.sets(st.integers(0, states - 1)))
    chain, padded = draw(st.booleans()), draw(st.booleans())
    return task_class(
        table=tuple(table),
        symbols=symbols,
        accepting=tuple(sorted(accepting)),
        lengths=(low, low + more),
        chain_of_thought=chain,
        score_padding=padded,
    )


@st.composite
def _spans(draw: Callable, fewest: int, most: int) -> int | tuple[int, int]:
    """A number, or a range of numbers."""
    low = draw(st.integers(fewest, most))
    return draw(st.one_of(st.just(low), st.integers(low, most).map(lambda high: (low, high))))


@st.composite
def _hops(draw: Callable, task_class: type[MultiHopRecall]) -> MultiHopRecall:
    """Cycles of two to six nodes, with as many hops as the shortest of them allows."""
    pairs = draw(_spans(2, 6))
    low, high = span_ends(pairs)
    hops, nodes = draw(st.integers(1, low - 1)), draw(st.integers(high, 9))
    return task_class(hops=hops, pairs=pairs, nodes=nodes, chain_of_thought=draw(st.booleans()))


_STRATEGIES: dict[type, Any] = {
    Automaton: _automata,
    IteratedMap: _iterated,
    ContextualCounting: _counting,
    TaskConcept: _concept,
    # enough states and steps that no split is empty
    Reasoning: {"p": st.integers(3, 8), "length": st.integers(3, 7), "flag": st.booleans(), "seed": seeds},
    AssociativeRecall: _recall,
    MultiHopRecall: _hops,
    # tables small enough to be exhausted, with a small to a large share for training
    ModularAddition: {"p": st.integers(4, 30), "train_share": st.sampled_from((0.3, 0.5, 0.8))},
    Addition: {"digits": _spans(1, 5), "base": st.sampled_from((2, 3, 10, 36))},
    Dyck: {"pairs": _spans(1, 8), "kinds": st.integers(1, 4), "depth": st.integers(1, 6)},
}
"""By class of task, the values of its fields, or a strategy of tasks whose fields depend on each other."""
