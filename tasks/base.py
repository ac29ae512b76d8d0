"""The `Task` protocol, batches, seeded random streams, and train/validation/test splits by hash of the prompt.

The package depends on numpy only and is independent of any model: a batch holds input tokens, targets, and the
positions an ideal algorithm attends to (links).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped, UInt64

from toylab.console import ToylabError
from toylab.settings import check_option, check_range, check_seed

if TYPE_CHECKING:
    cached_property = property  # to pyright, nothing else is what a protocol calls a property
else:
    from functools import cached_property as cached_property

IGNORE = -100
"""Target of positions excluded from the loss (the default `ignore_index` of PyTorch's cross entropy)."""

NO_POSITION = -1
"""Value of a per-position label at positions where it is undefined."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SPLIT_SHARES: dict[Split, float] = {"train": 6 / 8, "validation": 1 / 8, "test": 1 / 8}
"""Expected fraction of all prompts in each split."""

EXACT_SPLIT_LIMIT = 2**11
"""Prompt spaces up to this size are enumerated to find empty splits; in larger ones no split is empty."""


class DeferredLinks(Mapping[str, Int[np.ndarray, "link 3"]]):
    """Links that `compute` returns at the first access; training reads none, and they cost a fifth of its sampling."""

    def __init__(self, compute: Callable[[], Mapping[str, Int[np.ndarray, "link 3"]]]) -> None:
        self._compute = compute

    @cached_property
    def _computed(self) -> Mapping[str, Int[np.ndarray, "link 3"]]:
        return self._compute()

    def __getitem__(self, name: str) -> Int[np.ndarray, "link 3"]:
        return self._computed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._computed)

    def __len__(self) -> int:
        return len(self._computed)


@dataclass(frozen=True)
class Batch:
    """Token sequences with their targets, ground-truth links and labels.

    Attributes:
        tokens: input token ids, right-padded to one width.
        targets: next token at each position, `IGNORE` where the loss does not apply.
        sizes: number of positions per row that are not padding.
        links: from a name to edges (row, query, key): at position `query`, an ideal algorithm attends to position
            `key`. A query may have several keys; edges are sorted by row.
        labels: from a name to ground truth for probes and grouped metrics, one entry per row or per position.
    """

    tokens: Int[np.ndarray, "batch position"]
    targets: Int[np.ndarray, "batch position"]
    sizes: Int[np.ndarray, " batch"]
    links: Mapping[str, Int[np.ndarray, "link 3"]] = field(default_factory=dict)
    labels: Mapping[str, Shaped[np.ndarray, "batch ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> Batch:
        """The batch of rows `start` to `stop` (exclusive), with the rows of links renumbered."""
        start, stop, _ = slice(start, stop).indices(len(self))
        return Batch(
            tokens=self.tokens[start:stop],
            targets=self.targets[start:stop],
            sizes=self.sizes[start:stop],
            links=DeferredLinks(partial(_links_of_rows, self.links, start, stop)),
            labels={name: values[start:stop] for name, values in self.labels.items()},
        )


def _links_of_rows(
    links: Mapping[str, Int[np.ndarray, "link 3"]], start: int, stop: int
) -> dict[str, Int[np.ndarray, "kept 3"]]:
    within = {name: np.searchsorted(edges[:, 0], [start, stop]) for name, edges in links.items()}
    return {name: links[name][slice(*ends)] - np.array([start, 0, 0]) for name, ends in within.items()}


@runtime_checkable
class Task(Protocol):
    """A frozen dataclass; its fields are the settings of the data distribution."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Token names, indexed by token id."""
        ...

    @property
    def context(self) -> int:
        """Maximum number of positions in a row."""
        ...

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample rows from one split.

        Raises:
            ToylabError: if the split is empty. Raise it in no other case: callers then skip the split.
        """
        ...

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution: the correct continuation of a prompt, implemented independently of `sample`."""
        ...


def stream(seed: int, *path: int | str) -> np.random.Generator:
    """A random generator whose stream is independent for each (seed, path).

    Example: `stream(3, "train", 7)` samples block 7 of the training data of seed 3. The path enters as a spawn key,
    not as seed + index, since adjacent seeds would then share most of their rows.
    """
    numbers = [zlib.crc32(step.encode()) if isinstance(step, str) else check_seed(step, "path") for step in path]
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=numbers))


def held_out(
    task: Any, seed: int, rows: int, split: Split = "test", *, purpose: int | str | None = None, **options: Any
) -> Batch:
    """Sample held-out rows, deterministically for each seed.

    Args:
        purpose: path of the random stream; by default the values of `options`.
        options: keyword arguments of the task's `sample`, such as `kind="unsafe"`.
    """
    path = options.values() if purpose is None else (purpose,)
    return task.sample(stream(seed, split, *path), rows, split, **options)


def split_index(split: str) -> int:
    """Index of a split in `SPLITS`. Raises `ToylabError` for an unknown name."""
    check_option("split", split, SPLITS)
    return SPLITS.index(split)


def split_of(
    prompts: Int[np.ndarray, "batch position"], sizes: Int[np.ndarray, " batch"] | None = None
) -> Int[np.ndarray, " batch"]:
    """The split of each prompt, as an index into `SPLITS`, from a hash of its content and length.

    With `sizes`, only the first `sizes[row]` tokens of a row are hashed: padding does not change the split.
    """
    eighth = content_hash(prompts, sizes) >> np.uint64(61)
    return np.select([eighth < 6, eighth == 6], [0, 1], default=2)


