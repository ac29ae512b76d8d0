"""Causal tests of an iteration head: answers under edits of the head on held-out sequences; and the result types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from toylab.model.transformer import Transformer
from toylab.probes import (
    Edit,
    IterationHead,
    follow_links,
    invariance,
    link_mass,
    shift_links,
    uniform_heads,
    zero_heads,
)
from toylab.proofs.exact import Exact
from toylab.tasks import Batch, IteratedMap
from toylab.training.evaluate import Accuracy, Edits, accuracy, attention_patterns, predict_tokens


@dataclass(frozen=True, kw_only=True)
class GuessAccuracy:
    """Accuracies of guessing without the input.

    Attributes:
        constant: accuracy of the best constant guess of the last state.
        blind: accuracy over all states of a chain of the best guess from the previous state.
    """

    constant: float
    blind: float


@dataclass(frozen=True, kw_only=True)
class CausalTests:
    """Teacher-forced accuracy under edits of the iteration head and its backups, heads that attend to x_t too.

    The edits act at the answer positions, that is from EoI (the end-of-input token) on.
    """

    unedited: Accuracy
    zero_ablated: Accuracy
    """The iteration head and its backups are zero-ablated."""
    zero_ablated_alone: Accuracy
    """The iteration head is zero-ablated, its backups are not."""
    uniform: Accuracy
    """The iteration head and its backups attend uniformly."""
    zero_ablated_on_inputs: Accuracy
    """Control: the heads are zero-ablated before EoI, where no answer is predicted."""
    ideal_pattern: Accuracy
    """The attention pattern of the heads is replaced by the pattern of the idealised circuit."""
    first_layer_zero_ablated: Accuracy | None = None
    """The head of an earlier layer that attends to EoI is zero-ablated; None if there is no such head."""
    first_layer_ideal_pattern: Accuracy | None = None
    """The pattern of this earlier head is replaced by the pattern of the idealised circuit."""

    def by_title(self) -> dict[str, Accuracy]:
        """The measured tests by title."""
        by_name = {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}
        return {title: value for title, value in by_name.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One held-out sequence, its links (query, key) by name, and its patterns: layer, head, query, key."""

    tokens: list[str]
    links: dict[str, list[list[int]]]
    patterns: list[list[list[list[float]]]]


@dataclass(frozen=True, kw_only=True)
class Emergence:
    """The first evaluated training step at which each of three quantities reaches half of its final value."""

    end_of_input: int
    """Attention on EoI, the end-of-input token, of the best head in an earlier layer."""
    carry: int
    """Share of the steps of the iteration in which the head has over half of its attention on x_t."""
    accuracy: int
    """Sequence accuracy."""

    @property
    def in_order(self) -> bool:
        """Whether the quantities emerge in this order; two may tie, but not all three, as they do without training."""
        return self.end_of_input <= self.carry <= self.accuracy and self.end_of_input < self.accuracy


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Results of fine-tuning on parity."""

    mass_by_symbol: dict[int, float]
    """Before fine-tuning: mean attention of the head on x_t, by the value of x_t."""
    solved_at: int | None
    """The first evaluated step with the accuracy from which a task counts as learned; None if there was none."""
    accuracy: dict[int, float]
    """Free-running sequence accuracy on parity after fine-tuning, by length."""
    head: IterationHead


@dataclass(frozen=True, kw_only=True)
class PairsResult:
    """Fine-tuning of the model of one map on each other map."""

    solved_at: dict[str, int | None]
    """By condition of the other map, the first evaluated step with the accuracy from which a task counts as learned;
    None if there was none."""


@dataclass(frozen=True, kw_only=True)
class UntrainedHead:
    """Control: measurements of `IterationResult` on a model whose weight entries are randomly permuted."""

    head: IterationHead
    steered: float
    invariance: float


@dataclass(frozen=True, kw_only=True)
class ExactDecisions:
    """Properties of a model decided on all inputs of the lengths of `small_lengths`; edits act as in `CausalTests`."""

    answers: Exact
    """Every answer is correct."""
    random_weights: Exact
    """Control: every answer of a model whose weight entries are randomly permuted is correct."""
    attends: Exact | None = None
    """At every step, the head or one of its backups has over half of its attention on x_t; main and one-length models,
    as all following fields."""
    ideal_pattern: Exact | None = None
    """Every answer is kept with the pattern of the idealised circuit."""
    uniform: Exact | None = None
    """Control: every answer is kept with uniform attention."""
    steered: Exact | None = None
    """Every answer becomes F(s_{t-1}, x_{t+1}) when attention is shifted to x_{t+1}."""
    steered_random_weights: Exact | None = None
    zero_ablated: Exact | None = None
    """Every answer is kept with the heads zero-ablated."""
    zero_ablated_on_inputs: Exact | None = None
    """Control: every answer is kept with the heads zero-ablated before EoI."""


@dataclass(frozen=True, kw_only=True)
class IterationResult:
    """The result of one job of the study."""

    accuracy: dict[int, float]
    """Free-running sequence accuracy on held-out inputs, by length."""
    steps: int
    """Training steps."""
    solved_at: int | None
    """The first evaluated step with the accuracy from which a task counts as learned; None if there was none."""
    head: IterationHead | None = None
    """The best candidate for an iteration head; None without chain of thought."""
    covered: float | None = None
    """Share of steps in which the head or one of its backups attends to x_t; main and one-length models."""
    tests: CausalTests | None = None
    """Measured for main models only."""
    steered: float | None = None
    """Share of answers that become F(s_{t-1}, x_{t+1}) when attention is shifted to x_{t+1}; main models only."""
    steered_upstream: float | None = None
    """The same share when EoI has the position of the token before it; None without position embeddings."""
    steered_upstream_reverse: float | None = None
    """Control: EoI has the position of the token after it."""
    invariance: float | None = None
    """Invariance of the head's pattern to content, see `toylab.probes.invariance`; main models only."""
    emergence: Emergence | None = None
    example: Example | None = None
    transfer: Transfer | None = None
    """Measured for main and one-length models."""
    exact: ExactDecisions | None = None
    """Decisions on all short inputs; main, fresh, parity, no-chain and one-length models."""
    untrained: UntrainedHead | None = None
    """Control on random weights; main and fresh models."""

    @property
    def mean_accuracy(self) -> float:
        """Sequence accuracy averaged over lengths."""
        return mean_over(self.accuracy)


