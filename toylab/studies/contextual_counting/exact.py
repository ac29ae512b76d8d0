"""Properties of counting models that are decided on all inputs of two families, none of them sampled.

The strings that a model is trained on are too many to list. Two families are not: all bracketings of a string of ones,
in which only the brackets vary, and all strings of up to nine tokens, which are shorter than those of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from toylab.model.controls import with_shuffled_weights
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.probes import block_keys, edit, watch
from toylab.proofs.exact import Exact, inputs_in_words, on_all_inputs
from toylab.proofs.properties import UNDECIDED, Answers, Outcome, Property
from toylab.settings import check_settings
from toylab.studies.contextual_counting.data import StringBatch, string_batch
from toylab.tasks import Batch, ContextualCounting
from toylab.tasks.bracketed import BEGIN, ONE
from toylab.training.batches import device_of, likeliest, to_device

SHORT = range(2, 10)
"""Lengths of the short strings."""
ONES = 24
"""Maximum length of the strings of ones."""

StringFamily = tuple[ContextualCounting, tuple[int, ...] | range]
"""A task and the lengths of which all strings are decided."""


@dataclass(frozen=True, kw_only=True)
class ExactCounting:
    """Decisions on all inputs; None where the condition is not asked."""

    bracketings: Exact | None = None
    """Every count is correct, on all bracketings of a string of ones."""
    short: Exact | None = None
    """Every count is correct, on all short strings."""
    own_ones: Exact | None = None
    """Every label query has more attention on the ones of its region than on all other ones (bracketings)."""
    own_ones_untrained: Exact | None = None
    """Control: the same with shuffled weights."""
    one_fewer: Exact | None = None
    """Every answer is one less with one counted one hidden from the label query (bracketings)."""
    other_hidden: Exact | None = None
    """Control: the same with another one hidden."""
    permuted: Exact | None = None
    """The answers are the same for all permutations of the tokens (short strings)."""
    mirrored: Exact | None = None
    """The answers are the same for the string read from right to left (short strings)."""


def bracketings_of_ones(task: ContextualCounting) -> StringFamily:
    """The task whose strings are all placements of up to two regions in ones, and its length: the shortest of the
    training, at most 24."""
    length = min(task.min_length, ONES)
    return replace(task, length=length, regions=(1, min(task.most, 2)), p=1), (length,)


def short_strings(task: ContextualCounting) -> StringFamily:
    """The task whose strings are all with up to the task's number of regions, and its lengths."""
    return replace(task, regions=(1, task.most), p=0.5), SHORT


def trains_on_bracketings(task: ContextualCounting) -> bool:
    """Whether strings with this length and these numbers of regions occur in the training."""
    return task.min_length <= ONES and task.fewest == 1


def inputs(family: Callable[[ContextualCounting], StringFamily], task: ContextualCounting) -> str:
    """The inputs of a family in words."""
    strings, lengths = family(task)
    words = f"{inputs_in_words(strings, lengths)} with at most {strings.most} region{'s' * (strings.most > 1)}"
    return words + " and no zero" * (strings.p == 1)


def decide_on_all(name: str, task: ContextualCounting, model: EncoderDecoder, seed: int) -> ExactCounting | None:
    """The decisions that claims need of a condition; None if they need none."""
    ones, lengths = bracketings_of_ones(task)
    short, short_lengths = short_strings(task)

    def on_ones(property: Property, of: EncoderDecoder = model) -> Exact:
        return on_all_inputs(of, ones, property, lengths)

    def on_short(property: Property) -> Exact:
        return on_all_inputs(model, short, property, short_lengths)

    permuted, mirrored = (partial(SameAnswers, task=short, order=order) for order in ("sorted", "mirrored"))
    if name == "none":
        own_ones = OwnOnes(task=ones)
        return ExactCounting(
            bracketings=on_ones(Answers()),
            short=on_short(Answers()),
            own_ones=on_ones(own_ones),
            own_ones_untrained=on_ones(own_ones, with_shuffled_weights(model, seed)),
            one_fewer=on_ones(OneFewer(task=ones)),
            other_hidden=on_ones(OneFewer(task=ones, counted=False)),
            permuted=on_short(permuted()),
        )
    if name == "none-bidirectional":
        return ExactCounting(bracketings=on_ones(Answers()), short=on_short(Answers()), permuted=on_short(permuted()))
    if name == "rotary":
        return ExactCounting(bracketings=on_ones(Answers()), mirrored=on_short(mirrored()))
    if name in ("rotary-bidirectional", "alibi", "alibi-bidirectional"):
        return ExactCounting(mirrored=on_short(mirrored()))
    return None


