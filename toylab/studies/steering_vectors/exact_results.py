"""Result type for what a model does on all prompts of few digits."""

from __future__ import annotations

from dataclasses import dataclass

from toylab.proofs.exact import Exact


@dataclass(frozen=True, kw_only=True)
class ExactAnswers:
    """Openers and answers of a trained or steered model on all prompts of `toylab.studies...exact.FewDigits`."""

    openers: Exact
    """Prompts on which the opener is THINK and that of the base is another one; of the base itself, THINK."""
    answers: Exact | None = None
    """Prompts whose greedy answer is correct; None if not measured."""
    random_openers: Exact | None = None
    """`openers` with random vectors of the same norms."""
