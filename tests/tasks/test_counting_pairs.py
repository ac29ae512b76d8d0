"""Laws of pairs of strings: zeros or a region appended, and the mutants that break them."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.counting_text import (
    assert_caught,
    counts_of,
    equal,
    laid_out,
    named,
    seeds,
    sentence,
    some,
    strings,
    tasks,
    texts_of,
)
from toylab.tasks import ContextualCounting, stream


def untouched(batch):
    """A deep copy, and the assertion that the batch is still equal to it."""
    before = copy.deepcopy(batch)
    return lambda: equal(before, batch)


def strings_go_back_into_the_batch(task, batch, rng):
    found, sizes = task.strings(batch)
    assert found.shape == (len(batch), sizes.max())
    assert np.array_equal(sizes, batch.labels["length"])
    assert equal(task.batch(found, sizes), batch)


def zeros_are_appended_outside_and_no_count_changes(task, batch, rng):
    same = untouched(batch)
    for number in (0, 1, int(rng.integers(2, 9))):
        longer = task.append_zeros(batch, number)
        due = [text + "0" * number for text in texts_of(task, batch)]
        assert texts_of(task, longer) == due
        assert np.array_equal(longer.labels["count"], batch.labels["count"])
        assert equal(longer, laid_out(task, *due))
    assert same()


def a_region_is_appended_and_the_other_counts_stay(task, batch, rng):
    same = untouched(batch)
    longer = task.append_region(batch)
    due = [text + "[]" for text in texts_of(task, batch)]
    assert texts_of(task, longer) == due
    for row in range(len(batch)):
        assert counts_of(longer, row) == [*counts_of(batch, row), 0]
    assert equal(longer, laid_out(task, *due))
    assert same()


PAIR_LAWS = (
    strings_go_back_into_the_batch,
    zeros_are_appended_outside_and_no_count_changes,
    a_region_is_appended_and_the_other_counts_stay,
)


@pytest.mark.parametrize("law", PAIR_LAWS, ids=sentence)
@some
@given(tasks(), st.integers(1, 8), seeds)
def test_every_sampled_batch_has_pairs(law, task, rows, seed):
    law(task, task.sample(stream(seed), rows), stream(seed, "pairs"))


@pytest.mark.parametrize("law", PAIR_LAWS, ids=sentence)
@some
@given(st.lists(strings, min_size=1, max_size=4), st.booleans(), seeds)
def test_every_batch_of_chosen_strings_has_pairs(law, texts, begin, seed):
    task = ContextualCounting(begin=begin)
    law(task, laid_out(task, *texts), stream(seed))


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class AppendsInside(ContextualCounting):
    """Zeros are put behind the first bracket: no count changes, but they are not outside."""

    def append_zeros(self, batch, number):
        return laid_out(self, *(text.replace("[", "[" + "0" * number, 1) for text in texts_of(self, batch)))


class AppendsOnes(ContextualCounting):
    def append_zeros(self, batch, number):
        return laid_out(self, *(text + "1" * number for text in texts_of(self, batch)))


class AppendsARegionInFront(ContextualCounting):
    def append_region(self, batch):
        return laid_out(self, *("[]" + text for text in texts_of(self, batch)))


class RowsCutShort(ContextualCounting):
    def strings(self, batch):
        found, sizes = super().strings(batch)
        return found[:, :-1], np.minimum(sizes, found.shape[1] - 1)


PAIR_MUTANTS = [
    (RowsCutShort, strings_go_back_into_the_batch),
    (AppendsInside, zeros_are_appended_outside_and_no_count_changes),
    (AppendsOnes, zeros_are_appended_outside_and_no_count_changes),
    (AppendsARegionInFront, a_region_is_appended_and_the_other_counts_stay),
]


@pytest.mark.parametrize(("mutant", "law"), PAIR_MUTANTS, ids=named)
def test_a_broken_pair_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(12, 16), regions=2) for kind in (ContextualCounting, mutant))
    assert_caught(law, *((task, task.sample(stream(0), 10)) for task in (sound, broken)), stream(1))
