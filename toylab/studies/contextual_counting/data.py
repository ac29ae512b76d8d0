"""Contextual counting as an encoder-decoder meets it: strings in, the count of every region out.

What connects `toylab.tasks.ContextualCounting` to `toylab.model.encoder_decoder`: batches without padding, the loss, an
auxiliary loss that shows the encoder for a while which region each token stands in, accuracy by label, and a training.
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
from toylab.training.modes import evaluation_mode


@dataclass(frozen=True)
class StringBatch:
    """Strings of one length, with what is asked of them.

    Attributes:
        tokens: what the encoder reads, the begin token in front if the task has one.
        counts: of every label query; `IGNORE` where a string has no such region.
        regions: the contextual position of every token: the number of its region, 0 outside.
        token_counts: of the tokens, for encoders that can use it.
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
        """The same strings, so many at a time."""
        whole = (self.tokens, self.counts, self.regions)
        if self.token_counts is not None:
            whole += (self.token_counts.types, self.token_counts.log_counts)
        parts = zip(*(tensor.split(rows) for tensor in whole), strict=True)
        return [StringBatch(*part[:3], TokenCounts(*part[3:]) if part[3:] else None, self.auxiliary) for part in parts]


def counting_model(task: ContextualCounting, config: EncoderDecoderConfig, seed: int = 0) -> EncoderDecoder:
    """An encoder-decoder of the task's symbols, labels, counts and longest string."""
    return EncoderDecoder(config, task.symbols, task.most, task.classes, task.begin + task.max_length, seed)


