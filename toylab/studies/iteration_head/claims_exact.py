"""Claims whose number per seed is exact: decided on all inputs of small lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from toylab.studies.iteration_head.measures import GuessAccuracy, IterationResult
from toylab.verdicts.claim import Claim, ClaimDetail, Control
from toylab.verdicts.criterion import at_least, at_most
from toylab.verdicts.judgement import threshold


def exact_claims(of_circuit: Callable[..., Claim], guess: GuessAccuracy, inputs: Mapping[str, str]) -> list[Claim]:
    """All claims on all inputs.

    Args:
        of_circuit: claim on main models with the circuit.
        guess: accuracies of guessing without the input.
        inputs: the inputs in words, see `small_inputs`.
    """
    own: dict[str, Any] = {"kind": "own", "place": "our question, on all inputs", "exact": inputs["main"]}
    right = partial(
        Claim,
        measure="share of all inputs with every answer correct",
        criterion=at_least(1),
        statistic="share",
        origin="every input",
        untried="a sham learns its task, by design",
    )
    kept = partial(
        of_circuit,
        **own,
        figure="What the head causes",
        measure="share of all inputs with every answer kept under the edit",
    )
    return [
        right(
            **own | _decided("main", "answers"),
            id="exact-answers",
            statement="Every answer is correct on all short inputs.",
            control=Control("random weights", ("main",), partial(_share, name="random_weights")),
        ),
        right(
            **own | _decided("fresh", "answers"),
            id="exact-answers-fresh",
            population="seeds: polynomial, initial weights and data",
            statement="Every answer is correct on all short inputs, on polynomial maps drawn with each seed.",
            control=Control("random weights", ("fresh",), partial(_share, name="random_weights")),
        ),
        right(
            **own | _decided("parity", "answers") | {"exact": inputs["parity"]},  # pyright: ignore[reportArgumentType]
            id="exact-answers-parity",
            statement="Every answer on parity is correct on all short inputs.",
            control=Control("random weights", ("parity",), partial(_share, name="random_weights")),
        ),
        Claim(
            **own | _decided("no-chain", "answers"),
            id="exact-cot-needed",
            asks="absence",
            statement="Without chain of thought, even short inputs are answered no better than by guessing.",
            measure=f"share of all inputs with the correct last state (guessing gives {guess.constant:.2f})",
            criterion=at_most(threshold(guess.constant, 0.06)),
            margin=0.06,
            origin="computed: guessing plus .06",
            control=Control("with chain of thought", ("main",), partial(_share, name="answers")),
            figure="What it takes",
        ),
        of_circuit(
            **own | _decided("main", "attends"),
            id="exact-attention",
            statement="On all short inputs, the head or a backup attends to x_t at every step.",
            measure="share of all inputs with over half of its attention on x_t at every step",
            criterion=at_least(0.9),
            control=Control("models trained on one length", ("one-length",), partial(_share, name="attends")),
            figure="The iteration head",
        ),
        kept(
            **_decided("main", "ideal_pattern"),
            id="exact-ideal-pattern",
            asks="absence",
            statement="On all short inputs, the idealised pattern of the head and its backups keeps every answer.",
            criterion=at_least(0.99),
            margin=0.01,
            origin="the smallest effect of interest: one input in a hundred",
            control=Control("uniform attention instead", ("main",), partial(_share, name="uniform")),
        ),
        kept(
            **_decided("main", "zero_ablated"),
            id="exact-ablate",
            asks="absence",
            statement="On all short inputs, the answers are lost without the head and its backups.",
            criterion=at_most(0.05),
            margin=0.05,
            origin="the smallest effect of interest: one input in twenty",
            control=Control("zero-ablated before EoI", ("main",), partial(_share, name="zero_ablated_on_inputs")),
        ),
        of_circuit(
            **own | _decided("main", "steered") | {"exact": inputs["next"]},
            id="exact-steer",
            statement="On all short inputs, attention shifted to x_{t+1} turns every answer into F(s_{t-1}, x_{t+1}).",
            measure="share of all inputs with every answer equal to F(s_{t-1}, x_{t+1})",
            criterion=at_least(0.99),
            origin="the smallest effect of interest: one input in a hundred",
            control=Control("random weights", ("main",), partial(_share, name="steered_random_weights")),
            figure="What the head causes",
        ),
    ]


def _decided(condition: str, name: str) -> dict[str, Any]:
    """Condition, quantity and details of a claim on a field of the decisions."""
    return {
        "conditions": (condition,),
        "quantity": partial(_share, name=name),
        "details": {
            "smallest margin": ClaimDetail(condition, f"exact.{name}.margin"),
            "smallest counterexample": ClaimDetail(condition, f"exact.{name}.counterexample"),
        },
    }


def _share(result: IterationResult, name: str) -> float | None:
    """Share of all inputs on which a property holds; None if it was not decided."""
    decided = result.exact and getattr(result.exact, name)
    return decided.share if decided else None
