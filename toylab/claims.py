"""Claims: one checkable sentence of a paper each, what was measured, and the verdict."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from toylab.files import read_record, write_record
from toylab.names import ToylabError, in_colour, markdown_table
from toylab.statistics import bootstrap, wilson

Verdict = Literal["holds", "fails", "open"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable sentence of a paper, with what was measured here.

    Attributes:
        id: short name, stable.
        paper: where the sentence stands.
        statement: the sentence, in our words.
        bar: what must be measured for it to hold.
        measured: the number that the bar speaks of; None if it could not be measured.
        interval: its 95 % interval over seeds, where there are several.
        seeds: those measured.
        verdict: "open" where the run could not decide.
        details: further numbers, by name.
        note: one sentence on how to read it, if needed.
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
    **texts: Any,
) -> Claim:
    """A claim about one number a seed.

    With `share`, it holds if at least this share of the seeds pass, and that share is what was measured (Wilson
    interval); without, it holds if the mean passes (bootstrap interval) and, where it must `surely`, so do both ends of
    the interval. Without any seed it is open, and so it is
    where `open_because` says why the numbers decide nothing: the note then gives that reason.
    """
    if not values:
        return Claim(id=id, measured=None, interval=None, seeds=(), verdict="open", **texts)
    if open_because:
        texts["note"] = open_because
    if share is None:
        measured = sum(values.values()) / len(values)
        interval, holds = bootstrap(list(values.values())), passes(measured)
        if surely and holds and not all(map(passes, interval)):
            holds, texts["note"] = False, "it may be chance: the interval reaches beyond the bar"
    else:
        passed = sum(passes(value) for value in values.values())
        measured, interval = passed / len(values), wilson(passed, len(values))
        holds = measured >= share
    details = {"by seed": {str(seed): round(value, 4) for seed, value in values.items()}, **texts.pop("details", {})}
    return Claim(
        id=id,
        measured=round(measured, 4),
        interval=(round(interval[0], 4), round(interval[1], 4)),
        seeds=tuple(values),
        verdict="open" if open_because else "holds" if holds else "fails",
        details=details,
        **texts,
    )


def mean(values: Iterable[float]) -> float:
    """Of numbers; 0 of none."""
    held = list(values)
    return sum(held) / len(held) if held else 0.0


def shared_seeds(arms: Mapping[str, Mapping[int, Any]], names: Iterable[str]) -> list[int]:
    """The seeds that all of these arms have."""
    held = [set(arms.get(name, {})) for name in names]
    return sorted(set.intersection(*held)) if held else []


def each(found: Mapping[int, Any], number: Callable[[Any], Any]) -> dict[str, Any]:
    """A number, or a list of them, from the result of each seed; rounded for people."""
    return {str(seed): _rounded(number(result)) for seed, result in found.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def write_claims(path: Path, claims: Sequence[Claim]) -> None:
    """Save claims, with a checksum."""
    write_record(path, {"claims": [asdict(claim) for claim in claims]})


def read_claims(path: Path) -> list[Claim]:
    """Raises `ValueError` naming the file if it is missing, damaged or not a list of claims."""
    try:
        return as_claims(read_record(path).get("claims"))
    except TypeError:
        raise ToylabError(f"{path}: is not a list of claims; run the study again to write it anew") from None


def as_claims(held: Any) -> list[Claim]:
    """Claims from their JSON form. Raises `TypeError` for anything else."""
    names = {f.name for f in fields(Claim)}
    if not isinstance(held, list) or not all(isinstance(one, dict) and set(one) == names for one in held):
        raise TypeError("not a list of claims")
    claims = [
        Claim(**{**one, "seeds": tuple(one["seeds"]), "interval": one["interval"] and tuple(one["interval"])})
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


def table(
    claims: Sequence[Claim], width: int = 80, costs: Mapping[str, float | int] | None = None, coloured: bool = False
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
        verdict = in_colour(f"{claim.verdict.upper():<6}", claim.verdict if coloured else "")
        cost = "" if costs is None or claim.verdict == "open" else f"{costs.get(claim.id, 0):>7.0f} CPU-s"
        lines.append(f"{verdict} {claim.id:<20} {numbers(claim):<27} {seeds:>9}{cost}".rstrip())
        for text in (claim.statement, f"Bar: {claim.bar}", claim.note):
            lines += textwrap.wrap(text, width, initial_indent=" " * 7, subsequent_indent=" " * 7)
    return "\n".join(lines)


def markdown(claims: Sequence[Claim]) -> str:
    """Claims as a Markdown table."""
    head = ["verdict", "sentence", "bar", "measured [95 % interval]", "seeds"]
    return markdown_table([head, *([c.verdict, c.statement, c.bar, numbers(c), str(len(c.seeds))] for c in claims)])


def verdicts(claims: Iterable[Claim]) -> dict[str, int]:
    """How many claims hold, fail and are open."""
    found = Counter(claim.verdict for claim in claims)
    return {verdict: found[verdict] for verdict in get_args(Verdict)}


def numbers(claim: Claim) -> str:
    """What was measured, with its interval."""
    if claim.measured is None:
        return "not measured"
    if claim.interval is None:
        return f"{claim.measured:.3g}"
    low, high = claim.interval
    return f"{claim.measured:.3g} [{low:.3g}, {high:.3g}]"
