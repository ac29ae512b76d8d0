"""The sentences of the iteration-head paper, each with its bar, judged by what the jobs of the study measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from toylab.runs.study import Arms
from toylab.verdicts.claim import Claim, or_never, over_seeds, threshold

LEARNED = 0.99
"""Sequence accuracy from which a task counts as learned."""


def judge(arms: Arms, guess: float, blind: float, steps: int) -> list[Claim]:
    """All claims.

    Args:
        arms: by the name of an arm and the seed, what its job measured.
        guess: accuracy of the best answer that ignores the input.
        blind: share of the tokens of a chain that the best guess from s_{t-1} alone has right, where EoS is known.
        steps: the longest fine-tuning to parity.
    """
    main = arms["main"]
    one_head = arms.get("one-head", main)
    # What the head causes is asked where there is one; how often there is one is a claim of its own.
    learned = {s: r for s, r in main.items() if accuracy_over_lengths(r) >= LEARNED}
    good = {s: r for s, r in learned.items() if r["head"]["carry"] >= 0.9}
    tests = {s: r["tests"] for s, r in good.items()}
    # That something is not learned says little where the main model did not learn either.
    unproven = "" if learned else "no main model learned the task here, so a control that did not proves nothing"
    headless = "" if good else "no main model that learned the task has the head here"
    of_head = partial(over_seeds, open_because=headless)
    at_chance, blinded, quickly = threshold(guess, 0.06), threshold(blind, 0.0), min(steps, 300)
    with_head = {s: r["transfer"] for s, r in good.items()}
    without = {s: r["transfer"] for s, r in arms["one-length"].items()}

    def kept(name: str) -> dict[int, float]:
        return {s: t[name]["sequence"] / t["unedited"]["sequence"] for s, t in tests.items()}

    return [
        over_seeds(
            "accuracy",
            {s: accuracy_over_lengths(r) for s, r in main.items()},
            lambda a: a >= LEARNED,
            share=0.8,
            paper="section 4",
            statement="Two layers with chain of thought learn to iterate a polynomial map on inputs never seen.",
            bar=f"share of seeds with sequence accuracy >= {LEARNED}, writing freely, is >= .8",
        ),
        over_seeds(
            "head",
            {s: r["head"]["carry"] for s, r in main.items()},
            lambda c: c >= 0.9,
            share=0.8,
            paper="section 4, peakiness",
            statement="An iteration head forms: when s_t is due, one head reads x_t.",
            bar="share of seeds whose best head has over half of its attention on x_t in >= .9 of the steps is >= .8",
            details={
                "accepted by the detector, which also asks for the stop rule": {
                    str(s): not r["head"]["misses"] for s, r in main.items()
                },
                "backup heads": {str(s): len(r["head"]["backups"]) for s, r in main.items()},
                "mean attention on EoI, best earlier head": _by_seed(main, lambda r: r["head"]["end_of_input"]),
                "invariance": _by_seed(main, lambda r: r["invariance"]),
            },
        ),
        of_head(
            "ablate",
            {s: float(_stops_without(t, blinded)) for s, t in tests.items()},
            lambda stopped: stopped == 1,
            share=1.0,
            paper="section 4, causal tests",
            statement="The model answers through this head: without it, it cannot go on.",
            bar=f"in every seed: zeroed from EoI on, no sequence right and <= {blinded} of tokens (the best guess "
            "without x_t); on the inputs, no loss",
            details=_test_details(tests),
            note="tokens count EoS, which is often still right; the details give states alone, and the head alone",
        ),
        of_head(
            "steer",
            {s: r["steered"] for s, r in good.items()},
            lambda share: share >= 0.99,
            paper="our test of section 3",
            statement="What the head reads is what is computed with: moved to x_{t+1}, it makes F(s_{t-1}, x_{t+1}).",
            bar="mean share of answers equal to F(s_{t-1}, x_{t+1}) >= .99",
        ),
        of_head(
            "ideal-pattern",
            kept("ideal pattern"),
            lambda share: share >= 0.99,
            paper="section 4, causal tests",
            statement="The head needs nothing but x_t: the textbook pattern in its place keeps the model right.",
            bar="mean share of the sequence accuracy kept >= .99",
        ),
        of_head(
            "stop-rule",
            {s: r["head"]["stop"] for s, r in good.items()},
            lambda stop: stop >= 0.5,
            share=0.8,
            paper="our reading of section 3",
            statement="The same head stops the chain: after the last state it reads the end of the input.",
            bar="share of seeds in which it has over half of its attention on EoI at most ends is >= .8",
            note="elsewhere EoS comes by another route: the distance from EoI tells when as many states are written",
        ),
        of_head(
            "first-layer",
            {s: t["first layer: ideal pattern"]["sequence"] / t["unedited"]["sequence"] for s, t in tests.items()},
            lambda share: share >= 0.99,
            paper="section 3",
            statement="The first layer needs only the end of the input: the textbook pattern there does no harm.",
            bar="mean share of the sequence accuracy kept >= .99",
            note="trained first layers use their other attention too, so the textbook pattern breaks good models",
        ),
        over_seeds(
            "cot-needed",
            {s: accuracy_over_lengths(r) for s, r in arms["no-chain"].items()},
            lambda a: a <= at_chance,
            open_because=unproven or ("" if at_chance < LEARNED else "guessing solves this map"),
            paper="section 4",
            statement="Without chain of thought the polynomial is not learned.",
            bar=f"mean accuracy <= {at_chance} (guessing gives {guess:.2f})",
        ),
        over_seeds(
            "cot-needed-parity",
            {s: accuracy_over_lengths(r) for s, r in arms["parity-no-chain"].items()},
            lambda a: a <= 0.6,
            open_because=unproven,
            paper="section 4",
            statement="Without chain of thought parity is not learned.",
            bar="mean accuracy <= .6 (guessing gives .50)",
            details={"with chain of thought, same steps as main": _by_seed(arms["parity"], accuracy_over_lengths)},
            note="the published maps show parity learned without a chain: what holds here holds for this budget only",
        ),
        over_seeds(
            "depth",
            {s: accuracy_over_lengths(r) for s, r in arms["one-layer"].items()},
            lambda a: a <= 0.5,
            open_because=unproven,
            withdrawn="this control trains for fewer steps than the main model; with a limit of 8,000 one layer "
            "reaches .67, so it is slower, by another circuit",
            paper="section 3",
            statement="One layer is not enough.",
            bar="mean sequence accuracy with one layer <= .5",
        ),
        over_seeds(
            "one-head",
            {s: accuracy_over_lengths(r) for s, r in one_head.items()},
            lambda a: a >= LEARNED,
            share=0.8,
            paper="section 3",
            statement="One head in each of two layers is enough, and training finds it.",
            bar=f"share of seeds with sequence accuracy >= {LEARNED} is >= .8",
            details={"diagonal": _by_seed(one_head, lambda r: r["head"]["carry"])},
        ),
        of_head(
            "varied-lengths",
            {s: r["head"]["carry"] for s, r in arms["one-length"].items()},
            lambda c: c < 0.5,
            paper="our control",
            statement="An iteration head forms only if lengths vary: with one length a fixed offset does.",
            bar="mean peakiness on x_t over all lengths < .5 for models trained on one length",
            details={"accuracy at their own length": _by_seed(arms["one-length"], accuracy_over_lengths)},
        ),
        of_head(
            "transfer",
            {s: float(steps + 1 if t["solved_at"] is None else t["solved_at"]) for s, t in with_head.items()},
            lambda n: n <= quickly,
            share=0.8,
            paper="section 5",
            statement="A model with the head learns parity at once; without it, parity is slow.",
            bar=f"share of seeds that reach {LEARNED} on parity within {quickly} steps of fine-tuning is >= .8",
            details={
                "by seed": {str(s): or_never(t["solved_at"]) for s, t in with_head.items()},
                "steps, from a model without the head": {str(s): or_never(t["solved_at"]) for s, t in without.items()},
                "steps from scratch": _by_seed(arms["parity"], lambda r: or_never(r["solved_at"])),
                "accuracy from a model without the head": {
                    str(s): round(accuracy_over_lengths(t), 4) for s, t in without.items()
                },
                "accuracy from scratch": _by_seed(arms["parity"], accuracy_over_lengths),
            },
        ),
        of_head(
            "symbol-zero",
            {s: _mass(t, 1) - _mass(t, 0) for s, t in with_head.items()},
            lambda gap: abs(gap) <= 0.1,
            paper="section 5",
            statement="The head does not care what stands at x_t, so it carries over to other symbols as it is.",
            bar="before fine-tuning, attention on x_t = 1 and on x_t = 0 differs by <= .1 in the mean",
            details={
                "on x_t = 0": {str(s): round(_mass(t, 0), 4) for s, t in with_head.items()},
                "on x_t = 1": {str(s): round(_mass(t, 1), 4) for s, t in with_head.items()},
            },
            note="0 is never an input of the polynomial: the head is independent of content only among trained symbols",
        ),
        of_head(
            "emergence",
            {s: float(_in_order(r["emergence"])) for s, r in good.items()},
            lambda ordered: ordered == 1,
            share=0.8,
            paper="section 4, training dynamics",
            statement="First a head finds the end of the input, then the iteration head forms, then answers are right.",
            bar="the three pass half of their final value in this order, ties allowed, in >= .8 of the seeds",
            details={"steps": {str(s): r["emergence"] for s, r in good.items()}},
        ),
    ]


def accuracy_over_lengths(result: dict[str, Any]) -> float:
    """Over the lengths."""
    shares = result["accuracy"].values()
    return sum(shares) / len(shares)


def _stops_without(tests: dict[str, dict[str, float]], blinded: float) -> bool:
    zeroed, control = tests["zeroed"], tests["zeroed on the inputs"]
    unharmed = control["sequence"] >= 0.99 * tests["unedited"]["sequence"]
    return zeroed["sequence"] == 0 and zeroed["token"] <= blinded and unharmed


def _mass(transfer: dict[str, Any], symbol: int) -> float:
    return transfer["mass_by_symbol"][str(symbol)]


def _by_seed(arm: dict[int, dict[str, Any]], number: Callable[[dict[str, Any]], float | str]) -> dict[str, Any]:
    found = {str(seed): number(result) for seed, result in arm.items()}
    return {seed: round(value, 4) if isinstance(value, float) else value for seed, value in found.items()}


def _test_details(tests: dict[int, dict[str, Any]]) -> dict[str, Any]:
    names = next(iter(tests.values()), {})
    return {
        f"{name}: {kind} accuracy": {str(s): round(t[name][kind], 4) for s, t in tests.items()}
        for name in names
        for kind in ("sequence", "token", "state")
    }


def _in_order(emergence: dict[str, int]) -> bool:
    return emergence["end_of_input"] <= emergence["carry"] <= emergence["accuracy"]
