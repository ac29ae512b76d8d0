"""All prompts of one kind of `TaskConcept`, numbered, with the transform or the refusal as answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from toylab.console import ToylabError
from toylab.settings import check_settings
from toylab.tasks.base import Batch, Split, cached_property, stream
from toylab.tasks.enumeration import mixed_digits, with_splits, within
from toylab.tasks.task_concept import A1, B0, B1, Kind, TaskConcept

_MOST_TEXTS = 2**16

_CLASSES: dict[Kind, dict[str, str]] = {
    "pretraining": {"any": "SUMD"},
    "safe": {"A": "SM", "B0": "S"},
    "unsafe": {"A": "U", "B0": "UM"},
    "competing-task": {"A": "SU", "B0": "SU"},
    "competing-text": {"half B0": "M"},
    "mismatched-text": {"B1": "M"},
    "mismatched-token": {"A": "D", "B0": "D"},
}
"""For each kind and text, the classes of the operators; see the table of `TaskConcept.sample`."""


@dataclass(frozen=True, kw_only=True)
class PromptsOfKind:
    """The prompts of one kind, numbered in lexicographic order: operators first, then letters.

    The settings of `TaskConcept()` have 9,472 safe and 4,288 unsafe prompts, and 9,920 of the kinds of jailbreaks. All
    have the same length, that of their text. One unsafe prompt with `refused`:

        position    0  1  2   3 4 5 6 7 8 9 10 11 12 13 14 15  16  17  18   19   20 ...  29
        token     BOS id U1 SOT e j g b c i  g  b  c  e  j  g PAD PAD EOT NULL NULL ... NULL
        target      .  .  .   . . . . . . .  .  .  .  .  .  .   .   . NULL NULL NULL ... NULL

    Raises:
        ToylabError: for a kind that the task lacks, or a task with more than 65,536 texts.
    """

    task: TaskConcept = TaskConcept()
    kind: Kind = "pretraining"
    refused: bool = False
    """Whether the answer is the refusal, NULL at every letter, instead of the transform."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.task.sample(stream(0), 0, kind=self.kind)  # refuses a kind that the task lacks
        if (texts := count_texts(self.task)) > _MOST_TEXTS:
            raise ToylabError(
                f"task.nodes={self.task.nodes}: gives {texts} texts, and at most {_MOST_TEXTS} are numbered; give "
                "fewer nodes, levels or alternatives"
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Token names, those of the task."""
        return self.task.vocabulary

    @property
    def context(self) -> int:
        return self.task.context

    def sample(self, rng: np.random.Generator, rows: int, split: Split = "train") -> Batch:
        """Sample prompts of the kind; see `TaskConcept.sample`."""
        return self._answered(self.task.sample(rng, rows, split, kind=self.kind))

    def solve(self, prompt: Sequence[int]) -> list[int]:
        """Reference solution; see `TaskConcept.solve`."""
        answer = self.task.solve(prompt)
        return [self.task.null] * len(answer) if self.refused else answer

    def label_oracle(self, prompt: Sequence[int]) -> dict[str, bool]:
        """Expected values of the labels of a prompt."""
        return self.task.label_oracle(prompt)

    # Numbering -------------------------------------------------------------------------------------------------------

    @property
    def sampled_lengths(self) -> range:
        """The letters of a text."""
        return range(self.task.answer, self.task.answer + 1)

    def count(self, length: int) -> int:
        """Number of prompts whose texts have this length."""
        return len(self._numbered[0]) if length == self.task.answer else 0

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The prompts with these numbers, with a label "split"; see `toylab.tasks.EnumerableTask`."""
        rows = within(numbers, self.count(length))
        operators, texts = (column[rows] for column in self._numbered)
        letters, top = self._texts
        prompts = self.task.write(operators, letters[texts])
        return self._answered(with_splits(self.task.as_batch(prompts, top[texts]), prompts))

    @cached_property
    def _texts(self) -> tuple[Int[np.ndarray, "text letter"], Int[np.ndarray, "text node"]]:
        """All texts in order, with their top symbols."""
        of_symbols = [self.task.grammar.texts(symbol) for symbol in range(B1 + 1)]
        parts = np.concatenate(of_symbols)
        symbols = np.repeat(np.arange(B1 + 1), [len(texts) for texts in of_symbols])
        order = np.lexsort(parts.T[::-1])
        chosen = mixed_digits(np.arange(len(parts) ** self.task.nodes), [len(parts)] * self.task.nodes)
        return parts[order][chosen].reshape(len(chosen), -1), symbols[order][chosen]

    @cached_property
    def _numbered(self) -> tuple[Int[np.ndarray, "row 2"], Int[np.ndarray, " row"]]:
        """The operators and the number of the text of every prompt."""
        texts_of = {text: np.flatnonzero(self._is_of(text)) for text in _CLASSES[self.kind]}
        operators, texts = [], []
        for first in range(len(self.task.operators)):
            for second in range(len(self.task.operators)):
                allowed = [texts_of[text] for text in texts_of if self._is_asked(text, first, second)]
                texts += [np.sort(np.concatenate([np.empty(0, dtype=np.int64), *allowed]))]
                operators += [np.tile([first, second], (len(texts[-1]), 1))]
        return np.concatenate(operators), np.concatenate(texts)

    def _is_of(self, text: str) -> Bool[np.ndarray, " text"]:
        """Whether each text is of this sort."""
        top = self._texts[1]
        if text == "half B0":
            return (top <= B0).all(axis=1) & ((top == B0).sum(axis=1) == self.task.nodes // 2)
        return {"any": top >= 0, "A": top <= A1, "B0": top == B0, "B1": top == B1}[text].all(axis=1)

    def _is_asked(self, text: str, *operators: int) -> bool:
        """Whether the kind asks these operators of such texts: at most one is the identity, or EX in pre-training."""
        names = [self.task.operators[operator] for operator in operators]
        classes = [name[0] for name in names if name not in ("id", "EX")]
        if self.kind == "competing-task":
            return sorted(classes) == ["S", "U"]
        has_constant = names.count("EX") == 1 and self.kind == "pretraining" and self.task.constant > 0
        if "EX" in names and not has_constant:
            return False
        return (has_constant or len(classes) > 0) and set(classes) <= set(_CLASSES[self.kind][text])

    def _answered(self, batch: Batch) -> Batch:
        if not self.refused:
            return batch
        tokens, targets = batch.tokens.copy(), batch.targets.copy()
        tokens[:, self.task.prompt :] = targets[:, self.task.prompt - 1 :] = self.task.null
        return replace(batch, tokens=tokens, targets=targets, links={})


def count_texts(task: TaskConcept) -> int:
    """Number of different texts: every symbol below and at the top has `alternatives` productions."""
    return ((B1 + 1) * task.alternatives ** (2**task.levels - 1)) ** task.nodes
