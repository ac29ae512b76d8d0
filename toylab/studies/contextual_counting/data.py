"""Contextual counting for an encoder-decoder: strings in, the count of every region out.

Connects `toylab.tasks.ContextualCounting` to `toylab.model.encoder_decoder`: batches without padding, the loss, an
auxiliary loss on the region of each token, accuracy per label, and training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.model.layers import make_linear, torch_stream
from toylab.model.modes import evaluation_mode
from toylab.model.token_counts import TokenCounts, count_tokens
from toylab.probes import Edit, edit
from toylab.tasks import IGNORE, NO_POSITION, Batch, ContextualCounting, held_out
from toylab.training.batches import (
    device_of,
    length_curriculum,
    likeliest,
    refuse_unscored,
    to_device,
    training_batches,
)
from toylab.training.loop import TrainConfig, Training, train


@dataclass(frozen=True)
class StringBatch:
    """Strings of one length with their target counts.

    Attributes:
        tokens: encoder input, starting with the begin token if the task has one.
        counts: target count of every label query; `IGNORE` if the string has no such region.
        regions: contextual position of every token: the number of its region, 0 outside.
        token_counts: token counts, for encoders that can use them.
        auxiliary: weight of the auxiliary loss.
    """

    tokens: Int[Tensor, "batch position"]
    counts: Int[Tensor, "batch label"]
    regions: Int[Tensor, "batch position"]
    token_counts: TokenCounts | None = None
    auxiliary: float = 0.0

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, rows: int) -> list[StringBatch]:
        """The same strings in batches of `rows`."""
        tensors = (self.tokens, self.counts, self.regions)
        if self.token_counts is not None:
            tensors += (self.token_counts.types, self.token_counts.log_counts)
        parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
        return [
            StringBatch(tokens, counts, regions, TokenCounts(*by_type) if by_type else None, self.auxiliary)
            for tokens, counts, regions, *by_type in parts
        ]


def counting_model(task: ContextualCounting, config: EncoderDecoderConfig, seed: int = 0) -> EncoderDecoder:
    """An encoder-decoder sized for the task's symbols, labels, counts and longest string."""
    return EncoderDecoder(config, task.symbols, task.most, task.classes, task.begin + task.max_length, seed)


def string_batch(
    task: ContextualCounting,
    batch: Batch,
    labels: int | None = None,
    causal_counts: bool | None = None,
    dtype: torch.dtype | None = None,
) -> StringBatch:
    """Convert a batch of the task to input of the encoder-decoder.

    Args:
        batch: rows whose strings have equal length.
        labels: number of label queries of the model; by default the task's number of regions.
        causal_counts: token counts up to each position (True) or over the row (False); None for no token counts.
        dtype: dtype of the token counts; by default torch's.

    Raises:
        ToylabError: for strings of several lengths.
    """
    labels = task.most if labels is None else labels
    lengths = batch.labels["length"]
    if len(lengths) and lengths.min() != lengths.max():
        raise ToylabError(
            f"batch: has strings of length {lengths.min()} to {lengths.max()}; sample it with one length, such as "
            f"length={lengths.max()}"
        )
    width = int(task.begin) + int(lengths.max(initial=0))
    counts = batch.labels["count"][:, :labels]
    if counts.shape[1] < labels:
        counts = np.pad(counts, ((0, 0), (0, labels - counts.shape[1])), constant_values=NO_POSITION)
    tokens = torch.from_numpy(batch.tokens[:, :width])
    return StringBatch(
        tokens=tokens,
        counts=torch.from_numpy(np.where(counts == NO_POSITION, IGNORE, counts)),
        regions=torch.from_numpy(batch.labels["region"][:, :width]),
        token_counts=None if causal_counts is None else count_tokens(tokens, task.symbols, causal_counts, dtype),
    )


def for_model(task: ContextualCounting, model: EncoderDecoder, batch: Batch) -> StringBatch:
    """A batch of the task on the model's device, with its number of label queries, and with token counts if its encoder
    can use them."""
    dtype = model.encoder.embedding.weight.dtype
    return to_device(
        string_batch(task, batch, model.queries, _causal_counts_of(model.config.encoder), dtype), device_of(model)
    )


