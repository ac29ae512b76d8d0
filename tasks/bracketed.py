"""Bracketed bit strings: sampling, enumeration, links, and the distribution of counts."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from toylab.tasks.base import EXACT_SPLIT_LIMIT, Split, split_index, split_of

ZERO, ONE, OPEN, CLOSE, BEGIN, EQUALS, END = range(7)
SYMBOLS = ("0", "1", "[", "]", "BoS", "=", "EoS")
"""Tokens other than counts; an encoder uses the first five."""

BitStrings = Int[np.ndarray, "batch longest"]
Sizes = Int[np.ndarray, " batch"]


def _draw(rng: np.random.Generator, sizes: Sizes, regions: Sizes, p: float | int, width: int) -> BitStrings:
    """Random strings, zero-padded to one width: brackets at 2R distinct uniform positions, and Bernoulli(p) bits."""
    inside = np.arange(width) < sizes[:, None]
    lot = np.where(inside, rng.random(inside.shape), 2.0)
    last = np.take_along_axis(np.sort(lot, axis=1), 2 * regions[:, None] - 1, axis=1)
    bracket = lot <= last
    bits = inside & (rng.random(inside.shape) < p)
    return np.where(bracket, np.where(bracket.cumsum(axis=1) % 2, OPEN, CLOSE), bits)


def _links(strings, region, ones, bracket, start: int, prompt: Sizes, answer: str) -> dict[str, np.ndarray]:
    """Links: ones of a region attend to the preceding brackets, answers attend to the ones of their region."""
    place = np.flatnonzero(np.any(bracket, axis=0)) if len(strings) else np.arange(0)
    counted = ones & (region > 0)
    row, query = np.nonzero(counted)
    before = bracket[row][:, place] & (place < query[:, None])
    which, key = np.nonzero(before)
    links = {"preceding delimiters": np.stack([row[which], start + query[which], start + place[key]], axis=1)}
    if answer == "counts":  # the count of region k is predicted k - 1 positions after "="
        asks = prompt[row] + region[row, query] - 1
        links["counted ones"] = np.stack([row, asks, start + query], axis=1)
    return links


def _each(rng: np.random.Generator, rows: int, given: int | tuple[int, int] | Sizes) -> Sizes:
    """One number per row: as given, or sampled uniformly from a range."""
    if isinstance(given, tuple):
        return rng.integers(given[0], given[1] + 1, size=rows)
    return np.broadcast_to(np.asarray(given, dtype=np.int64), rows).copy()


@lru_cache(maxsize=4096)
def _count_law(length: int, regions: int, p: float) -> Float[np.ndarray, " count"]:
    """P(count) of a region: Binomial(l, p), averaged over the length l with P(l) = C(T - 1 - l, 2R - 1) / C(T, 2R)."""
    bits = length - 2 * regions
    weights = [math.comb(length - 1 - size, 2 * regions - 1) for size in range(bits + 1)]
    law = np.zeros(bits + 1)
    binomial = np.ones(1)
    for weight in weights:
        law[: len(binomial)] += weight / math.comb(length, 2 * regions) * binomial
        binomial = np.convolve(binomial, [1 - p, p])
    return law


@lru_cache(maxsize=2**14)
def _holds(split: Split, p: float, length: int, regions: int) -> bool:
    """Whether a split has strings of this length and number of regions."""
    bits = (1 + (0 < p < 1)) ** (length - 2 * regions)
    return math.comb(length, 2 * regions) * bits > EXACT_SPLIT_LIMIT or len(_strings(split, p, length, regions)) > 0


@lru_cache(maxsize=64)
def _strings(split: Split, p: float, length: int, regions: int) -> BitStrings:
    """All strings of a split with this length and number of regions and nonzero probability under p."""
    brackets = list(itertools.combinations(range(length), 2 * regions))
    bits = list(itertools.product([ZERO] * (p < 1) + [ONE] * (p > 0), repeat=length - 2 * regions))
    every = np.empty((len(brackets), len(bits), length), dtype=np.int64)
    bracket = np.zeros(every.shape, dtype=bool)
    bracket[np.arange(len(brackets))[:, None], :, np.array(brackets)] = True
    every[~bracket] = np.tile(np.ravel(bits), len(brackets))
    every[bracket] = np.tile((OPEN, CLOSE), len(brackets) * len(bits) * regions)
    every = every.reshape(-1, length)
    return every[split_of(every) == split_index(split)]


def _low(given: int | tuple[int, int]) -> int:
    return given if isinstance(given, int) else given[0]


def _high(given: int | tuple[int, int]) -> int:
    return given if isinstance(given, int) else given[1]
