"""Judgements: the measured value, control and verdict of each claim, as files, text and Markdown."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from toylab.console import ToylabError, colour_verdict, markdown_table
from toylab.files import read_record, write_record
from toylab.settings import convert_value, later_field
from toylab.verdicts.decision import FEWEST_SEEDS
from toylab.verdicts.intervals import Interval

Verdict = Literal["supported", "refuted", "undecided", "uninformative", "not run"]
ClaimKind = Literal["paper", "own", "set-up"]
Family = Literal["", "yes", "no", "not reachable"]

NEVER = "never"
"""Replaces the step of an event that did not occur, in details; None means not measured."""

_Measurement = TypeVar("_Measurement")


@dataclass(frozen=True, kw_only=True)
class ControlJudgement:
    """The score of a control or sham under the criterion of its claim.

    Attributes:
        what: name of the control.
        measured: its value under the statistic of the claim.
        interval: interval over seeds; None for a computed constant.
        misses: whether the whole interval misses the criterion, as a control must; None if undecided.
    """

    what: str
    measured: float | int | None
    interval: Interval | None
    misses: bool | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One claim with its measurement and verdict.

    Attributes:
        id: short stable name.
        kind: a claim of the paper, our own question, or a check of the set-up.
        place: section of the paper that makes the claim, or "our question".
        statement: the claim in our words.
        criterion: the quantity and threshold that support the claim, in words.
        exact: the inputs over which each seed's number is exact; empty if inputs are sampled.
        measured: the share of seeds that meet the criterion, or the median over seeds; None if not measured.
        interval: its exact interval over seeds; None for too few seeds.
        seeds: the judged seeds.
        level: one minus the confidence of the interval.
        verdict: "supported" if the whole interval meets the criterion, "refuted" if the whole interval misses it,
            "undecided" if it includes the threshold or if the control or a precondition does not decide,
            "uninformative" if the control also meets the criterion, "not run" without any value.
        more: whether more seeds could decide the claim.
        control: the score of the negative control, or for a claim of absence of the positive control.
        uncontrolled: the reason for having no control.
        shams: scores of models without the mechanism; a sham that meets the criterion makes a supported claim
            uninformative.
        family: whether a claim of the paper is also decided at the level divided by the number of those claims.
        paper_number: the number that the paper reports, with its source.
        origin: source of the threshold.
        population: the population that seeds sample.
        details: additional numbers by name.
        note: the reason for being undecided, and remarks on interpretation.
    """

    id: str
    kind: ClaimKind = "paper"
    place: str
    statement: str
    criterion: str
    exact: str = later_field("")
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
    """The accuracy of guessing plus a margin, rounded to the two places that the criterion prints."""
    return round(floor + margin, 2)


def or_never(step: int | None) -> int | str:
    """The step of an event, or "never"."""
    return NEVER if step is None else step


def measured(value: _Measurement | None) -> _Measurement:
    """The measurement. Raises `TypeError` if it is None: not measured in this condition."""
    if value is None:
        raise TypeError("None: not measured in this condition")
    return value


