"""Laws of how strings are drawn and of what chance gives, and the mutants that break them."""

import math

import numpy as np
import pytest
from hypothesis import given
from scipy.stats import binom

from tests.tasks.counting_text import (
    assert_caught,
    assert_drawn_from,
    every_text,
    named,
    parsed,
    sizes_of,
    some,
    tasks,
    texts_of,
    tokens_of,
)
from toylab.tasks import NO_POSITION, SPLITS, ContextualCounting, split_of, stream


def places_of_brackets_are_uniform(task, seed, rows=20000):
    """The first bracket and the length of each region follow the law of 2R places drawn from T, all equally likely.

    C(T - 1 - i, 2R - 1) of the C(T, 2R) choices have their first place at i; and as many have a gap of i before any
    other place, for the 2R + 1 gaps can be exchanged.
    """
    found, sizes = task.strings(task.sample(stream(seed), rows))
    length, number = int(sizes[0]), task.most
    places = np.nonzero(found >= 2)[1].reshape(rows, 2 * number)
    law = [math.comb(length - 1 - i, 2 * number - 1) / math.comb(length, 2 * number) for i in range(length)]
    assert_drawn_from(law, places[:, 0])
    assert_drawn_from(law, length - 1 - places[:, -1])
    for start, end in zip(places[:, 0::2].T, places[:, 1::2].T, strict=True):
        assert_drawn_from(law, end - start - 1)


