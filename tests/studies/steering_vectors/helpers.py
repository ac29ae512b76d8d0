"""Models and answers written by hand, on a small task of step-by-step answers."""

from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from toylab.studies.steering_vectors.data import (
    MODEL,
)
from toylab.tasks import Reasoning, Split, held_out
from toylab.training.batches import prompt_tokens

TASK = Reasoning(p=3, length=4)
FLAGGED = Reasoning(p=3, length=4, flag=True)
SMALL = replace(MODEL, layers=1, heads=2, width=32, hidden=16)
THINK, DIRECT, ANS, EOS = (TASK.token(name) for name in ("THINK", "DIRECT", "ANS", "EOS"))
seeds = st.integers(0, 2**31)
some = settings(max_examples=6)
few = settings(max_examples=3)


def questions(task: Reasoning, seed: int, rows: int, split: Split = "test") -> torch.Tensor:
    """Prompts that no training has seen."""
    return prompt_tokens(task, held_out(task, seed, rows, split, purpose="prompts"))


class Scribe(nn.Module):
    """Writes the answers that it is told to give to prompts, all but surely."""

    def __init__(self, given: Callable[[list[int]], list[int]], task: Reasoning = TASK) -> None:
        super().__init__()
        self.given, self.task = given, task

    def forward(self, tokens, *, cache=None, queries=None):
        if cache is not None:
            tokens = torch.cat([*(held[0] for held in cache.layers.values()), tokens], dim=1)
            cache.layers[0] = tokens, tokens
        said = [self.given(row[: self.task.prompt]) for row in tokens.tolist()]
        filled = torch.tensor([(row + [EOS] * self.task.answer)[: self.task.answer] for row in said])
        following = torch.cat([filled.new_zeros(len(tokens), self.task.prompt - 1), filled], dim=1)
        logits = 200.0 * F.one_hot(following, len(self.task.vocabulary)).float()
        if queries is None:
            return logits[:, tokens.shape[1] - 1 : tokens.shape[1]]
        return logits.gather(1, queries[..., None].expand(-1, -1, logits.shape[-1]))


def ends(row: list[int]) -> list[int]:
    """Up to the end and with it."""
    return row[: row.index(EOS) + 1] if EOS in row else row


def direct(prompt: list[int], task: Reasoning = TASK, more: int = 0) -> list[int]:
    y = prompt[1] if task.flag and prompt[-1] == task.token("SEP'") else chained(prompt, task)[-2]
    return [DIRECT, (y + more) % task.p, EOS]


def chained(prompt: list[int], task: Reasoning = TASK, prime: int = 0) -> list[int]:
    """The whole chain, also to a flagged prompt; in the second dialect with a `prime`."""
    states = [prompt[1]]
    for a in prompt[2:-1]:
        states.append(int(task.permutation[(states[-1] + a) % task.p]))
    return [THINK, *(s + prime * task.p for s in states[1:]), ANS, states[-1], EOS]


def sometimes(one: Callable, other: Callable) -> Callable[[list[int]], list[int]]:
    """One answer where x0 is 0, the other elsewhere."""
    return lambda prompt: one(prompt) if prompt[1] == 0 else other(prompt)