def string_batch(
    task: ContextualCounting,
    batch: Batch,
    labels: int | None = None,
    causal_counts: bool | None = None,
    dtype: torch.dtype | None = None,
) -> StringBatch:
    """A batch of the task as the encoder-decoder meets it.

    Args:
        batch: rows whose strings all have one length.
        labels: how many label queries the model has, if not as many as the task has regions.
        causal_counts: whether tokens are tallied from the left (True) or over the row (False); None for no tally.
        dtype: of the tally; torch's default if not given.

    Raises:
        ValueError: for strings of several lengths.
    """
    labels = task.most if labels is None else labels
    lengths = batch.labels["length"]
    if len(lengths) and lengths.min() != lengths.max():
        raise ToylabError(
            f"batch: has strings of length {lengths.min()} to {lengths.max()}; draw it with one length, such as "
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
    """A batch of the task where the model is, with as many labels as it has queries, tallied where its encoder can use
    that."""
    dtype = model.encoder.embedding.weight.dtype
    return to_device(string_batch(task, batch, model.queries, _tallied(model.config.encoder), dtype), device_of(model))


def fresh_strings(
    task: ContextualCounting,
    seed: int,
    rows: int,
    *,
    causal_counts: bool | None = None,
    auxiliary: Callable[[int], float] = lambda step: 0.0,
    longest: Callable[[int], int] | None = None,
) -> Callable[[int], StringBatch]:
    """The training batch of each step, a pure function of its arguments: one length a step, regions drawn for each row.

    `auxiliary` gives the weight of the auxiliary loss at each step, `longest` the length of the longest strings, if
    those are not the task's from the start.
    """

    def draw(rng: np.random.Generator, number: int, step: int) -> Batch:
        most = task.max_length if longest is None else longest(step)
        lengths = rng.integers(task.min_length, most + 1, size=number // rows)
        return task.sample(rng, number, length=np.repeat(lengths, rows))

    plain = training_batches(
        task, seed, rows, lambda batch: string_batch(task, batch, causal_counts=causal_counts), draw
    )
    return lambda step: replace(plain(step), auxiliary=auxiliary(step))


class RegionTeacher(nn.Module):
    """An encoder-decoder with a linear classifier of contextual position on its encoder's final states.

    The classifier is trained along and thrown away: while its loss counts, the encoder learns which region a token
    stands in, which is the first half of the circuit. Nothing is taught about counting.
    """

    def __init__(self, model: EncoderDecoder, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.classifier = make_linear(
            model.config.encoder.width, model.queries + 1, False, torch_stream(seed, "region teacher")
        )


def count_loss(model: nn.Module, strings: StringBatch) -> Float[Tensor, ""]:
    """Mean cross entropy of the counts in nats; for a `RegionTeacher`, plus that of the regions times its weight."""
    refuse_unscored(strings.counts)
    teacher = model if isinstance(model, RegionTeacher) else None
    inner = model if teacher is None else teacher.model
    stream = inner.encoder(strings.tokens, token_counts=strings.token_counts)
    logits = inner.decoder(stream)
    loss = F.cross_entropy(logits.flatten(0, 1), strings.counts.flatten().long(), ignore_index=IGNORE)
    if teacher is not None and strings.auxiliary:
        guessed = teacher.classifier(stream).flatten(0, 1)
        loss = loss + strings.auxiliary * F.cross_entropy(guessed, strings.regions.flatten().long())
    return loss


def linear_decay(steps: int, share: float) -> Callable[[int], float]:
    """A weight that falls linearly from 1 to 0 over the first `share` of the steps, and stays there."""
    last = steps * share
    return lambda step: max(0.0, 1 - step / last) if last else 0.0


EVALUATION_ROWS = 250
"""Strings that are read together where nobody watches: more of them no longer fit the processor's cache."""


@torch.no_grad()
def encode_strings(model: EncoderDecoder, strings: StringBatch) -> Float[Tensor, "batch position width"]:
    """What the encoder makes of the strings, which the decoder reads."""
    with evaluation_mode(model):
        return torch.cat(
            [model.encoder(part.tokens, token_counts=part.token_counts) for part in strings.split(EVALUATION_ROWS)]
        )


@torch.no_grad()
def count_logits(
    model: EncoderDecoder, strings: StringBatch, edits: Mapping[str, Edit] | None = None
) -> Float[Tensor, "batch label count"]:
    """The model's logits, edited or as it is."""
    with evaluation_mode(model), edit(model, edits or {}):
        return model(strings.tokens, token_counts=strings.token_counts)


def count_accuracy(model: EncoderDecoder, strings: StringBatch, edits: Mapping[str, Edit] | None = None) -> list[float]:
    """The share of right counts of each label that the strings have.

    Raises:
        ValueError: where the model's logits are nan.
    """
    if edits is None:
        with torch.no_grad(), evaluation_mode(model):
            return label_accuracy(likeliest(model.decoder(encode_strings(model, strings))), strings)
    return label_accuracy(likeliest(count_logits(model, strings, edits)), strings)


def label_accuracy(answers: Int[Tensor, "batch label"], strings: StringBatch) -> list[float]:
    """The share of right answers of each label that the strings have."""
    asked = strings.counts != IGNORE
    right = (answers == strings.counts) & asked
    held = asked.any(dim=0)
    return (right.sum(dim=0) / asked.sum(dim=0).clamp(min=1))[held].tolist()


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
) -> tuple[EncoderDecoder, Training]:
    """Train a model on a task.

    Args:
        auxiliary: share of the training during which the auxiliary loss counts, fading out; 0 for never.
        growth: share of the training during which the longest strings still grow; 0: they are there from the start.
        rows: validation strings of the largest size on which accuracy is followed, by region and in the mean.
        checkpoint, progress: as in `toylab.training.loop.train`.
    """
    model = counting_model(task, config, seed)
    followed = for_model(task, model, held_out(task, seed, rows, "validation", **task.largest))

    def evaluate(_: nn.Module) -> dict[str, float]:
        shares = count_accuracy(model, followed)
        return {"accuracy": sum(shares) / len(shares), **{f"region {k + 1}": a for k, a in enumerate(shares)}}

    batches = fresh_strings(
        task,
        seed,
        training.rows,
        causal_counts=_tallied(config.encoder),
        auxiliary=linear_decay(training.steps, auxiliary),
        longest=length_curriculum(min(2 * task.min_length, task.max_length), task.max_length, growth * training.steps),
    )
    taught = RegionTeacher(model, seed) if auxiliary else model
    return model, train(
        taught, count_loss, batches, training, evaluate=evaluate, checkpoint=checkpoint, progress=progress
    )


def _tallied(encoder: ModelConfig) -> bool | None:
    """How strings are tallied for an encoder: from the left, over the row, or, where it cannot use that, not at all."""
    return encoder.causal if encoder.positions == "none" and encoder.layers == 1 else None
