"""Claims: one checkable sentence of a paper each, what was measured, and the verdict."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from toylab.console import ToylabError, in_colour, markdown_table
from toylab.files import read_record, write_record
from toylab.verdicts.intervals import interval

Verdict = Literal["holds", "fails", "open", "withdrawn"]

FEWEST = 6
"""Seeds from which a claim can be sure: smallest and largest of five values enclose the median in 93.8 % of cases."""

NEVER = "never"
"""Stands in details for the step at which something happened, where it did not; None is what was not measured."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One checkable sentence of a paper, with what was measured here.

    Attributes:
        id: short name, stable.
        paper: where the sentence stands.
        statement: the sentence, in our words.
        bar: what must be measured for it to hold.
        measured: the number that the bar speaks of; None if it could not be measured.
        interval: its 95 % interval over seeds, where there are several.
        seeds: those measured.
        verdict: "open" where the run could not decide; "withdrawn" where the bar itself decides nothing.
        details: further numbers, by name.
        note: how to read it, if needed; of open and withdrawn claims, why.
    """

    id: str
    paper: str
    statement: str
    bar: str
    measured: float | None
    interval: tuple[float, float] | None
    seeds: tuple[int, ...]
    verdict: Verdict
    details: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def over_seeds(
    id: str,
    values: Mapping[int, float],
    passes: Callable[[float], bool],
    *,
    share: float | None = None,
    surely: bool = False,
    open_because: str = "",
    withdrawn: str = "",
    **texts: Any,
) -> Judgement:
    """A claim about one number a seed.

    With `share`, it holds if at least this share of the seeds pass, and that share is what was measured; without, it
    holds if the mean passes and, where it must `surely`, so do both ends of its 95 % interval.

    It is open without any seed, from one, where it must `surely` below six, and where `open_because` says why the
    numbers decide nothing. It is withdrawn where `withdrawn` says why the bar decides nothing; what was measured stays.
    The note then begins with the reason.

    Raises:
        ValueError: naming the claim and the seed, for a value that is no finite number.
    """
    wrong = [seed for seed, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise ToylabError(f"{id}: seed {wrong[0]} gives {values[wrong[0]]}: must be a finite number; leave it out")
    held = list(values.values())
    passed = [bool(passes(value)) for value in held]
    reason = withdrawn or open_because
    if len(held) == 1:
        reason = reason or "one seed decides nothing"
    elif surely and 0 < len(held) < FEWEST:
        reason = reason or f"no interval of fewer than {FEWEST} seeds is sure"
    judged: list[float] | list[bool] = held if share is None else passed
    measured, ends = (sum(judged) / len(judged), interval(judged)) if held else (None, None)
    holds = held and (passes(measured) if share is None else measured >= share)
    note = texts.pop("note", "")
    if surely and holds and not reason and not all(map(passes, ends)):
        holds, note = False, "it may be chance: the interval reaches beyond the bar"
    details = {"by seed": {str(seed): round(value, 4) for seed, value in values.items()}, **texts.pop("details", {})}
    return Judgement(
        id=id,
        measured=None if measured is None else round(measured, 4),
        interval=ends and (round(ends[0], 4), round(ends[1], 4)),
        seeds=tuple(values),
        verdict="withdrawn" if withdrawn else "open" if reason or not held else "holds" if holds else "fails",
        details=_known(details),
        note="; ".join(filter(None, (reason, note))),
        **texts,
    )


def threshold(floor: float, margin: float) -> float:
    """So far from what guessing gives, to two places, as the bar prints it."""
    return round(floor + margin, 2)


def or_never(step: int | None) -> int | str:
    """The step at which something happened, or that it did not."""
    return NEVER if step is None else step


def mean(values: Iterable[float]) -> float:
    """Of numbers; NaN of none."""
    held = list(values)
    return sum(held) / len(held) if held else math.nan


def _known(value: Any) -> Any:
    """Details with None for what is no number, such as a mean of nothing."""
    if isinstance(value, Mapping):
        return {name: _known(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_claims(path: Path | str, claims: Sequence[Judgement]) -> None:
    """Save claims, with a checksum."""
    write_record(path, {"claims": [asdict(claim) for claim in claims]})


def read_claims(path: Path | str) -> list[Judgement]:
    """Raises `ValueError` naming the file if it is missing, damaged or not a list of claims."""
    try:
        return as_claims(read_record(path).get("claims"))
    except TypeError:
        raise ToylabError(f"{path}: is not a list of claims; run the study again to write it anew") from None


def as_claims(held: Any) -> list[Judgement]:
    """Claims from their JSON form. Raises `TypeError` for anything else."""
    names = {f.name for f in fields(Judgement)}
    if not isinstance(held, list) or not all(isinstance(one, dict) and set(one) == names for one in held):
        raise TypeError("not a list of claims")
    claims = [
        Judgement(**{**one, "seeds": tuple(one["seeds"]), "interval": one["interval"] and tuple(one["interval"])})
        for one in held
    ]
    for one in claims:
        texts = (one.id, one.paper, one.statement, one.bar, one.note)
        measured = (*([] if one.measured is None else [one.measured]), *(one.interval or ()), *one.seeds)
        if not (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int | float) for number in measured)
            and len(one.interval or (0, 0)) == 2
            and one.verdict in get_args(Verdict)
            and isinstance(one.details, dict)
        ):
            raise TypeError(f"claim {one.id!r} has a field of another type")
    return claims


def claims_table(
    claims: Sequence[Judgement], width: int = 80, costs: Mapping[str, float | int] | None = None, coloured: bool = False
) -> str:
    """Claims as text: a line of verdict and numbers each, then the statement and the bar.

    Args:
        width: columns that no line is longer than.
        costs: CPU-seconds behind each claim, by its id.
        coloured: whether verdicts are coloured, for a terminal.
    """
    lines = []
    for claim in claims:
        seeds = f"{len(claim.seeds)} seed{'s' if len(claim.seeds) != 1 else ''}"
        word = claim.verdict.upper()
        place = f"{word:<6} {claim.id}".ljust(27)[len(word) :]
        verdict = in_colour(word, claim.verdict if coloured else "")
        cost = "" if costs is None or claim.measured is None else f"{costs.get(claim.id, 0):>7.0f} CPU-s"
        lines.append(f"{verdict}{place} {numbers(claim):<27} {seeds:>9}{cost}".rstrip())
        for text in (claim.statement, f"Bar: {claim.bar}", claim.note):
            lines += textwrap.wrap(text, width, initial_indent=" " * 7, subsequent_indent=" " * 7)
    return "\n".join(lines)


def claims_markdown(claims: Sequence[Judgement]) -> str:
    """Claims as a Markdown table."""
    head = ["verdict", "sentence", "bar", "measured [95 % interval]", "seeds"]
    return markdown_table([head, *([c.verdict, in_full(c), c.bar, numbers(c), str(len(c.seeds))] for c in claims)])


def in_full(claim: Judgement) -> str:
    """The statement and, where it is not judged, the note that says why."""
    judged = claim.verdict in ("holds", "fails") or not claim.note
    return claim.statement if judged else f"{claim.statement} *{claim.note}*"


def count_verdicts(claims: Iterable[Judgement]) -> dict[str, int]:
    """How many claims there are of each verdict."""
    found = Counter(claim.verdict for claim in claims)
    return {verdict: found[verdict] for verdict in get_args(Verdict)}


def numbers(claim: Judgement) -> str:
    """What was measured, with its interval."""
    if claim.measured is None:
        return "not measured"
    if claim.interval is None:
        return f"{claim.measured:.3g}"
    low, high = claim.interval
    return f"{claim.measured:.3g} [{low:.3g}, {high:.3g}]"