def bits_are_independent_ones_with_probability_p(task, seed, rows=20000):
    found, sizes = task.strings(task.sample(stream(seed), rows))
    bit, one = found < 2, found == 1
    assert_drawn_from(binom.pmf(range(int(sizes[0]) - 2 * task.most + 1), sizes[0] - 2 * task.most, task.p), one.sum(1))
    outside = bit & ((found >= 2).cumsum(axis=1) % 2 == 0)
    for mask in (outside, bit & ~outside, *(bit & (np.arange(found.shape[1]) == t) for t in (0, found.shape[1] // 2))):
        assert_drawn_from([1 - task.p, task.p], one[mask].astype(int))
    pairs = bit[:, :-1] & bit[:, 1:]
    both = (2 * one[:, :-1] + one[:, 1:])[pairs]
    assert np.allclose(np.bincount(both) / len(both), np.outer(*[[1 - task.p, task.p]] * 2).ravel(), atol=0.005)


def within_a_split_strings_are_as_likely_as_among_all(task, seed, rows=20000):
    """All strings of a size are listed: those of a split are drawn in proportion to their probability."""
    texts = list(every_text(task.max_length, task.most))
    likely = np.array([task.p ** text.count("1") * (1 - task.p) ** text.count("0") for text in texts])
    number = {text: i for i, text in enumerate(texts)}
    own = split_of(tokens_of(texts))
    for split in SPLITS:
        law = np.where(own == SPLITS.index(split), likely, 0)
        drawn = texts_of(task, task.sample(stream(seed, split), rows // 2 if split == "train" else rows // 5, split))
        assert_drawn_from(law / law.sum(), np.array([number[text] for text in drawn]))


DRAW_LAWS = [
    (places_of_brackets_are_uniform, {"length": 40, "regions": 3}),
    (places_of_brackets_are_uniform, {"length": 60, "regions": 1, "p": 0.2}),
    (bits_are_independent_ones_with_probability_p, {"length": 40, "regions": 3}),
    (bits_are_independent_ones_with_probability_p, {"length": 30, "regions": 2, "p": 0.2}),
    (bits_are_independent_ones_with_probability_p, {"length": 50, "regions": 2, "p": 0.8}),
    (within_a_split_strings_are_as_likely_as_among_all, {"length": 7, "regions": 2}),
    (within_a_split_strings_are_as_likely_as_among_all, {"length": 7, "regions": 1, "p": 0.3}),
]


@pytest.mark.parametrize(("law", "fields"), DRAW_LAWS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_strings_are_drawn_as_said(law, fields):
    law(ContextualCounting(**fields), 0)


@pytest.mark.parametrize(("p", "seen"), [(0, {"0", "[", "]"}), (1, {"1", "[", "]"}), (0.0, {"0", "[", "]"})])
def test_where_p_is_zero_or_one_all_bits_are_alike(p, seen):
    task = ContextualCounting(length=24, regions=2, p=p)
    for split in SPLITS:
        assert set().union(*texts_of(task, task.sample(stream(0), 50, split))) == seen


def test_lengths_and_numbers_of_regions_are_drawn_evenly_and_independently():
    task = ContextualCounting(length=(20, 24), regions=(2, 4))
    batch = task.sample(stream(0), 9000)
    number = (batch.labels["count"] != NO_POSITION).sum(axis=1)
    assert_drawn_from([1 / 15] * 15, (batch.labels["length"] - 20) * 3 + number - 2)


# What chance gives ---------------------------------------------------------------------------------------------------


def the_law_of_counts_is_that_of_all_strings(task):
    law = np.zeros(task.classes)
    for length, regions in sizes_of(task):
        for text in every_text(length, regions):
            likely = task.p ** text.count("1") * (1 - task.p) ** text.count("0") / math.comb(length, 2 * regions)
            for count in parsed(text):
                law[count] += likely
    law /= law.sum()
    assert np.allclose(task.count_law, law, rtol=1e-12, atol=1e-15)
    assert math.isclose(task.constant_guess, max(law))
    assert math.isclose(task.entropy, -sum(q * math.log(q) for q in law if q), abs_tol=1e-12)


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 2, "regions": 1},
        {"length": 7, "regions": 1, "p": 0.3},
        {"length": 8, "regions": 2},
        {"length": 8, "regions": 3, "p": 0.9},
        {"length": 6, "regions": 3},
        {"length": (3, 6), "regions": 1, "p": 0.2},
        {"length": 8, "regions": (1, 3)},
        {"length": (6, 8), "regions": (2, 3), "p": 0.6},
        {"length": 5, "regions": 2, "p": 0},
        {"length": 6, "regions": 1, "p": 1},
    ],
    ids=str,
)
def test_the_law_of_counts_is_that_of_a_listing(fields):
    the_law_of_counts_is_that_of_all_strings(ContextualCounting(**fields))


@some
@given(tasks())
def test_the_law_of_counts_is_one_and_the_guess_and_the_entropy_follow(task):
    law = task.count_law
    assert law.shape == (task.classes,)
    assert law.min() >= 0
    assert math.isclose(law.sum(), 1)
    assert not law[task.max_length - 2 * task.fewest + 1 :].any()
    assert task.constant_guess == law.max()
    assert 0 <= task.entropy <= math.log(task.max_length)
    # A mean needs no law: of T places the 2R + 1 gaps share T - 2R, and a share p of them are ones.
    bits = sum(regions * (length - 2 * regions) / (2 * regions + 1) for length, regions in sizes_of(task))
    assert math.isclose(law @ np.arange(task.classes), task.p * bits / sum(regions for _, regions in sizes_of(task)))


def the_law_of_counts_is_that_of_a_sample(task, seed, rows=10000):
    counts = task.sample(stream(seed), rows).labels["count"]
    counts = counts[counts != NO_POSITION]
    law = task.count_law
    assert np.abs(np.bincount(counts, minlength=len(law)) / len(counts) - law).max() < 0.01
    assert abs((counts == law.argmax()).mean() - task.constant_guess) < 0.01


@pytest.mark.parametrize(
    "fields", [{}, {"length": 40, "regions": (1, 5), "p": 0.2}, {"length": (30, 60), "regions": (2, 4)}], ids=str
)
def test_the_law_of_counts_is_that_of_what_is_drawn(fields):
    the_law_of_counts_is_that_of_a_sample(ContextualCounting(**fields), 0)


@pytest.mark.parametrize("which", [0, 1, 3])
def test_each_region_has_the_same_law(which):
    task = ContextualCounting()
    assert_drawn_from(task.count_law, task.sample(stream(1), 10000).labels["count"][:, which])


@pytest.mark.parametrize(
    ("length", "regions", "published", "off"), [(512, 4, 0.0308, 0.0001), (300, 4, 0.052, 0.001), (64, 4, 0.226, 0.003)]
)
def test_chance_is_at_the_level_that_the_paper_shows(length, regions, published, off):
    assert abs(ContextualCounting(length=length, regions=regions).constant_guess - published) < off


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class Redrawn(ContextualCounting):
    """A task that draws its strings in another way."""

    def sample(self, rng, rows, split="train", **others):
        batch = super().sample(rng, rows, split, **others)
        found, sizes = self.strings(batch)
        return self.batch(self.redrawn(rng, found.copy(), sizes), sizes)


class BracketsInBlocks(Redrawn):
    """Each region has a block of its own, all of one size."""

    def redrawn(self, rng, strings, sizes):
        length = int(sizes[0])
        block = length // self.most
        strings = (rng.random(strings.shape) < self.p).astype(np.int64)
        for k in range(self.most):
            places = np.sort(rng.random((len(strings), block)).argsort(axis=1)[:, :2], axis=1) + k * block
            np.put_along_axis(strings, places, np.array([[2, 3]]), axis=1)
        return strings


class NeverAtTheStart(Redrawn):
    """A bracket at the start changes places with the bit behind it, if there is one."""

    def redrawn(self, rng, strings, sizes):
        swap = (strings[:, 0] >= 2) & (strings[:, 1] < 2)
        strings[swap, :2] = strings[swap, 1::-1]
        return strings


class FairBits(Redrawn):
    def redrawn(self, rng, strings, sizes):
        return np.where(strings < 2, rng.random(strings.shape) < 0.5, strings)


class BitsInTwos(Redrawn):
    """A bit repeats the one before it, now and then: each is as likely as said, but they are not independent."""

    def redrawn(self, rng, strings, sizes):
        again = (strings[:, 1:] < 2) & (strings[:, :-1] < 2) & (rng.random(strings[:, 1:].shape) < 0.1)
        strings[:, 1:] = np.where(again, strings[:, :-1], strings[:, 1:])
        return strings


class CountsOfAnyBinomial(ContextualCounting):
    """The law of counts forgets that the regions of a longer string are longer."""

    @property
    def count_law(self):
        law = binom.pmf(range(self.classes), (self.max_length - 2 * self.most) // (2 * self.most + 1), self.p)
        return law / law.sum()


DRAW_MUTANTS = [
    (BracketsInBlocks, places_of_brackets_are_uniform),
    (NeverAtTheStart, places_of_brackets_are_uniform),
    (FairBits, bits_are_independent_ones_with_probability_p),
    (BitsInTwos, bits_are_independent_ones_with_probability_p),
    (CountsOfAnyBinomial, the_law_of_counts_is_that_of_a_sample),
]


@pytest.mark.parametrize(("mutant", "law"), DRAW_MUTANTS, ids=named)
def test_a_broken_draw_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=30, regions=3, p=0.4) for kind in (ContextualCounting, mutant))
    assert_caught(law, (sound,), (broken,), 0, 6000)


def test_a_broken_law_of_counts_is_caught():
    assert_caught(
        the_law_of_counts_is_that_of_all_strings,
        *((kind(length=7, regions=2),) for kind in (ContextualCounting, CountsOfAnyBinomial)),
    )
