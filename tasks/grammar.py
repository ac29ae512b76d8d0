"""Probabilistic context-free grammars of two concepts that look alike in every count of letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int

from tasks.base import stream

Concept = Literal["A", "B"]
LEAF = 3
"""Letters that a symbol of the last level emits."""

PATIENCE = 1000
"""Draws of triples before giving up: with letters to spare, a few are enough."""


@dataclass(frozen=True, kw_only=True)
class ConceptGrammar:
    """Two concepts, A and B, with the same tree of rules; B emits A's triples of letters backwards.

    Each concept has two top symbols (A0 A1, B0 B1). A symbol expands into a pair of its own two children, level by
    level, and a symbol of the last level into one of its triples, all alternatives equally likely. Every top symbol
    uses every letter equally often, and A's triples are B's read backwards: neither the counts of letters nor the
    length tell the concepts apart, only the order inside a triple does. No two symbols share a triple, so a text has
    one tree.

        A0 -> [A00 A01] | [A01 A00]       A00 -> g c b | f l d
        B0 -> [B00 B01] | [B01 B00]       B00 -> b c g | d l f

    Source: the grammars of Jain et al. 2024, section 3.1, whose concepts differ in letter counts and length instead.
    """

    letters: int = 12
    levels: int = 2
    """Levels of symbols, the top ones counted; a top symbol emits 3 * 2^(levels - 1) letters."""
    alternatives: Literal[1, 2, 4] = 2
    """Right-hand sides of a symbol: its children in order; in either order; in either order or one of them twice."""
    seed: int = 0
    """Of the triples."""

    def __post_init__(self) -> None:
        if self.letters < 4:
            raise ValueError(f"letters={self.letters}: must be at least 4, or triples run out; for example 12")
        if self.levels < 1:
            raise ValueError(f"levels={self.levels}: must be at least 1")
        if self.alternatives not in (1, 2, 4):
            raise ValueError(f"alternatives={self.alternatives}: must be 1, 2 or 4, or children are not equally likely")
        used = LEAF * self.alternatives * 2 ** (self.levels - 1)
        if used % self.letters:
            raise ValueError(
                f"letters={self.letters}: must divide the {used} letters in the triples of a top symbol, or some are "
                f"commoner and give the concept away; for example {used}"
            )
        many = self.letters * (self.letters - 1) * (self.letters - 2) // 2
        if 2 * used // LEAF > many // 4:
            raise ValueError(f"letters={self.letters}: too few for {2 * used // LEAF} triples; give more letters")

    @property
    def size(self) -> int:
        """Letters that a top symbol emits."""
        return LEAF * 2 ** (self.levels - 1)

    @property
    def top(self) -> tuple[str, ...]:
        """Names of the top symbols; a symbol's index here is its id: 0, 1 are A's, 2, 3 are B's."""
        return ("A0", "A1", "B0", "B1")

    @cached_property
    def pairs(self) -> Int[np.ndarray, "alternative 2"]:
        """Which of its two children a symbol expands into, by alternative."""
        return np.array([(0, 1), (1, 0), (0, 0), (1, 1)])[: self.alternatives]

    @cached_property
    def triples(self) -> Int[np.ndarray, "symbol alternative 3"]:
        """The letters of every symbol of the last level: those of A, then, mirrored, those of B."""
        rng = stream(self.seed, "triples")
        symbols = 2 ** (self.levels - 1)  # of one top symbol
        shape = (symbols, self.alternatives, LEAF)
        for _ in range(PATIENCE):
            times = np.prod(shape) // self.letters
            drawn = [
                np.concatenate([rng.permutation(self.letters) for _ in range(times)]).reshape(shape) for _ in range(2)
            ]
            safe = np.concatenate(drawn)
            flat = [tuple(triple) for triple in safe.reshape(-1, LEAF).tolist()]
            both = flat + [triple[::-1] for triple in flat]
            if len(set(both)) == len(both) and all(len(set(triple)) == LEAF for triple in flat):
                return np.concatenate([safe, safe[:, :, ::-1]])
        raise ValueError(f"letters={self.letters}: no {len(flat)} different triples found; give more letters")

    def generate(self, rng: np.random.Generator, top: Int[np.ndarray, "batch node"]) -> Int[np.ndarray, "batch letter"]:
        """Letters of texts whose top symbols are given; alternatives are drawn evenly at every symbol."""
        symbols = top
        for _ in range(self.levels - 1):
            pair = self.pairs[rng.integers(self.alternatives, size=symbols.shape)]
            symbols = (2 * symbols[..., None] + pair).reshape(len(top), -1)
        which = rng.integers(self.alternatives, size=symbols.shape)
        return self.triples[symbols, which].reshape(len(top), -1)

    def parse(self, letters: Sequence[int]) -> list[str]:
        """The top symbols of a text, bottom up, by reading its triples and pairs.

        Raises:
            ValueError: for letters that no tree emits, with the place.
        """
        if len(letters) % self.size:
            raise ValueError(f"text of {len(letters)} letters: must be a multiple of {self.size}, one top symbol each")
        emitters = {
            tuple(triple): symbol
            for symbol, alternatives in enumerate(self.triples.tolist())
            for triple in alternatives
        }
        symbols = []
        for start in range(0, len(letters), LEAF):
            triple = tuple(int(letter) for letter in letters[start : start + LEAF])
            if triple not in emitters:
                raise ValueError(f"letters {start} to {start + LEAF - 1}: no symbol emits {triple}")
            symbols.append(emitters[triple])
        legal = [tuple(pair) for pair in self.pairs.tolist()]
        for level in range(self.levels - 1, 0, -1):
            parents = []
            for left, right in zip(symbols[::2], symbols[1::2], strict=True):
                if left // 2 != right // 2 or (left % 2, right % 2) not in legal:
                    raise ValueError(f"level {level}: no symbol expands into symbols {left} and {right} below it")
                parents.append(left // 2)
            symbols = parents
        return [self.top[symbol] for symbol in symbols]
