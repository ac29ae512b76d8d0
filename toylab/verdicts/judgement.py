"""Judgements: one checkable claim each, with what was measured, its control, and the verdict; as files and as text."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from toylab.console import ToylabError, colour_verdict, markdown_table
from toylab.files import read_record, write_record
from toylab.settings import convert_value
from toylab.verdicts.decision import FEWEST_SEEDS
from toylab.verdicts.intervals import Interval

Verdict = Literal["supported", "refuted", "undecided", "uninformative", "not run"]
ClaimKind = Literal["paper", "own", "set-up"]
Family = Literal["", "yes", "no", "not reachable"]

NEVER = "never"
"""Stands in details for the step at which something happened, where it did not; None is what was not measured."""


@dataclass(frozen=True, kw_only=True)
class ControlJudgement:
    """What a control scored by the criterion of its claim.

    Attributes:
        what: the control in words.
        measured: by the statistic of the claim.
        interval: of it, over seeds; None for a number that was computed.
        misses: whether the control clearly misses the criterion, as it must for the claim to be judged; None where that
            is not decided.
    """

    what: str
    measured: float | int | None
    interval: Interval | None
    misses: bool | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One checkable claim, with what was measured here.

    Attributes:
        id: short name, stable.
        kind: a claim of the paper, one of our own, or a check of the set-up.
        place: where the paper says it, or whose question it is.
        statement: the claim, in our words.
        criterion: what must be measured for it to be supported.
        measured: the share of seeds, or the median over seeds, that the criterion speaks of; None if not measured.
        interval: its exact interval over seeds; None of too few.
        seeds: those measured.
        level: one minus the confidence of the interval.
        verdict: "supported" where the whole interval meets the criterion, "refuted" where it misses it, "undecided"
            where it does neither, or a control or a presupposition does not decide; "uninformative" where the control
            meets the criterion as well; "not run" without any value.
        more: whether more seeds could decide it.
        control: what an uninformed model scores, or of a claim of absence the real thing.
        uncontrolled: why there is no control.
        shams: what models without the mechanism score by the same criterion; one that meets it makes a supported claim
            uninformative.
        family: whether a claim of the paper is decided also at the level divided by the number of those claims.
        paper_number: the number of the paper, with its source.
        origin: where the threshold comes from.
        population: what a seed is drawn from.
        details: further numbers, by name.
        note: why it is not decided, and how to read it.
    """

    id: str
    kind: ClaimKind = "paper"
    place: str
    statement: str
    criterion: str
    measured: float | int | None
    interval: Interval | None
    seeds: tuple[int, ...]
    level: float = 0.05
    verdict: Verdict
    more: bool = False
    control: ControlJudgement | None = None
    uncontrolled: str = ""
    shams: tuple[ControlJudgement, ...] = ()
    family: Family = ""
    paper_number: str = ""
    origin: str = ""
    population: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def threshold(floor: float, margin: float) -> float:
    """So far from what guessing gives, to two places, as the criterion prints it."""
    return round(floor + margin, 2)


def or_never(step: int | None) -> int | str:
    """The step at which something happened, or that it did not."""
    return NEVER if step is None else step


def nan_mean(values: Iterable[float]) -> float:
    """Of numbers; NaN of none."""
    held = list(values)
    return sum(held) / len(held) if held else math.nan


def write_claims(path: Path | str, claims: Sequence[Judgement]) -> None:
    """Save claims, with a checksum."""
    write_record(path, {"claims": [asdict(claim) for claim in claims]})


def read_claims(path: Path | str) -> list[Judgement]:
    """Raises `ValueError` naming the file if it is missing, damaged or not a list of claims."""
    held = read_record(path)
    try:
        return as_claims(held.get("claims"))
    except ToylabError as error:
        raise ToylabError(f"{path}: is not a list of claims ({error}); run the study again to write it anew") from None


def as_claims(held: Any) -> list[Judgement]:
    """Claims from their JSON form. Raises `ToylabError` for anything else."""
    return convert_value(list[Judgement], held, "claims")


# As text -------------------------------------------------------------------------------------------------------------


def claims_table(
    claims: Sequence[Judgement], width: int = 80, costs: Mapping[str, float | int] | None = None, coloured: bool = False
) -> str:
    """Claims as text, those of the paper first: a line of verdict and numbers each, then statement, criterion, control.

    Measurements of fewer than six seeds stand without a verdict.

    Args:
        width: columns that no line is longer than.
        costs: CPU-seconds behind each claim, by its id.
        coloured: whether verdicts are coloured, for a terminal.
    """
    parts = []
    for title, of_kind in by_kind(claims).items():
        lines = [f"{title}:"]
        for claim in of_kind:
            seeds = f"{len(claim.seeds)} seed{'s' if len(claim.seeds) != 1 else ''}"
            word = shown_verdict(claim).upper()
            place = f"{word:<9} {claim.id}".ljust(34)[len(word) :]
            verdict = colour_verdict(word, claim.verdict if coloured else "")
            cost = "" if costs is None or claim.measured is None else f"{costs.get(claim.id, 0):>6.0f} CPU-s"
            lines.append(f"{verdict}{place} {measured_in_words(claim):<24} {seeds:>8}{cost}".rstrip())
            for text in (claim.statement, f"Criterion: {claim.criterion}", control_text(claim), claim.note):
                lines += textwrap.wrap(text, width, initial_indent=" " * 10, subsequent_indent=" " * 10)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


