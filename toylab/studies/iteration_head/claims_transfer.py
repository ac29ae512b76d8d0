"""Claims of the iteration-head study on transfer: from the polynomial to parity, and between all pairs of maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from toylab.studies.iteration_head.measures import IterationResult, PairsResult, mean_over
from toylab.verdicts.claim import Claim, ClaimDetail, Control
from toylab.verdicts.criterion import above, at_least, at_most
from toylab.verdicts.judgement import measured

LEARNED = 0.99
"""Sequence accuracy from which a task counts as learned."""
FIGURES = "figures of the reference notebooks, +-.03"
MAPS = {"main": "polynomial", "parity": "parity", "copy": "copy", "sum": "sum", "word": "word problem of S3"}
"""Conditions whose models are fine-tuned on each other's maps, and the names of the maps."""
PAIRS = tuple(f"pairs-{name}" for name in MAPS)


def transfer_claims(of_circuit: Callable[..., Claim], steps: int, has_pairs: bool) -> list[Claim]:
    """All claims on transfer.

    Args:
        of_circuit: claim on main models with the circuit.
        steps: maximum number of fine-tuning steps.
        has_pairs: whether models are fine-tuned on every other map.
    """
    step_limit = min(steps, 300)
    pairs = partial(
        Claim,
        kind="own",
        figure="Transfer between maps",
        undecidable="" if has_pairs else "not part of this run; add it with --parts pairs",
    )
    return [
        of_circuit(
            id="transfer",
            place="section 5",
            statement="A model with the head learns parity within few fine-tuning steps.",
            measure=f"steps of fine-tuning to an accuracy of {LEARNED} on parity",
            quantity=partial(_fine_tuning, never=steps + 1),
            criterion=at_most(step_limit),
            statistic="share",
            control=Control("models without the head", ("one-length",), partial(_fine_tuning, never=steps + 1)),
            paper_number=f".94 after 1,280 steps (mean of 100 models; {FIGURES})",
            details={
                "by seed": ClaimDetail("main", "transfer.solved_at", never=True),
                "steps, from a model without the head": ClaimDetail("one-length", "transfer.solved_at", never=True),
                "accuracy from a model without the head": ClaimDetail(
                    "one-length", lambda result: mean_over(result.transfer.accuracy)
                ),
            },
            figure="Transfer to parity",
        ),
        of_circuit(
            id="transfer-scratch",
            place="section 5",
            statement="Learning parity from scratch is much slower than fine-tuning a model with the head.",
            conditions=("main", "parity"),
            measure=f"ratio of steps from scratch to fine-tuning steps with the head, to {LEARNED} on parity,",
            quantity=_times_as_slow,
            criterion=at_least(10),
            origin="the smallest effect of interest: ten times as slow",
            uncontrolled="training from scratch is the control; models without the head are the control of `transfer`",
            paper_number="over 30 (about 1000 epochs against under 30; second hand)",
            details={
                "steps from scratch": ClaimDetail("parity", "solved_at", never=True),
                "accuracy from scratch": ClaimDetail("parity", "mean_accuracy"),
            },
            note="training from scratch that does not reach the accuracy counts as its step limit plus one; a seed "
            "whose fine-tuning does not reach it is excluded",
            figure="Transfer to parity",
        ),
        pairs(
            id="transfer-pairs",
            place="our question, after section 5",
            statement="A model that learned one iterated map learns every other one within few fine-tuning steps.",
            conditions=(*MAPS, *PAIRS),
            measure=f"share of ordered pairs of {len(MAPS)} maps with the second at an accuracy of {LEARNED} within "
            f"{step_limit} steps, of models at that accuracy on the first,",
            quantity=_share_transferred,
            criterion=at_least(0.9),
            origin="a smallest effect of interest: no more than two pairs in twenty fail",
            control=Control(
                "share of maps learned from scratch in as many steps",
                tuple(MAPS),
                lambda *models: sum((m.solved_at or step_limit + 1) <= step_limit for m in models) / len(models),
            ),
            details={f"steps from {MAPS[name]}": ClaimDetail(f"pairs-{name}", "solved_at") for name in MAPS},
        ),
        pairs(
            id="transfer-reverse",
            place="our question, after section 5",
            statement="Transfer has a direction: parity is learned from the polynomial in fewer steps than the "
            "polynomial from parity.",
            conditions=("main", "parity", "pairs-main", "pairs-parity"),
            measure="steps of fine-tuning from parity to the polynomial minus steps back, of models that learned both,",
            quantity=partial(_extra_steps_back, never=steps + 1),
            criterion=above(0),
            origin="any lead",
            uncontrolled="a difference between the two directions of one seed, at matched accuracy",
            untried="the sham stands on one side of the difference alone",
        ),
    ]


def _fine_tuning(model: IterationResult, never: int) -> int:
    """Fine-tuning steps to learn parity; `never` if it was not learned."""
    solved_at = measured(model.transfer).solved_at
    return never if solved_at is None else solved_at


def _times_as_slow(model: IterationResult, scratch: IterationResult) -> float | None:
    """Ratio of steps to learn parity from scratch to fine-tuning steps; None if fine-tuning did not learn parity, which
    would make training from scratch look slow."""
    tuned = measured(model.transfer).solved_at
    if tuned is None:
        return None
    alone = scratch.steps + 1 if scratch.solved_at is None else scratch.solved_at
    return alone / max(tuned, 1)


def _learned_sources(models: Sequence[Any]) -> Iterator[tuple[str, PairsResult]]:
    """The fine-tunings of models that learned their own map, by condition; first all models, then all fine-tunings."""
    half = len(models) // 2
    for name, model, tuned in zip(MAPS, models[:half], models[half:], strict=False):
        if isinstance(model, IterationResult) and isinstance(tuned, PairsResult) and model.mean_accuracy >= LEARNED:
            yield name, tuned


def _share_transferred(*models: Any) -> float | None:
    """Share of pairs learned, over all targets of models that learned their own map; None without such models."""
    outcomes = [step is not None for _, tuned in _learned_sources(models) for step in tuned.solved_at.values()]
    return sum(outcomes) / len(outcomes) if outcomes else None


def _extra_steps_back(*models: Any, never: int) -> int | None:
    """Steps from parity to the polynomial minus steps from the polynomial to parity; None unless both were learned."""
    tuned = dict(_learned_sources(models))
    if not {"main", "parity"} <= {*tuned}:
        return None
    there, back = tuned["main"].solved_at["parity"], tuned["parity"].solved_at["main"]
    return (never if back is None else back) - (never if there is None else there)
