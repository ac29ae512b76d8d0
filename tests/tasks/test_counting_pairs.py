"""Laws of pairs of strings: zeros or a region appended, a one moved, and the mutants that break them."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.counting_text import (
    assert_caught,
    counts_of,
    cut_of,
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
    for where, number in itertools.product(("end", "start"), (0, 1, int(rng.integers(2, 9)))):
        longer = task.append_zeros(batch, number, where)
        added = "0" * number
        due = [text + added if where == "end" else added + text for text in texts_of(task, batch)]
        assert texts_of(task, longer) == due
        assert np.array_equal(longer.labels["count"], batch.labels["count"])
        assert equal(task.append_zeros(batch, number), longer) or where == "start"
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


def a_one_moves_out_of_the_reported_region_and_all_else_stays(task, batch, rng):
    same = untouched(batch)
    moved, regions = task.move_one(batch, rng)
    assert same()
    assert regions.shape == (len(batch),)
    for row, (old, new, region) in enumerate(
        zip(texts_of(task, batch), texts_of(task, moved), regions.tolist(), strict=True)
    ):
        cut = cut_of(old)
        possible = any("1" in piece for piece in cut[1::2]) and any("0" in piece for piece in cut[0::2])
        if not region:
            assert not possible
            assert new == old
            continue
        assert possible
        due = counts_of(batch, row)
        due[region - 1] -= 1
        assert counts_of(moved, row) == due
        changed = {(a, b): t for t, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
        assert changed.keys() == {("1", "0"), ("0", "1")}
        assert sum(a != b for a, b in zip(old, new, strict=True)) == 2
        where = {pair: old[:t].count("[") + old[:t].count("]") for pair, t in changed.items()}
        assert where["1", "0"] == 2 * region - 1
        assert where["0", "1"] % 2 == 0
    assert equal(moved, laid_out(task, *texts_of(task, moved)))


PAIR_LAWS = (
    strings_go_back_into_the_batch,
    zeros_are_appended_outside_and_no_count_changes,
    a_region_is_appended_and_the_other_counts_stay,
    a_one_moves_out_of_the_reported_region_and_all_else_stays,
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


def test_every_one_inside_moves_to_every_zero_outside():
    task, text = ContextualCounting(), "01[10]00[]1[1]"
    moved, regions = task.move_one(laid_out(task, *[text] * 300), stream(0))
    assert {(new, region) for new, region in zip(texts_of(task, moved), regions.tolist(), strict=True)} == {
        ("11[00]00[]1[1]", 1),
        ("01[00]10[]1[1]", 1),
        ("01[00]01[]1[1]", 1),
        ("11[10]00[]1[0]", 3),
        ("01[10]10[]1[0]", 3),
        ("01[10]01[]1[0]", 3),
    }


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class AppendsInside(ContextualCounting):
    """Zeros are put behind the first bracket: no count changes, but they are not outside."""

    def append_zeros(self, batch, number, where="end"):
        return laid_out(self, *(text.replace("[", "[" + "0" * number, 1) for text in texts_of(self, batch)))


class AppendsOnes(ContextualCounting):
    def append_zeros(self, batch, number, where="end"):
        longer = [(text + "1" * number, "1" * number + text)[where == "start"] for text in texts_of(self, batch)]
        return laid_out(self, *longer)


class AppendsARegionInFront(ContextualCounting):
    def append_region(self, batch):
        return laid_out(self, *("[]" + text for text in texts_of(self, batch)))


class MovesAndMisreports(ContextualCounting):
    def move_one(self, batch, rng):
        moved, regions = super().move_one(batch, rng)
        return moved, np.where(regions > 0, regions % self.most + 1, 0)


class MovesInPlace(ContextualCounting):
    def move_one(self, batch, rng):
        moved, regions = super().move_one(batch, rng)
        batch.tokens[:] = moved.tokens
        return moved, regions


class DeletesAOne(ContextualCounting):
    """A one of the region becomes a zero, and none outside becomes a one."""

    def move_one(self, batch, rng):
        texts = texts_of(self, batch)
        moved, regions = super().move_one(batch, rng)
        both = zip(texts, texts_of(self, moved), strict=True)
        return laid_out(self, *("".join(map(min, old, new)) for old, new in both)), regions


class RowsCutShort(ContextualCounting):
    def strings(self, batch):
        found, sizes = super().strings(batch)
        return found[:, :-1], np.minimum(sizes, found.shape[1] - 1)


PAIR_MUTANTS = [
    (RowsCutShort, strings_go_back_into_the_batch),
    (AppendsInside, zeros_are_appended_outside_and_no_count_changes),
    (AppendsOnes, zeros_are_appended_outside_and_no_count_changes),
    (AppendsARegionInFront, a_region_is_appended_and_the_other_counts_stay),
    (MovesAndMisreports, a_one_moves_out_of_the_reported_region_and_all_else_stays),
    (MovesInPlace, a_one_moves_out_of_the_reported_region_and_all_else_stays),
    (DeletesAOne, a_one_moves_out_of_the_reported_region_and_all_else_stays),
]


@pytest.mark.parametrize(("mutant", "law"), PAIR_MUTANTS, ids=named)
def test_a_broken_pair_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(12, 16), regions=2) for kind in (ContextualCounting, mutant))
    assert_caught(law, *((task, task.sample(stream(0), 10)) for task in (sound, broken)), stream(1))
