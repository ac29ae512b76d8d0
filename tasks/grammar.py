"""Probabilistic context-free grammars of two concepts with identical letter counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range, check_settings
from toylab.tasks.base import stream

LEAF = 3
"""Letters per symbol of the last level."""

_PATIENCE = 1000
"""Maximum attempts to sample distinct triples."""


@dataclass(frozen=True, kw_only=True)
class ConceptGrammar:
    """Grammars of two concepts, A and B, with the same rules; B emits the reversed letter triples of A.

    Each concept has two top symbols (A0 A1, B0 B1). A symbol expands into its two children, level by level, and a
    symbol of the last level into one of its triples, with uniform probabilities. Every top symbol uses every letter
    equally often, and the triples of B are the reversed triples of A, so only the order within triples distinguishes A
    from B, not letter counts or length. (Joint letter counts do distinguish top symbols: A1 groups letters differently
    from A0 and B0.) No two symbols share a triple, so parses are unique.

        A0 -> [a0 a1] | [a1 a0]       A1 -> [a2 a3] | [a3 a2]       a0 -> g c b | f l d
        B0 -> [b0 b1] | [b1 b0]       B1 -> [b2 b3] | [b3 b2]       b0 -> b c g | d l f

    Source: the grammars of Jain et al. 2024, section 3.1, whose concepts differ in letter counts and length instead.
    """

    letters: int = 12
    levels: int = 2
    """Levels of symbols, including the top; a top symbol emits 3 * 2^(levels - 1) letters."""
    alternatives: Literal[1, 2] = 2
    """Productions per symbol: one or both orders of its children, or one or two triples on the last level."""
    sharing: bool = False
    """Whether the two top symbols of a concept share a child (A0 -> [a0 a1], A1 -> [a1 a2]), and so half of their
    triples. Otherwise A0 and A1 have no more in common than A and B."""
    seed: int = 0
    """Random seed of the triples."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("of fewer, triples run out; for example 12", letters=self.letters, least=4)
        check_range("top symbols have children", levels=self.levels, least=2)
        letters_used = self.alternatives * self.size
        if letters_used % self.letters:
            raise ToylabError(
                f"letters={self.letters}: must divide the {letters_used} letters in the triples of a top symbol, so "
                f"that letter frequencies do not reveal the concept; for example {letters_used}"
            )
        needed, possible = letters_used // LEAF * 2, self.letters * (self.letters - 1) * (self.letters - 2) // 2
        if needed > possible // 4:
            raise ToylabError(f"letters={self.letters}: too few for {needed} triples; give more letters")
        _ = self.triples  # raises if none are found for this seed

    @property
    def size(self) -> int:
        """Letters per top symbol."""
        return LEAF * 2 ** (self.levels - 1)

    @property
    def top(self) -> tuple[str, ...]:
        """Names of the top symbols, indexed by id: 0, 1 of A and 2, 3 of B."""
        return ("A0", "A1", "B0", "B1")

    @cached_property
    def children(self) -> list[Int[np.ndarray, "symbol 2"]]:
        """Per level, the two children of each symbol; symbols of A come before symbols of B."""
        below = np.array([(0, 1), (1, 2)] if self.sharing else [(0, 1), (2, 3)])
        number = 3 if self.sharing else 4
        levels = [np.concatenate([below, below + number])]
        for level in range(self.levels - 2):
            levels.append(np.arange(4 * number * 2**level).reshape(-1, 2))
        return levels

    @cached_property
    def triples(self) -> Int[np.ndarray, "symbol alternative 3"]:
        """Letter triples of every symbol of the last level: the triples of A, then the reversed triples for B."""
        rng = stream(self.seed, "triples")

        def halves() -> list[np.ndarray]:
            """Letters of two children that together use every letter equally often."""
            times = self.alternatives * self.size // self.letters
            return np.split(rng.permuted(np.tile(np.arange(self.letters), times)), 2)

        for _ in range(_PATIENCE):
            first, second = halves()
            # With sharing, the third child permutes the letters of the first, to keep A1's letter counts uniform.
            parts = [first, second, rng.permuted(first)] if self.sharing else [first, second, *halves()]
            safe = np.concatenate(parts).reshape(-1, self.alternatives, LEAF)
            flat = [tuple(triple) for triple in safe.reshape(-1, LEAF).tolist()]
            both = flat + [triple[::-1] for triple in flat]
            if len(set(both)) == len(both) and all(len(set(triple)) == LEAF for triple in flat):
                return np.concatenate([safe, safe[:, :, ::-1]])
        raise ToylabError(f"letters={self.letters}: no {len(flat)} different triples found; give more letters")

    def generate(self, rng: np.random.Generator, top: Int[np.ndarray, "batch node"]) -> Int[np.ndarray, "batch letter"]:
        """Sample texts from given top symbols, with uniform productions."""
        symbols = top
        for children in self.children:
            pair = children[symbols]
            if self.alternatives == 2:
                pair = np.where(rng.integers(2, size=symbols.shape)[..., None], pair[..., ::-1], pair)
            symbols = pair.reshape(len(top), -1)
        alternative = rng.integers(self.alternatives, size=symbols.shape)
        return self.triples[symbols, alternative].reshape(len(top), -1)

    def texts(self, symbol: int, level: int = 0) -> Int[np.ndarray, "text letter"]:
        """All texts of a symbol, given by its id on a level; by default of a top symbol."""
        if level == len(self.children):
            return self.triples[symbol]
        first, second = (self.texts(child, level + 1) for child in self.children[level][symbol].tolist())
        orders = [(first, second), (second, first)][: self.alternatives]
        return np.concatenate([np.hstack([np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))]) for a, b in orders])

    def parse(self, letters: Sequence[int]) -> list[str]:
        """Parse a text bottom-up into its top symbols.

        Raises:
            ToylabError: for letters without a parse, with their position.
        """
        if len(letters) % self.size:
            raise ToylabError(f"text of {len(letters)} letters: must be a multiple of {self.size}, one top symbol each")
        emitters = {
            tuple(triple): symbol
            for symbol, alternatives in enumerate(self.triples.tolist())
            for triple in alternatives
        }
        symbols = []
        for start in range(0, len(letters), LEAF):
            triple = tuple(int(letter) for letter in letters[start : start + LEAF])
            if triple not in emitters:
                raise ToylabError(f"letters {start} to {start + LEAF - 1}: no symbol emits {triple}")
            symbols.append(emitters[triple])
        for level, children in reversed(list(enumerate(self.children, start=1))):
            parents = {tuple(pair): parent for parent, pair in enumerate(children.tolist())}
            if self.alternatives == 2:
                parents |= {pair[::-1]: parent for pair, parent in parents.items()}
            pairs = list(zip(symbols[::2], symbols[1::2], strict=True))
            for pair in pairs:
                if pair not in parents:
                    raise ToylabError(f"level {level}: no symbol expands into symbols {pair[0]} and {pair[1]} below it")
            symbols = [parents[pair] for pair in pairs]
        return [self.top[symbol] for symbol in symbols]