def content_hash(
    prompts: Int[np.ndarray, "batch position"], sizes: Int[np.ndarray, " batch"] | None = None
) -> UInt64[np.ndarray, " batch"]:
    """A hash of the content and length of each prompt, which depends on no seed, process or numpy version."""
    lengths = np.full(len(prompts), prompts.shape[1]) if sizes is None else sizes
    if len(prompts) <= 16:  # as rejection sampling ends, where the loop below takes as long for one row as for 100
        rows = zip(np.asarray(prompts).tolist(), lengths.tolist(), strict=True)
        hashes = np.array([_hash_row(row[:size]) for row, size in rows], dtype=np.uint64)
    else:
        hashes = lengths.astype(np.uint64)
        shifted = np.asarray(prompts).astype(np.uint64) + np.uint64(1)
        for position in range(prompts.shape[1]):
            step = _scramble(hashes ^ shifted[:, position])
            hashes = step if sizes is None else np.where(position < sizes, step, hashes)
    return hashes


def span_ends(span: int | tuple[int, int]) -> tuple[int, int]:
    """The smallest and the largest number of a span: a fixed number, or (minimum, maximum)."""
    return (span, span) if isinstance(span, int) else span


def check_span(example: str, **spans: int | tuple[int, int]) -> None:
    """Raises `ToylabError` unless each span is an integer of at least 1 or a range (low, high) of such integers."""
    for name, span in spans.items():
        low, high = span_ends(span)
        if not 1 <= low <= high:
            raise ToylabError(f"{name}={span}: give at least 1, or a range from low to high, such as {example}")


def check_draw(rows: int, split: str) -> None:
    """Raises `ToylabError` for a negative number of rows or an unknown split."""
    check_range(rows=rows, least=0)
    split_index(split)


def fill_split(
    prompts: Int[np.ndarray, "batch position"],
    sizes: Int[np.ndarray, " batch"],
    split: Split,
    draw: Callable[[Int[np.ndarray, " row"]], Int[np.ndarray, "row position"]],
    patience: int,
) -> Int[np.ndarray, " row"]:
    """Rejection sampling: fill all rows of `prompts` in place with candidates of `draw(rows)` that lie in the split.

    Returns the rows still unfilled after `patience` rounds.
    """
    index, unfilled = split_index(split), np.arange(len(prompts))
    for _ in range(patience):
        if not len(unfilled):
            break
        candidates = draw(unfilled)
        accepted = split_of(candidates, sizes[unfilled]) == index
        prompts[unfilled[accepted]] = candidates[accepted]
        unfilled = unfilled[~accepted]
    return unfilled


def _scramble(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64: each input bit affects all output bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around without a warning, numpy scalars warn
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash_row(tokens: Sequence[int]) -> int:
    """The hash of `split_of` for one prompt, with the steps of `_scramble` in Python's integers."""
    hashed, mask = len(tokens), 2**64 - 1
    for token in tokens:
        x = ((hashed ^ (token + 1)) + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        hashed = x ^ (x >> 31)
    return hashed


def decode(task: Task, tokens: Sequence[int]) -> list[str]:
    """Token ids to names. Raises `ToylabError` for an id outside the vocabulary."""
    size = len(task.vocabulary)
    for token in tokens:
        if not 0 <= token < size:
            raise ToylabError(f"token={token}: ids run from 0 to {size - 1} in this task's vocabulary")
    return [task.vocabulary[token] for token in tokens]


def encode(task: Task, names: Sequence[str]) -> list[int]:
    """Token names to ids. Raises `ToylabError` for a name that is not in the vocabulary."""
    ids = {name: token for token, name in enumerate(task.vocabulary)}
    for name in names:
        if name not in ids:
            raise ToylabError(f"token {name!r} is not in this task's vocabulary: {' '.join(task.vocabulary)}")
    return [ids[name] for name in names]


def render(task: Task, batch: Batch, row: int, columns: int | None = None) -> str:
    """One row as a text table: positions, tokens, targets, and for each link the keys of each query.

    Args:
        columns: width of the terminal; longer rows are wrapped, and each column is as narrow as its cells allow.
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
    label_width = max(len(name) for name in lines)
    widths = [max(len(cells[i]) for cells in lines.values()) for i in range(size)]
    if columns is None:
        widths, parts = [max(widths)] * size, [range(size)]
    else:
        parts = _parts(widths, columns - label_width - 1)
    tables = []
    for part in parts:
        visible = {name: cells for name, cells in lines.items() if any(cells[i] for i in part)}
        rows = (
            f"{name:<{label_width}}  " + " ".join(f"{cells[i]:>{widths[i]}}" for i in part)
            for name, cells in visible.items()
        )
        tables.append("\n".join(line.rstrip() for line in rows))
    return "\n\n".join(tables)


def _parts(widths: list[int], room: int) -> list[range]:
    """Split positions into ranges that fit `room` columns (cells separated by a space), at least one position each."""
    starts, column = [0], 0
    for i, width in enumerate(widths):
        column += width + 1
        if column > room and i > starts[-1]:
            starts.append(i)
            column = width + 1
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(widths)], strict=True)]
