"""Numbers that several claims and figures read from the results."""

from __future__ import annotations

from toylab.runs.study import Result

TRIO = ("ssft", "dpo", "unlearning")
"""The three methods of the paper; "dpo" is the loss of its code."""

TITLES = {
    "base": "before",
    "control": "control",
    "ssft": "SSFT",
    "dpo": "DPO, as published",
    "dpo-standard": "DPO, standard",
    "unlearning": "unlearning",
    "npo": "NPO",
}
MIXED, OOD = "competing-text", "mismatched-text"


def _last(result: Result, what: str) -> Result:
    """What was measured in the last layer."""
    return result[what][-1]
