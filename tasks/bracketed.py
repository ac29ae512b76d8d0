"""Bracketed bit strings: sampling, enumeration, links, and the distribution of counts."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Bool, Float, Int

from toylab.tasks.base import EXACT_SPLIT_LIMIT, DeferredLinks, Split, split_index, split_of
from toylab.tasks.enumeration import as_int64, nth_choice

ZERO, ONE, OPEN, CLOSE, BEGIN, EQUALS, END = range(7)
SYMBOLS = ("0", "1", "[", "]", "BoS", "=", "EoS")
"""Tokens other than counts; an encoder uses the first five."""

BitStrings = Int[np.ndarray, "batch longest"]
Marks = Bool[np.ndarray, "batch longest"]
Sizes = Int[np.ndarray, " batch"]


def _sample_strings(rng: np.random.Generator, sizes: Sizes, regions: Sizes, p: float | int, width: int) -> BitStrings:
    """Random strings, zero-padded to one width: brackets at 2R distinct uniform positions, and Bernoulli(p) bits."""
    is_token = np.arange(width) < sizes[:, None]
    priority = np.where(is_token, rng.random(is_token.shape), 2.0)
    last = np.take_along_axis(np.sort(priority, axis=1), 2 * regions[:, None] - 1, axis=1)
    bracket = priority <= last
    bits = is_token & (rng.random(is_token.shape) < p)
    return np.where(bracket, np.where(np.logical_xor.accumulate(bracket, axis=1), OPEN, CLOSE), bits)


def _links(region: BitStrings, ones: Marks, bracket: Marks, start: int, prompt: Sizes, answer: str) -> DeferredLinks:
    """Links, computed when they are read: ones of a region attend to the preceding brackets, answers to the ones of
    their region."""
    return DeferredLinks(partial(_compute_links, region, ones, bracket, start, prompt, answer))


def _compute_links(
    region: BitStrings, ones: Marks, bracket: Marks, start: int, prompt: Sizes, answer: str
) -> dict[str, Int[np.ndarray, "link 3"]]:
    bracket_positions = np.flatnonzero(np.any(bracket, axis=0)) if len(bracket) else np.arange(0)
    counted = ones & (region > 0)
    row, query = np.nonzero(counted)
    before = bracket[row][:, bracket_positions] & (bracket_positions < query[:, None])
    pair, key = np.nonzero(before)
    links = {"preceding delimiters": np.stack([row[pair], start + query[pair], start + bracket_positions[key]], axis=1)}
    if answer == "counts":  # the count of region k is predicted k - 1 positions after "="
        answer_query = prompt[row] + region[row, query] - 1
        links["counted ones"] = np.stack([row, answer_query, start + query], axis=1)
    return links


def _per_row(rng: np.random.Generator, rows: int, value: int | tuple[int, int] | Sizes) -> Sizes:
    """One number per row: as given, or sampled uniformly from a range."""
    if isinstance(value, tuple):
        return rng.integers(value[0], value[1] + 1, size=rows)
    return np.broadcast_to(np.asarray(value, dtype=np.int64), rows).copy()


@lru_cache(maxsize=4096)
def _count_distribution(length: int, regions: int, p: float) -> Float[np.ndarray, " count"]:
    """P(count) of a region: Binomial(l, p), averaged over the length l with P(l) = C(T - 1 - l, 2R - 1) / C(T, 2R)."""
    bits = length - 2 * regions
    weights = [math.comb(length - 1 - size, 2 * regions - 1) for size in range(bits + 1)]
    distribution = np.zeros(bits + 1)
    binomial = np.ones(1)
    for weight in weights:
        distribution[: len(binomial)] += weight / math.comb(length, 2 * regions) * binomial
        binomial = np.convolve(binomial, [1 - p, p])
    return distribution


@lru_cache(maxsize=2**14)
def _has_strings(split: Split, p: float, length: int, regions: int) -> bool:
    """Whether a split has strings of this length and number of regions."""
    bits = (1 + (0 < p < 1)) ** (length - 2 * regions)
    return (
        math.comb(length, 2 * regions) * bits > EXACT_SPLIT_LIMIT
        or len(_strings_of_split(split, p, length, regions)) > 0
    )


@lru_cache(maxsize=64)
def _strings_of_split(split: Split, p: float, length: int, regions: int) -> BitStrings:
    """All strings of a split with this length and number of regions and nonzero probability under p."""
    brackets = list(itertools.combinations(range(length), 2 * regions))
    bits = list(itertools.product([ZERO] * (p < 1) + [ONE] * (p > 0), repeat=length - 2 * regions))
    strings = np.empty((len(brackets), len(bits), length), dtype=np.int64)
    bracket = np.zeros(strings.shape, dtype=bool)
    bracket[np.arange(len(brackets))[:, None], :, np.array(brackets)] = True
    strings[~bracket] = np.tile(np.ravel(bits), len(brackets))
    strings[bracket] = np.tile((OPEN, CLOSE), len(brackets) * len(bits) * regions)
    strings = strings.reshape(-1, length)
    return strings[split_of(strings) == split_index(split)]


def _number_of_strings(length: int, fewest: int, most: int, p: float | int, brackets: int = 0) -> int:
    """Number of strings with `fewest` to `most` regions, or of ways to complete one that has `brackets` brackets."""
    ends = (2 * regions - brackets for regions in range(fewest, most + 1))
    return sum(
        math.comb(length, more) * len(_possible_bits(p)) ** (length - more) for more in ends if 0 <= more <= length
    )


def _numbered_strings(
    numbers: Int[np.ndarray, " batch"], length: int, fewest: int, most: int, p: float | int
) -> BitStrings:
    """The strings with these numbers in lexicographic order, of all that have `fewest` to `most` regions."""
    bits = _possible_bits(p)
    strings, brackets = np.empty((len(numbers), length), dtype=np.int64), np.zeros(len(numbers), dtype=np.int64)
    for position in range(length):
        ways = [_number_of_strings(length - 1 - position, fewest, most, p, n) for n in range(2 * most + 1)]
        bit, numbers = nth_choice(numbers, np.repeat(as_int64(ways)[brackets][:, None], len(bits), axis=1))
        is_bracket = bit == len(bits)
        bracket = np.where(brackets % 2, CLOSE, OPEN)
        strings[:, position] = np.where(is_bracket, bracket, np.array((*bits, ZERO))[bit])
        brackets = brackets + is_bracket
    return strings


def _possible_bits(p: float | int) -> tuple[int, ...]:
    """Bits of nonzero probability."""
    return (ZERO,) * (p < 1) + (ONE,) * (p > 0)
