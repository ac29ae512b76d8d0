"""Laws of seeds, splits and sizes of strings, and the mutants that break them."""

import dataclasses
import itertools
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.counting_text import (
    assert_caught,
    assert_drawn_from,
    equal,
    every_text,
    named,
    seeds,
    sentence,
    sizes_of,
    some,
    tasks,
    texts_of,
    tokens_of,
)
from toylab.tasks import NO_POSITION, SPLITS, ContextualCounting, split_of, stream
from toylab.tasks.base import EXACT_SPLIT_LIMIT


@some
@given(tasks(), st.sampled_from(SPLITS), st.integers(0, 8), seeds)
def test_the_same_generator_gives_the_same_batch(task, split, rows, seed):
    one, again = (kind.sample(stream(seed), rows, split) for kind in (task, dataclasses.replace(task)))
    assert equal(one, again)
    assert len(one) == rows


def no_string_is_in_two_splits(task, seed, rows=400):
    """However long it is and however many regions it has, and whether or not those were drawn beside it."""
    seen = []
    for split in SPLITS:
        batches = [task.sample(stream(seed, split), rows, split)]
        for length, regions in sizes_of(task):
            batches.append(task.sample(stream(seed, split, length), 15, split, length=length, regions=regions))
        seen.append({text for batch in batches for text in texts_of(task, batch)})
    assert len(set().union(*seen)) == sum(map(len, seen))


def every_row_is_of_the_split_asked_for(task, seed):
    for split in SPLITS:
        for text in texts_of(task, task.sample(stream(seed), 12, split)):
            assert split_of(tokens_of([text])).item() == SPLITS.index(split)


SPLIT_LAWS = (no_string_is_in_two_splits, every_row_is_of_the_split_asked_for)


@pytest.mark.parametrize("law", SPLIT_LAWS, ids=sentence)
@pytest.mark.parametrize("seed", range(2))
def test_the_splits_share_nothing(law, seed):
    law(ContextualCounting(length=(7, 9), regions=(1, 2)), seed)


def test_the_splits_together_hold_every_string_of_a_size():
    task = ContextualCounting(length=6, regions=2)
    seen = [set(texts_of(task, task.sample(stream(0, split), 600, split))) for split in SPLITS]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert set().union(*seen) == set(every_text(6, 2))


@some
@given(st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=6), st.integers(0, 3), seeds)
def test_a_prompt_with_a_size_has_the_split_that_it_has_alone(prompts, more, seed):
    sizes = np.array([len(prompt) for prompt in prompts])
    padded = np.random.default_rng(seed).integers(0, 9, size=(len(prompts), sizes.max() + more))
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    alone = [split_of(np.array([prompt], dtype=np.int64)).item() for prompt in prompts]
    assert split_of(padded, sizes).tolist() == alone


@pytest.mark.parametrize("regions", [1, 2, 3, 4])
def test_a_string_of_brackets_alone_is_in_one_split_and_the_others_say_so(regions):
    task = ContextualCounting(length=2 * regions, regions=regions)
    own = SPLITS[split_of(tokens_of(["[]" * regions])).item()]
    batch = task.sample(stream(0), 3, own)
    assert texts_of(task, batch) == ["[]" * regions] * 3
    assert batch.labels["count"].tolist() == [[0] * regions] * 3
    assert (task.count_law == [1, *[0] * (2 * regions)]).all()
    other = SPLITS[SPLITS.index(own) - 1]
    with pytest.raises(
        ValueError,
        match=rf"^split='{other}': holds no string of length {2 * regions} with {regions} regions and p=0.5; give a ",
    ):
        task.sample(stream(0), 3, other)


def held_by(split, length, regions):
    return [text for text in every_text(length, regions) if SPLITS[split_of(tokens_of([text])).item()] == split]


