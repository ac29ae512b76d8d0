"""Claims of the counting study whose number per seed is decided on all inputs of a family (see `exact`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from toylab.proofs.exact import Exact
from toylab.studies.contextual_counting.exact import (
    ONES,
    SHORT,
    ExactCounting,
    bracketings_of_ones,
    inputs,
    short_strings,
    trains_on_bracketings,
)
from toylab.studies.contextual_counting.results import SOLVED, CountingResult
from toylab.tasks import ContextualCounting
from toylab.verdicts.claim import Claim, ClaimDetail, Control
from toylab.verdicts.criterion import at_least

IDENTITY = "computed: an identity, refuted by a single string"
Read = Callable[[ExactCounting], Exact | None]


def exact_claims(task: ContextualCounting, encodings: Sequence[str]) -> list[Claim]:
    """All claims on all inputs of a family.

    Args:
        task: the training task.
        encodings: the compared positional encodings.
    """
    on_bracketings = partial(
        _claim,
        place="our question",
        exact=inputs(bracketings_of_ones, task),
        undecidable=""
        if trains_on_bracketings(task)
        else f"the training has no string with one region and at most {ONES} tokens",
    )
    on_short = partial(_claim, exact=inputs(short_strings, task))
    solved = partial(
        on_bracketings,
        measure="share of bracketings of a string of ones with all counts correct",
        read=lambda exact: exact.bracketings,
        origin="the threshold of a solved task",
        control="a bidirectional encoder without positions",
        of_control="none-bidirectional",
    )
    invariant = partial(
        on_short,
        asks="absence",
        criterion=at_least(1.0),
        statistic="share",
        origin=IDENTITY,
        control="a causal encoder",
    )
    mirrored = partial(
        invariant,
        measure="share of strings with the same answers from right to left",
        read=lambda exact: exact.mirrored,
    )
    no_alibi = f"not part of this run; add it with --encodings {' '.join([*encodings, 'alibi'])}"
    return [
        solved(
            "exact-bracketings",
            "none",
            statement="Without positions, counts are correct for every placement of regions in a string of ones.",
        ),
        solved(
            "exact-bracketings-rotary",
            "rotary",
            statement="With rotary positions, counts are correct for every placement of regions in a string of ones.",
        ),
        on_short(
            "exact-short",
            "none",
            place="section 4.3; the strings are ours",
            statement="Without positions, counts stay correct in strings shorter than any of the training.",
            undecidable="" if task.min_length > max(SHORT) else f"the training has strings of {task.min_length} tokens",
            measure="share of strings with all counts correct",
            read=lambda exact: exact.short,
            origin="the threshold of a solved task",
            control="a bidirectional encoder without positions",
            of_control="none-bidirectional",
        ),
        on_bracketings(
            "exact-own-ones",
            "none",
            statement="Every label query has more attention on the ones of its region than on all other ones.",
            measure="share of bracketings in which this is true of every region with a one",
            read=lambda exact: exact.own_ones,
            origin="the threshold of a solved task",
            control="shuffled weights",
            of_control="none",
            control_reads=lambda exact: exact.own_ones_untrained,
        ),
        on_bracketings(
            "exact-one-fewer",
            "none",
            statement="The decoder counts the ones that it attends to: with one hidden, the answer is one less.",
            measure="share of bracketings in which this is true of every region with a one",
            read=lambda exact: exact.one_fewer,
            origin="the threshold of a solved task",
            control="another one hidden",
            of_control="none",
            control_reads=lambda exact: exact.other_hidden,
        ),
        invariant(
            "exact-permutations",
            "none-bidirectional",
            kind="set-up",
            place="proposition 2.3",
            statement="Without positions, the answers of a bidirectional model are the same for all permutations.",
            measure="share of strings with the same answers for the sorted tokens",
            read=lambda exact: exact.permuted,
            of_control="none",
        ),
        mirrored(
            "exact-mirror-alibi",
            "alibi-bidirectional",
            kind="set-up",
            place="section 2, remark 2.5; the test is ours",
            statement="With ALiBi a bidirectional encoder cannot distinguish before from after: the answers are the "
            "same for the string read from right to left.",
            of_control="alibi",
            undecidable="" if "alibi" in encodings else no_alibi,
        ),
        mirrored(
            "exact-mirror-rotary",
            "rotary-bidirectional",
            place="section 2, remark 2.5; the test is ours",
            statement="With rotary positions a bidirectional encoder cannot distinguish before from after: the answers "
            "are the same for the string read from right to left.",
            of_control="rotary",
        ),
    ]


def _claim(
    id: str,
    condition: str,
    *,
    read: Read,
    control: str,
    of_control: str,
    control_reads: Read | None = None,
    **texts: Any,
) -> Claim:
    """The claim on the share of inputs of a condition, with the share of another condition or property as control."""
    return Claim(
        **{"kind": "own", "criterion": at_least(SOLVED)} | texts,
        id=id,
        conditions=(condition,),
        quantity=partial(_share, read=read),
        control=Control(control, (of_control,), partial(_share, read=control_reads or read)),
        details={
            name: ClaimDetail(condition, partial(_detail, read=read, number=number))
            for name, number in (
                ("inputs on which it holds", attrgetter("holds")),
                ("smallest margin", attrgetter("margin")),
                ("smallest counterexample", _failure_in_words),
            )
        },
    )


def _share(model: CountingResult, read: Read) -> float | None:
    """Share of the inputs; None for runs of an older version."""
    return _detail(model, read, attrgetter("share"))


def _detail(model: CountingResult, read: Read, number: Callable[[Exact], Any]) -> Any:
    decided = model.exact and read(model.exact)
    return decided and number(decided)


def _failure_in_words(decided: Exact) -> str | None:
    """The string of the smallest counterexample with what was decided, in one line."""
    lines = [" ".join(line.split()) for line in (decided.counterexample or "").splitlines()]
    shown = [line for line in lines if line.startswith(("smallest", "token", "decided", "correct"))]
    return "; ".join(shown).removeprefix("smallest counterexample: ") or None
