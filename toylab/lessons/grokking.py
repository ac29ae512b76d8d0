"""Training and measurements of lesson 06, grokking of modular addition, for one seed or for a table over seeds.

python -m toylab.lessons.grokking 640 641 642    # adds one row per seed to notebooks/grokking.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.files import exists, read_record, write_record
from toylab.model.transformer import Transformer
from toylab.probes import keep_frequencies, read_frequencies
from toylab.runs.processes import single_thread
from toylab.settings import as_json
from toylab.survey import recipe_of
from toylab.tasks import Batch, ModularAddition, stream
from toylab.training.batches import next_token_loss, pad, training_batches
from toylab.training.evaluate import accuracy_of, predict_tokens
from toylab.training.loop import TrainConfig, Training, first_step, train

TASK = ModularAddition()
MODEL, RECIPE = recipe_of(ModularAddition).model, recipe_of(ModularAddition).train
LEARNED_AT = 0.95
"""Accuracy from which a model counts as having memorised or generalised."""
KEY_FREQUENCIES = 5


@dataclass(frozen=True, kw_only=True)
class ShuffledAddition(ModularAddition):
    """The table of addition with its answers permuted among the pairs: a control without anything to generalise."""

    @cached_property
    def answers(self) -> Int[np.ndarray, "number number"]:
        """The answer of each pair, equal for both orders."""
        table = np.zeros((self.p, self.p), dtype=np.int64)
        first, second = np.triu_indices(self.p)
        table[first, second] = stream(0, "shuffled").permutation((first + second) % self.p)
        return np.maximum(table, table.T)

    def batch(self, pairs: Int[np.ndarray, "batch 2"]) -> Batch:
        batch = super().batch(pairs)
        targets = batch.targets.copy()
        targets[:, 2] = self.answers[pairs[:, 0], pairs[:, 1]]
        return replace(batch, targets=targets)

    def solve(self, prompt: Sequence[int]) -> list[int]:
        return [int(self.answers[prompt[0], prompt[1]])]


@dataclass(frozen=True, kw_only=True)
class Grokked:
    """A trained model with its history and its embeddings of the numbers, (number, width), by evaluated step."""

    model: Transformer
    training: Training
    embeddings: dict[int, Float[Tensor, "number width"]]

    def step_of(self, metric: str) -> int | None:
        """First evaluated step at which "train" or "accuracy" (held-out) reaches `LEARNED_AT`."""
        return first_step(self.training.history, metric, LEARNED_AT)


@dataclass(frozen=True, kw_only=True)
class GrokkingRow:
    """Measurements of one seed; shares are of the energy of the embeddings at the five strongest frequencies."""

    seed: int
    memorised: int | None
    """First evaluated step with `LEARNED_AT` accuracy on the training pairs; None if there is none."""
    generalised: int | None
    """The same on the validation pairs."""
    cpu_seconds: float
    accuracy: float
    """On the test pairs, after training, as are the four below."""
    frequencies: tuple[int, ...]
    share: float
    permuted_share: float
    share_at_start: float
    """With random weights."""
    share_memorised: float
    """At the step `memorised`; at the last step if there is none."""
    only: float
    """Test accuracy with the embeddings restricted to the key frequencies."""
    without: float
    """Test accuracy with the key frequencies removed."""
    without_others: float
    """Test accuracy with five random other frequencies removed."""


def grok(seed: int, task: ModularAddition = TASK, training: TrainConfig = RECIPE) -> Grokked:
    """Train a model on the training pairs, with evaluation on all training and all validation pairs."""
    model, embeddings = Transformer.for_task(task, MODEL, seed), {}
    tables = {"train": task.table("train"), "accuracy": task.table("validation")}

    def metrics(model: nn.Module) -> dict[str, float]:
        return {name: accuracy_of(predict_tokens(model, table), table).token for name, table in tables.items()}

    def record(model: nn.Module, step: int) -> None:
        embeddings[step] = number_embeddings(model, task)

    batches = training_batches(task, seed, training.rows, pad)
    history = train(model, next_token_loss, batches, training, evaluate=metrics, record=record)
    return Grokked(model=model, training=history, embeddings=embeddings)


def number_embeddings(model: nn.Module, task: ModularAddition) -> Float[Tensor, "number width"]:
    """A copy of the embeddings of the numbers 0 .. p-1."""
    return model.get_parameter("embedding.weight")[: task.p].detach().clone()


def accuracy_with(model: nn.Module, batch: Batch, embeddings: Float[Tensor, "number width"]) -> float:
    """Accuracy with other embeddings of the numbers; that of "=" stays."""
    tokens = torch.from_numpy(batch.tokens)

    def replaced(embedded: Float[Tensor, "batch position width"]) -> Float[Tensor, "batch position width"]:
        is_number = (tokens < len(embeddings))[..., None]
        return torch.where(is_number, embeddings[tokens.clamp(max=len(embeddings) - 1)], embedded)

    return accuracy_of(predict_tokens(model, batch, {"embed": replaced}), batch).token


def other_frequencies(frequencies: Sequence[int], p: int, seed: int) -> list[int]:
    """As many random frequencies that are none of the given ones."""
    others = [k for k in range(1, p // 2 + 1) if k not in frequencies]
    return stream(seed, "other frequencies").choice(others, len(frequencies), replace=False).tolist()


def measure(seed: int, found: Grokked, task: ModularAddition = TASK) -> GrokkingRow:
    """The row of a seed."""
    test, embeddings = task.table("test"), number_embeddings(found.model, task)
    memorised = found.step_of("train")
    reading = read_frequencies(embeddings, KEY_FREQUENCIES)
    others = other_frequencies(reading.frequencies, task.p, seed)
    tables = {
        "only": keep_frequencies(embeddings, reading.frequencies),
        "without": keep_frequencies(embeddings, reading.frequencies, remove=True),
        "without_others": keep_frequencies(embeddings, others, remove=True),
    }
    shares = {
        step: read_frequencies(found.embeddings[step], KEY_FREQUENCIES).share
        for step in (0, found.training.step if memorised is None else memorised)
    }
    return GrokkingRow(
        seed=seed,
        memorised=memorised,
        generalised=found.step_of("accuracy"),
        cpu_seconds=round(found.training.cpu_seconds, 1),
        accuracy=accuracy_with(found.model, test, embeddings),
        frequencies=tuple(sorted(reading.frequencies)),
        share=reading.share,
        permuted_share=reading.permuted_share,
        share_at_start=shares[0],
        share_memorised=[*shares.values()][-1],
        **{name: accuracy_with(found.model, test, table) for name, table in tables.items()},
    )


def stored_rows(path: Path | str) -> dict[int, GrokkingRow]:
    """The rows of a file by seed; none if there is no file."""
    rows = read_record(path)["rows"] if exists(path) else []
    return {row["seed"]: GrokkingRow(**{**row, "frequencies": tuple(row["frequencies"])}) for row in rows}


def store_rows() -> None:
    """Measure the seeds of the command line, and write their rows to the file of the lesson."""
    single_thread()
    path = Path("notebooks/grokking.json")
    for seed in map(int, sys.argv[1:]):
        rows = stored_rows(path) | {seed: measure(seed, grok(seed))}
        write_record(path, {"rows": [as_json(rows[one], "row") for one in sorted(rows)]})
        print(rows[seed], flush=True)


if __name__ == "__main__":
    store_rows()
