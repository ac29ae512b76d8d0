"""The record of a proof: blocks of decided rows, the sample of the rest, and the verdict in words."""

from __future__ import annotations

from dataclasses import dataclass

from toylab.verdicts.intervals import share_interval


@dataclass(frozen=True, kw_only=True)
class ProvedBlock:
    """The decisions on consecutive rows of one length.

    Attributes:
        length, start, rows: the rows `start` to `start + rows` of `task.enumerate(length, ...)`.
        train: rows of the training split.
        holds, train_holds: rows on which the property holds, and those of the training split.
        close: rows with a margin below `CLOSE_MARGIN`, which are decided in float64.
        margin: smallest margin; None if nothing is decided.
        digest: SHA-256 of the decisions of all rows, little-endian 32-bit integers, row after row.
        counterexample: number of the first row on which the property fails.
    """

    length: int
    start: int
    rows: int
    train: int
    holds: int
    train_holds: int
    close: int
    margin: float | None
    digest: str
    counterexample: int | None = None


@dataclass(frozen=True, kw_only=True)
class RestSample:
    """Independent uniform draws from the rows that were not decided one by one.

    Attributes:
        rows: number of draws.
        failures: draws on which the property fails.
    """

    rows: int
    failures: int

    @property
    def most(self) -> float:
        """Upper bound of the share of failures at 95 % confidence, one-sided (Clopper and Pearson 1934)."""
        return share_interval(self.failures, self.rows, level=0.1)[1]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The verdict on a property: exact for the rows of `blocks`, statistical for the rest.

    Attributes:
        name: the property.
        counts: number of rows of each length, smallest length first.
        blocks: the rows decided one by one, in order and without a gap from the first on.
        sample: sample of the other rows; None if there are none.
        counterexample: the smallest counterexample as text.
    """

    name: str
    counts: dict[int, int]
    blocks: tuple[ProvedBlock, ...]
    sample: RestSample | None = None
    counterexample: str | None = None

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return sum(self.counts.values())

    def total(self, name: str) -> int:
        """The sum of a number over the blocks, such as `total("holds")`."""
        return sum(getattr(block, name) for block in self.blocks)

    @property
    def margin(self) -> float | None:
        """The smallest margin of all decided rows."""
        return min((block.margin for block in self.blocks if block.margin is not None), default=None)

    @property
    def is_complete(self) -> bool:
        """Whether every row was decided."""
        return self.total("rows") == self.rows

    @property
    def holds(self) -> bool | None:
        """Whether the property holds on all rows; None if no counterexample was found and the rest is sampled."""
        if self.total("holds") < self.total("rows") or (self.sample and self.sample.failures):
            return False
        return True if self.is_complete else None

    def __str__(self) -> str:
        decided, held = self.total("rows"), self.total("holds")
        lengths = (
            f"length {min(self.counts)}"
            if len(self.counts) == 1
            else f"lengths {min(self.counts)} to {max(self.counts)}"
        )
        inputs = f"inputs of {lengths}"
        if self.is_complete and held == decided:
            lines = [f"{self.name}: for all {decided:,} {inputs}"]
        elif self.is_complete:
            lines = [f"{self.name}: for {held:,} of all {decided:,} {inputs}"]
        else:
            lines = [f"{self.name}: for {held:,} of the first {decided:,} of {self.rows:,} {inputs}"]
        train, train_held = self.total("train"), self.total("train_holds")
        lines.append(
            f"  training split {train_held:,} of {train:,}; held out {held - train_held:,} of {decided - train:,}"
        )
        if self.margin is not None:
            lines.append(f"  smallest margin {self.margin:.3g}; {self.total('close'):,} inputs decided in float64")
        if self.sample is not None:
            lines.append(
                f"  the other {self.rows - decided:,} inputs: fails on {self.sample.failures} of {self.sample.rows:,} "
                f"drawn at random, so on a share of at most {self.sample.most:.2g} with 95 % confidence"
            )
        if self.counterexample is not None:
            lines.append(self.counterexample)
        return "\n".join(lines)