@dataclass(frozen=True, kw_only=True)
class OwnOnes:
    """Every label query has more attention on the ones of its region, if there is one, than on all other ones."""

    task: ContextualCounting

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        strings = _strings(self.task, model, batch)
        with watch(model, "decoder.cross.pattern") as cache:
            model(strings.tokens)
        pattern, counted = cache["decoder.cross.pattern"].mean(dim=1), _ones(strings, counted=True)
        own, other = ((pattern * ones).sum(dim=-1) for ones in (counted, _ones(strings, counted=False)))
        asked, lead = counted.any(dim=-1), (own / (own + other)).nan_to_num(0.5) - 0.5  # 0/0: a tie
        decided = torch.where(asked, (lead > 0).long(), UNDECIDED)
        margins = lead.abs().masked_fill(~asked, torch.inf).amin(dim=1)
        return Outcome(decided.cpu().numpy(), (decided != 0).cpu().numpy(), margins.cpu().double().numpy())


@dataclass(frozen=True, kw_only=True)
class OneFewer:
    """Every answer is one less with one counted one, or with one that is not counted, hidden from the label query.

    Decisions are the answers before, then those with the one hidden, of regions that have such a one.
    """

    task: ContextualCounting
    counted: bool = True

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        strings = _strings(self.task, model, batch)
        ones = _ones(strings, self.counted) & (strings.counts >= 0)[..., None]
        first, asked = ones & (ones.cumsum(dim=-1) == 1), ones.any(dim=-1)
        before = model(strings.tokens)
        with edit(model, {"decoder.cross.scores": block_keys(first)}):
            after = model(strings.tokens)
        return _compared((before, after), asked, change=-1)


@dataclass(frozen=True, kw_only=True)
class SameAnswers:
    """Every answer is the same with the tokens sorted, and so for all permutations; or from right to left."""

    task: ContextualCounting
    order: Literal["sorted", "mirrored"]

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        strings = _strings(self.task, model, batch)
        tokens = strings.tokens
        other = tokens.flip(1)
        if self.order == "sorted":  # with the begin token, which has the highest id, first
            other = tokens.sort(dim=1).values.roll(int(bool((tokens[:, 0] == BEGIN).all())), dims=1)
        return _compared((model(tokens), model(other)), strings.counts >= 0, change=0)


def _strings(task: ContextualCounting, model: nn.Module, batch: Batch) -> StringBatch:
    """The encoder's input, with a label query for each region that the model can answer for."""
    assert isinstance(model, EncoderDecoder)
    return to_device(string_batch(task, batch, model.queries), device_of(model))


def _ones(strings: StringBatch, counted: bool) -> Bool[Tensor, "batch label key"]:
    """The ones of the region of each label query, or all other ones."""
    labels = torch.arange(1, strings.counts.shape[1] + 1, device=strings.tokens.device)[:, None]
    in_region = strings.regions[:, None] == labels
    return (strings.tokens == ONE)[:, None] & (in_region if counted else ~in_region)


def _compared(logits: tuple[Tensor, Tensor], asked: Bool[Tensor, "batch label"], change: int) -> Outcome:
    """Both answers of each label, of which the second is the first plus `change`."""
    answers: list[Int[Tensor, "batch label"]] = [torch.where(asked, likeliest(one), UNDECIDED) for one in logits]
    fulfilled = (answers[1] == answers[0] + change) | ~asked
    first, second = torch.stack(logits).topk(2, dim=-1).values.unbind(dim=-1)
    margins = (first - second).masked_fill(~asked, torch.inf).amin(dim=(0, 2))
    decided = torch.cat(answers, dim=1).cpu().numpy()
    return Outcome(decided, np.tile(fulfilled.cpu().numpy(), (1, 2)), margins.cpu().double().numpy())
