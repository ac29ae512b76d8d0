"""Dyck-k: texts of nested brackets of k kinds, with every position scored on the next token.

    position  0    1 .. 2n        2n+1
    token     BoS  w_1 .. w_2n    (EoS)

A prefix has several correct continuations, so `solve` returns all of them, and whole rows are divided among the splits
(`next_token`, see `toylab.tasks.laws`). Where a bracket closes, its kind is that of the bracket it matches: the link
"matching bracket". No circuit is written by hand: the known one (Yao et al. 2021, "Self-Attention Networks Can Process
Bounded Hierarchical Languages", arXiv 2105.11115) computes the depth at each position as a quotient of two counts,
which takes a lookup of hundreds of units at the lengths used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Bool, Float, Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import (
    IGNORE,
    Batch,
    DeferredLinks,
    Split,
    cached_property,
    check_draw,
    check_span,
    decode,
    span_ends,
)
from toylab.tasks.by_size import sample_contents
from toylab.tasks.enumeration import as_int64, checked_length, nth_choice, with_splits, within

BRACKETS = ("()", "[]", "{}", "<>")


@dataclass(frozen=True, kw_only=True)
class Dyck:
    """Continue a text of nested brackets (Dyck-k), scored at every position.

    position    0    1    2    3    4    5    6
    token     BoS    [    (    )    ]    (    )
    target      [    (    )    ]    (    )  EoS
    """

    pairs: int | tuple[int, int] = (3, 8)
    """Pairs of brackets per row: fixed, or (minimum, maximum)."""
    kinds: int = 2
    """Number of kinds of brackets, 1 to 4."""
    depth: int = 4
    """Largest number of open brackets."""

    next_token = True
    """Every position is scored, `solve` returns all tokens that may follow, and splits divide whole rows."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_span("3 8", pairs=self.pairs)
        check_range("counts of longer texts overflow", pairs=self.pairs, most=500)
        check_range("there are brackets of four kinds", kinds=self.kinds, least=1, most=len(BRACKETS))
        check_range("for example 4", depth=self.depth, least=1)

    @property
    def span(self) -> tuple[int, int]:
        """The smallest and the largest number of pairs."""
        return span_ends(self.pairs)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Opening brackets, closing brackets in the same order, BoS and EoS, which is also the padding."""
        kinds = BRACKETS[: self.kinds]
        return (*(kind[0] for kind in kinds), *(kind[1] for kind in kinds), "BoS", "EoS")

    @property
    def context(self) -> int:
        return 2 * self.span[1] + 1

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample rows of one split: a number of pairs, then a uniformly distributed text with as many.

        Raises:
            ToylabError: if the split has no text.
        """
        check_draw(rows, split)
        return self.batch(*sample_contents(self, rng, rows, split, self.pairs, "pairs"))

    def batch(self, texts: Int[np.ndarray, "batch token"], pairs: Int[np.ndarray, " batch"]) -> Batch:
        """Build the batch of given texts; `texts[row, 2 * pairs[row]:]` is ignored."""
        sizes = 2 * pairs + 1
        width = int(sizes.max(initial=1))
        tokens = np.full((len(texts), width + 1), 2 * self.kinds + 1)
        tokens[:, 0] = 2 * self.kinds
        inside = (np.arange(width) < 2 * pairs[:, None])[:, : texts.shape[1]]
        row, i = np.nonzero(inside)
        tokens[row, i + 1] = texts[row, i]
        change = np.where(tokens < self.kinds, 1, np.where(tokens < 2 * self.kinds, -1, 0))
        is_inside = np.arange(width) < sizes[:, None]
        return Batch(
            tokens=tokens[:, :-1],
            targets=np.where(is_inside, tokens[:, 1:], IGNORE),
            sizes=sizes,
            links=DeferredLinks(partial(_links, tokens, self.kinds)),
            labels={"depth": np.where(is_inside, change.cumsum(axis=1)[:, :-1], 0), "pairs": pairs},
        )

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution: every token that may follow, from the stack of open brackets.

        Raises:
            ToylabError: for a prompt that begins no text of the task.
        """
        names, stack, opened = decode(self, prompt), "", 0
        kinds = BRACKETS[: self.kinds]
        for name in names[1:]:
            if any(name == kind[0] for kind in kinds):
                stack, opened = stack + name, opened + 1
            elif f"{stack[-1:]}{name}" in kinds:
                stack = stack[:-1]
            else:
                opened = self.span[1] + 1
        if names[:1] != ["BoS"] or opened > self.span[1] or len(stack) > self.depth:
            raise ToylabError(f"prompt={' '.join(names)}: must be BoS and the beginning of a text of this task")
        allowed = [kind[0] for kind in kinds] if opened < self.span[1] and len(stack) < self.depth else []
        allowed += [kind[1] for kind in kinds if stack and kind[0] == stack[-1]]
        allowed += ["EoS"] if not stack and opened >= self.span[0] else []
        return [token for token, name in enumerate(self.vocabulary) if name in allowed]

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, int | list[int]]:
        """Expected values of the labels of a row."""
        text = "".join(decode(self, prompt)[1:])
        depths = [0, *(sum(1 if c in "([{<" else -1 for c in text[:end]) for end in range(1, len(text) + 1))]
        return {"depth": depths, "pairs": len(text) // 2}

    # Contents of rows -----------------------------------------------------------------------------------------------

    @property
    def sampled_lengths(self) -> range:
        return range(self.span[0], self.span[1] + 1)

    def count(self, length: int) -> int:
        """Number of texts of `length` pairs, also for lengths outside `pairs`."""
        return _endings(checked_length(length), self.depth, self.kinds)[-1][0]

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The texts with these numbers in lexicographic order; see `toylab.tasks.enumeration`."""
        numbers, rows = within(numbers, self.count(length)), np.arange(len(numbers))
        texts, depth = np.empty((len(rows), 2 * length), dtype=np.int64), np.zeros_like(rows)
        stack = np.zeros((len(rows), self.depth + 2), dtype=np.int64)
        endings = as_int64(_endings(length, self.depth, self.kinds))
        for i in range(2 * length):
            after = endings[2 * length - 1 - i]
            opened, closed = after[depth + 1], after[depth - 1]  # at depth 0, of the last depth, which has no ending
            kind, numbers = nth_choice(numbers, np.stack([*[opened] * self.kinds, closed], axis=1))
            is_open = kind < self.kinds
            texts[:, i] = np.where(is_open, kind, self.kinds + stack[rows, depth])
            depth = depth + np.where(is_open, 1, -1)
            stack[rows[is_open], depth[is_open]] = kind[is_open]
        return with_splits(self.batch(texts, np.full(len(rows), length)), texts)

    def space(self, number: int) -> int:
        return self.count(number)

    def contents(self, number: int) -> Int[np.ndarray, "content token"]:
        texts: list[tuple[list[int], list[int]]] = [([], [])]  # with the kinds of the open brackets
        for left in range(2 * number)[::-1]:
            steps = [(text, stack, token) for text, stack in texts for token in range(2 * self.kinds)]
            texts = [
                ([*text, token], [*stack, token] if token < self.kinds else stack[:-1])
                for text, stack, token in steps
                if (token < self.kinds and len(stack) < min(self.depth, left)) or stack[-1:] == [token - self.kinds]
            ]
        return np.array([text for text, _ in texts], dtype=np.int64)

    def draw_contents(
        self, rng: np.random.Generator, numbers: Int[np.ndarray, " row"], width: int
    ) -> Int[np.ndarray, "row {width}"]:
        chance, depth = _open_probability(width // 2, self.depth), np.zeros_like(numbers)
        uniform, kinds = rng.random((len(numbers), width)), rng.integers(self.kinds, size=(len(numbers), width))
        opens = np.empty(uniform.shape, dtype=bool)
        for i in range(width):
            opens[:, i] = uniform[:, i] < chance[np.maximum(2 * numbers - i, 0), depth]
            depth = depth + np.where(opens[:, i], 1, -1)
        return np.where(opens, kinds, self.kinds + np.take_along_axis(kinds, _matches(opens, ~opens), axis=1))


def _links(tokens: Int[np.ndarray, "batch token"], kinds: int) -> dict[str, Int[np.ndarray, "link 3"]]:
    """From the position that predicts a closing bracket to the bracket that it matches."""
    closes = (tokens >= kinds) & (tokens < 2 * kinds)
    row, position = np.nonzero(closes)
    return {"matching bracket": np.stack([row, position - 1, _matches(tokens < kinds, closes)[closes]], axis=1)}


def _matches(
    opens: Bool[np.ndarray, "batch token"], closes: Bool[np.ndarray, "batch token"]
) -> Int[np.ndarray, "batch token"]:
    """The position of the opening bracket that each closing one matches; 0 at other positions."""
    depth = (opens.astype(np.int64) - closes).cumsum(axis=1) + closes  # of the pair, at both of its brackets
    matches = np.zeros_like(depth)
    for level in range(1, int(depth.max(initial=0)) + 1):
        last = np.maximum.accumulate(np.where(opens & (depth == level), np.arange(opens.shape[1]), 0), axis=1)
        matches = np.where(closes & (depth == level), last, matches)
    return matches


@lru_cache(maxsize=64)
def _open_probability(pairs: int, depth: int) -> Float[np.ndarray, "left depth"]:
    """Probability that the next bracket opens, in a uniformly distributed text, by tokens left and depth."""
    ways = _completions(pairs, depth)
    probability = np.zeros((len(ways), depth + 1))
    probability[1:] = ways[:-1, 1:] / np.maximum(ways[1:, :-1], 1)
    probability[0, 0] = 1  # after the end, which is ignored, the depth stays within bounds
    probability.setflags(write=False)
    return probability


@lru_cache(maxsize=64)
def _endings(pairs: int, depth: int, kinds: int) -> tuple[tuple[int, ...], ...]:
    """Number of ways to end a text, by tokens left and depth, one depth more than the largest; exact, unlike
    `_completions`."""
    ways = [(1, *[0] * (depth + 1))]
    for _ in range(2 * pairs):
        last = (0, *ways[-1])
        ways.append((*(kinds * last[at + 2] + last[at] for at in range(depth + 1)), 0))
    return tuple(ways)


@lru_cache(maxsize=64)
def _completions(pairs: int, depth: int) -> Float[np.ndarray, "left depth"]:
    """Number of ways to end a text from each number of tokens left and each depth, ignoring kinds."""
    ways = np.zeros((2 * pairs + 1, depth + 2))
    ways[0, 0] = 1
    for left in range(1, 2 * pairs + 1):
        ways[left, : depth + 1] = ways[left - 1, 1:]
        ways[left, 1 : depth + 1] += ways[left - 1, :depth]
    ways.setflags(write=False)
    return ways
