"""Every task of the house keeps the laws of `tasks.laws`.

A new task is tested by its line in `tasks.TASKS`. That each law can fail is shown in `tests/tasks/test_check.py`.
"""

import dataclasses
import inspect
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks import (
    SPLITS,
    TASKS,
    AssociativeRecall,
    ContextualCounting,
    IteratedMap,
    Parity,
    Polynomial,
    Reasoning,
    Task,
    TaskConcept,
    check,
    decode,
    encode,
    laws,
    render,
    split_of,
    stream,
    task_laws,
)
from toylab.tasks.mutants import Mutant
from toylab.tasks.strategies import batches, instances, prompts, seeds

every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
some = settings(max_examples=12)


def obey(these, *drawn):
    """Try laws on one example; the failure names the law that it breaks."""
    for law in these:
        try:
            law(*drawn)
        except Exception as error:
            error.add_note(f"broken: {check.law_in_words(law)}")
            raise


@every_task
@settings(max_examples=8)
@given(st.data(), seeds)
def test_every_task_obeys_the_laws_of_batches_and_of_seeds(kind, data, seed):
    task = data.draw(instances(kind).filter(laws.nonempty_splits))
    obey(laws.BATCH_LAWS, task, data.draw(batches(task)))
    if is_open(task):
        obey(laws.SEED_LAWS, task, seed)


ELSEWHERE = task_laws.another_process_ends_and_draws_the_same_rows
HERE = [law for law in task_laws.TASK_LAWS if law is not ELSEWHERE]


@every_task
def test_every_task_obeys_the_laws_of_tasks(kind):
    obey(HERE, kind())


@every_task
def test_every_task_draws_the_same_rows_in_another_process(kind):
    obey([ELSEWHERE], kind())


@every_task
@settings(max_examples=2)
@given(st.data())
def test_every_task_obeys_the_laws_of_tasks_with_other_settings(kind, data):
    obey(HERE, data.draw(instances(kind).filter(is_open)))


def test_a_failure_names_the_law_that_is_broken():
    task = Mutant(task=Parity(lengths=(4, 7)), fault="link to the future")
    with pytest.raises(laws.BrokenLawError) as caught:
        obey(laws.BATCH_LAWS, task, task.sample(stream(0), 3))
    assert caught.value.__notes__ == ["broken: links stay inside their row and read no future"]


def is_open(task):
    """Whether its training split holds prompts; if not, sampling says so, which is a law of its own."""
    return "train" in laws.nonempty_splits(task)


@every_task
@some
@given(st.data())
def test_fields_are_the_identity_of_a_task(kind, data):
    task, other = data.draw(instances(kind)), data.draw(instances(kind))
    assert isinstance(task, Task)
    assert (task == other) == (dataclasses.asdict(task) == dataclasses.asdict(other))


TINY = st.one_of(
    st.builds(
        lambda low, more, fewest, extra, p: ContextualCounting(
            length=(low + 2 * extra, low + 2 * extra + more), regions=(fewest, fewest + extra), p=p
        ),
        *(st.integers(4, 7), st.integers(0, 5), st.integers(1, 2), st.integers(0, 1)),
        st.sampled_from((0, 0.01, 0.5, 1)),
    ),
    st.builds(
        lambda fewest, more, keys, values: AssociativeRecall(
            pairs=(fewest, fewest + more), keys=max(keys, fewest + more), values=values
        ),
        *(st.integers(1, 2), st.integers(0, 2), st.integers(2, 4), st.integers(2, 4)),
    ),
    st.builds(
        lambda low, more, p, zero: Polynomial(lengths=(low, low + more), p=p, zero_input=zero),
        *(st.integers(1, 4), st.integers(0, 2), st.sampled_from((2, 3, 5)), st.booleans()),
    ),
    st.builds(lambda length, flag: Reasoning(p=3, length=length, flag=flag), st.integers(2, 3), st.booleans()),
    st.builds(
        lambda nodes, mixed, seed: TaskConcept(letters=6, alternatives=1, nodes=nodes, mixed=mixed, seed=seed),
        *(st.integers(1, 2), st.integers(1, 2), seeds),
    ),
)


@settings(max_examples=40)
@given(TINY, st.sampled_from(SPLITS), seeds)
def test_a_split_is_empty_at_every_seed_or_at_none(task, split, seed):
    found = set()
    for number in range(6):
        try:
            batch = task.sample(stream(seed, number), (1, 40)[number % 2], split)
        except ToylabError as error:
            found.add("empty" if re.search("holds no|too few", str(error)) else str(error))
        else:
            found.add("drawn")
            assert {SPLITS[one] for one in split_of_rows(task, batch)} == {split}
    assert len(found) == 1


def split_of_rows(task, batch):
    """The split of each row, from the part of its prompt that decides it."""
    for prompt in laws.prompts_of(batch):
        key = prompt[:-1] if isinstance(task, AssociativeRecall) else prompt
        if isinstance(task, ContextualCounting):
            key = prompt[task.begin : -1]
        if isinstance(task, IteratedMap):
            key = prompt[1:-1]
        yield split_of(np.array([key])).item()


@every_task
def test_a_split_that_is_none_and_a_negative_number_of_rows_are_refused(kind):
    sample = inspect.unwrap(getattr(kind, "prompts", kind.sample))  # types are checked before it could
    with pytest.raises(ToylabError, match="there is no split 'valid'; did you mean validation"):
        sample(kind(), stream(0), 3, "valid")
    with pytest.raises(ToylabError, match="rows=-1: must be at least 0"):
        sample(kind(), stream(0), -1)


@every_task
@some
@given(st.data())
def test_a_prompt_drawn_is_one_that_the_oracle_answers(kind, data):
    task = kind()
    prompt = data.draw(prompts(task))
    answer = task.solve(prompt)
    assert 0 < len(answer) < task.context


@every_task
def test_the_row_in_the_docstring_is_one_that_the_task_makes(kind):
    shown = {line.split()[0]: line.split()[1:] for line in kind.__doc__.splitlines() if re.search(r"\S {2,}\S", line)}
    task = kind()
    first = shown["target"].index(next(cell for cell in shown["target"] if cell != "."))
    prompt = encode(task, shown["token"][: first + 1])
    assert shown["position"] == [str(i) for i in range(len(shown["token"]))]
    assert shown["token"][: first + 1] == decode(task, prompt)
    if getattr(task, "interleaved", False):
        for position, cell in enumerate(shown["target"]):
            if cell != ".":
                assert decode(task, task.solve(encode(task, shown["token"][: position + 1]))) == [cell]
                assert cell in shown["token"][position + 1 : position + 2] or position == len(shown["token"]) - 1
        return
    assert shown["target"] == ["."] * first + decode(task, task.solve(prompt))
    assert shown["token"][first + 1 :] == shown["target"][first:-1]
    if isinstance(task, IteratedMap):
        inputs = np.array([prompt[1:-1]])
        table = render(task, task.batch(inputs, np.array([inputs.shape[1]])), 0)
        assert [line.split()[1:] for line in table.splitlines()[:3]] == list(shown.values())
