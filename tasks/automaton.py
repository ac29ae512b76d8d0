"""Finite automata given by a transition table, as an iterated map: the states after each symbol, or the last state.

Layout and links are those of `toylab.tasks.iteration`, with s_0 = 0. The handwritten circuit for every iterated map,
`toylab.planted.handwritten.iteration_head`, therefore runs every automaton.

Source: Liu et al. 2023, "Transformers Learn Shortcuts to Automata" (arXiv 2210.10749).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int

from toylab.console import ToylabError
from toylab.settings import check_range
from toylab.tasks.base import Batch
from toylab.tasks.iterated_map import IteratedMap


@dataclass(frozen=True, kw_only=True)
class Automaton(IteratedMap):
    """The states of a finite automaton given by its transition table, by default one that counts 1s modulo 3.

    position           0     1     2     3     4     5     6     7
    token      automaton     1     0     1   EoI     1     1     2
    target             .     .     .     .     1     1     2   EoS
    """

    table: tuple[int, ...] = (0, 1, 1, 2, 2, 0)
    """Next state by state and symbol, row by row: entry `symbols * state + symbol`. State 0 is the initial one."""
    symbols: int = 2
    """Number of symbols; their tokens are 0, 1, ..., shared with the states."""
    accepting: tuple[int, ...] = (0,)
    """States in which the word read so far belongs to the language; given as the label `accepted` of a row."""
    start: Literal["first-input", "zero"] = "zero"
    """s_1 = F(0, x_1): symbols are no states, so "first-input" is refused."""

    name = "automaton"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("for example 2", symbols=self.symbols, least=1)
        if not self.table or len(self.table) % self.symbols:
            raise ToylabError(
                f"table={self.table}: has {len(self.table)} entries; give symbols={self.symbols} next states for each "
                "state, row by row"
            )
        check_range(f"the table has {self.states} states", table=self.table, least=0, below=self.states)
        check_range(f"the table has {self.states} states", accepting=self.accepting, least=0, below=self.states)
        if self.start != "zero":
            raise ToylabError("start='first-input': a symbol is no state; an automaton starts in state 0, give 'zero'")

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]], accepting: Sequence[int], **settings) -> Automaton:
        """The automaton with one row of next states per state."""
        symbols = len(rows[0]) if rows else 0
        if any(len(row) != symbols for row in rows):
            raise ToylabError(f"rows={[list(row) for row in rows]}: must have one next state per symbol, all as many")
        table = tuple(state for row in rows for state in row)
        return cls(table=table, symbols=symbols, accepting=tuple(accepting), **settings)

    @classmethod
    def parity(cls, **settings) -> Automaton:
        """Words with an even number of 1s."""
        return cls.from_rows([(0, 1), (1, 0)], [0], **settings)

    @classmethod
    def counter(cls, n: int, **settings) -> Automaton:
        """Words whose number of 1s is a multiple of n."""
        check_range("for example 5", n=n, least=1)
        return cls.from_rows([(state, (state + 1) % n) for state in range(n)], [0], **settings)

    @classmethod
    def a_star_b_star(cls, **settings) -> Automaton:
        """Words in which no 0 follows a 1: a*b*, with 0 for a and 1 for b."""
        return cls.from_rows([(0, 1), (2, 1), (2, 2)], [0, 1], **settings)

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.table) // self.symbols

    @property
    def values(self) -> int:
        return max(self.states, self.symbols)

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(range(self.symbols))

    def step(self, states, inputs):
        return _square_table(self.table, self.symbols, self.values)[states, inputs]

    def trace(self, inputs: Sequence[int], start: int | None) -> list[int]:
        if not set(inputs) <= set(self.inputs):
            raise ToylabError(f"inputs={list(inputs)}: must be symbols, below {self.symbols}")
        reached = tuple(range(self.states))  # the map of all states that the symbols so far compose to
        states = []
        for symbol in inputs:
            column = self.table[symbol :: self.symbols]
            reached = tuple(column[state] for state in reached)
            states.append(reached[0])
        return states

    def accepts(self, inputs: Sequence[int]) -> bool:
        """Whether a word belongs to the language."""
        return ([0, *self.trace(inputs, 0)])[-1] in self.accepting

    def batch(self, inputs: Int[np.ndarray, "batch longest"], lengths: Int[np.ndarray, " batch"]) -> Batch:
        batch = super().batch(inputs, lengths)
        inside = np.arange(inputs.shape[1]) < lengths[:, None]
        final = self.run(np.where(inside, inputs, 0))[np.arange(len(inputs)), lengths - 1]
        return replace(batch, labels={**batch.labels, "accepted": np.isin(final, self.accepting).astype(np.int64)})

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, int]:
        return {**super().label_oracle(prompt), "accepted": int(self.accepts(prompt[1:-1]))}


@lru_cache
def _square_table(table: tuple[int, ...], symbols: int, values: int) -> Int[np.ndarray, "value value"]:
    """Next states for every pair of value tokens; a pair that cannot occur leaves the state as it is."""
    square = np.tile(np.arange(values)[:, None], values)
    square[: len(table) // symbols, :symbols] = np.reshape(table, (-1, symbols))
    square.setflags(write=False)
    return square
