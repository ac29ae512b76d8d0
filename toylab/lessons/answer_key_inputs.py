"""The answer key of lesson 07: checks of the exercises on samples and all inputs, as in `toylab.lessons.answer_key`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import beta, binom

from toylab.lessons.answers import _compare


def missed(answer: Any) -> None:
    """The probability that a sample with replacement contains no failing input."""

    def oracle(inputs: int, failing: int, sample: int) -> float:
        """The binomial distribution at 0."""
        return float(binom.pmf(0, sample, failing / inputs))

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if not 0 <= result <= 1:
            return "a probability must be between 0 and 1"
        if case["sample"] == 1:
            return "one draw misses with the share of the inputs that do not fail"
        return "every draw must miss, independently of the others"

    cases = [(10, 1, 1), (10, 0, 5), (10, 10, 3), (10, 3, 2), (55_986, 11, 256), (1000, 40, 100)]
    _compare(answer, [{"inputs": i, "failing": f, "sample": s} for i, f, s in cases], oracle, breaks)


def largest_share(answer: Any) -> None:
    """The largest share of failures that a sample without one leaves possible, at a confidence."""

    def oracle(sample: int, confidence: float) -> float:
        """The one-sided bound of Clopper and Pearson, a quantile of a beta distribution."""
        return float(beta.ppf(confidence, 1, sample))

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if not 0 < result < 1:
            return "the share must be above 0 and below 1, since no sample excludes a rare failure"
        missing = float(binom.pmf(0, case["sample"], float(result)))
        return f"with this share of failures, such a sample has none with probability {missing:.3g}"

    cases = [(1, 0.95), (256, 0.95), (256, 0.99), (3000, 0.95), (20, 0.5)]
    _compare(answer, [{"sample": s, "confidence": c} for s, c in cases], oracle, breaks)
