"""What every task shares: batches, random streams, a hold-out decided by content, and a printed row.

This package needs numpy alone. It knows no model: a batch says what goes in, what should come out, and which
position an ideal algorithm would read from which, and nothing about who computes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from toylab.console import ToylabError
from toylab.settings import check_option, check_range, check_seed

if TYPE_CHECKING:
    cached_property = property  # to pyright, nothing else is what a protocol calls a property
else:
    from functools import cached_property as cached_property

IGNORE = -100
"""The target of a position that is not scored (torch's own default for cross entropy)."""

NO_POSITION = -1
"""The label of a position that a label does not speak of."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_SHARES: dict[Split, float] = {"train": 6 / 8, "validation": 1 / 8, "test": 1 / 8}
"""The share of all prompts that falls into each split."""

EXACT_SPLIT_LIMIT = 2**11
"""Up to this many prompts of one size are listed, to see which splits hold some; of more, every split holds many."""


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with what is scored, what should be read, and what is true of each row.

    Attributes:
        tokens: what the model reads; rows are padded at the end to one width.
        targets: the token that should follow each position, `IGNORE` where nothing is scored.
        sizes: how many positions of each row are not padding.
        links: by name, the edges (row, query, key) along which an ideal algorithm reads: at position `query` it
            needs what stands at position `key`. Several edges may leave one query; edges are sorted by row.
        labels: by name, facts for probes and for grouping metrics; one entry a row or one a position.
    """

    tokens: Int[np.ndarray, "batch position"]
    targets: Int[np.ndarray, "batch position"]
    sizes: Int[np.ndarray, " batch"]
    links: Mapping[str, Int[np.ndarray, "link 3"]] = field(default_factory=dict)
    labels: Mapping[str, Shaped[np.ndarray, "batch ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> Batch:
        """The rows from `start` up to `stop`, with their links renumbered."""
        start, stop, _ = slice(start, stop).indices(len(self))
        links = {}
        for name, edges in self.links.items():
            first, last = np.searchsorted(edges[:, 0], [start, stop])
            links[name] = edges[first:last] - np.array([start, 0, 0])
        return Batch(
            tokens=self.tokens[start:stop],
            targets=self.targets[start:stop],
            sizes=self.sizes[start:stop],
            links=links,
            labels={name: values[start:stop] for name, values in self.labels.items()},
        )


@runtime_checkable
class Task(Protocol):
    """A frozen dataclass whose fields are its difficulty, and which can do the following."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The name of every token; its length is the size of the vocabulary."""
        ...

    @property
    def context(self) -> int:
        """The largest number of positions that a row can take."""
        ...

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Draw rows from one split.

        Raises:
            ToylabError: if the split holds no prompt. It is taken for empty then, so raise this for nothing else.
        """
        ...

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """The right continuation of a prompt, worked out slowly and by another route than `sample`."""
        ...


def stream(seed: int, *path: int | str) -> np.random.Generator:
    """A random generator for one purpose, independent of every other seed and purpose.

    `stream(3, "train", 7)` is block 7 of the training data of seed 3. Seeds are never added to indices: with that,
    neighbouring seeds would share nearly all their rows.
    """
    numbers = [zlib.crc32(step.encode()) if isinstance(step, str) else check_seed(step, "path") for step in path]
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=numbers))


def held_out(
    task: Any, seed: int, rows: int, split: Split = "test", *, purpose: int | str | None = None, **which: Any
) -> Batch:
    """Rows that no training has seen: the same whenever they are asked for, and others for another seed.

    Args:
        purpose: of the stream that they are drawn from, if `which` does not name it.
        which: rows of the task, as its `sample` takes them: `kind="unsafe"`.
    """
    path = which.values() if purpose is None else (purpose,)
    return task.sample(stream(seed, split, *path), rows, split, **which)


def split_index(split: str) -> int:
    """The place of a split in `SPLITS`. Raises `ToylabError` for a name that is none."""
    check_option("split", split, SPLITS)
    return SPLITS.index(split)


def split_of(
    prompts: Int[np.ndarray, "batch position"], sizes: Int[np.ndarray, " batch"] | None = None
) -> Int[np.ndarray, " batch"]:
    """The split of each prompt, as an index into `SPLITS`, from a stable hash of its content and length.

    The same prompt falls into the same split in every run, process and version of numpy, so no two splits overlap.
    With `sizes`, a row is the prompt of its first `sizes[row]` tokens: the same split as for that prompt alone.
    """
    lengths = np.full(len(prompts), prompts.shape[1]) if sizes is None else sizes
    mixed = lengths.astype(np.uint64)
    shifted = np.asarray(prompts).astype(np.uint64) + np.uint64(1)
    for position in range(prompts.shape[1]):
        step = _scramble(mixed ^ shifted[:, position])
        mixed = step if sizes is None else np.where(position < sizes, step, mixed)
    eighth = mixed >> np.uint64(61)
    return np.select([eighth < 6, eighth == 6], [0, 1], default=2)


def check_span(example: str, **spans: int | tuple[int, int]) -> None:
    """Raises `ToylabError` unless each is a number of at least 1, or a range from one such number to another."""
    for name, span in spans.items():
        low, high = (span, span) if isinstance(span, int) else span
        if not 1 <= low <= high:
            raise ToylabError(f"{name}={span}: give at least 1, or a range from low to high, such as {example}")


def check_draw(rows: int, split: str) -> None:
    """Raises `ToylabError` for a negative number of rows, or for a split that is none."""
    check_range(rows=rows, least=0)
    split_index(split)


def fill_split(
    prompts: Int[np.ndarray, "batch position"],
    sizes: Int[np.ndarray, " batch"],
    split: Split,
    draw: Callable[[Int[np.ndarray, " row"]], Int[np.ndarray, "row position"]],
    patience: int,
) -> Int[np.ndarray, " row"]:
    """Write prompts of one split into all rows; `draw(rows)` gives new ones until they fit.

    Returns the rows whose prompts did not turn up in `patience` draws.
    """
    index, missing = split_index(split), np.arange(len(prompts))
    for _ in range(patience):
        if not len(missing):
            break
        drawn = draw(missing)
        kept = split_of(drawn, sizes[missing]) == index
        prompts[missing[kept]] = drawn[kept]
        missing = missing[~kept]
    return missing


def _scramble(x: np.ndarray) -> np.ndarray:
    """The finalising step of splitmix64: every input bit moves every output bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # arrays overflow without a warning, unlike single numbers
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def decode(task: Task, tokens: Sequence[int]) -> list[str]:
    """Names of tokens. Raises `ValueError` for an id outside the vocabulary."""
    size = len(task.vocabulary)
    for token in tokens:
        if not 0 <= token < size:
            raise ToylabError(f"token={token}: ids run from 0 to {size - 1} in this task's vocabulary")
    return [task.vocabulary[token] for token in tokens]


def encode(task: Task, names: Sequence[str]) -> list[int]:
    """Ids of token names. Raises `ValueError` for a name that is not in the vocabulary."""
    ids = {name: token for token, name in enumerate(task.vocabulary)}
    for name in names:
        if name not in ids:
            raise ToylabError(f"token {name!r} is not in this task's vocabulary: {' '.join(task.vocabulary)}")
    return [ids[name] for name in names]


def render(task: Task, batch: Batch, row: int, columns: int | None = None) -> str:
    """One row as a small table: position, token, target, and a line a link with the key that each query reads.

    Args:
        columns: of the terminal; a longer row is continued below, and every position is as narrow as it may be.
    """
    size = int(batch.sizes[row])
    lines = {
        "position": [str(i) for i in range(size)],
        "token": decode(task, batch.tokens[row, :size].tolist()),
        "target": ["." if t == IGNORE else task.vocabulary[t] for t in batch.targets[row, :size].tolist()],
    }
    for name, edges in batch.links.items():
        keys: list[list[str]] = [[] for _ in range(size)]
        for _, query, key in edges[edges[:, 0] == row].tolist():
            keys[query].append(str(key))
        if any(keys):
            lines[f"reads: {name}"] = [",".join(k) if len(k) < 3 else f"{k[0]}..{k[-1]}" for k in keys]
    head = max(len(name) for name in lines)
    widths = [max(len(cells[i]) for cells in lines.values()) for i in range(size)]
    if columns is None:
        widths, parts = [max(widths)] * size, [range(size)]
    else:
        parts = _parts(widths, columns - head - 1)
    tables = []
    for part in parts:
        shown = {name: cells for name, cells in lines.items() if any(cells[i] for i in part)}
        rows = (
            f"{name:<{head}}  " + " ".join(f"{cells[i]:>{widths[i]}}" for i in part) for name, cells in shown.items()
        )
        tables.append("\n".join(line.rstrip() for line in rows))
    return "\n\n".join(tables)


def _parts(widths: list[int], room: int) -> list[range]:
    """The positions in runs that fit into the room, each with a space before it; at least one in each."""
    starts, used = [0], 0
    for i, width in enumerate(widths):
        used += width + 1
        if used > room and i > starts[-1]:
            starts.append(i)
            used = width + 1
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(widths)], strict=True)]