def nan_mean(values: Iterable[float]) -> float:
    """The mean; NaN without values."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan


def write_claims(path: Path | str, claims: Sequence[Judgement]) -> None:
    """Save claims, with a checksum."""
    write_record(path, {"claims": [asdict(claim) for claim in claims]})


def read_claims(path: Path | str) -> list[Judgement]:
    """Claims from a file. Raises `ToylabError`, naming the file, if it is missing, damaged or not a list of claims."""
    record = read_record(path)
    try:
        return as_claims(record.get("claims"))
    except ToylabError as error:
        raise ToylabError(f"{path}: is not a list of claims ({error}); rerun the study to rewrite it") from None


def as_claims(content: Any) -> list[Judgement]:
    """Claims from their JSON form. Raises `ToylabError` for anything else."""
    return convert_value(list[Judgement], content, "claims")


# As text -------------------------------------------------------------------------------------------------------------


def claims_table(
    claims: Sequence[Judgement], width: int = 80, costs: Mapping[str, float | int] | None = None, coloured: bool = False
) -> str:
    """Claims as plain text, grouped by kind: a line with verdict and numbers, then statement, criterion and control.

    Fewer than six seeds show "measured" in place of a verdict.

    Args:
        width: maximum line length in columns.
        costs: CPU-seconds of every job the claim depends on, by claim id.
        coloured: whether verdicts are coloured for a terminal.
    """
    parts = []
    for title, of_kind in by_kind(claims).items():
        lines = [f"{title}:"]
        for claim in of_kind:
            seeds = f"{len(claim.seeds)} seed{'s' if len(claim.seeds) != 1 else ''}"
            word = shown_verdict(claim).upper()
            label = f"{word:<9} {claim.id}".ljust(34)[len(word) :]
            verdict = colour_verdict(word, claim.verdict if coloured else "")
            cost = "" if costs is None or claim.measured is None else f"{costs.get(claim.id, 0):>6.0f} CPU-s"
            lines.append(f"{verdict}{label} {measured_in_words(claim):<24} {seeds:>8}{cost}".rstrip())
            for text in (claim.statement, f"Criterion: {claim.criterion}", control_text(claim), claim.note):
                lines += textwrap.wrap(text, width, initial_indent=" " * 10, subsequent_indent=" " * 10)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


KINDS_IN_WORDS = {"paper": "Claims of the paper", "own": "Our own questions", "set-up": "Checks of the set-up"}


def by_kind(claims: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """Non-empty groups by title: claims of the paper, our own questions, checks of the set-up."""
    judgements = list(claims)
    groups = {title: [claim for claim in judgements if claim.kind == kind] for kind, title in KINDS_IN_WORDS.items()}
    return {title: of_kind for title, of_kind in groups.items() if of_kind}


def shown_verdict(claim: Judgement) -> str:
    """The verdict, or "measured" for fewer seeds than a verdict needs."""
    few = claim.verdict == "undecided" and len(claim.seeds) < FEWEST_SEEDS
    return "measured" if few and claim.measured is not None else claim.verdict


def verdict_in_words(claim: Judgement) -> str:
    """The verdict in full: a model of 30 k parameters refutes a claim about a 7 B model only at its own scale."""
    verdict = shown_verdict(claim)
    return "refuted at this scale" if verdict == "refuted" else verdict


def claims_markdown(claims: Sequence[Judgement], costs: Mapping[str, float | int] | None = None) -> str:
    """Claims as Markdown tables, one per kind; `costs` are CPU-seconds by claim id."""
    tables = []
    for title, of_kind in by_kind(claims).items():
        rows = [_markdown_cells(claim, costs) for claim in of_kind]
        # Columns that are empty for this kind are dropped, such as the paper's number.
        head = [name for name in rows[0] if any(row[name] for row in rows) or name in _ALWAYS]
        headings = [f"measured [{interval_in_words(of_kind)}]" if name == "measured" else name for name in head]
        tables.append(f"**{title}**\n\n" + markdown_table([headings, *([row[name] for name in head] for row in rows)]))
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
    """The column heading for intervals, with the confidence if all claims share one."""
    levels = {claim.level for claim in claims if claim.interval}
    return f"{100 * (1 - levels.pop()):.3g} % interval" if len(levels) == 1 else "interval"


def further_notes(claim: Judgement) -> dict[str, str]:
    """Non-empty remarks on a verdict by name: threshold source, paper's number, family, shams."""
    facts = {
        "Exact for each seed, no input is sampled": claim.exact,
        "Threshold from": claim.origin,
        "The paper's number": claim.paper_number,
        "Also over the family": claim.family,
        "Shams": "; ".join(
            f"{sham.what}, {measured_in_words(sham)}" for sham in claim.shams if sham.measured is not None
        ),
    }
    return {name: fact for name, fact in facts.items() if fact}


def full_statement(claim: Judgement) -> str:
    """The statement, followed by the reason if the claim is not decided."""
    decided = claim.verdict in ("supported", "refuted") or not claim.note
    return claim.statement if decided else f"{claim.statement} *{claim.note}*"


def count_verdicts(claims: Iterable[Judgement]) -> dict[str, int]:
    """The number of claims per verdict, without checks of the set-up."""
    counts = Counter(claim.verdict for claim in claims if claim.kind != "set-up")
    return {verdict: counts[verdict] for verdict in get_args(Verdict)}


def verdict_counts(claims: Iterable[Judgement]) -> str:
    """The number of claims per verdict in words, such as "3 supported, 1 undecided"."""
    return ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(claims).items() if count)


def sham_summary(claims: Iterable[Judgement]) -> str:
    """The number and ids of criteria that each sham meets, in words; empty without shams."""
    judgements_by_sham: dict[str, list[tuple[str, ControlJudgement]]] = {}
    for claim in claims:
        for sham in claim.shams:
            if sham.measured is not None:
                judgements_by_sham.setdefault(sham.what, []).append((claim.id, sham))
    parts = []
    for name, of_claims in judgements_by_sham.items():
        ids = [id for id, sham in of_claims if sham.misses is False]
        parts.append(f"{name} meet {len(ids)} of {len(of_claims)} criteria" + f" ({', '.join(ids)})" * bool(ids))
    return f"Shams: {'; '.join(parts)}." if parts else ""


def measured_in_words(claim: Judgement | ControlJudgement) -> str:
    """The measured value with its interval, in words."""
    if claim.measured is None:
        return "not measured"
    if claim.interval is None:
        return f"{claim.measured:.3g}"
    low, high = claim.interval
    return f"{claim.measured:.3g} [{low:.3g}, {high:.3g}]"


def control_text(claim: Judgement) -> str:
    """The score of the control, or the reason for having none."""
    if claim.control is not None:
        return f"Control: {claim.control.what}, {measured_in_words(claim.control)}"
    return f"No control: {claim.uncontrolled}" if claim.uncontrolled else ""
