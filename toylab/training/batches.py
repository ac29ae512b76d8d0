"""From a task's batch to tensors: padded, or packed so that no token is wasted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from functools import cache, lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor, is_functorch_wrapped_tensor
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.tasks import IGNORE, Batch, IteratedMap, Task, stream

SomeBatch = TypeVar("SomeBatch")


@dataclass(frozen=True)
class ScoredBatch:
    """Tokens, and the positions where the model is scored.

    `queries` index the scored positions of each row; rows with fewer are filled with queries whose target is `IGNORE`.
    """

    tokens: Int[Tensor, "batch position"]
    positions: Int[Tensor, "#batch position"]
    segments: Int[Tensor, "batch position"] | None
    queries: Int[Tensor, "batch query"]
    targets: Int[Tensor, "batch query"]

    def to(self, device: str | torch.device) -> ScoredBatch:
        """The same on another device."""
        return to_device(self, device)

    def logits(self, model: nn.Module) -> Tensor:
        """The model's logits at the scored positions.

        A model is given what its `forward` takes by name of `positions`, `segments` and `queries`; one that takes no
        `queries` gives logits at every position.

        Raises:
            ToylabError: for a model that does not take what it cannot do without: `segments` of packed rows, or
                `positions` other than 0, 1, 2 ...; for logits of another shape than (batch, position, vocab).
        """
        taken = _taken(model)
        if "segments" in taken.missing and self.segments is not None:
            raise _not_taken(model, "segments", "each row holds several; give one a row, with layout=pad")
        if "positions" in taken.missing and not self._in_order():
            raise _not_taken(model, "positions", "those of the batch are not 0, 1, 2 ...; lay it out with pad")
        logits = model(self.tokens, **{name: getattr(self, name) for name in taken.given})
        at = self.tokens if "queries" in taken.missing else self.queries
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != at.shape:
            given = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"in a {type(logits).__name__}"
            raise ToylabError(
                f"model: {type(model).__name__} gives logits {given}; must be one tensor (batch, position, vocab), "
                f"here {tuple(at.shape)} and the vocabulary"
            )
        return logits.take_along_dim(self.queries[..., None], dim=1) if at is self.tokens else logits

    def _in_order(self) -> bool:
        if is_batchedtensor(self.positions):  # of a population, filled up with zeros
            return True
        plain = torch.arange(self.tokens.shape[1], device=self.positions.device)
        return bool((self.positions == plain).all())


def to_device(batch: SomeBatch, device: str | torch.device) -> SomeBatch:
    """A batch, a dataclass of tensors, on another device."""
    held = {
        name: x.to(device) if isinstance(x, Tensor) else to_device(x, device) if is_dataclass(x) else x
        for name, x in vars(batch).items()
    }
    assert is_dataclass(batch)
    assert not isinstance(batch, type)
    return replace(batch, **held)


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def tokens_for(model: nn.Module, tokens: Integer[np.ndarray, "batch position"]) -> Int[Tensor, "batch position"]:
    """Tokens of a task's batch where the model is.

    Raises:
        ValueError: for an array of anything but whole numbers.
    """
    if tokens.dtype.kind not in "iu":
        raise ToylabError(f"tokens: are {tokens.dtype}, and must be whole numbers; convert them with .astype(int)")
    return torch.from_numpy(tokens).to(device_of(model), torch.long)


def prompt_tokens(task: Any, batch: Batch) -> Int[Tensor, "batch position"]:
    """The prompts of a batch, of a task whose prompts all have the length `task.prompt`."""
    return torch.from_numpy(batch.tokens[:, : task.prompt])


def likeliest(logits: Float[Tensor, "*shape vocab"]) -> Int[Tensor, "*shape"]:
    """The token or answer of the largest logit.

    Raises:
        ValueError: where logits are nan, of which none is the largest.
    """
    values, chosen = logits.max(dim=-1)
    if bool(values.isnan().any()):
        raise ToylabError("logits: are nan, so no answer is the likeliest; look for the point where nan begins")
    return chosen


def pad(batch: Batch) -> ScoredBatch:
    """One sequence a row, as the task laid them out."""
    positions = np.arange(batch.tokens.shape[1])[None]
    return _scored(batch.tokens, positions, None, batch.targets)


def pack(batch: Batch, width: int | None = None) -> ScoredBatch:
    """Several sequences a row, laid end to end; each sees itself alone, and its positions start at 0.

    The longest sequences are placed first, each in the first row with room. For lengths spread evenly this fills rows
    of the default width, the longest plus the shortest, without a gap.

    Raises:
        ValueError: if a sequence is longer than `width`, or there is none.
    """
    sizes = batch.sizes
    if not len(sizes):
        raise ToylabError("batch: has no rows, so there is nothing to pack; give at least one")
    width = int(sizes.max() + sizes.min()) if width is None else width
    if sizes.max() > width:
        raise ToylabError(f"width={width}: the longest sequence has {sizes.max()} positions; give at least that")
    used: list[int] = []
    starts: list[int] = []
    order = np.argsort(-sizes, kind="stable")
    for size in sizes[order].tolist():
        row = next((row for row, end in enumerate(used) if end + size <= width), len(used))
        if row == len(used):
            used.append(0)
        starts.append(row * width + used[row])
        used[row] += size
    shape = (len(used), width)
    tokens, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    segments, targets = np.full(shape, -1), np.full(shape, IGNORE)
    # All tokens at once: the segment of each, its position there, and where it comes from and goes to.
    segment = np.repeat(np.arange(len(order)), sizes[order])
    position = np.arange(len(segment)) - np.repeat(sizes[order].cumsum() - sizes[order], sizes[order])
    source, goal = (order[segment], position), np.array(starts, dtype=np.int64)[segment] + position
    tokens.flat[goal] = batch.tokens[source]
    targets.flat[goal] = batch.targets[source]
    positions.flat[goal] = position
    segments.flat[goal] = segment
    return _scored(tokens, positions, segments, targets)


def training_batches(
    task: Task,
    seed: int,
    rows: int,
    layout: Callable[[Batch], Any] = pack,
    draw: Callable[[np.random.Generator, int, int], Batch] | None = None,
    purpose: str = "train",
) -> Callable[[int], Any]:
    """The training batch of each step: a pure function of task, seed and step, never drawn twice.

    Rows are drawn a block of steps at a time, which is many times faster than one by one: by the task itself, or by
    `draw` from a generator, their number, and the first step that they are for. Batches of another `purpose` are drawn
    independently.
    """

    @lru_cache(maxsize=2)
    def block(number: int) -> Batch:
        rng = stream(seed, purpose, number)
        return (
            task.sample(rng, rows * BLOCK_STEPS)
            if draw is None
            else draw(rng, rows * BLOCK_STEPS, number * BLOCK_STEPS)
        )

    def batch_at(step: int) -> Any:
        number, within = divmod(step, BLOCK_STEPS)
        return layout(block(number).rows(within * rows, (within + 1) * rows))

    return batch_at


def length_curriculum(first: int, last: int, steps: float | int) -> Callable[[int], int]:
    """The largest length of the training rows of each step: it grows by the same factor each step, from the first to
    the last, which it reaches after `steps`. A circuit that does not depend on length forms sooner on short rows.
    """
    return lambda step: round(first * (last / first) ** min(step / steps, 1.0)) if steps else last


def epoch_batches(task: IteratedMap, seed: int, rows: int, per_length: int = 1024) -> Callable[[int], ScoredBatch]:
    """The training batch of each step as in the published code of iteration heads: a fixed set of rows of each length,
    swept again and again from the shortest length to the longest, one length a batch.

    Raises:
        ValueError: if `rows` does not divide `per_length`.
    """
    if per_length % rows:
        raise ToylabError(f"rows={rows}: a sweep has {per_length} rows of each length; give a divisor, such as 256")

    @cache
    def pool(length: int) -> Batch:
        return task.sample(stream(seed, "train", length), per_length, length=length)

    batches, lengths = per_length // rows, task.max_length - task.min_length + 1

    def batch_at(step: int) -> ScoredBatch:
        which, within = divmod(step % (lengths * batches), batches)
        return pad(pool(task.min_length + which).rows(within * rows, (within + 1) * rows))

    return batch_at


BLOCK_STEPS = 64
"""Steps whose rows are drawn together."""


def next_token_loss(
    model: nn.Module, scored: ScoredBatch, weights: Float[Tensor, " vocab"] | None = None
) -> Float[Tensor, ""]:
    """Mean cross entropy over the scored positions, in nats; `weights` counts some target tokens more than others.

    Raises:
        ValueError: where no position is scored.
    """
    refuse_unscored(scored.targets)
    logits = scored.logits(model).flatten(0, 1)
    return F.cross_entropy(logits, scored.targets.flatten().long(), weights, ignore_index=IGNORE)


def refuse_unscored(targets: Int[Tensor, "batch query"]) -> None:
    """Raise `ToylabError` where there is no target, over which a mean would be nan.

    Where targets cannot be looked at without waiting for a device, or at all (in `vmap`), only their number counts.
    """
    hidden = not targets.is_cpu or is_functorch_wrapped_tensor(targets)
    if not targets.numel() or (not hidden and not bool((targets != IGNORE).any())):
        raise ToylabError(f"targets: are all {IGNORE}, so nothing is scored; give a batch in which something is")


@dataclass(frozen=True)
class _Taken:
    """What the `forward` of a model takes of a batch beside the tokens, and what it does not."""

    given: tuple[str, ...]
    missing: tuple[str, ...]


def _taken(model: nn.Module) -> _Taken:
    model = getattr(model, "_orig_mod", model)  # the module inside a compiled one
    forward = inspect.unwrap(getattr(model, "forward", model))
    return _taken_by(getattr(forward, "__func__", forward))


@lru_cache(maxsize=64)
def _taken_by(forward: Callable[..., Any]) -> _Taken:
    parameters = inspect.signature(forward).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = ("segments", "positions", "queries")
    given = tuple(name for name in names if every or name in parameters)
    return _Taken(given, tuple(name for name in names if name not in given))


def _not_taken(model: nn.Module, name: str, why: str) -> ToylabError:
    return ToylabError(f"{name}: forward of {type(model).__name__} takes none, and {why}, or let forward take {name}=")


def _scored(tokens: np.ndarray, positions: np.ndarray, segments: np.ndarray | None, targets: np.ndarray) -> ScoredBatch:
    counted = targets != IGNORE
    most = int(counted.sum(axis=1).max(initial=0))
    queries = np.argsort(~counted, axis=1, kind="stable")[:, :most]  # scored positions first, in order
    return ScoredBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        segments=None if segments is None else torch.from_numpy(segments),
        queries=torch.from_numpy(queries),
        targets=torch.from_numpy(np.take_along_axis(targets, queries, axis=1)),
    )