def fresh_strings(
    task: ContextualCounting,
    seed: int,
    rows: int,
    *,
    causal_counts: bool | None = None,
    auxiliary: Callable[[int], float] = lambda step: 0.0,
    longest: Callable[[int], int] | None = None,
) -> Callable[[int], StringBatch]:
    """The training batch of each step, a pure function of its arguments: one length per step, regions sampled per row.

    `auxiliary` gives the weight of the auxiliary loss at each step, `longest` the maximum length at each step (by
    default the task's).
    """

    def draw(rng: np.random.Generator, number: int, step: int) -> Batch:
        longest_now = task.max_length if longest is None else longest(step)
        lengths = rng.integers(task.min_length, longest_now + 1, size=number // rows)
        return task.sample(rng, number, length=np.repeat(lengths, rows))

    without_auxiliary = training_batches(
        task, seed, rows, lambda batch: string_batch(task, batch, causal_counts=causal_counts), draw
    )
    return lambda step: replace(without_auxiliary(step), auxiliary=auxiliary(step))


class RegionTeacher(nn.Module):
    """An encoder-decoder with a linear classifier of contextual position on the final states of its encoder.

    The classifier is trained jointly and then discarded. Its loss teaches the encoder the region of each token, the
    first half of the circuit, but nothing about counting.
    """

    def __init__(self, model: EncoderDecoder, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.classifier = make_linear(
            model.config.encoder.width, model.queries + 1, False, torch_stream(seed, "region teacher")
        )


def count_loss(model: EncoderDecoder | RegionTeacher, strings: StringBatch) -> Float[Tensor, ""]:
    """Mean cross entropy of the counts in nats; for a `RegionTeacher`, plus the weighted cross entropy of regions."""
    refuse_unscored(strings.counts)
    inner = model.model if isinstance(model, RegionTeacher) else model
    stream = inner.encoder(strings.tokens, token_counts=strings.token_counts)
    logits = inner.decoder(stream)
    loss = F.cross_entropy(logits.flatten(0, 1), strings.counts.flatten().long(), ignore_index=IGNORE)
    if isinstance(model, RegionTeacher) and strings.auxiliary:
        region_logits = model.classifier(stream).flatten(0, 1)
        loss = loss + strings.auxiliary * F.cross_entropy(region_logits, strings.regions.flatten().long())
    return loss


def linear_decay(steps: int, share: float) -> Callable[[int], float]:
    """A weight that decays linearly from 1 to 0 over the first `share` of the steps, then stays 0."""
    last = steps * share
    return lambda step: max(0.0, 1 - step / last) if last else 0.0


EVALUATION_ROWS = 250
"""Batch size of evaluations without hooks; larger batches no longer fit the processor's cache."""


@torch.no_grad()
def encode_strings(model: EncoderDecoder, strings: StringBatch) -> Float[Tensor, "batch position width"]:
    """The encoder's final states, the decoder's input."""
    with evaluation_mode(model):
        return torch.cat(
            [model.encoder(part.tokens, token_counts=part.token_counts) for part in strings.split(EVALUATION_ROWS)]
        )


@torch.no_grad()
def count_logits(
    model: EncoderDecoder, strings: StringBatch, edits: Mapping[str, Edit] | None = None
) -> Float[Tensor, "batch label count"]:
    """The model's logits, optionally under edits."""
    with evaluation_mode(model), edit(model, edits or {}):
        return model(strings.tokens, token_counts=strings.token_counts)


def count_accuracy(model: EncoderDecoder, strings: StringBatch, edits: Mapping[str, Edit] | None = None) -> list[float]:
    """Accuracy of each label that occurs in the strings.

    Raises:
        ToylabError: if logits are NaN.
    """
    if edits is None:
        with torch.no_grad(), evaluation_mode(model):
            return label_accuracy(likeliest(model.decoder(encode_strings(model, strings))), strings)
    return label_accuracy(likeliest(count_logits(model, strings, edits)), strings)


def label_accuracy(answers: Int[Tensor, "batch label"], strings: StringBatch) -> list[float]:
    """Accuracy of the given answers for each label that occurs in the strings."""
    has_region = strings.counts != IGNORE
    correct = (answers == strings.counts) & has_region
    occurs = has_region.any(dim=0)
    return (correct.sum(dim=0) / has_region.sum(dim=0).clamp(min=1))[occurs].tolist()


def learn_counting(
    task: ContextualCounting,
    config: EncoderDecoderConfig,
    training: TrainConfig,
    seed: int,
    *,
    auxiliary: float | int = 0.0,
    growth: float | int = 0.0,
    rows: int = 250,
    checkpoint: Path | str | None = None,
    progress: str | None = None,
    record: Callable[[nn.Module, int], None] | None = None,
) -> tuple[EncoderDecoder, Training]:
    """Train a model on contextual counting.

    Args:
        auxiliary: share of steps with the auxiliary loss, decaying to zero; 0 to disable it.
        growth: share of steps of the length curriculum; 0 trains on all lengths from the start.
        rows: number of validation strings, of the largest size, for the accuracy per region and on average.
        checkpoint, progress: as in `toylab.training.loop.train`.
        record: as there, called with the model without the classifier of the auxiliary loss.
    """
    model = counting_model(task, config, seed)
    validation = for_model(task, model, held_out(task, seed, rows, "validation", **task.largest))

    def evaluate(_: nn.Module) -> dict[str, float]:
        shares = count_accuracy(model, validation)
        return {"accuracy": sum(shares) / len(shares), **{f"region {k + 1}": a for k, a in enumerate(shares)}}

    batches = fresh_strings(
        task,
        seed,
        training.rows,
        causal_counts=_causal_counts_of(config.encoder),
        auxiliary=linear_decay(training.steps, auxiliary),
        longest=length_curriculum(min(2 * task.min_length, task.max_length), task.max_length, growth * training.steps),
    )
    trained_model = RegionTeacher(model, seed) if auxiliary else model
    return model, train(
        trained_model,
        count_loss,
        batches,
        training,
        evaluate=evaluate,
        checkpoint=checkpoint,
        progress=progress,
        record=None if record is None else lambda _, step: record(model, step),
    )


def _causal_counts_of(encoder: ModelConfig) -> bool | None:
    """The `causal_counts` of an encoder: True if causal, False if bidirectional, None if it cannot use token counts."""
    return encoder.causal if encoder.positions == "none" and encoder.layers == 1 else None
