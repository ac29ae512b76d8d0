"""A property decided on all inputs of some lengths, as part of the result of a job."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from toylab.proofs.properties import Property
from toylab.proofs.prove import prove
from toylab.tasks import EnumerableTask, Task


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The decisions of a property on every input, none of them sampled.

    Attributes:
        inputs: number of inputs.
        holds: inputs on which the property holds.
        margin: smallest lead of a decision; None if nothing is decided.
        close: inputs with a margin below 1e-4, which are decided in float64.
        counterexample: the smallest counterexample as text; None if the property holds on all inputs.
    """

    inputs: int
    holds: int
    margin: float | None
    close: int
    counterexample: str | None

    @property
    def share(self) -> float:
        """Share of the inputs on which the property holds."""
        return self.holds / self.inputs


def on_all_inputs(model: nn.Module, task: Task, property: Property, lengths: range | tuple[int, ...]) -> Exact:
    """Decide a property on every input of these lengths; see `prove` for the errors."""
    proof = prove(model, task, property, lengths=lengths, budget=float("inf"))
    return Exact(
        inputs=proof.rows,
        holds=proof.total("holds"),
        margin=proof.margin,
        close=proof.total("close"),
        counterexample=proof.counterexample,
    )


def inputs_in_words(task: EnumerableTask, lengths: range | tuple[int, ...]) -> str:
    """The inputs of these lengths, such as "all 16,104 inputs of length 1 to 4", for the field `exact` of a claim."""
    number = sum(task.count(length) for length in lengths)
    first, last = min(lengths), max(lengths)
    return f"all {number:,} inputs of length {first}" + f" to {last}" * (last > first)