def mean_over(lengths: Mapping[int, float]) -> float:
    """The mean of a share over lengths."""
    return sum(lengths.values()) / len(lengths)


def causal_tests(model: nn.Module, batches: Mapping[int, Batch], head: IterationHead) -> CausalTests:
    """Teacher-forced accuracy under each edit of the iteration head, or of the earlier head that attends to EoI."""

    def under(edits: Edits) -> Accuracy:
        return accuracy(model, batches, edits)

    head_output = f"blocks.{head.layer}.attn.z"
    edits = head_edits(head)
    tests = CausalTests(
        unedited=under(lambda batch: {}),
        zero_ablated=under(edits["zero_ablated"]),
        zero_ablated_alone=under(lambda batch: {head_output: zero_heads(head.head, _answers(batch))}),
        uniform=under(edits["uniform"]),
        zero_ablated_on_inputs=under(edits["zero_ablated_on_inputs"]),
        ideal_pattern=under(edits["ideal_pattern"]),
    )
    if head.end_of_input_at is None:
        return tests
    layer, first_head = head.end_of_input_at
    early_z, early_pattern = f"blocks.{layer}.attn.z", f"blocks.{layer}.attn.pattern"
    return replace(
        tests,
        first_layer_zero_ablated=under(lambda batch: {early_z: zero_heads(first_head, _answers(batch))}),
        first_layer_ideal_pattern=under(lambda batch: {early_pattern: follow_links(first_head, _end_links(batch))}),
    )


def steered_share(model: nn.Module, task: IteratedMap, batches: Mapping[int, Batch], head: IterationHead) -> float:
    """Share of answers that become F(s_{t-1}, x_{t+1}) when the head and its backups attend to x_{t+1} instead of x_t.

    The mean over lengths; the last answer of each row, which has no next input, is excluded.
    """

    return _share_of_next_input(model, task, batches, head_edits(head)["one_input_too_far"])


def steered_upstream(model: Transformer, task: IteratedMap, batches: Mapping[int, Batch], by: int) -> float | None:
    """Share of answers that become F(s_{t-1}, x_{t+1}) when EoI has the position embedding of the token `by` after it.

    No attention is edited. A circuit that subtracts the position of EoI from its own attends to x_{t+1} by itself if
    `by` is -1, and to x_{t-1} if `by` is 1. The first answer, whose position is that of EoI, is excluded, as is the one
    whose next input would be x_L, which shares its position with EoI. None without position embeddings.
    """
    if model.config.positions not in ("learned", "sinusoidal"):
        return None

    def moved(batch: Batch) -> dict[str, Edit]:
        end = int(batch.labels["length"][0]) + 1
        return {"pos_embed": partial(_with_position_of, end=end, other=end + by)}

    return _share_of_next_input(model, task, batches, moved, slice(1, -1))


def _with_position_of(embeddings: torch.Tensor, end: int, other: int) -> torch.Tensor:
    """Position embeddings in which the token at `end` has the position `other`."""
    embeddings = embeddings.clone()
    embeddings[:, end] = embeddings[:, other]
    return embeddings


