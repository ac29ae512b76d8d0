"""Laws of contextual counting: what a string is, what its counts, labels, links and answers say, and how it is drawn.

Each law is a function that asserts; the tests call it on drawn settings, and the mutants at the end show that it can
fail. The oracles work on text: `[` and `]` cut a string into pieces, and every other piece is a region.
"""

import collections
import copy
import dataclasses
import itertools
import math
import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from toylab.tasks import IGNORE, NOWHERE, SPLITS, ContextualCounting, decode, encode, split_of, stream
from toylab.tasks.base import FEW

some = settings(max_examples=15)
seeds = st.integers(0, 2**20)
bits = st.text("01", max_size=6)
NAMES = collections.defaultdict(lambda: "?", enumerate("01[]"))
ANSWERS = ("counts", "regions", "running")


@st.composite
def tasks(draw):
    """A task with eight bits at least, so that every split holds prompts."""
    fewest, more = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    shortest, longer = 2 * (fewest + more) + 8 + draw(st.integers(0, 10)), draw(st.integers(0, 10))
    return ContextualCounting(
        length=draw(st.sampled_from((shortest, (shortest, shortest + longer)))),
        regions=(fewest, fewest + more) if more else fewest,
        p=draw(st.sampled_from((0.2, 0.5, 0.8))),
        begin=draw(st.booleans()),
        answer=draw(st.sampled_from(ANSWERS)),
    )


def pieces(most=4):
    """What stands between brackets: an odd number of strings of bits, every other one a region's content."""
    return st.integers(1, most).flatmap(lambda r: st.lists(bits, min_size=2 * r + 1, max_size=2 * r + 1))


