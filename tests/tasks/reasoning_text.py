"""Questions with forks as text: tasks and styles drawn, rows read back from names, pi followed by counting on."""

import dataclasses
import functools
import itertools
import re
from typing import NamedTuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import binom

from toylab.tasks import IGNORE, Reasoning, Styles, decode, encode

some = settings(max_examples=12)
few = settings(max_examples=6)
seeds = st.integers(0, 2**20)
shares = st.sampled_from((0, 0.05, 0.3, 0.7, 1))
tasks = st.builds(
    Reasoning, p=st.integers(3, 8), length=st.integers(3, 7), flag=st.booleans(), seed=st.integers(0, 2**20)
)
large_tasks = st.builds(Reasoning, p=st.integers(5, 8), length=st.just(7), flag=st.booleans(), seed=seeds)
"""Tasks of so many prompts that the share of some of them is that of all."""
styles_drawn = st.builds(
    Styles,
    think=shares,
    think_flagged=st.one_of(st.none(), shares),
    dialect=shares,
    dialect_errors=shares,
    slips=shares,
    early=shares,
)
MIXED = Styles(think=0.8, think_flagged=0.4, dialect=0.5, dialect_errors=0.3, slips=0.1, early=0.2)
TRUTHFUL = dataclasses.replace(MIXED, dialect_errors=0, slips=0)
"""Early stops but no wrong step."""
ROW = re.compile(r"BOS (\d+)((?: \d+)+) (SEP'?) (?:DIRECT (\d+)|THINK((?: \d+)+|(?: \d+')+) ANS (\d+)) EOS")
QUESTION = "BOS 3 1 4 1 5 2 6 SEP"


class Row(NamedTuple):
    """What a row says: `states` are those written, none in a direct answer."""

    start: int
    steps: list[int]
    flagged: bool
    states: list[int]
    second: bool
    said: int


def likely(count, rows, share):
    """Binomial: neither so many nor so few are expected in a million tests."""
    assert binom.cdf(count, rows, share) > 1e-7 < binom.sf(count - 1, rows, share), f"{count} of {rows}, not {share}"


def said(call, *arguments, **others):
    """What a ValueError says, or nothing where none is raised."""
    try:
        call(*arguments, **others)
    except ValueError as error:
        return str(error)
    return ""


def named(x):
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", x.__name__).replace("_", " ").lower() if callable(x) else str(x)


def numbers(text):
    return [int(name) for name in text.replace("'", "").split()]


def text_of(task, tokens):
    return " ".join(decode(task, [int(token) for token in tokens]))


def written_of(task, batch):
    """The answers of a batch, EOS included, padded at the end."""
    answers = batch.targets[:, task.prompt - 1 :]
    return np.where(answers == IGNORE, task.token("PAD"), answers)


def answers_of(task, batch):
    """The answers of a batch, EOS included, as lists."""
    return [[target for target in row if target != IGNORE] for row in batch.targets.tolist()]


def read(task, batch):
    """The rows of a batch, read back from the names of their tokens."""
    rows = []
    for tokens, targets, size in zip(batch.tokens, batch.targets, batch.sizes, strict=True):
        text = text_of(task, [*tokens[:size], targets[size - 1]])
        row = ROW.fullmatch(text)
        assert row, text
        start, steps, mark, direct, chain, last = row.groups()
        steps, states = numbers(steps), numbers(chain or "")
        rows.append(Row(int(start), steps, mark == "SEP'", states, "'" in (chain or ""), int(last or direct)))
    return rows


def follow(task, state, step):
    """The state after a step, with pi counted on from the state as round a ring."""
    ring = itertools.islice(itertools.cycle(task.permutation.tolist()), state, None)
    return next(itertools.islice(ring, step, None))


def walk(task, start, steps):
    """All states from x0 on, that one left out."""
    return list(itertools.accumulate(steps, functools.partial(follow, task), initial=start))[1:]


def right(task, row):
    return row.start if row.flagged else walk(task, row.start, row.steps)[-1]


def offsets(task, row):
    """How far each written state is from the one that follows from the state written before."""
    moves = zip([row.start, *row.states], row.steps, row.states, strict=False)
    return [(state - follow(task, before, step)) % task.p for before, step, state in moves]


def asked(task, question=QUESTION):
    return np.array([encode(task, question.split())])


class ChainOffByOne(Reasoning):
    def chain(self, prompts, errors=0):
        moved = prompts.copy()
        moved[:, 2:-1] = np.roll(prompts[:, 2:-1], 1, axis=1)
        return super().chain(moved, errors)


class FlagUnseen(Reasoning):
    def correct_answers(self, prompts):
        return self.chain(prompts)[:, -1]


def labels_say_what_is_written(task, batch):
    rows = read(task, batch)
    told = {
        "thinks": [bool(row.states) for row in rows],
        "dialect": [row.second for row in rows],
        "states": [len(row.states) for row in rows],
        "flagged": [row.flagged for row in rows],
        "right": [row.said == right(task, row) for row in rows],
    }
    assert batch.labels.keys() == told.keys()
    for name, values in told.items():
        assert batch.labels[name].tolist() == values, name
