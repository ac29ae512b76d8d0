"""Conversion of task batches to tensors, by padding or sequence packing, and the next-token loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor, is_functorch_wrapped_tensor
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.device import device_of, to_device
from toylab.tasks import IGNORE, Batch, IteratedMap, Task, stream


@dataclass(frozen=True)
class ScoredBatch:
    """Input tokens with the positions and targets of the loss.

    `queries` are the indices of the scored positions per row, padded with queries whose target is `IGNORE`.
    """

    tokens: Int[Tensor, "batch position"]
    positions: Int[Tensor, "#batch position"]
    segments: Int[Tensor, "batch position"] | None
    queries: Int[Tensor, "batch query"]
    targets: Int[Tensor, "batch query"]

    def to(self, device: str | torch.device) -> ScoredBatch:
        """The batch on another device."""
        return to_device(self, device)

    def logits(self, model: nn.Module) -> Tensor:
        """Logits of a model at the scored positions, (batch, query, vocab).

        The model receives those of the arguments `positions`, `segments` and `queries` that its `forward` accepts. A
        model whose `forward` does not accept `queries` must return logits at every position.

        Raises:
            ToylabError: if rows are packed and `forward` does not accept `segments`; if positions are not 0, 1, 2 ...
                and `forward` does not accept `positions`; for logits whose shape is not (batch, position, vocab).
        """
        accepted = _accepted_arguments(model)
        if "segments" not in accepted and self.segments is not None:
            raise _missing_argument_error(
                model, "segments", "each row holds several sequences; give one per row, with layout=pad"
            )
        if "positions" not in accepted and not self._in_order():
            raise _missing_argument_error(model, "positions", "those of the batch are not 0, 1, 2 ...; use layout=pad")
        logits = model(self.tokens, **{name: getattr(self, name) for name in accepted})
        scored = self.queries if "queries" in accepted else self.tokens
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != scored.shape:
            actual = (
                f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"in a {type(logits).__name__}"
            )
            raise ToylabError(
                f"model: {type(model).__name__} gives logits {actual}; must be one tensor (batch, position, vocab), "
                f"here {tuple(scored.shape)} and the vocabulary"
            )
        return logits.take_along_dim(self.queries[..., None], dim=1) if scored is self.tokens else logits

    def _in_order(self) -> bool:
        if is_batchedtensor(self.positions):  # inside the vmap of a population, padded with zeros
            return True
        consecutive = torch.arange(self.tokens.shape[1], device=self.positions.device)
        return bool((self.positions == consecutive).all())


def tokens_for(model: nn.Module, tokens: Integer[np.ndarray, "batch position"]) -> Int[Tensor, "batch position"]:
    """Token ids as a tensor on the device of the model.

    Raises:
        ToylabError: for a non-integer array.
    """
    if tokens.dtype.kind not in "iu":
        raise ToylabError(f"tokens: are {tokens.dtype}, and must be whole numbers; convert them with .astype(int)")
    return torch.from_numpy(tokens).to(device_of(model), torch.long)


def prompt_tokens(task: Any, batch: Batch) -> Int[Tensor, "batch position"]:
    """The prompts of a batch, for tasks with a fixed prompt length `task.prompt`."""
    return torch.from_numpy(batch.tokens[:, : task.prompt])


def likeliest(logits: Float[Tensor, "*shape vocab"]) -> Int[Tensor, "*shape"]:
    """Argmax of the logits.

    Raises:
        ToylabError: for NaN logits.
    """
    values, tokens = logits.max(dim=-1)
    if bool(values.isnan().any()):
        raise ToylabError("logits: are nan, so there is no argmax; find the first hook point with nan")
    return tokens


def pad(batch: Batch) -> ScoredBatch:
    """One sequence per row, right-padded."""
    positions = np.arange(batch.tokens.shape[1])[None]
    return _as_scored_batch(batch.tokens, positions, None, batch.targets)


def pack(batch: Batch, width: int | None = None) -> ScoredBatch:
    """Sequence packing: several sequences per row, with attention restricted to each segment and positions from 0.

    First-fit decreasing bin packing. At the default width, longest plus shortest sequence, uniformly distributed
    lengths leave no padding.

    Raises:
        ToylabError: if a sequence is longer than `width`, or the batch is empty.
    """
    sizes = batch.sizes
    if not len(sizes):
        raise ToylabError("batch: has no rows to pack; give at least one")
    width = int(sizes.max() + sizes.min()) if width is None else width
    if sizes.max() > width:
        raise ToylabError(f"width={width}: the longest sequence has {sizes.max()} positions; give at least that")
    row_ends: list[int] = []
    starts: list[int] = []
    order = np.argsort(-sizes, kind="stable")
    for size in sizes[order].tolist():
        row = next((row for row, end in enumerate(row_ends) if end + size <= width), len(row_ends))
        if row == len(row_ends):
            row_ends.append(0)
        starts.append(row * width + row_ends[row])
        row_ends[row] += size
    shape, places = (len(row_ends), width), len(row_ends) * width
    tokens, positions = np.zeros(places, dtype=np.int64), np.zeros(places, dtype=np.int64)
    segments, targets = np.full(places, -1), np.full(places, IGNORE)
    # Vectorised over all tokens: segment, position in the segment, source and destination index.
    segment = np.repeat(np.arange(len(order)), sizes[order])
    position = np.arange(len(segment)) - np.repeat(sizes[order].cumsum() - sizes[order], sizes[order])
    source, destination = (order[segment], position), np.array(starts, dtype=np.int64)[segment] + position
    tokens[destination] = batch.tokens[source]
    targets[destination] = batch.targets[source]
    positions[destination] = position
    segments[destination] = segment
    tokens, positions, segments, targets = (x.reshape(shape) for x in (tokens, positions, segments, targets))
    return _as_scored_batch(tokens, positions, segments, targets)


def training_batches(
    task: Task,
    seed: int,
    rows: int,
    layout: Callable[[Batch], Any] = pack,
    draw: Callable[[np.random.Generator, int, int], Batch] | None = None,
    purpose: str = "train",
) -> Callable[[int], Any]:
    """From step to training batch: a pure function of task, seed and step, with fresh samples at every step.

    Rows are sampled and laid out for `BLOCK_STEPS` steps at a time, which is many times faster than between the steps.

    Args:
        layout: `pack` or `pad`.
        draw: replaces `task.sample`; from a generator, the number of rows and the first step of the block to rows.
        purpose: name of the random stream; different purposes are independent.
    """

    @lru_cache(maxsize=2)
    def block(number: int) -> list[Any]:
        rng = stream(seed, purpose, number)
        drawn = (
            task.sample(rng, rows * BLOCK_STEPS)
            if draw is None
            else draw(rng, rows * BLOCK_STEPS, number * BLOCK_STEPS)
        )
        return [layout(drawn.rows(start, start + rows)) for start in range(0, rows * BLOCK_STEPS, rows)]

    def batch_at(step: int) -> Any:
        number, within = divmod(step, BLOCK_STEPS)
        return block(number)[within]

    return batch_at


def length_curriculum(first: int, last: int, steps: float | int) -> Callable[[int], int]:
    """From step to the maximum length of training rows, growing geometrically from `first` to `last` over `steps`.
    Length-independent circuits form earlier on short rows.
    """
    return lambda step: round(first * (last / first) ** min(step / steps, 1.0)) if steps else last


def epoch_batches(task: IteratedMap, seed: int, rows: int, per_length: int = 1024) -> Callable[[int], ScoredBatch]:
    """From step to training batch as in the code of Cabannes et al. 2024: a fixed training set, visited in epochs from
    the shortest to the longest length, one length per batch.

    Raises:
        ToylabError: if `rows` does not divide `per_length`.
    """
    if per_length % rows:
        raise ToylabError(f"rows={rows}: an epoch has {per_length} rows per length; give a divisor, such as 256")

    @cache
    def pool(length: int) -> Batch:
        return task.sample(stream(seed, "train", length), per_length, length=length)

    batches, lengths = per_length // rows, task.max_length - task.min_length + 1

    def batch_at(step: int) -> ScoredBatch:
        length_index, within = divmod(step % (lengths * batches), batches)
        return pad(pool(task.min_length + length_index).rows(within * rows, (within + 1) * rows))

    return batch_at


BLOCK_STEPS = 64
"""Number of steps whose rows are sampled together."""


def next_token_loss(
    model: nn.Module, scored: ScoredBatch, weights: Float[Tensor, " vocab"] | None = None
) -> Float[Tensor, ""]:
    """Mean cross entropy over the scored positions, in nats, optionally weighted by target token.

    Raises:
        ToylabError: if no position is scored.
    """
    refuse_unscored(scored.targets)
    logits = scored.logits(model).flatten(0, 1)
    weights = None if weights is None else weights.to(logits)
    return F.cross_entropy(logits, scored.targets.flatten().long(), weights, ignore_index=IGNORE)


def refuse_unscored(targets: Int[Tensor, "batch query"]) -> None:
    """Raise `ToylabError` if there is no target, since the mean would be NaN.

    On a GPU (to avoid a device sync) and in `vmap`, only an empty tensor is detected.
    """
    hidden = not targets.is_cpu or is_functorch_wrapped_tensor(targets)
    if not targets.numel() or (not hidden and not bool((targets != IGNORE).any())):
        raise ToylabError(f"targets: are all {IGNORE}, so nothing is scored; give a batch with targets")


def _accepted_arguments(model: nn.Module) -> tuple[str, ...]:
    """The arguments of a batch that the `forward` of a model accepts."""
    model = getattr(model, "_orig_mod", model)  # the module inside a compiled one
    forward = inspect.unwrap(getattr(model, "forward", model))
    return _inspect_forward(getattr(forward, "__func__", forward))


@lru_cache(maxsize=64)
def _inspect_forward(forward: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(forward).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return tuple(name for name in ("segments", "positions", "queries") if takes_all or name in parameters)


def _missing_argument_error(model: nn.Module, name: str, why: str) -> ToylabError:
    return ToylabError(f"{name}: forward of {type(model).__name__} takes none, and {why}, or add {name}= to forward")


def _as_scored_batch(
    tokens: np.ndarray, positions: np.ndarray, segments: np.ndarray | None, targets: np.ndarray
) -> ScoredBatch:
    is_scored = targets != IGNORE
    query_count = int(is_scored.sum(axis=1).max(initial=0))
    queries = np.argsort(~is_scored, axis=1, kind="stable")[:, :query_count]  # scored positions first, in order
    return ScoredBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        segments=None if segments is None else torch.from_numpy(segments),
        queries=torch.from_numpy(queries),
        targets=torch.from_numpy(np.take_along_axis(targets, queries, axis=1)),
    )
