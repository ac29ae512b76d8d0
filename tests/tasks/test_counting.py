"""Laws of contextual counting: what a string is, and what its counts, labels, links and answers say.

Each law is a function that asserts; the tests call it on drawn settings, and the mutants at the end show that it can
fail.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.counting_text import (
    ANSWERS,
    assert_caught,
    counts_of,
    cut_of,
    equal,
    laid_out,
    named,
    parsed,
    seeds,
    sentence,
    sizes_of,
    some,
    strings,
    tasks,
    texts_of,
)
from toylab.tasks import IGNORE, NO_POSITION, SPLITS, ContextualCounting, decode, encode, stream


def a_row_is_begin_string_equals_answer_padding(task, batch):
    begin, equals, end = encode(task, ["BoS", "=", "EoS"])
    sizes = batch.labels["length"]
    assert sizes.shape == (len(batch),)
    for tokens, targets, length, size in zip(
        batch.tokens.tolist(), batch.targets.tolist(), sizes.tolist(), batch.sizes.tolist(), strict=True
    ):
        prompt = task.begin + length
        assert [t for t, token in enumerate(tokens) if token == begin] == ([0] if task.begin else [])
        assert [t for t, token in enumerate(tokens) if token == equals] == [prompt]
        assert {task.vocabulary[token] for token in tokens[task.begin : prompt]} <= set("01[]")
        assert tokens[size:] == [end] * (len(tokens) - size)
        assert end not in tokens[:size]
        scored = [t for t, target in enumerate(targets) if target != IGNORE]
        assert scored == list(range(prompt, size))
        assert targets[prompt:size] == [*tokens[prompt + 1 : size], end]
    assert batch.tokens.shape == batch.targets.shape == (len(batch), batch.sizes.max())
    assert batch.tokens.shape[1] <= task.context


def lengths_and_numbers_of_regions_are_in_their_ranges(task, batch):
    low, high = (task.length, task.length) if isinstance(task.length, int) else task.length
    fewest, most = (task.regions, task.regions) if isinstance(task.regions, int) else task.regions
    assert (task.min_length, task.max_length, task.fewest, task.most) == (low, high, fewest, most)
    assert batch.labels["count"].shape == (len(batch), most)
    for row, text in enumerate(texts_of(task, batch)):
        assert low <= len(text) <= high
        assert fewest <= text.count("[") <= most
        assert text.count("]") == text.count("[") == len(counts_of(batch, row))


def brackets_are_balanced_and_never_nested(task, batch):
    for text in texts_of(task, batch):
        depth = list(itertools.accumulate((char == "[") - (char == "]") for char in text))
        assert set(depth) <= {0, 1}
        assert depth[-1] == 0


def counts_are_those_of_a_parser(task, batch):
    for row, text in enumerate(texts_of(task, batch)):
        cut = cut_of(text)
        inside, outside = cut[1::2], cut[0::2]
        counts = counts_of(batch, row)
        number = len(counts)
        assert batch.labels["count"][row].tolist() == counts + [NO_POSITION] * (batch.labels["count"].shape[1] - number)
        assert counts == parsed(text)
        assert all(0 <= count <= len(content) for count, content in zip(counts, inside, strict=True))
        assert sum(counts) + sum(piece.count("1") for piece in outside) == text.count("1")
        assert sum(map(len, cut)) + 2 * number == len(text) == batch.labels["length"][row]


def the_region_label_is_that_of_a_slow_loop(task, batch):
    assert batch.labels["region"].shape == batch.tokens.shape
    for text, label in zip(texts_of(task, batch), batch.labels["region"].tolist(), strict=True):
        expected, opened, depth = [0] * task.begin, 0, 0
        for char in text:
            opened += char == "["
            depth += char == "["
            expected.append(opened if depth else 0)
            depth -= char == "]"
        assert label == expected + [NO_POSITION] * (len(label) - len(expected))
        inside = [number for number in label if number > 0]
        assert inside == sorted(inside)
        assert sorted(set(inside)) == list(range(1, opened + 1))


def links_are_those_of_slow_loops(task, batch):
    said = {name: sorted(map(tuple, edges.tolist())) for name, edges in batch.links.items()}
    before, counted = [], []
    for row, text in enumerate(texts_of(task, batch)):
        region, depth = 0, 0
        for t, char in enumerate(text):
            if char in "[]":
                depth = 1 - depth
                region += depth
            elif char == "1" and depth:
                before += [(row, task.begin + t, task.begin + s) for s in range(t) if text[s] in "[]"]
                counted.append((row, task.begin + len(text) + region - 1, task.begin + t))
    expected = {"preceding delimiters": before}
    if task.answer == "counts":
        expected["counted ones"] = sorted(counted)
    assert said == expected
    for edges in batch.links.values():
        assert np.all(np.diff(edges[:, 0]) >= 0), "not sorted by row"
    for row, query, key in said.get("counted ones", ()):
        count = batch.labels["count"][row, batch.labels["region"][row, key] - 1]
        assert task.vocabulary[batch.targets[row, query]] == f"n{count}"


def written_after(text, answer):
    """The answer to a string by substitution in its text, as names of tokens."""
    said = []
    for content in cut_of(text)[1::2]:
        total = f"n{content.count('1')}"
        running = [name for t, bit in enumerate(content) for name in (bit, f"n{content.count('1', 0, t + 1)}")]
        said += {
            "counts": [total],
            "regions": ["[", *content, "]", total],
            "running": ["[", *running, "]", total],
        }[answer]
    return [*said, "EoS"]


def answers_are_the_counts_in_the_format_asked_for(task, batch):
    for text, tokens, targets in zip(texts_of(task, batch), batch.tokens, batch.targets, strict=True):
        due = written_after(text, task.answer)
        assert decode(task, targets[targets != IGNORE].tolist()) == due
        prompt = tokens[: task.begin + len(text) + 1].tolist()
        assert decode(task, prompt) == ["BoS"] * task.begin + [*text, "="]
        assert decode(task, task.solve(prompt)) == due


BATCH_LAWS = (
    a_row_is_begin_string_equals_answer_padding,
    lengths_and_numbers_of_regions_are_in_their_ranges,
    brackets_are_balanced_and_never_nested,
    counts_are_those_of_a_parser,
    the_region_label_is_that_of_a_slow_loop,
    links_are_those_of_slow_loops,
    answers_are_the_counts_in_the_format_asked_for,
)


@pytest.mark.parametrize("law", BATCH_LAWS, ids=sentence)
@some
@given(tasks(), st.sampled_from(SPLITS), st.integers(1, 12), seeds)
def test_every_sampled_batch_obeys(law, task, split, rows, seed):
    law(task, task.sample(stream(seed), rows, split))


@pytest.mark.parametrize("law", [law for law in BATCH_LAWS if "ranges" not in law.__name__], ids=sentence)
@some
@given(st.lists(strings, min_size=1, max_size=4), st.booleans(), st.sampled_from(ANSWERS))
def test_every_batch_of_chosen_strings_obeys(law, texts, begin, answer):
    law(
        ContextualCounting(begin=begin, answer=answer), laid_out(ContextualCounting(begin=begin, answer=answer), *texts)
    )


def test_tokens_are_bits_brackets_and_counts_with_a_name_each():
    task = ContextualCounting(length=(8, 10), regions=2)
    assert task.vocabulary == (*"01[]", "BoS", "=", "EoS", *(f"n{count}" for count in range(11)))
    assert task.vocabulary[: task.symbols] == ("0", "1", "[", "]", "BoS")
    assert task.classes == 11


@some
@given(st.lists(strings, min_size=2, max_size=5), st.booleans(), st.sampled_from(ANSWERS))
def test_a_row_does_not_depend_on_the_rows_beside_it(texts, begin, answer):
    task = ContextualCounting(begin=begin, answer=answer)
    together = laid_out(task, *texts)
    for row, text in enumerate(texts):
        alone = laid_out(task, text)
        size = int(alone.sizes[0])
        assert size == together.sizes[row] == alone.tokens.shape[1]
        for name in ("tokens", "targets"):
            assert np.array_equal(getattr(together, name)[row, :size], getattr(alone, name)[0])
        assert np.array_equal(together.labels["region"][row, :size], alone.labels["region"][0])
        for name, edges in together.rows(row, row + 1).links.items():
            assert np.array_equal(edges, alone.links[name])


@some
@given(st.lists(strings, min_size=1, max_size=3), st.sampled_from(ANSWERS), st.integers(0, 20))
def test_what_stands_behind_the_longest_string_is_not_looked_at_either(texts, answer, more):
    task = ContextualCounting(answer=answer)
    longest = max(map(len, texts))
    assert equal(laid_out(task, *texts, width=longest + more), laid_out(task, *texts))


# Sizes that are given ------------------------------------------------------------------------------------------------


@some
@given(st.data(), seeds)
def test_length_and_regions_may_be_given_a_row(data, seed):
    rows = data.draw(st.integers(1, 6))
    regions = [data.draw(st.integers(1, 6)) for _ in range(rows)]
    lengths = [2 * number + 6 + data.draw(st.integers(0, 20)) for number in regions]
    task = ContextualCounting(length=(8, 40), regions=(1, 4), begin=data.draw(st.booleans()))
    batch = task.sample(stream(seed), rows, length=np.array(lengths), regions=np.array(regions))
    assert batch.labels["length"].tolist() == lengths
    assert [text.count("[") for text in texts_of(task, batch)] == regions
    assert [len(counts_of(batch, row)) for row in range(rows)] == regions
    assert batch.labels["count"].shape == (rows, max(4, *regions))
    answers_are_the_counts_in_the_format_asked_for(task, batch)


@some
@given(seeds)
def test_length_and_regions_outside_the_ranges_can_be_drawn_to_test_extrapolation(seed):
    task = ContextualCounting(length=(20, 30), regions=2)
    batch = task.sample(stream(seed), 4, "test", length=48, regions=5)
    assert [(len(text), text.count("[")) for text in texts_of(task, batch)] == [(48, 5)] * 4
    counts_are_those_of_a_parser(task, batch)


# The context ---------------------------------------------------------------------------------------------------------


def the_context_is_that_of_the_longest_row(task):
    """Rows are longest where no bit is outside; that the bits change nothing is in the other laws."""
    longest = 0
    for length, regions in sizes_of(task):
        for places in itertools.combinations(range(length), 2 * regions):
            text = "".join("[]"[places.index(t) % 2] if t in places else "1" for t in range(length))
            longest = max(longest, int(laid_out(task, text).sizes[0]))
    assert longest == task.context


# With "running" and a range of regions, rows of the fewest regions are longest (2 T - R).
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "fields",
    [
        {"length": 6, "regions": 2},
        {"length": (4, 7), "regions": 1, "begin": False},
        {"length": 6, "regions": (1, 3)},
        {"length": (6, 7), "regions": (1, 2), "begin": False},
    ],
    ids=str,
)
def test_the_context_is_reached_and_not_exceeded(fields, answer):
    the_context_is_that_of_the_longest_row(ContextualCounting(answer=answer, **fields))


# The mutants: each breaks one promise, and the law named beside it must say so ---------------------------------------


class Relabelled(ContextualCounting):
    """A task whose labels are changed after the fact."""

    def batch(self, strings, sizes):
        batch = super().batch(strings, sizes)
        width = strings.shape[1]
        place = batch.labels["region"][:, self.begin : self.begin + width]
        inside = np.arange(width) < sizes[:, None]
        return dataclasses.replace(batch, labels={**batch.labels, **self.changes(batch.labels, strings, place, inside)})


class OutsideCounted(Relabelled):
    """Ones between the last region and this one are counted too."""

    def changes(self, labels, strings, place, inside):
        number = ((strings == 3) & inside).cumsum(axis=1)  # brackets closed so far
        counts = np.stack([((strings == 1) & inside & (number == k)).sum(axis=1) for k in range(self.most)], axis=1)
        return {"count": np.where(labels["count"] == NO_POSITION, NO_POSITION, counts)}


class CountsShifted(Relabelled):
    def changes(self, labels, strings, place, inside):
        return {"count": np.roll(labels["count"], 1, axis=1)}


class CountsPaddedWithZeros(Relabelled):
    def changes(self, labels, strings, place, inside):
        return {"count": np.maximum(labels["count"], 0)}


class RegionsThatGoOn(Relabelled):
    """The region label stays after the closing bracket."""

    def changes(self, labels, strings, place, inside):
        label = labels["region"].copy()
        label[:, self.begin : self.begin + strings.shape[1]] = np.where(
            inside, ((strings == 2) & inside).cumsum(axis=1), NO_POSITION
        )
        return {"region": label}


class BracketsOutside(Relabelled):
    """The region label is 0 on the brackets themselves."""

    def changes(self, labels, strings, place, inside):
        label = labels["region"].copy()
        label[:, self.begin : self.begin + strings.shape[1]] = np.where(inside & (strings >= 2), 0, place)
        return {"region": label}


class Retold(ContextualCounting):
    """A task whose batches are changed after the fact."""

    def batch(self, strings, sizes):
        batch = super().batch(strings, sizes)
        return dataclasses.replace(batch, **self.changes(batch))


class BeginTwice(Retold):
    def changes(self, batch):
        tokens = batch.tokens.copy()
        tokens[:, -1] = tokens[:, 0]
        return {"tokens": tokens}


class AnswersOfTheNextRow(Retold):
    def changes(self, batch):
        return {"targets": np.roll(batch.targets, 1, axis=0)}


class LinksOfZeros(Retold):
    """What is read are the zeros of a region as well."""

    def changes(self, batch):
        row, key = np.nonzero((batch.labels["region"] > 0) & (batch.tokens <= 1))
        query = self.begin + batch.labels["length"][row] + batch.labels["region"][row, key] - 1
        return {"links": {**batch.links, "counted ones": np.stack([row, query, key], axis=1)}}


class LinksToTheLastDelimiter(Retold):
    def changes(self, batch):
        edges = batch.links["preceding delimiters"]
        last = np.append(np.any(edges[1:, :2] != edges[:-1, :2], axis=1), True)
        return {"links": {**batch.links, "preceding delimiters": edges[last]}}


class ContextTooShort(ContextualCounting):
    @property
    def context(self):
        return super().context - 1


BATCH_MUTANTS = [
    (OutsideCounted, counts_are_those_of_a_parser),
    (CountsShifted, counts_are_those_of_a_parser),
    (CountsPaddedWithZeros, counts_are_those_of_a_parser),
    (CountsPaddedWithZeros, lengths_and_numbers_of_regions_are_in_their_ranges),
    (RegionsThatGoOn, the_region_label_is_that_of_a_slow_loop),
    (BracketsOutside, the_region_label_is_that_of_a_slow_loop),
    (BeginTwice, a_row_is_begin_string_equals_answer_padding),
    (ContextTooShort, a_row_is_begin_string_equals_answer_padding),
    (AnswersOfTheNextRow, a_row_is_begin_string_equals_answer_padding),
    (AnswersOfTheNextRow, answers_are_the_counts_in_the_format_asked_for),
    (LinksOfZeros, links_are_those_of_slow_loops),
    (LinksToTheLastDelimiter, links_are_those_of_slow_loops),
]


@pytest.mark.parametrize(("mutant", "law"), BATCH_MUTANTS, ids=named)
def test_a_broken_batch_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(10, 14), regions=(1, 3)) for kind in (ContextualCounting, mutant))
    if mutant is ContextTooShort:
        sound, broken = (kind(length=14, regions=2) for kind in (ContextualCounting, mutant))
    assert_caught(law, *((task, task.sample(stream(0), 30)) for task in (sound, broken)))


def test_a_broken_context_is_caught():
    assert_caught(
        the_context_is_that_of_the_longest_row,
        *((kind(length=6, regions=2),) for kind in (ContextualCounting, ContextTooShort)),
    )
