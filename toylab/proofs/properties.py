"""Properties of a model that hold or fail on each row of a batch.

A property is a frozen dataclass, or any picklable object, that is called with a model and a batch and returns an
`Outcome`. Its decisions are whole numbers, such as the likeliest tokens, so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.generate import generate
from toylab.probes import Edit, edit, follow_links, watch
from toylab.probes.attention import mass_by_query
from toylab.proofs.routes import Route, answers_due, route_of, whole_rows
from toylab.settings import check_range, check_settings
from toylab.tasks import IGNORE, Batch
from toylab.training.batches import likeliest, tokens_for

UNDECIDED = -1
"""Decision where a row has none, such as the answers that a shorter row lacks."""


@dataclass(frozen=True)
class Outcome:
    """What a property decides on a batch.

    Attributes:
        decisions: whole numbers of at least 0, `UNDECIDED` where a row has fewer decisions.
        fulfilled: whether each decision is as the property demands, true where there is none; the property holds on a
            row if all are.
        margins: the smallest lead of a decision: of the largest logit over the second, or of an attention weight over
            its threshold, in either direction. One that is nan, such as 0 / 0, counts as 0.
    """

    decisions: Int[np.ndarray, "batch decision"]
    fulfilled: Bool[np.ndarray, "batch decision"]
    margins: Float[np.ndarray, " batch"]

    def __post_init__(self) -> None:
        shape = np.shape(self.decisions)
        if len(shape) != 2 or np.shape(self.fulfilled) != shape or np.shape(self.margins) != shape[:1]:
            raise ToylabError(
                f"outcome: decisions {shape}, fulfilled {np.shape(self.fulfilled)}, margins {np.shape(self.margins)}; "
                "must be (batch, decision) twice, and (batch)"
            )
        types = [
            getattr(getattr(x, "dtype", None), "kind", "?") for x in (self.decisions, self.fulfilled, self.margins)
        ]
        if types[0] not in "iub" or types[1] != "b" or types[2] != "f":
            raise ToylabError("outcome: must be numpy arrays of whole numbers, of bool, and of floats")

    @property
    def holds(self) -> Bool[np.ndarray, " batch"]:
        """Whether the property holds on each row."""
        return np.asarray(self.fulfilled.all(axis=1))


Property = Callable[[nn.Module, Batch], Outcome]
"""Decides a property of a model on every row of a batch."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Every answer of a row is correct.

    Teacher-forced and free-running greedy answers are correct on the same rows, since both are if every token is
    correct after the correct ones before; after the first error their decisions differ.
    """

    free_running: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        due = answers_due(model, batch)
        logits = self._own_answers(model, batch) if self.free_running else route_of(model)(model, batch)
        decided = np.where(due == IGNORE, UNDECIDED, likeliest(logits).cpu().numpy())
        return Outcome(decided, (decided == due) | (due == IGNORE), _margins(logits, due != IGNORE))

    def _own_answers(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch answer token"]:
        first = (batch.targets != IGNORE).argmax(axis=1)
        scored = np.flatnonzero((batch.targets != IGNORE).any(axis=0))
        if not len(scored) or first.min() != first.max() or len(scored) != scored[-1] - scored[0] + 1:
            raise ToylabError(
                "property: free-running answers need prompts of one length, followed by the answers alone"
            )
        written = generate(model, tokens_for(model, batch.tokens[:, : scored[0] + 1]), len(scored) - 1)
        return model(written)[:, scored[0] :]


@dataclass(frozen=True, kw_only=True)
class Attends:
    """A head has more than `threshold` of its attention on the keys of each link; rows without links fulfil it."""

    link: str
    layer: int
    head: int
    threshold: float | int = 0.5

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(layer=self.layer, head=self.head, least=0)
        check_range("it is a share of the attention", threshold=self.threshold, least=0, below=1)

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        point = f"blocks.{self.layer}.attn.pattern"
        with watch(model, point) as cache:
            model(tokens_for(model, batch.tokens))
        edges = batch.links.get(self.link)
        if edges is None or self.head >= cache[point].shape[1]:
            raise ToylabError(
                f"link={self.link!r}, head={self.head}: the task has {', '.join(batch.links)}, and the layer "
                f"{cache[point].shape[1]} heads"
            )
        decided = np.full(batch.tokens.shape, UNDECIDED)
        margins = np.full(len(batch), np.inf)
        if len(edges):
            mass = mass_by_query(cache[point], edges)[:, self.head].cpu().double().numpy()
            row, query = np.unique(edges[:, :2], axis=0).T
            decided[row, query] = mass > self.threshold
            np.minimum.at(margins, row, np.abs(mass - self.threshold))
        return Outcome(decided, decided != 0, margins)


@dataclass(frozen=True, kw_only=True)
class Edited:
    """Under edits, every answer stays the same or, with `predicted`, becomes the predicted one.

    Attributes:
        edits: from a batch to edits by hook point, as `toylab.probes.edit` takes them.
        predicted: from a batch to the predicted token after each position, `IGNORE` where nothing is predicted.
    """

    edits: Callable[[Batch], Mapping[str, Edit]]
    predicted: Callable[[Batch], Int[np.ndarray, "batch position"]] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        with edit(model, self.edits(batch)):
            edited = model(tokens_for(model, batch.tokens))
        if self.predicted is None:
            unedited = model(tokens_for(model, batch.tokens))
            expected = np.where(batch.targets == IGNORE, IGNORE, likeliest(unedited).cpu().numpy())
            margins = np.minimum(_margins(edited, expected != IGNORE), _margins(unedited, expected != IGNORE))
        else:
            expected = self.predicted(batch)
            margins = _margins(edited, expected != IGNORE)
        decided = np.where(expected == IGNORE, UNDECIDED, likeliest(edited).cpu().numpy())
        return Outcome(decided, (decided == expected) | (expected == IGNORE), margins)


@dataclass(frozen=True, kw_only=True)
class IdealPattern:
    """The edit of `Edited` that replaces the attention of a head, where it has links, by the links."""

    link: str
    layer: int
    head: int

    def __call__(self, batch: Batch) -> dict[str, Edit]:
        if self.link not in batch.links:
            raise ToylabError(f"link={self.link!r}: the task has {', '.join(batch.links)}")
        return {f"blocks.{self.layer}.attn.pattern": follow_links(self.head, batch.links[self.link])}


@dataclass(frozen=True, kw_only=True)
class Agrees:
    """Another model, or another route to the logits, gives the same answers, correct or not."""

    model: nn.Module | None = None
    """The other model; the same one if None."""
    route: Route = whole_rows
    """The route of the other model; the first takes whole rows."""

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        due = answers_due(model, batch)
        pair = whole_rows(model, batch), self.route(self.model or model, batch)
        first, second = (np.where(due == IGNORE, UNDECIDED, likeliest(logits).cpu().numpy()) for logits in pair)
        margins = np.minimum(*(_margins(logits, due != IGNORE) for logits in pair))
        return Outcome(np.concatenate([first, second], axis=1), np.tile(first == second, (1, 2)), margins)


@dataclass(frozen=True, kw_only=True)
class Opens:
    """The first token of the answer is `opener`, and with `base` that of the base model is another one: a steering
    vector changes every opener."""

    opener: int
    base: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        due = answers_due(model, batch)[:, :1]
        models = [model] if self.base is None else [model, self.base]
        logits = [whole_rows(one, batch)[:, :1] for one in models]
        decided = np.concatenate([likeliest(one).cpu().numpy() for one in logits], axis=1)
        margins = np.stack([_margins(one, due != IGNORE) for one in logits]).min(axis=0)
        opens = decided == self.opener
        return Outcome(decided, np.concatenate([opens[:, :1], ~opens[:, 1:]], axis=1), margins)


def _margins(
    logits: Float[Tensor, "batch answer token"], is_due: Bool[np.ndarray, "batch answer"]
) -> Float[np.ndarray, " batch"]:
    """The smallest lead of the likeliest token over the second among the answers of each row."""
    first, second = logits.topk(2, dim=-1).values.unbind(dim=-1)
    leads = (first - second).masked_fill(first == second, 0)  # of two infinite logits as well
    leads = leads.masked_fill(~torch.from_numpy(is_due).to(logits.device), torch.inf)
    return leads.amin(dim=1).cpu().double().numpy()