def _share_of_next_input(
    model: nn.Module,
    task: IteratedMap,
    batches: Mapping[int, Batch],
    edits: Edits,
    which: slice = slice(None),
) -> float:
    """Mean over lengths of the share of answers equal to F(s_{t-1}, x_{t+1}) under edits, t = 1 .. L - 1 or some."""
    shares = []
    for length, batch in batches.items():
        answers = predict_tokens(model, batch, edits(batch))
        answers = answers[:, length + 1 : 2 * length].cpu().numpy()
        shares.append(float((answers == states_of_next_input(task, batch))[:, which].mean()))
    return sum(shares) / len(shares)


def states_of_next_input(task: IteratedMap, batch: Batch) -> Int[np.ndarray, "batch answer"]:
    """F(s_{t-1}, x_{t+1}) for t = 1 .. L - 1: the predicted answers when the head attends one input too far."""
    length = int(batch.labels["length"][0])
    inputs, states = batch.tokens[:, 1 : length + 1], batch.tokens[:, length + 2 : 2 * length + 2]
    first = task.first_states(inputs[:, 1])[:, None]
    return np.concatenate([first, task.step(states[:, : length - 2], inputs[:, 2:])], axis=1)


def ideal_links(batch: Batch) -> Int[np.ndarray, "link 3"]:
    """The links of an ideal iteration head: x_t for s_t, and the end of the input for EoS."""
    return np.concatenate([batch.links["carry"], batch.links["stop"]])


def covered_share(model: nn.Module, batches: Mapping[int, Batch], head: IterationHead) -> float:
    """Share of steps in which the head or one of its backups has over half of its attention on x_t, mean over lengths.

    In some models two heads share the steps; edits act on both.
    """
    shares = []
    for batch in batches.values():
        patterns, (row, query, key) = attention_patterns(model, batch), torch.as_tensor(batch.links["carry"]).T
        attention = torch.stack(
            [patterns[layer][row, one, query, key] for layer, heads in head.by_layer.items() for one in heads]
        )
        shares.append((attention > 0.5).any(dim=0).float().mean().item())
    return sum(shares) / len(shares)


def head_invariance(model: nn.Module, head: IterationHead, batches: Mapping[int, Batch]) -> float:
    """Invariance of the head's pattern to the input content, on the longest inputs; see `toylab.probes.invariance`."""
    longest = batches[max(batches)]
    return invariance(attention_patterns(model, longest)[head.layer], longest.links["carry"])[head.head].item()


def mass_by_symbol(model: nn.Module, batch: Batch, head: IterationHead) -> dict[int, float]:
    """Mean attention of the head on x_t when s_t is due, by the value of x_t."""
    pattern = attention_patterns(model, batch)[head.layer]
    links = batch.links["carry"]
    attended = batch.tokens[links[:, 0], links[:, 2]]
    return {
        symbol: link_mass(pattern, links[attended == symbol])[head.head].item()
        for symbol in np.unique(attended).tolist()
    }


def head_edits(head: IterationHead) -> dict[str, Edits]:
    """Edits of the head and its backups by name, from a batch of one length to edits by hook point."""

    def of(point: str, make: Callable[[list[int], Batch], Edit]) -> Edits:
        return lambda batch: {
            f"blocks.{layer}.attn.{point}": make(heads, batch) for layer, heads in head.by_layer.items()
        }

    return {
        "zero_ablated": of("z", lambda heads, batch: zero_heads(heads, _answers(batch))),
        "zero_ablated_on_inputs": of("z", lambda heads, batch: zero_heads(heads, _inputs(batch))),
        "uniform": of("pattern", lambda heads, batch: uniform_heads(heads, _answers(batch))),
        "ideal_pattern": of("pattern", lambda heads, batch: follow_links(heads, ideal_links(batch))),
        "one_input_too_far": of("pattern", lambda heads, batch: follow_links(heads, _links_to_next_input(batch))),
    }


def _links_to_next_input(batch: Batch) -> Int[np.ndarray, "link 3"]:
    """Links from the position that predicts s_t to x_{t+1}; the last one, which has no next input, is left out."""
    links = batch.links["carry"]
    return shift_links(links[links[:, 2] < batch.labels["length"][0]], 1)  # pyright: ignore[reportReturnType]


def _answers(batch: Batch) -> slice:
    return slice(int(batch.labels["length"][0]) + 1, None)


def _inputs(batch: Batch) -> slice:
    return slice(0, int(batch.labels["length"][0]) + 1)


def _end_links(batch: Batch) -> torch.Tensor:
    """Links from every answer position, including EoI itself, to EoI."""
    end = int(batch.labels["length"][0]) + 1
    queries = torch.arange(end, batch.tokens.shape[1])
    rows, queries = torch.meshgrid(torch.arange(len(batch)), queries, indexing="ij")
    return torch.stack([rows, queries, torch.full_like(rows, end)], dim=-1).flatten(0, 1)
