"""Batches of tasks that hypothesis draws."""

from hypothesis import assume
from hypothesis import strategies as st

from toylab.tasks import ITERATED_MAPS, Batch, IteratedMap
from toylab.tasks import stream as random_stream

SEEDS = st.integers(0, 2**32)


@st.composite
def draws(draw: st.DrawFn, most: int = 40) -> tuple[IteratedMap, int, int]:
    """A task, a seed and a number of rows (drawn apart from the rows: beartype's own dice upset hypothesis)."""
    kind = draw(st.sampled_from(ITERATED_MAPS))
    low = draw(st.integers(1, 5))
    task = kind(lengths=(low, low + draw(st.integers(0, 6))), chain_of_thought=draw(st.booleans()))
    return task, draw(SEEDS), draw(st.integers(1, most))


def sample(drawn: tuple[IteratedMap, int, int]) -> Batch:
    task, seed, rows = drawn
    assume(all(task.capacity(length, "train") for length in range(task.min_length, task.max_length + 1)))
    return task.sample(random_stream(seed, "rows"), rows)