KINDS_IN_WORDS = {"paper": "Claims of the paper", "own": "Our own questions", "set-up": "Checks of the set-up"}


def by_kind(claims: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """Claims of the paper, our own, and checks of the set-up, by title; without the kinds of which there are none."""
    held = list(claims)
    found = {title: [one for one in held if one.kind == kind] for kind, title in KINDS_IN_WORDS.items()}
    return {title: of_kind for title, of_kind in found.items() if of_kind}


def shown_verdict(claim: Judgement) -> str:
    """The verdict, and for measurements of too few seeds to decide that it is one."""
    few = claim.verdict == "undecided" and len(claim.seeds) < FEWEST_SEEDS
    return "measured" if few and claim.measured is not None else claim.verdict


def verdict_in_words(claim: Judgement) -> str:
    """The same where there is room: a toy of 30 k parameters does not refute a claim about 7 B."""
    verdict = shown_verdict(claim)
    return "refuted at this scale" if verdict == "refuted" else verdict


def claims_markdown(claims: Sequence[Judgement], costs: Mapping[str, float | int] | None = None) -> str:
    """Claims as Markdown tables, one a kind; `costs` are CPU-seconds behind each claim, by its id."""
    tables = []
    for title, of_kind in by_kind(claims).items():
        rows = [_markdown_cells(claim, costs) for claim in of_kind]
        # The number of the paper has a column where one is known, the mark over the family in the table of the paper.
        head = [name for name in rows[0] if any(row[name] for row in rows) or name in _ALWAYS]
        shown = [f"measured [{interval_in_words(of_kind)}]" if name == "measured" else name for name in head]
        tables.append(f"**{title}**\n\n" + markdown_table([shown, *([row[name] for name in head] for row in rows)]))
    return "\n\n".join(tables)


_ALWAYS = ("verdict", "claim", "criterion", "measured", "control", "seeds")


def _markdown_cells(claim: Judgement, costs: Mapping[str, float | int] | None) -> dict[str, str]:
    return {
        "verdict": verdict_in_words(claim),
        "claim": full_statement(claim),
        "criterion": claim.criterion,
        "threshold from": claim.origin,
        "measured": measured_in_words(claim),
        "paper's number": claim.paper_number,
        "control": control_text(claim),
        "over the family": claim.family,
        "seeds": str(len(claim.seeds)),
        "CPU-s": f"{costs[claim.id]:.0f}" if costs and claim.id in costs else "",
    }


def interval_in_words(claims: Iterable[Judgement]) -> str:
    """What the intervals of claims are, with their confidence where they share one."""
    levels = {claim.level for claim in claims if claim.interval}
    return f"{100 * (1 - levels.pop()):.3g} % interval" if len(levels) == 1 else "interval"


def further_notes(claim: Judgement) -> dict[str, str]:
    """What else is said of a verdict, by its name; without what is empty."""
    facts = {
        "Threshold from": claim.origin,
        "The paper's number": claim.paper_number,
        "Also over the family": claim.family,
        "Shams": "; ".join(f"{one.what}, {measured_in_words(one)}" for one in claim.shams if one.measured is not None),
    }
    return {name: fact for name, fact in facts.items() if fact}


def full_statement(claim: Judgement) -> str:
    """The statement and, where it is not decided, the note that says why."""
    decided = claim.verdict in ("supported", "refuted") or not claim.note
    return claim.statement if decided else f"{claim.statement} *{claim.note}*"


def count_verdicts(claims: Iterable[Judgement]) -> dict[str, int]:
    """How many claims there are of each verdict; checks of the set-up are none."""
    found = Counter(claim.verdict for claim in claims if claim.kind != "set-up")
    return {verdict: found[verdict] for verdict in get_args(Verdict)}


def verdict_counts(claims: Iterable[Judgement]) -> str:
    """How many claims there are of each verdict, in words."""
    return ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(claims).items() if count)


def sham_counts(claims: Iterable[Judgement]) -> str:
    """In how many claims each sham meets the criterion, with their ids; empty where none was tried."""
    tried: dict[str, list[tuple[str, ControlJudgement]]] = {}
    for claim in claims:
        for one in claim.shams:
            if one.measured is not None:
                tried.setdefault(one.what, []).append((claim.id, one))
    parts = []
    for what, of_claims in tried.items():
        met = [id for id, one in of_claims if one.misses is False]
        parts.append(f"{what} meet {len(met)} of {len(of_claims)} criteria" + f" ({', '.join(met)})" * bool(met))
    return f"Shams: {'; '.join(parts)}." if parts else ""


def measured_in_words(claim: Judgement | ControlJudgement) -> str:
    """What was measured, with its interval."""
    if claim.measured is None:
        return "not measured"
    if claim.interval is None:
        return f"{claim.measured:.3g}"
    low, high = claim.interval
    return f"{claim.measured:.3g} [{low:.3g}, {high:.3g}]"


def control_text(claim: Judgement) -> str:
    """What the control scored, or why there is none."""
    if claim.control is not None:
        return f"Control: {claim.control.what}, {measured_in_words(claim.control)}"
    return f"No control: {claim.uncontrolled}" if claim.uncontrolled else ""
