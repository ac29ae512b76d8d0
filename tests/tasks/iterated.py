"""Iterated maps for their tests: tasks of every kind, rows and states, and F once more."""

import contextlib
import signal

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from toylab.tasks import (
    Copy,
    ModularSum,
    Parity,
    Polynomial,
    WordProblem,
    stream,
)

KINDS = [
    Copy,
    Parity,
    ModularSum,
    Polynomial,
    WordProblem,
    lambda **others: WordProblem(group="A5", **others),
    lambda **others: Polynomial(p=7, coefficients=(2, 3, 4, 5), zero_input=True, **others),
    lambda **others: ModularSum(p=2, **others),
    lambda **others: Copy(p=5, **others),
]
kinds = st.sampled_from(KINDS)
numbers = st.lists(st.integers(0, 2**20), min_size=1, max_size=12)
some = settings(max_examples=40)


def values_of(task, drawn):
    """Inputs of a task from any whole numbers."""
    return [task.inputs[number % len(task.inputs)] for number in drawn]


def one_row(task, inputs):
    return task.batch(np.array([inputs]), np.array([len(inputs)]))


def states_of(task, inputs):
    return one_row(task, inputs).tokens[0, len(inputs) + 2 :].tolist()


def rows_of(task, rows, seed=0, **others):
    return task.sample(stream(seed), rows, **others)


def inputs_of(batch):
    return [row[1 : length + 1] for row, length in zip(batch.tokens.tolist(), batch.labels["length"], strict=True)]


@contextlib.contextmanager
def at_most(seconds):
    """Raise where the block does not end in time: the way to test that something does not loop for ever."""

    def late(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def composed(task, s, x):
    """First s, then x, read off the names of the permutations."""
    first, then = task.vocabulary[s], task.vocabulary[x]
    return task.vocabulary.index("".join(then[int(point)] for point in first))


def f(task, s, x):
    """F once more, one pair at a time."""
    match task:
        case Copy():
            return x
        case Parity():
            return s ^ x
        case ModularSum():
            return divmod(s + x, task.p)[1]
        case Polynomial():
            a, b, c, d = task.coefficients
            return divmod(a * s * x + b * s + c * x + d, task.p)[1]
        case WordProblem():
            return composed(task, s, x)
