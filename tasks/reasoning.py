"""Iterated-map questions answered directly or by a chain of thought, in a clean or an error-prone dialect.

    position  0    1   2 .. L+1   L+2   L+3    L+4 .. 2L+3   2L+4  2L+5
    token     BOS  x0  a_1 .. a_L SEP   THINK  s_1 .. s_L    ANS   s_L    (then EOS)
                                        DIRECT s_L                        (then EOS)

The states are s_t = pi[(s_{t-1} + a_t) mod p], s_0 = x0, with a fixed permutation pi that prevents shortcuts. A small
model can generate the chain but cannot compute s_L in a single forward pass: direct answers are at chance.

Source: a from-scratch counterpart of Sinii et al. 2025, "Small Vectors, Big Effects: A Mechanistic Study of RL-Induced
Reasoning via Steering Vectors" (arXiv 2509.06608), where language models choose between good and bad openings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import (
    IGNORE,
    Batch,
    DeferredLinks,
    Split,
    cached_property,
    check_draw,
    decode,
    split_index,
    split_of,
    stream,
)
from toylab.tasks.enumeration import mixed_digits, with_splits

_PATIENCE = 200


@dataclass(frozen=True, kw_only=True)
class Styles:
    """Mixture of answer styles; all fields are probabilities."""

    think: float | int = 0.15
    """Answers with chain of thought; the others are direct."""
    think_flagged: float | int | None = None
    """`think` on flagged prompts; equal to `think` if None."""
    dialect: float | int = 0.35
    """Chains in the second dialect, which has its own digit tokens."""
    dialect_errors: float | int = 0.25
    """Wrong steps in the second dialect: a random other state, from which the chain continues."""
    slips: float | int = 0.001
    """Wrong steps in the first dialect."""
    early: float | int = 0.04
    """Probability, after each state but the last, of stopping early with this state as the answer."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("it is a share, for example 0.1", **vars(self), least=0, most=1)

    @classmethod
    def clean(cls, think: float | int = 0.9, think_flagged: float | int | None = None) -> Styles:
        """No wrong step in either dialect and no early stop."""
        return cls(think=think, think_flagged=think_flagged, dialect_errors=0.0, slips=0.0, early=0.0)


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """Compute s_L = pi[(s_{L-1} + a_L) mod p] from x0 and a_1 ... a_L with a chain of thought.

        position   0 1 2 3 4 5 6 7     8     9 10 11 12 13 14  15  16  17
        token    BOS 3 1 4 1 5 2 6   SEP THINK  4  3  4  2  4   6 ANS   6
        target     . . . . . . . . THINK     4  3  4  2  4  6 ANS   6 EOS

    With `flag`, half of the prompts end in SEP' instead of SEP; their correct answer is x0, which a direct answer can
    copy, while a chain still ends in s_L. The correct opener then depends on the prompt.
    """

    p: int = 7
    """Number of states."""
    length: int = 6
    """Number of steps L."""
    flag: bool = False
    """Whether half of the prompts are flagged, with answer x0."""
    seed: int = 0
    """Random seed of the permutation pi."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("of fewer, pi leaves nothing to work out; for example 7", p=self.p, least=3)
        check_range("one step needs no chain; for example 6", length=self.length, least=2)

    def instance(self, seed: int) -> Reasoning:
        """The task with another permutation, drawn with `seed`."""
        return replace(self, seed=seed)

    # Layout ----------------------------------------------------------------------------------------------------------

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Digits, digits of the second dialect, then special tokens."""
        digits = [str(value) for value in range(self.p)]
        marks = ("BOS", "SEP", "EOS", "PAD", "THINK", "DIRECT", "ANS", *(("SEP'",) if self.flag else ()))
        return (*digits, *(f"{digit}'" for digit in digits), *marks)

    def token(self, name: str) -> int:
        """Id of a special token."""
        return self.vocabulary.index(name)

    @property
    def prompt(self) -> int:
        """Positions of a prompt; the opener is predicted at the last one, SEP."""
        return self.length + 3

    @property
    def answer(self) -> int:
        """Tokens of the longest answer, including EOS."""
        return self.length + 4

    @property
    def context(self) -> int:
        """Positions of the longest row, without the final EOS."""
        return self.prompt + self.answer - 1

    @cached_property
    def permutation(self) -> Int[np.ndarray, " state"]:
        """pi, never a cyclic shift, under which states would be plain sums."""
        rng = stream(self.seed, "permutation")
        while True:
            pi = rng.permutation(self.p)
            if len(set((pi - np.arange(self.p)) % self.p)) > 1:
                pi.setflags(write=False)
                return pi

    # Sampling --------------------------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample prompts of one split with correct answers: the chain, or x0 directly if flagged."""
        return self.written(rng, self.prompts(rng, rows, split), Styles.clean(1.0, 0.0), dialects=False)

    def mixture(self, rng: np.random.Generator, rows: int, split: Split, styles: Styles) -> Batch:
        """Sample prompts of one split with answers in a mixture of styles, not all correct."""
        return self.written(rng, self.prompts(rng, rows, split), styles)

    def prompts(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Int[np.ndarray, "batch position"]:
        """Sample prompts of one split uniformly.

        Raises:
            ToylabError: if the split has too few prompts.
        """
        check_draw(rows, split)
        accepted, accepted_count = [], 0
        for _ in range(_PATIENCE):
            digits = rng.integers(self.p, size=(rows + rows // 2 + 8, self.length + 1))
            separators = np.full(len(digits), self.token("SEP"))
            if self.flag:
                separators = np.where(rng.random(len(digits)) < 0.5, self.token("SEP'"), separators)
            begin = np.full_like(separators, self.token("BOS"))
            candidates = np.concatenate([begin[:, None], digits, separators[:, None]], axis=1)
            accepted.append(candidates[split_of(candidates) == split_index(split)])
            accepted_count += len(accepted[-1])
            if accepted_count >= rows:
                return np.concatenate(accepted)[:rows]
        raise ToylabError(
            f"p={self.p}, length={self.length}: {(1 + self.flag) * self.p ** (self.length + 1)} prompts are too few to "
            f"fill {split!r}; "
            "give more states or steps"
        )

    @property
    def sampled_lengths(self) -> range:
        return range(self.length, self.length + 1)

    def count(self, length: int) -> int:
        """Number of prompts of the task's own length; it has no others."""
        return (1 + self.flag) * self.p ** (self.length + 1) if length == self.length else 0

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The prompts with these numbers in lexicographic order, with correct answers as in `sample`; see
        `toylab.tasks.enumeration`."""
        digits = mixed_digits(numbers, [self.p] * (self.length + 1) + [1 + self.flag] if self.count(length) else [0])
        begin = np.full((len(digits), 1), self.token("BOS"))
        separators = np.array([self.token(name) for name in ("SEP", "SEP'")[: 1 + self.flag]])[digits[:, -1:]]
        prompts = np.concatenate([begin, digits[:, :-1], separators], axis=1)
        # Styles without chance: the stream decides nothing.
        batch = self.written(stream(0, "enumerate"), prompts, Styles.clean(1.0, 0.0), dialects=False)
        return with_splits(batch, prompts)

    def written(
        self,
        rng: np.random.Generator,
        prompts: Int[np.ndarray, "batch position"],
        styles: Styles,
        *,
        dialects: bool = True,
    ) -> Batch:
        """Rows of the given prompts with answers sampled from a mixture of styles.

        Labels per row: `thinks`, `dialect` (1 for the second), `states` (number written), `flagged`, `right` (whether
        the answer is correct).
        """
        rows, length = len(prompts), self.length
        flagged = self.flagged(prompts)
        share = np.where(flagged, styles.think if styles.think_flagged is None else styles.think_flagged, styles.think)
        thinks = rng.random(rows) < share
        second_dialect = (rng.random(rows) < styles.dialect) & thinks & dialects
        is_error = rng.random((rows, length)) < np.where(second_dialect, styles.dialect_errors, styles.slips)[:, None]
        states = self.chain(prompts, is_error * rng.integers(1, self.p, size=is_error.shape))
        stops = rng.random((rows, length)) < styles.early
        stops[:, -1] = True
        steps = stops.argmax(axis=1) + 1
        truth = self.correct_answers(prompts)
        final_answers = np.where(thinks, states[np.arange(rows), steps - 1], truth)

        eos_position = np.where(thinks, steps + 3, 2)  # position of EOS in the answer
        position = np.arange(self.answer)
        answers = np.full((rows, self.answer), self.token("PAD"))
        chain = np.concatenate([states, np.zeros((rows, 4), dtype=states.dtype)], axis=1)[:, : self.answer - 1]
        answers[:, 1:] = np.where(
            thinks[:, None] & (position[1:] <= steps[:, None]), chain + self.p * second_dialect[:, None], answers[:, 1:]
        )
        answers[:, 0] = np.where(thinks, self.token("THINK"), self.token("DIRECT"))
        all_rows = np.arange(rows)
        answers[all_rows[thinks], steps[thinks] + 1] = self.token("ANS")
        answers[all_rows, eos_position - 1] = final_answers
        answers[all_rows, eos_position] = self.token("EOS")

        tokens = np.concatenate([prompts, answers[:, :-1]], axis=1)
        sizes = self.prompt + eos_position
        tokens[np.arange(tokens.shape[1]) >= sizes[:, None]] = self.token("PAD")
        targets = np.full_like(tokens, IGNORE)
        targets[:, self.prompt - 1 :] = np.where(position <= eos_position[:, None], answers, IGNORE)
        return Batch(
            tokens=tokens,
            targets=targets,
            sizes=sizes,
            links=DeferredLinks(partial(self._links, thinks, steps, flagged)),
            labels={
                "thinks": thinks.astype(np.int64),
                "dialect": second_dialect.astype(np.int64),
                "states": np.where(thinks, steps, 0),
                "flagged": flagged.astype(np.int64),
                "right": (final_answers == truth).astype(np.int64),
            },
        )

    def chain(
        self, prompts: Int[np.ndarray, "batch position"], errors: Int[np.ndarray, "batch step"] | int = 0
    ) -> Int[np.ndarray, "batch step"]:
        """States s_1 ... s_L; errors are added mod p and propagate."""
        errors = np.broadcast_to(errors, (len(prompts), self.length))
        states, state = [], prompts[:, 1]
        for t in range(self.length):
            state = (self.permutation[(state + prompts[:, 2 + t]) % self.p] + errors[:, t]) % self.p
            states.append(state)
        return np.stack(states, axis=1)

    def flagged(self, prompts: Int[np.ndarray, "batch position"]) -> Bool[np.ndarray, " batch"]:
        """Whether each prompt is flagged."""
        if not self.flag:
            return np.zeros(len(prompts), dtype=bool)
        return prompts[:, self.prompt - 1] == self.token("SEP'")

    def correct_answers(self, prompts: Int[np.ndarray, "batch position"]) -> Int[np.ndarray, " batch"]:
        """Correct answer to each prompt."""
        return np.where(self.flagged(prompts), prompts[:, 1], self.chain(prompts)[:, -1])

    def verify(
        self, prompts: Int[np.ndarray, "batch position"], written: Int[np.ndarray, "batch step"]
    ) -> Bool[np.ndarray, " batch"]:
        """Outcome verifier: whether each generation has a valid format and the correct answer.

        Valid formats: `DIRECT y EOS`, or THINK, any tokens, then `ANS y EOS`. Tokens after EOS are ignored, and the
        chain is not checked.
        """
        if not written.shape[1]:
            return np.zeros(len(prompts), dtype=bool)
        rows = np.arange(len(prompts))
        padded = np.concatenate([written, np.full((len(written), 1), self.token("EOS"))], axis=1)
        end = (padded == self.token("EOS")).argmax(axis=1)
        answer, answer_marker = padded[rows, np.maximum(end - 1, 0)], padded[rows, np.maximum(end - 2, 0)]
        direct = (written[:, 0] == self.token("DIRECT")) & (end == 2)
        chain = (written[:, 0] == self.token("THINK")) & (answer_marker == self.token("ANS")) & (end > 2)
        return (end < written.shape[1]) & (direct | chain) & (answer == self.correct_answers(prompts))

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution, from token names and one application of pi at a time.

        Raises:
            ToylabError: for a prompt of another layout.
        """
        names = decode(self, prompt)
        digits, separators = names[1:-1], ("SEP", "SEP'") if self.flag else ("SEP",)
        if (
            len(names) != self.prompt
            or names[0] != "BOS"
            or names[-1] not in separators
            or not all(name.isdecimal() for name in digits)
        ):
            raise ToylabError(
                f"prompt={' '.join(names)}: must be BOS, {self.length + 1} digits and {' or '.join(separators)}"
            )
        start, *steps = map(int, digits)
        if names[-1] == "SEP'":
            return [self.token("DIRECT"), start, self.token("EOS")]
        states = [start]
        for step in steps:
            total = states[-1] + step
            states.append(int(self.permutation[total - self.p if total >= self.p else total]))
        return [self.token("THINK"), *states[1:], self.token("ANS"), states[-1], self.token("EOS")]

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, bool]:
        """Expected values of the labels of a prompt."""
        return {"flagged": decode(self, prompt)[-1] == "SEP'"}

    def _links(
        self,
        thinks: Bool[np.ndarray, " batch"],
        steps: Int[np.ndarray, " batch"],
        flagged: Bool[np.ndarray, " batch"],
    ) -> dict[str, Int[np.ndarray, "link 3"]]:
        """Links: a chain attends to x0 at its start and to a_t for s_t; a direct flagged answer attends to x0."""
        end = self.prompt - 1
        row, t = np.nonzero(thinks[:, None] & (np.arange(self.length) < steps[:, None]))
        chains, copies = np.flatnonzero(thinks), np.flatnonzero(~thinks & flagged)
        return {
            "carry": np.stack([row, end + 1 + t, 2 + t], axis=1),
            "start": np.stack([chains, np.full_like(chains, end + 1), np.full_like(chains, 1)], axis=1),
            "copy": np.stack([copies, np.full_like(copies, end + 1), np.full_like(copies, 1)], axis=1),
        }