@pytest.mark.parametrize("split", SPLITS)
def test_sizes_of_which_a_split_holds_nothing_are_left_out_and_the_others_drawn_evenly(split):
    task = ContextualCounting(length=(4, 7), regions=(1, 2))
    held = [size for size in sizes_of(task) if held_by(split, *size)]
    if split != "train":
        assert len(held) < len(sizes_of(task)), "no size is lacking: this shows nothing"
    batch = task.sample(stream(0), 3000, split)
    numbers = (batch.labels["count"] != NO_POSITION).sum(axis=1).tolist()
    assert_drawn_from(
        [1 / len(held)] * len(held),
        [held.index(size) for size in zip(batch.labels["length"].tolist(), numbers, strict=True)],
    )
    for length, regions in sizes_of(task):  # one given, the other drawn
        for argument, among in (({"length": length}, 0), ({"regions": regions}, 1)):
            if [size for size in held if size[among] == (length, regions)[among]]:
                assert len(task.sample(stream(1), 30, split, **argument)) == 30


@pytest.mark.parametrize(("length", "regions"), [(4, 1), (6, 1), (7, 3)])
@pytest.mark.parametrize("p", [0, 1e-9, 1 - 1e-9, 1])
def test_what_a_split_holds_is_drawn_in_proportion_however_rare_it_is(length, regions, p):
    task = ContextualCounting(length=length, regions=regions, p=p)
    common = "0" if p < 0.5 else "1"
    for split in SPLITS:
        held = held_by(split, length, regions)
        fewest = min((len(text) - 2 * regions - text.count(common) for text in held), default=0)
        expected = [text for text in held if len(text) - 2 * regions - text.count(common) == fewest]
        if not expected or (fewest and p in (0, 1)):
            with pytest.raises(ValueError, match="holds no string"):
                task.sample(stream(0), 1, split)
        else:
            texts = texts_of(task, task.sample(stream(0), 300, split))
            assert_drawn_from([1 / len(expected)] * len(expected), list(map(expected.index, texts)))


def test_of_more_strings_than_are_listed_every_split_holds_a_twentieth_whatever_p_is():
    for length in range(2, 30):
        for regions in range(1, length // 2 + 1):
            brackets = math.comb(length, 2 * regions)  # beyond 400, five deviations are within the margin
            if brackets <= 400 and brackets * 2 ** (length - 2 * regions) > EXACT_SPLIT_LIMIT:
                for bit in "01":
                    places = itertools.combinations(range(length), 2 * regions)
                    texts = ["".join("[]"[at.index(t) % 2] if t in at else bit for t in range(length)) for at in places]
                    assert np.bincount(split_of(tokens_of(texts))).min() >= brackets / 20


def test_brackets_may_stand_side_by_side_and_at_both_ends():
    task = ContextualCounting(length=9, regions=2)
    texts = texts_of(task, task.sample(stream(0), 2000))
    assert any("[]" in text for text in texts)
    assert any("][" in text for text in texts)
    assert any(text[0] == "[" and text[-1] == "]" for text in texts)
    assert any(text[0] != "[" and text[-1] != "]" for text in texts)


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class LeakySplit(ContextualCounting):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(rng, rows, "train", **others)


class SplitOfThePadding(ContextualCounting):
    """What decides the split is the row as it is padded, so that it depends on the rows beside."""

    def sample(self, rng, rows, split="train", **others):
        with mock.patch("toylab.tasks.base.split_of", lambda strings, sizes: split_of(strings)):
            return super().sample(rng, rows, split, **others)


SPLIT_MUTANTS = [
    (LeakySplit, no_string_is_in_two_splits),
    (LeakySplit, every_row_is_of_the_split_asked_for),
    (SplitOfThePadding, no_string_is_in_two_splits),
    (SplitOfThePadding, every_row_is_of_the_split_asked_for),
]


@pytest.mark.parametrize(("mutant", "law"), SPLIT_MUTANTS, ids=named)
def test_a_broken_split_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(7, 9), regions=(1, 2)) for kind in (ContextualCounting, mutant))
    assert_caught(law, (sound,), (broken,), 0)
