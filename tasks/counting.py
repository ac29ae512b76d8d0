"""Contextual counting: the number of ones in each bracketed region of a bit string.

A string of T tokens contains R disjoint, non-nested regions `[` ... `]`; ones outside regions are distractors. Row
layout, with count tokens n0, n1 ... distinct from the bits:

    position  0    1 .. T   T+1  T+2 .. T+R+1
    token     BoS  string   =    n(y_1) .. n(y_R)

An encoder-decoder predicts all counts in parallel: its input is the row before "=", its targets are the label "count".
The *contextual position* of a token is the index of its region, 0 outside (label "region").

Source: Golkar et al. 2024, "Contextual Counting: A Mechanistic Study of Transformers on a Quantitative Task" (arXiv
2406.02585). The paper does not specify the positions of delimiters. 2R distinct positions, sampled uniformly as here,
reproduce the chance levels of its figures at (T, R) = (512, 4), (300, 4) and (512, 3).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import (
    IGNORE,
    NO_POSITION,
    Batch,
    Split,
    cached_property,
    check_draw,
    check_span,
    fill_split,
    span_ends,
)
from toylab.tasks.bracketed import (
    BEGIN,
    CLOSE,
    END,
    EQUALS,
    ONE,
    OPEN,
    SYMBOLS,
    ZERO,
    BitStrings,
    Sizes,
    _count_distribution,
    _has_strings,
    _links,
    _number_of_strings,
    _numbered_strings,
    _per_row,
    _sample_strings,
    _strings_of_split,
)
from toylab.tasks.enumeration import checked_length, with_splits, within

_PATIENCE = 1000
"""Rounds of rejection sampling before the strings of a split are enumerated. In spaces too large to enumerate, at least
1/20 of all samples falls into each split for any p, so failure has probability (19/20)^1000 < 1e-22."""


@dataclass(frozen=True, kw_only=True)
class ContextualCounting:
    """Count the ones inside each bracketed region; ones outside are distractors.

    position     0    1    2    3    4    5    6    7    8    9   10   11   12   13
    token      BoS    1    [    0    1    1    ]    1    [    ]    0    =   n2   n0
    target       .    .    .    .    .    .    .    .    .    .    .   n2   n0  EoS
    """

    length: int | tuple[int, int] = 64
    """Tokens per string, including brackets: fixed, or (minimum, maximum)."""
    regions: int | tuple[int, int] = 4
    """Regions per string: fixed, or (minimum, maximum)."""
    p: float | int = 0.5
    """Probability of a one."""
    begin: bool = True
    """Whether rows start with BoS."""
    answer: Literal["counts", "regions", "running"] = "counts"
    """Output after "=": the counts only; each region copied, followed by its count; or each region copied with the
    running count after every bit (the two chain-of-thought formats of the paper)."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_span("24 64", length=self.length)
        check_span("1 4", regions=self.regions)
        if self.min_length < 2 * self.most:
            raise ToylabError(
                f"length={self.length}: {self.most} regions have {2 * self.most} brackets; give at least that length"
            )
        check_range("it is a probability", p=self.p, least=0, most=1)

    @property
    def min_length(self) -> int:
        return span_ends(self.length)[0]

    @property
    def max_length(self) -> int:
        return span_ends(self.length)[1]

    @property
    def fewest(self) -> int:
        return span_ends(self.regions)[0]

    @property
    def most(self) -> int:
        return span_ends(self.regions)[1]

    @property
    def largest(self) -> dict[str, Any]:
        """Arguments of `sample` for maximum length and number of regions."""
        return {"length": self.max_length, "regions": self.most}

    @property
    def items(self) -> dict[str, int]:
        """Per-region labels, with their minimum number of columns."""
        return {"count": self.most}

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return (*SYMBOLS, *(f"n{count}" for count in range(self.classes)))

    @property
    def symbols(self) -> int:
        """Vocabulary size of an encoder: bits, brackets and BoS."""
        return BEGIN + 1

    @property
    def classes(self) -> int:
        """Number of count tokens, including 0."""
        return self.max_length + 1

    @property
    def context(self) -> int:
        written = {
            "counts": self.most,
            "regions": self.max_length + self.most,
            "running": 2 * self.max_length - self.fewest,
        }
        return self.begin + self.max_length + 1 + written[self.answer]

    # The Task protocol -------------------------------------------------------------------------------------------

    def sample(
        self,
        rng: np.random.Generator,
        rows: int,
        split: Split = "train",
        *,
        length: int | Sizes | None = None,
        regions: int | Sizes | None = None,
    ) -> Batch:
        """Sample rows of one split.

        Args:
            rng: the only source of randomness.
            rows: number of rows.
            split: splits share no strings.
            length, regions: one value or one per row; by default sampled uniformly from the ranges of the task, where
                the split has strings. Values outside these ranges test out-of-distribution generalisation.

        Raises:
            ToylabError: for an impossible length or number of regions, or if the split has no such string.
        """
        check_draw(rows, split)
        sizes = _per_row(rng, rows, self.length if length is None else length)
        numbers = _per_row(rng, rows, self.regions if regions is None else regions)
        invalid = (numbers < 1) | (sizes < 2 * numbers)
        if invalid.any():
            invalid_row = int(invalid.argmax())
            raise ToylabError(
                f"regions={numbers[invalid_row]}: must be at least 1, and their brackets must fit into "
                f"length={sizes[invalid_row]}"
            )
        p = float(self.p)
        is_empty = [not _has_strings(split, p, *size) for size in zip(sizes.tolist(), numbers.tolist(), strict=True)]
        for row in np.flatnonzero(is_empty):
            lengths = self.length if length is None else int(sizes[row])
            counts = self.regions if regions is None else int(numbers[row])
            ends = map(span_ends, (lengths, counts))
            choices = itertools.product(*(range(low, high + 1) for low, high in ends))
            available = [size for size in choices if _has_strings(split, p, *size)]
            if not available:
                raise ToylabError(
                    f"split={split!r}: holds no string of length {lengths} with {counts} regions and p={self.p}; give "
                    "a larger length or another split"
                )
            sizes[row], numbers[row] = available[rng.integers(len(available))]
        width = int(sizes.max(initial=1))
        strings = np.full((rows, width), ZERO)
        unfilled = fill_split(
            strings, sizes, split, lambda new: _sample_strings(rng, sizes[new], numbers[new], self.p, width), _PATIENCE
        )
        for row in unfilled:  # every string of the split has low probability under p
            choices = _strings_of_split(split, p, int(sizes[row]), int(numbers[row]))
            ones = (choices == ONE).sum(axis=1)
            log_probs = ones * np.log(p or 1) + (ones.max() - ones) * np.log1p(-p if p < 1 else 0)
            weights = np.exp(log_probs - log_probs.max())
            strings[row, : sizes[row]] = rng.choice(choices, p=weights / weights.sum())
        return self.batch(strings, sizes)

    @property
    def sampled_lengths(self) -> range:
        return range(self.min_length, self.max_length + 1)

    def count(self, length: int) -> int:
        """Number of strings of a length with the task's numbers of regions, also for lengths outside `length`."""
        return _number_of_strings(checked_length(length), self.fewest, self.most, self.p)

    def enumerate(self, length: int, numbers: Sizes) -> Batch:
        """The strings with these numbers in lexicographic order; see `toylab.tasks.enumeration`."""
        strings = _numbered_strings(within(numbers, self.count(length)), length, self.fewest, self.most, self.p)
        return with_splits(self.batch(strings, np.full(len(strings), length)), strings)

    def batch(self, strings: BitStrings, sizes: Sizes) -> Batch:
        """Build the batch for given strings of tokens 0, 1, `[` and `]`; `strings[row, sizes[row]:]` is ignored.

        Raises:
            ToylabError: for a string with nested or unclosed regions.
        """
        strings = strings[:, : int(sizes.max(initial=0))]
        rows, longest = strings.shape
        positions = np.arange(longest)
        inside = positions < sizes[:, None]
        bracket = inside & (strings >= OPEN)
        opened = np.logical_xor.accumulate(bracket, axis=1)  # from "[" to before "]"
        legal = ((strings >= ZERO) & (strings <= CLOSE)) | ~inside
        matched = ~bracket | (opened == (strings == OPEN))
        invalid = ~(legal & matched).all(axis=1)
        if longest:
            invalid |= opened[:, -1]
        if invalid.any():
            raise ToylabError(f"row {int(invalid.argmax())}: regions must be opened and closed one after the other")
        ordinal = (opened & bracket).cumsum(axis=1)
        region = ordinal * (opened | bracket)
        ones = inside & (strings == ONE)
        number = ordinal[:, -1] if longest else np.zeros(rows, dtype=np.int64)
        most = max(self.most, int(number.max(initial=0)))
        row = np.arange(rows)
        count = np.bincount((row[:, None] * (most + 1) + region)[ones], minlength=rows * (most + 1))
        count = count.reshape(rows, most + 1)[:, 1:]
        counts = np.where(np.arange(most) < number[:, None], count, NO_POSITION)

        start = int(self.begin)
        prompt = start + sizes
        written, written_sizes = self._answers(strings, region, ones, counts, number)
        tokens = np.full((rows, start + longest + 1 + written.shape[1] + 1), END)
        if self.begin:
            tokens[:, 0] = BEGIN
        tokens[:, start : start + longest] = np.where(inside, strings, END)
        tokens[row, prompt] = EQUALS
        answer_row, t = np.nonzero(np.arange(written.shape[1]) < written_sizes[:, None])
        tokens[answer_row, prompt[answer_row] + 1 + t] = written[answer_row, t]
        row_ends = prompt + 1 + written_sizes
        tokens = tokens[:, : int(row_ends.max(initial=prompt.max(initial=0) + 1)) + 1]
        position = np.arange(tokens.shape[1] - 1)
        scored = (position >= prompt[:, None]) & (position < row_ends[:, None])
        region_label = np.full(scored.shape, NO_POSITION)
        region_label[:, start : start + longest] = np.where(inside, region, NO_POSITION)
        if self.begin:
            region_label[:, 0] = 0
        return Batch(
            tokens=tokens[:, :-1],
            targets=np.where(scored, tokens[:, 1:], IGNORE),
            sizes=row_ends,
            links=_links(region, ones, bracket, start, prompt, self.answer),
            labels={"length": sizes, "region": region_label, "count": counts},
        )

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """The correct continuation of `BoS string =`, including EoS.

        Raises:
            ToylabError: if the prompt does not have this form, or a count exceeds the vocabulary.
        """
        text = "".join("01[]b="[token] if 0 <= token <= EQUALS else "?" for token in prompt)
        form = ("b" if self.begin else "") + r"((?:[01]*\[[01]*\])+[01]*)="
        match = re.fullmatch(form, text)
        if not match:
            begin = "BoS, " if self.begin else ""
            raise ToylabError(f"prompt={list(prompt)}: must be {begin}bits with regions [ ... ] one after another, '='")
        answer: list[int] = []
        for content in re.findall(r"\[([01]*)\]", match[1]):
            copied = self.answer != "counts"
            answer += [OPEN] * copied
            for end, bit in enumerate(content, start=1):
                answer += [int(bit)] * copied
                answer += [self._count_token(content[:end].count("1"))] * (self.answer == "running")
            answer += [CLOSE] * copied
            answer += [self._count_token(content.count("1"))]
        return [*answer, END]

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, list[int] | int]:
        """Expected values of the labels of a prompt."""
        text = "".join("01[]b="[token] for token in prompt)
        counts = [content.count("1") for content in re.findall(r"\[([01]*)\]", text)]
        return {"count": counts, "length": len(text.strip("b="))}

    # Chance levels -----------------------------------------------------------------------------------------------

    @cached_property
    def count_law(self) -> Float[np.ndarray, " count"]:
        """Exact distribution of the count of a uniformly chosen region, over counts 0 .. max_length."""
        total, distribution = 0, np.zeros(self.classes)
        for length in range(self.min_length, self.max_length + 1):
            for regions in range(self.fewest, self.most + 1):
                count_distribution = _count_distribution(length, regions, float(self.p))
                distribution[: len(count_distribution)] += regions * count_distribution
                total += regions
        return distribution / total

    @property
    def constant_guess(self) -> float:
        """Chance level: the accuracy of always answering the most frequent count."""
        return float(self.count_law.max())

    @property
    def entropy(self) -> float:
        """Entropy of the count distribution in nats: the loss of the best input-independent prediction."""
        law = self.count_law[self.count_law > 0]
        return float(-(law * np.log(law)).sum())

    # Counterfactual strings with a single change ------------------------------------------------------------------

    def strings(self, batch: Batch) -> tuple[BitStrings, Sizes]:
        """The strings of a batch, without BoS and answers, and their lengths."""
        sizes = batch.labels["length"]
        start = int(self.begin)
        return batch.tokens[:, start : start + int(sizes.max(initial=0))], sizes

    def append_zeros(self, batch: Batch, number: int) -> Batch:
        """Strings with `number` zeros added at the end, outside all regions; counts are unchanged."""
        return self._append(batch, [ZERO] * number)

    def append_region(self, batch: Batch) -> Batch:
        """Strings with an empty region added at the end; the other counts are unchanged."""
        return self._append(batch, [OPEN, CLOSE])

    def _append(self, batch: Batch, added: list[int]) -> Batch:
        strings, sizes = self.strings(batch)
        longer = np.pad(strings, ((0, 0), (0, len(added))), constant_values=ZERO)
        longer[np.arange(len(longer))[:, None], sizes[:, None] + np.arange(len(added))] = added
        return self.batch(longer, sizes + len(added))

    # Helpers -----------------------------------------------------------------------------------------------------

    def _count_token(self, count: Any) -> Any:
        """Token id of a count, or ids of an array of counts."""
        if np.max(count, initial=0) >= self.classes:
            raise ToylabError(f"count={np.max(count)}: this task names counts up to {self.classes - 1}; raise length")
        return END + 1 + count

    def _answers(self, strings, region, ones, counts, number) -> tuple[BitStrings, Sizes]:
        """The answers after "=", without EoS, and their lengths.

        Unless `answer` is "counts", each token of a region yields its copy, then a count after closing brackets, with
        "running" also after bits.
        """
        if self.answer == "counts":
            return self._count_token(counts[:, : number.max(initial=0)]), number
        copied = region > 0
        counted = strings == CLOSE
        if self.answer == "running":
            counted = counted | (strings <= ONE)
        counted = counted & (region > 0)
        before = np.where(ones & (region == 0), 0, ones).cumsum(axis=1)  # cumulative ones inside regions
        opened = np.maximum.accumulate(np.where(strings == OPEN, before, 0), axis=1)
        running = before - opened
        size = copied * 1 + counted * 1
        start = size.cumsum(axis=1) - size
        lengths = size.sum(axis=1)
        written = np.full((len(strings), int(lengths.max(initial=0))), END)
        row, t = np.nonzero(copied)
        written[row, start[row, t]] = strings[row, t]
        row, t = np.nonzero(counted)
        written[row, start[row, t] + copied[row, t]] = self._count_token(running[row, t])
        return written, lengths