def joined(cut):
    """The string of its pieces."""
    return "".join(piece + mark for piece, mark in itertools.zip_longest(cut, "[]" * (len(cut) // 2), fillvalue=""))


def cut_of(text):
    return re.split(r"[\[\]]", text)


strings = pieces().map(joined)


def parsed(text):
    """The number of ones of each region."""
    return [content.count("1") for content in cut_of(text)[1::2]]


def laid_out(task, *texts, width=0):
    """The batch of strings given as text; what stands behind a string is no token at all."""
    width = max(width, *map(len, texts))
    tokens = [["01[]".index(char) for char in text] + [10**6] * (width - len(text)) for text in texts]
    return task.batch(np.array(tokens).reshape(len(texts), width), np.array([len(text) for text in texts]))


def texts_of(task, batch):
    """The strings of a batch, as text; a token that should not be there is shown as well."""
    rows = zip(batch.tokens.tolist(), batch.labels["length"].tolist(), strict=True)
    return ["".join(NAMES[token] for token in row[task.begin : task.begin + length]) for row, length in rows]


def counts_of(batch, row=0):
    """The counts of a row, those of no region left out."""
    return [count for count in batch.labels["count"][row].tolist() if count != NOWHERE]


def ask(task, text):
    """The counts of one string."""
    return counts_of(laid_out(task, text))


def arrays_of(batch):
    plain = {name: getattr(batch, name) for name in ("tokens", "targets", "sizes")}
    return plain | {("link", n): v for n, v in batch.links.items()} | {("label", n): v for n, v in batch.labels.items()}


def equal(one, other):
    one, other = arrays_of(one), arrays_of(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def every_text(length, regions):
    """All strings of a size: each choice of places for brackets with each choice of bits."""
    for places in itertools.combinations(range(length), 2 * regions):
        for filling in itertools.product("01", repeat=length - 2 * regions):
            left = iter(filling)
            yield "".join("[]"[places.index(t) % 2] if t in places else next(left) for t in range(length))


def tokens_of(texts):
    """Texts of one length as rows of tokens."""
    return np.array([["01[]".index(char) for char in text] for text in texts])


def assert_drawn_from(law, values):
    """Chi-square: values 0, 1, ... are drawn with these probabilities. Rare values are lumped together."""
    expected = np.asarray(law) * len(values)
    observed = np.bincount(values, minlength=len(expected))
    assert math.isclose(sum(law), 1, rel_tol=1e-9)
    assert len(observed) == len(expected), f"{max(values)} cannot be drawn"
    rare = expected < 8
    assert not observed[expected == 0].any(), "what cannot be drawn was drawn"
    if rare.any():
        expected, observed = (np.append(x[~rare], x[rare].sum()) for x in (expected, observed))
    kept = expected > 0
    if kept.sum() > 1:
        assert chisquare(observed[kept], expected[kept]).pvalue > 1e-4


# What a string is --------------------------------------------------------------------------------------------------


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
    assert (task.shortest, task.longest, task.fewest, task.most) == (low, high, fewest, most)
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
        assert batch.labels["count"][row].tolist() == counts + [NOWHERE] * (batch.labels["count"].shape[1] - number)
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
        assert label == expected + [NOWHERE] * (len(label) - len(expected))
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


def sentence(law):
    return law.__name__.replace("_", " ")


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


# Equivariances -----------------------------------------------------------------------------------------------------


@some
@given(pieces(), st.data(), st.randoms(use_true_random=False))
def test_shuffling_the_bits_of_a_piece_leaves_all_counts(cut, data, random):
    task, which = ContextualCounting(), data.draw(st.integers(0, len(cut) - 1))
    shuffled = "".join(random.sample(cut[which], len(cut[which])))
    assert ask(task, joined([*cut[:which], shuffled, *cut[which + 1 :]])) == ask(task, joined(cut))


@some
@given(pieces(), st.data())
def test_swapping_two_regions_swaps_their_counts(cut, data):
    task, regions = ContextualCounting(), len(cut) // 2
    one, other = (data.draw(st.integers(0, regions - 1)) for _ in range(2))
    swapped, counts = list(cut), ask(task, joined(cut))
    for held, a, b in ((swapped, 2 * one + 1, 2 * other + 1), (counts, one, other)):
        held[a], held[b] = held[b], held[a]
    assert ask(task, joined(swapped)) == counts


@some
@given(pieces())
def test_flipping_a_bit_moves_the_count_of_its_own_region_by_one_and_no_other(cut):
    task, text = ContextualCounting(), joined(cut)
    counts = ask(task, text)
    number, inside = 0, False
    for t, char in enumerate(text):
        if char in "[]":
            inside = char == "["
            number += inside
            continue
        flipped = ask(task, f"{text[:t]}{1 - int(char)}{text[t + 1 :]}")
        due = list(counts)
        if inside:
            due[number - 1] += 1 - 2 * int(char)
        assert flipped == due


@some
@given(pieces(), st.data())
def test_a_zero_more_or_less_outside_leaves_all_counts(cut, data):
    which = 2 * data.draw(st.integers(0, len(cut) // 2))
    at = data.draw(st.integers(0, len(cut[which])))
    longer = [*cut[:which], f"{cut[which][:at]}0{cut[which][at:]}", *cut[which + 1 :]]
    assert ask(ContextualCounting(), joined(longer)) == ask(ContextualCounting(), joined(cut))


# The house's own pairs ---------------------------------------------------------------------------------------------


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


# How strings are drawn ---------------------------------------------------------------------------------------------


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
    texts = list(every_text(task.longest, task.most))
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
    number = (batch.labels["count"] != NOWHERE).sum(axis=1)
    assert_drawn_from([1 / 15] * 15, (batch.labels["length"] - 20) * 3 + number - 2)


# What chance gives -------------------------------------------------------------------------------------------------


def sizes_of(task):
    """Every pair of a length and a number of regions."""
    spans = [(x, x) if isinstance(x, int) else x for x in (task.length, task.regions)]
    return list(itertools.product(*(range(low, high + 1) for low, high in spans)))


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
    assert not law[task.longest - 2 * task.fewest + 1 :].any()
    assert task.constant_guess == law.max()
    assert 0 <= task.entropy <= math.log(task.longest)
    # A mean needs no law: of T places the 2R + 1 gaps share T - 2R, and a share p of them are ones.
    bits = sum(regions * (length - 2 * regions) / (2 * regions + 1) for length, regions in sizes_of(task))
    assert math.isclose(law @ np.arange(task.classes), task.p * bits / sum(regions for _, regions in sizes_of(task)))


def the_law_of_counts_is_that_of_a_sample(task, seed, rows=10000):
    counts = task.sample(stream(seed), rows).labels["count"]
    counts = counts[counts != NOWHERE]
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


# Seeds, splits and sizes -------------------------------------------------------------------------------------------


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
    numbers = (batch.labels["count"] != NOWHERE).sum(axis=1).tolist()
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
            if brackets <= 400 and brackets * 2 ** (length - 2 * regions) > FEW:
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


# Answers, the oracle and the context -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "answer", "written"),
    [
        ("BoS 1 [ 0 1 1 ] 1 [ ] 0 =", "counts", "n2 n0 EoS"),
        ("BoS 1 [ 0 1 1 ] 1 [ ] 0 =", "regions", "[ 0 1 1 ] n2 [ ] n0 EoS"),
        ("BoS 1 [ 0 1 1 ] 1 [ ] 0 =", "running", "[ 0 n0 1 n1 1 n2 ] n2 [ ] n0 EoS"),
        ("[ ] =", "counts", "n0 EoS"),
        ("[ ] =", "regions", "[ ] n0 EoS"),
        ("[ ] =", "running", "[ ] n0 EoS"),
        ("[ 1 ] [ 1 0 1 ] =", "counts", "n1 n2 EoS"),
        ("[ 1 ] [ 1 0 1 ] =", "regions", "[ 1 ] n1 [ 1 0 1 ] n2 EoS"),
        ("[ 1 ] [ 1 0 1 ] =", "running", "[ 1 n1 ] n1 [ 1 n1 0 n1 1 n2 ] n2 EoS"),
    ],
)
def test_answers_worked_out_by_hand(prompt, answer, written):
    task = ContextualCounting(begin="BoS" in prompt, answer=answer)
    assert decode(task, task.solve(encode(task, prompt.split()))) == written.split()
    batch = laid_out(task, re.sub("BoS|[ =]", "", prompt))
    assert decode(task, batch.tokens[0].tolist()) == [*prompt.split(), *written.split()[:-1]]
    assert decode(task, batch.targets[0, len(prompt.split()) - 1 :].tolist()) == written.split()
    assert set(batch.targets[0, : len(prompt.split()) - 1].tolist()) == {IGNORE}


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


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["length", "regions"])
@pytest.mark.parametrize("given", [0, -3, (0, 4), (9, 8), (-2, -1)])
def test_lengths_and_regions_that_are_no_range_raise(name, given):
    say = re.escape(f"{name}={given}: give one number of at least 1, or a range such as ")
    with pytest.raises(ValueError, match=f"^{say}"):
        ContextualCounting(**{name: given})


@pytest.mark.parametrize(
    ("length", "regions", "most"), [(7, 4, 4), ((3, 60), 2, 2), (5, (1, 3), 3), ((1, 9), (1, 1), 1)]
)
def test_a_length_without_room_for_the_brackets_raises(length, regions, most):
    say = re.escape(f"length={length}: {most} regions have {2 * most} brackets; give at least that length")
    with pytest.raises(ValueError, match=f"^{say}$"):
        ContextualCounting(length=length, regions=regions)


@pytest.mark.parametrize("p", [-0.1, 1.01, 2, -1])
def test_a_p_that_is_no_probability_raises(p):
    with pytest.raises(ValueError, match=f"^p={p}: is a probability, from 0 to 1$"):
        ContextualCounting(p=p)


@pytest.mark.parametrize(
    ("given", "regions", "length"),
    [
        ({"regions": 0}, 0, 20),
        ({"regions": -1}, -1, 20),
        ({"regions": 11}, 11, 20),
        ({"length": 3}, 2, 3),
        ({"length": 0}, 2, 0),
        ({"length": -1}, 2, -1),
        ({"length": np.array([9, 9, 5]), "regions": np.array([1, 4, 3])}, 3, 5),
    ],
)
def test_sizes_that_cannot_be_drawn_raise(given, regions, length):
    say = f"^regions={regions}: must be at least 1, and their brackets must fit into length={length}$"
    with pytest.raises(ValueError, match=say):
        ContextualCounting(length=20, regions=2).sample(stream(0), 3, **given)


@pytest.mark.parametrize("wrong", ["[", "]", "0]1[", "[1[0]1]", "[1]]", "[[1]", "[0][1", "[1]0]["])
@pytest.mark.parametrize("beside", [[], ["0[1]"], ["0[1]", "[][]0"]])
def test_strings_that_are_not_closed_one_after_another_raise(wrong, beside):
    say = f"^row {len(beside)}: regions must be opened and closed one after the other$"
    with pytest.raises(ValueError, match=say):
        laid_out(ContextualCounting(), *beside, wrong, "[1]", wrong)


@pytest.mark.parametrize("token", [-1, 4, 5, 6, 9])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_tokens_that_are_no_bits_and_no_brackets_raise(token, place):
    row = np.array([[0, 2, 1, 3, 0]])
    row[0, place] = token
    with pytest.raises(ValueError, match=r"^row 0: "):
        ContextualCounting().batch(row, np.array([5]))


@pytest.mark.parametrize(
    "names",
    [
        "BoS [ 1 =",
        "BoS 1 ] =",
        "BoS [ [ 1 ] ] =",
        "BoS ] [ =",
        "BoS [ 1 ] ] =",
        "BoS [ 1 ] [ =",
        "BoS 0 1 =",
        "BoS =",
        "[ 1 ] =",
        "BoS [ 1 ]",
        "BoS [ 1 ] = =",
        "BoS [ = ] =",
        "BoS BoS [ 1 ] =",
        "BoS [ BoS ] =",
        "BoS [ n1 ] =",
        "BoS [ 1 ] = n1",
        "BoS [ 1 ] = EoS",
        "",
    ],
)
def test_the_oracle_refuses_what_is_no_prompt_and_shows_it(names):
    task = ContextualCounting()
    prompt = encode(task, names.split())
    say = re.escape(f"prompt={prompt}: must be BoS, bits with regions [ ... ] one after another, '='")
    with pytest.raises(ValueError, match=f"^{say}$"):
        task.solve(prompt)


def test_the_oracle_without_a_begin_token_refuses_it_and_what_is_no_token():
    task = ContextualCounting(begin=False)
    for prompt in (encode(task, ["BoS", "[", "]", "="]), [2, -1, 3, 5], [2, 99, 3, 5]):
        with pytest.raises(ValueError, match=re.escape(f"prompt={prompt}: must be bits with regions")):
            task.solve(prompt)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_count_without_a_name_raises_in_the_oracle_and_in_the_batch(answer):
    task = ContextualCounting(length=6, regions=1, p=1, answer=answer)
    say = "^count=7: this task names counts up to 6; raise length$"
    assert ask(task, "[111111]") == [6]
    with pytest.raises(ValueError, match=say):
        laid_out(task, "[1111111]")
    # The oracle meets the running count first, which is the same number here.
    with pytest.raises(ValueError, match=say):
        task.solve(encode(task, ["BoS", "[", *"1111111", "]", "="]))


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
        return {"count": np.where(labels["count"] == NOWHERE, NOWHERE, counts)}


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
            inside, ((strings == 2) & inside).cumsum(axis=1), NOWHERE
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


class LeakySplit(ContextualCounting):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(rng, rows, "train", **others)


class SplitOfThePadding(ContextualCounting):
    """What decides the split is the row as it is padded, so that it depends on the rows beside."""

    def sample(self, rng, rows, split="train", **others):
        with mock.patch("toylab.tasks.base.split_of", lambda strings, sizes: split_of(strings)):
            return super().sample(rng, rows, split, **others)


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


class ContextTooShort(ContextualCounting):
    @property
    def context(self):
        return super().context - 1


class CountsOfAnyBinomial(ContextualCounting):
    """The law of counts forgets that the regions of a longer string are longer."""

    @property
    def count_law(self):
        law = binom.pmf(range(self.classes), (self.longest - 2 * self.most) // (2 * self.most + 1), self.p)
        return law / law.sum()


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
PAIR_MUTANTS = [
    (RowsCutShort, strings_go_back_into_the_batch),
    (AppendsInside, zeros_are_appended_outside_and_no_count_changes),
    (AppendsOnes, zeros_are_appended_outside_and_no_count_changes),
    (AppendsARegionInFront, a_region_is_appended_and_the_other_counts_stay),
    (MovesAndMisreports, a_one_moves_out_of_the_reported_region_and_all_else_stays),
    (MovesInPlace, a_one_moves_out_of_the_reported_region_and_all_else_stays),
    (DeletesAOne, a_one_moves_out_of_the_reported_region_and_all_else_stays),
]
DRAW_MUTANTS = [
    (BracketsInBlocks, places_of_brackets_are_uniform),
    (NeverAtTheStart, places_of_brackets_are_uniform),
    (FairBits, bits_are_independent_ones_with_probability_p),
    (BitsInTwos, bits_are_independent_ones_with_probability_p),
    (CountsOfAnyBinomial, the_law_of_counts_is_that_of_a_sample),
]
SPLIT_MUTANTS = [
    (LeakySplit, no_string_is_in_two_splits),
    (LeakySplit, every_row_is_of_the_split_asked_for),
    (SplitOfThePadding, no_string_is_in_two_splits),
    (SplitOfThePadding, every_row_is_of_the_split_asked_for),
]


def named(x):
    return x.__name__


def assert_caught(law, sound, broken, *others):
    law(*sound, *others)
    with pytest.raises(AssertionError):
        law(*broken, *others)


@pytest.mark.parametrize(("mutant", "law"), BATCH_MUTANTS, ids=named)
def test_a_broken_batch_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(10, 14), regions=(1, 3)) for kind in (ContextualCounting, mutant))
    if mutant is ContextTooShort:
        sound, broken = (kind(length=14, regions=2) for kind in (ContextualCounting, mutant))
    assert_caught(law, *((task, task.sample(stream(0), 30)) for task in (sound, broken)))


@pytest.mark.parametrize(("mutant", "law"), PAIR_MUTANTS, ids=named)
def test_a_broken_pair_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(12, 16), regions=2) for kind in (ContextualCounting, mutant))
    assert_caught(law, *((task, task.sample(stream(0), 10)) for task in (sound, broken)), stream(1))


@pytest.mark.parametrize(("mutant", "law"), DRAW_MUTANTS, ids=named)
def test_a_broken_draw_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=30, regions=3, p=0.4) for kind in (ContextualCounting, mutant))
    assert_caught(law, (sound,), (broken,), 0, 6000)


@pytest.mark.parametrize(("mutant", "law"), SPLIT_MUTANTS, ids=named)
def test_a_broken_split_is_caught_by_its_law(mutant, law):
    sound, broken = (kind(length=(7, 9), regions=(1, 2)) for kind in (ContextualCounting, mutant))
    assert_caught(law, (sound,), (broken,), 0)


def test_a_broken_context_and_a_broken_law_of_counts_are_caught():
    assert_caught(
        the_context_is_that_of_the_longest_row,
        *((kind(length=6, regions=2),) for kind in (ContextualCounting, ContextTooShort)),
    )
    assert_caught(
        the_law_of_counts_is_that_of_all_strings,
        *((kind(length=7, regions=2),) for kind in (ContextualCounting, CountsOfAnyBinomial)),
    )
