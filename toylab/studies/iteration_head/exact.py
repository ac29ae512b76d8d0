"""Numbers without sampling: decisions on all inputs of small lengths, and the accuracies of guessing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from toylab.model.controls import with_shuffled_weights
from toylab.probes import IterationHead
from toylab.proofs.exact import Exact, inputs_in_words, on_all_inputs
from toylab.proofs.properties import UNDECIDED, Answers, Edited, Outcome
from toylab.studies.iteration_head.measures import (
    ExactDecisions,
    GuessAccuracy,
    head_edits,
    states_of_next_input,
)
from toylab.tasks import IGNORE, Batch, IteratedMap
from toylab.training.evaluate import attention_patterns


def small_lengths(task: IteratedMap, most: int) -> range:
    """The lengths from the shortest of the task on, as many as have at most `most` inputs together."""
    total, last = 0, task.min_length - 1
    while last < task.max_length and (total := total + task.count(last + 1)) <= most:
        last += 1
    return range(task.min_length, last + 1)


def with_next_input(lengths: range) -> range:
    """The lengths at which some answer has a next input to attend to."""
    return range(max(2, lengths.start), lengths.stop)


def small_inputs(task: IteratedMap, parity: IteratedMap, most: int) -> dict[str, str]:
    """The inputs in words, empty if there are none: of main models, of answers with a next input, and of parity."""
    lengths, of_parity = small_lengths(task, most), small_lengths(parity, most)
    sizes = {
        "main": (task, lengths),
        "next": (task, with_next_input(lengths)),
        "parity": (parity, of_parity),
    }
    return {name: inputs_in_words(of, chosen) if chosen else "" for name, (of, chosen) in sizes.items()}


def answers(model: nn.Module, task: IteratedMap, lengths: range, seed: int) -> ExactDecisions | None:
    """Whether every answer of the model, and of its control, is correct; None without lengths."""
    if not lengths:
        return None
    shuffled = with_shuffled_weights(model, seed)
    return ExactDecisions(
        answers=on_all_inputs(model, task, Answers(), lengths),
        random_weights=on_all_inputs(shuffled, task, Answers(), lengths),
    )


def edits(
    decided: ExactDecisions | None,
    model: nn.Module,
    task: IteratedMap,
    lengths: range,
    head: IterationHead,
    seed: int,
) -> ExactDecisions | None:
    """The decisions with those on attention and on edits of the head and its backups, if there are lengths."""
    of_head = head_edits(head)
    if decided is None or not with_next_input(lengths):
        return decided

    def kept(name: str) -> Exact:
        return on_all_inputs(model, task, Edited(edits=of_head[name]), lengths)

    def steered(one: nn.Module) -> Exact:
        to_next = Edited(edits=of_head["one_input_too_far"], predicted=NextInput(task=task))
        return on_all_inputs(one, task, to_next, with_next_input(lengths))

    return replace(
        decided,
        attends=on_all_inputs(model, task, Covered(head=head), lengths),
        ideal_pattern=kept("ideal_pattern"),
        uniform=kept("uniform"),
        steered=steered(model),
        steered_random_weights=steered(with_shuffled_weights(model, seed)),
        zero_ablated=kept("zero_ablated"),
        zero_ablated_on_inputs=kept("zero_ablated_on_inputs"),
    )


@dataclass(frozen=True, kw_only=True)
class Covered:
    """At every step, the head or one of its backups has over half of its attention on x_t: a `Property`."""

    head: IterationHead

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        patterns, links = attention_patterns(model, batch), batch.links["carry"]
        row, query, key = torch.as_tensor(links).T
        attention = torch.stack(
            [patterns[layer][row, one, query, key] for layer, heads in self.head.by_layer.items() for one in heads]
        )
        most = attention.amax(dim=0).double().numpy()
        decided, margins = np.full(batch.tokens.shape, UNDECIDED), np.full(len(batch), np.inf)
        decided[links[:, 0], links[:, 1]] = most > 0.5
        np.minimum.at(margins, links[:, 0], np.abs(most - 0.5))
        return Outcome(decided, decided != 0, margins)


@dataclass(frozen=True, kw_only=True)
class NextInput:
    """The answers F(s_{t-1}, x_{t+1}), predicted when the head attends one input too far."""

    task: IteratedMap

    def __call__(self, batch: Batch) -> Int[np.ndarray, "batch position"]:
        length = int(batch.labels["length"][0])
        predicted = np.full(batch.targets.shape, IGNORE)
        predicted[:, length + 1 : 2 * length] = states_of_next_input(self.task, batch)
        return predicted


def guess_accuracy(task: IteratedMap, lengths: list[int]) -> GuessAccuracy:
    """Accuracies of guessing without the input, averaged over lengths."""
    states, chance = np.arange(task.values), 1 / len(task.inputs)
    first, transitions = np.zeros(len(states)), np.zeros((len(states), len(states)))
    for x in task.inputs:
        first[task.first_states(np.array([x]))] += chance
        transitions[states, task.step(states, np.full_like(states, x))] += chance
    distributions = [first]  # the distribution of each state of a chain
    while len(distributions) < max(lengths):
        distributions.append(distributions[-1] @ transitions)
    cumulative_correct = np.cumsum([first.max(), *(before @ transitions.max(axis=1) for before in distributions[:-1])])
    constant = np.mean([distributions[length - 1] for length in lengths], axis=0).max()
    blind = np.mean([cumulative_correct[length - 1] / length for length in lengths])
    return GuessAccuracy(constant=float(constant), blind=float(blind))
