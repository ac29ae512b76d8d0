"""Contextual counting as text: strings drawn and cut, batches of them, and what the arrays of a batch say.

`[` and `]` cut a string into pieces, and every other piece is a region; the oracles of the tests work on text.
"""

import collections
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from toylab.tasks import NO_POSITION, ContextualCounting

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
    return [count for count in batch.labels["count"][row].tolist() if count != NO_POSITION]


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


def sizes_of(task):
    """Every pair of a length and a number of regions."""
    spans = [(x, x) if isinstance(x, int) else x for x in (task.length, task.regions)]
    return list(itertools.product(*(range(low, high + 1) for low, high in spans)))


def named(x):
    return x.__name__


def assert_caught(law, sound, broken, *others):
    law(*sound, *others)
    with pytest.raises(AssertionError):
        law(*broken, *others)


def sentence(law):
    return law.__name__.replace("_", " ")
