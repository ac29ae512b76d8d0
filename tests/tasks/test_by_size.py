"""Laws of sampling by size: contents lie in their split, and a split is refused if and only if it has none."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.tasks import SPLITS, Addition, Dyck, MultiHopRecall, split_of, stream
from toylab.tasks.base import EXACT_SPLIT_LIMIT
from toylab.tasks.by_size import sample_contents


@st.composite
def sized_tasks(draw):
    """A small task, and its smallest and largest size."""
    low, more = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    span = (low, low + more)
    kind = draw(st.sampled_from((Dyck, Addition, MultiHopRecall)))
    if kind is Dyck:
        return Dyck(pairs=span, kinds=draw(st.integers(1, 2)), depth=draw(st.integers(1, 3))), span
    if kind is Addition:
        return Addition(digits=span, base=draw(st.integers(2, 10))), span
    longer = (low + 1, low + 1 + more)
    return MultiHopRecall(hops=1, pairs=longer, nodes=6), longer


@given(sized_tasks(), st.sampled_from(SPLITS), st.integers(0, 99))
def test_contents_lie_in_their_split_which_is_refused_only_if_it_is_empty(sized, split, seed):
    task, (low, high) = sized
    index = SPLITS.index(split)
    try:
        contents, numbers = sample_contents(task, stream(seed), 30, split, (low, high), "size")
    except ToylabError:
        for number in range(low, high + 1):
            assert task.space(number) <= EXACT_SPLIT_LIMIT
            assert not (split_of(task.contents(number)) == index).any()
        return
    assert (split_of(contents, 2 * numbers) == index).all()
    assert set(numbers.tolist()) <= set(range(low, high + 1))


@given(sized_tasks())
def test_the_space_is_the_number_of_contents_and_draws_are_among_them(sized):
    task, (low, _) = sized
    if task.space(low) > EXACT_SPLIT_LIMIT:
        return
    listed = {tuple(content) for content in task.contents(low).tolist()}
    assert len(listed) == len(task.contents(low)) == task.space(low)
    drawn = task.draw_contents(np.random.default_rng(0), np.full(50, low), 2 * low)
    assert {tuple(content) for content in drawn.tolist()} <= listed


def test_every_size_with_rows_in_the_split_occurs():
    _, numbers = sample_contents(Addition(), stream(0), 400, "test", (1, 4), "digits")
    assert np.bincount(numbers)[1:].min() > 60
