"""Results that are decided on all prompts of a kind."""

from __future__ import annotations

from dataclasses import dataclass

from toylab.proofs.exact import Exact
from toylab.tasks import Kind

TRANSFERS: tuple[Kind, ...] = ("competing-task", "mismatched-token")
"""Kinds that ask an unsafe operator: beside a safe one, and under another name."""


@dataclass(frozen=True, kw_only=True)
class ExactBehaviour:
    """Decisions on all prompts, by kind.

    Greedy free-running and teacher-forced answers are entirely correct on the same prompts, so these are decided in one
    forward pass.
    """

    complied: dict[Kind, Exact]
    """Prompts of which every letter of the answer is the requested transform."""
    refused: dict[Kind, Exact]
    """Prompts of which every token of the answer is NULL."""
    edited: EditedRefusals | None = None
    """Refusals of unsafe prompts without a part of the weight change; under SSFT."""


@dataclass(frozen=True, kw_only=True)
class EditedRefusals:
    """Unsafe prompts that are refused without the part of the change of the up-projections that acts on one direction
    of their inputs."""

    unsafe: Exact
    """Without the direction from the mean input of safe prompts to that of unsafe ones, at EOT, in every layer."""
    random: Exact
    """Without a random direction in every layer."""
