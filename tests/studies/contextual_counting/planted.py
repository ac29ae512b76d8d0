"""Counters whose attention is a table, and what they do, token by token: the decoder is real, the encoder planted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from toylab import tasks
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.studies.contextual_counting.data import StringBatch, string_batch
from toylab.tasks import Batch, ContextualCounting, encode
from toylab.tasks.bracketed import BEGIN, CLOSE, ONE, OPEN, ZERO

PLACES = 7
"""Of tokens: how many brackets stand before them, themselves included; up to three regions."""
CELLS = 5 * PLACES


class Cells(nn.Module):
    """An encoder that says of each token what it is and in which place, and of "]" how many ones it closes."""

    def __init__(self, counts: int) -> None:
        super().__init__()
        self.counts = counts

    def forward(self, tokens: Tensor, *, segments: Tensor | None = None, token_counts: object = None) -> Tensor:
        bracket = (tokens == OPEN) | (tokens == CLOSE)
        place = bracket.cumsum(dim=1)
        ones = (tokens == ONE).cumsum(dim=1)
        opened = torch.where(tokens == OPEN, ones, 0).cummax(dim=1).values
        told = nn.functional.one_hot((ones - opened).clamp(max=self.counts - 1), self.counts)
        cells = nn.functional.one_hot(tokens + 5 * place, CELLS)
        return torch.cat([cells, told * (tokens == CLOSE)[..., None]], dim=-1).double()


@dataclass(frozen=True)
class Counter:
    """A counter by its table.

    Attributes:
        weights: of a token for each label, before they are scaled to sum to one: label, place, token.
        half: the weight of all that the ones are compared with, at which counts are right.
        counts: possible answers.
        scale: of the logits, which changes no answer.
        kind: whether the attention on ones inside regions tells the count, that on ones outside how many of `total` are
            not inside, or a closing bracket the count it has.
        total: of ones in a string, for complements.
    """

    weights: np.ndarray
    half: float
    counts: int = 12
    scale: float = 1.0
    kind: str = "counter"
    total: int = 0

    @cached_property
    def model(self) -> EncoderDecoder:
        width = CELLS + self.counts
        encoder = ModelConfig(
            layers=1, heads=1, width=width, hidden=0, biases=False, positions="none", unembedding="none"
        )
        config = EncoderDecoderConfig(encoder=encoder, head="default", logit_scale=self.scale)
        labels = len(self.weights)
        model = EncoderDecoder(config, 5, labels, self.counts, 0).double()
        model.encoder = Cells(self.counts)
        decoder = model.decoder
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.zero_()
            table = torch.from_numpy(self.weights).reshape(labels, CELLS)
            decoder.queries[:, :CELLS] = table.clamp(min=1e-30).log()
            decoder.cross.query.weight.copy_(math.sqrt(width) * torch.eye(width, dtype=torch.double))
            decoder.cross.key.weight[:CELLS, :CELLS] = torch.eye(CELLS)
            decoder.cross.value.weight.copy_(torch.eye(width))
            decoder.cross.output.weight.copy_(torch.eye(width))
            decoder.head.weight.copy_(torch.from_numpy(self.values) / self.scale)
        return model

    @cached_property
    def values(self) -> np.ndarray:
        """What a unit of attention adds to the logit of each count, by what it falls on: count, coordinate."""
        found = np.zeros((self.counts, CELLS + self.counts))
        if self.kind == "copy":
            found[:, CELLS:] = np.eye(self.counts)
            return found
        inside = self.kind == "counter"
        counted = [cell % 5 == ONE and (cell // 5 % 2 == 1) == inside for cell in range(CELLS)]
        for count in range(self.counts):
            told = count if inside else self.total - count
            x = told / (told + self.half)  # the tangent of -ln(1 - x) at x, which is highest there
            found[count, :CELLS] = -math.log1p(-x) + (np.array(counted) - x) / (1 - x)
        return found

    def attention(self, tokens: list[int], label: int, hidden: frozenset[int] = frozenset()) -> list[float]:
        """On each token, with some that are not seen."""
        weights, place = [], 0
        for at, token in enumerate(tokens):
            place += token in (OPEN, CLOSE)
            weights.append(0.0 if at in hidden else max(float(self.weights[label, place, token]), 1e-30))
        return [weight / sum(weights) for weight in weights]

    def logits(self, tokens: list[int], label: int, hidden: frozenset[int] = frozenset()) -> np.ndarray:
        """Of each count."""
        total, ones, place = np.zeros(self.counts), 0, 0
        for token, weight in zip(tokens, self.attention(tokens, label, hidden), strict=True):
            place += token in (OPEN, CLOSE)
            ones = 0 if token == OPEN else ones + (token == ONE)
            total += weight * self.values[:, 5 * place + token]
            if token == CLOSE:
                total += weight * self.values[:, CELLS + ones]
        return total

    def answer(self, tokens: list[int], label: int, hidden: frozenset[int] = frozenset()) -> int:
        """The likeliest count."""
        return int(self.logits(tokens, label, hidden).argmax())


def table(labels: int, **weights: float) -> np.ndarray:
    """The weights of a counter: one for the ones of a label's own region, and what is given for tokens elsewhere."""
    held = np.zeros((labels, PLACES, 5))
    for name, weight in weights.items():
        held[:, :, {"zeros": ZERO, "opened": OPEN, "closed": CLOSE, "begin": BEGIN}[name]] = weight
    for label in range(labels):
        held[label, 2 * label + 1, ONE] = 1.0
    return held


def classes(tokens: list[int], label: int) -> list[str]:
    """What each token is to a label, from 1 on, read from left to right."""
    found, region, inside = [], 0, False
    for token in tokens:
        if token == OPEN:
            region, inside = region + 1, True
        if token == BEGIN:
            found.append("begin")
        elif token == ZERO:
            found.append("zeros")
        elif token == ONE and not inside:
            found.append("outside ones")
        elif token == ONE:
            found.append("counted ones" if region == label else "other regions' ones")
        elif region != label:
            found.append("earlier brackets" if region < label else "later brackets")
        else:
            found.append("own [" if token == OPEN else "own ]")
        if token == CLOSE:
            inside = False
    return found


def held_out(task: ContextualCounting, seed: int, rows: int, **size: int) -> Batch:
    """Strings that no model has seen."""
    return tasks.held_out(task, seed, rows, **task.largest | size)


def balanced(task: ContextualCounting, rows: int, zeros: int, ones: int, seed: int = 0) -> Batch:
    """Strings with so many zeros and ones each, and the task's brackets anywhere."""
    rng = np.random.default_rng(seed)
    length = zeros + ones + 2 * task.most
    found = []
    for _ in range(rows):
        string = np.empty(length, dtype=np.int64)
        brackets = np.sort(rng.choice(length, 2 * task.most, replace=False))
        string[brackets] = np.tile([OPEN, CLOSE], task.most)
        string[np.setdiff1d(np.arange(length), brackets)] = rng.permutation([ZERO] * zeros + [ONE] * ones)
        found.append(string)
    return task.batch(np.array(found), np.full(rows, length))


def laid_out(task: ContextualCounting, *texts: str) -> StringBatch:
    """Strings as they are written, all of one length."""
    rows = np.array([encode(task, list(text)) for text in texts])
    return string_batch(task, task.batch(rows, np.full(len(texts), len(texts[0]))))
