"""The scoreboard: verdicts on the claims of all studies, from a folder with one run per study.

    toylab run all --out runs         run every study at its default settings
    toylab report runs                print all verdicts; write runs/scoreboard.html and runs/scoreboard.json

The scoreboard shown in README.md ships with the package: `published_scoreboard()`.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from toylab.console import ToylabError, align_columns, markdown_table, progress_bar, supports_colour, unknown_name
from toylab.files import UnwritableError, parse_json, read_bytes, refuse_links, write_json, write_text
from toylab.report.page import claim_anchor, file_names, fill_template
from toylab.runs.judge import JudgedRun, judge_run, write_report
from toylab.runs.store import read_settings
from toylab.verdicts.judgement import (
    Judgement,
    Verdict,
    as_claims,
    by_kind,
    claims_markdown,
    claims_table,
    control_text,
    count_verdicts,
    further_notes,
    interval_in_words,
    measured_in_words,
    sham_counts,
    shown_verdict,
    verdict_counts,
    verdict_in_words,
)
from toylab.verdicts.ledger import seeds_in_words


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The verdicts of one study.

    Attributes:
        study: name of the study.
        title: one-line summary.
        source: the paper.
        command: the command that reruns it.
        folder: folder of the run, relative to the scoreboard.
        machine: system and processor, with the version of torch.
        date: start of the run.
        cpu_seconds: total of the run.
        claims: judgements.
        costs: CPU-seconds of every job the claim depends on, by claim id.
        figures: by claim id, the anchor of its figure on the page of the run.
    """

    study: str
    title: str
    source: str
    command: str
    folder: str
    machine: str
    date: str
    cpu_seconds: float | int
    claims: Sequence[Judgement]
    costs: Mapping[str, float | int]
    figures: Mapping[str, str]

    @classmethod
    def of(cls, judged: JudgedRun, folder: str) -> Standing:
        """From a judged run."""
        return cls(
            study=judged.name,
            title=judged.title,
            source=_paper(judged.about),
            command=judged.command,
            folder=folder,
            machine=judged.machine,
            date=judged.date[:10],
            cpu_seconds=round(judged.cpu_seconds),
            claims=judged.claims,
            costs={id: round(seconds) for id, seconds in judged.costs.items()},
            figures={
                id: name
                for name, picture in zip(file_names(judged.pictures), judged.pictures, strict=True)
                for id in picture.claims
            },
        )

    @property
    def seeds(self) -> int:
        """The largest number of seeds of any claim."""
        return max((len(claim.seeds) for claim in self.claims), default=0)

    @property
    def seeds_in_words(self) -> str:
        """All judged seeds with their purposes, in words."""
        return seeds_in_words(seed for claim in self.claims for seed in claim.seeds)

    def link(self, claim: Judgement) -> str:
        """The link to the figure of a claim, or else to the claim on the page of its run."""
        anchor = self.figures.get(claim.id, claim_anchor(claim.id))
        return f"{quote(self.folder, safe='')}/report.html#{quote(anchor)}"

    def text(self, coloured: bool = False) -> str:
        """Measured claims as text, followed by the ids of the unmeasured claims."""
        measured = [claim for claim in self.claims if claim.measured is not None]
        left = ", ".join(claim.id for claim in self.claims if claim.measured is None)
        parts = [
            textwrap.fill(f"{self.study}: {self.source}", 80),
            textwrap.fill(f"{self.seeds_in_words} {sham_counts(self.claims)}", 80),
            claims_table(measured, costs=self.costs or None, coloured=coloured),
            textwrap.fill(f"Not measured by this run: {left}.", 80, break_on_hyphens=False) if left else "",
        ]
        return "\n".join(filter(None, parts))

    __str__ = text


def _paper(about: str) -> str:
    """The first sentence on the source in a study's docstring, up to the arXiv number."""
    told = about.removeprefix("Source: ")
    found = re.match(r".*?\(arXiv [\d.]+\)", told)
    return f"{found[0]}." if found else told


def finish_all(folder: Path | str, study: type | None = None) -> str:
    """Judge the runs in a folder, one per study; write their pages and the scoreboard; return the scoreboard as text.

    Args:
        study: the class of a user's own study.

    Raises:
        ValueError: if the folder holds no run.
    """
    standings, kept = _judged(folder, study)
    parts = [one.text(supports_colour(sys.stdout)) for one in standings]
    where = f"\nScoreboard: {(Path(folder) / 'scoreboard.html').resolve()}" if kept else ""
    return "\n\n".join([*parts, scoreboard_summary(standings)]) + where


def build_scoreboard(folder: Path | str, study: type | None = None) -> list[Standing]:
    """The verdicts of each study with a run in a folder; also writes the pages and the scoreboard.

    Of several runs of a study, the one with the most seeds is used, then the latest. Runs that cannot be judged, such
    as those of a user's own study other than `study`, are reported on stderr and omitted.

    Raises:
        ValueError: if the folder holds no run that can be judged.
    """
    return _judged(folder, study)[0]


def _judged(folder: Path | str, study: type | None) -> tuple[list[Standing], bool]:
    """The standings, and whether they could be written."""
    standings, told, kept = [], [], True
    folder = Path(folder)
    for out in progress_bar(_chosen(folder), desc="judging", unit="study", disable=None, leave=False):
        try:
            judged = judge_run(out, study if ":" in read_settings(out / "settings.json")["study"] else None)
            write_report(judged, out)
        except UnwritableError as error:
            told.append(f"no page written: {error}")
        except ToylabError as error:
            told.append(f"omitted: {error}")
            continue
        standings.append(Standing.of(judged, out.name))
    if not standings:
        raise ToylabError("; ".join(told))
    try:
        refuse_links(folder, folder / "scoreboard.json", folder / "scoreboard.html")
        write_json(folder / "scoreboard.json", [asdict(one) for one in standings])
        write_text(folder / "scoreboard.html", board_page(standings))
    except UnwritableError as error:
        told.append(f"no scoreboard written: {error}")
        kept = False
    print(*(f"toylab: {line}" for line in told), sep="\n", end="\n" * bool(told), file=sys.stderr)
    return standings, kept


def _chosen(folder: Path) -> list[Path]:
    """One run per study, ordered by study name."""
    runs: dict[str, list[tuple[int, str, Path]]] = {}
    for path in sorted(folder.glob("*/settings.json")):
        held = read_settings(path)
        runs.setdefault(str(held["study"]), []).append((len(held["settings"]["seeds"]), str(held["date"]), path.parent))
    if not runs:
        raise ToylabError(
            f"{folder / 'settings.json'}: there is no such file, nor one a folder deeper; give the folder of "
            "a run, or one that holds runs, such as that of `toylab run all --out FOLDER`"
        )
    return [max(held)[-1] for _, held in sorted(runs.items())]


def read_scoreboard(path: Path | str) -> list[Standing]:
    """A scoreboard from its file.

    Raises:
        ValueError: naming the file, if it is not a scoreboard.
    """
    return _standings(read_bytes(path), str(path))


def published_scoreboard(study: str | None = None) -> Any:
    """The scoreboard shown in README.md: one `Standing` per study, or that of the named study.

    Raises:
        ValueError: for an unknown study.
    """
    held = _standings(files("toylab.report").joinpath("scoreboard.json").read_bytes(), "scoreboard.json")
    if study is None:
        return held
    if study not in [one.study for one in held]:
        raise unknown_name("study", study, [one.study for one in held])
    return next(one for one in held if one.study == study)


def _standings(content: bytes, name: str) -> list[Standing]:
    try:
        held = parse_json(content.decode())
        if not isinstance(held, list):
            raise TypeError("not a list")
        standings = [Standing(**{**one, "claims": as_claims(one["claims"])}) for one in held]
        for one in standings:
            texts = (one.study, one.title, one.source, one.command, one.folder, one.machine, one.date)
            costs = (one.cpu_seconds, *one.costs.values())
            if not (
                all(isinstance(text, str) for text in (*texts, *one.figures.values()))
                and all(isinstance(cost, int | float) for cost in costs)
            ):
                raise TypeError(f"{one.study!r} has a field of another type")
        return standings
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ToylabError(
            f"{name}: is not a scoreboard of this version ({error!r}); rewrite it with `toylab report`"
        ) from None


COLUMNS = ["study", *get_args(Verdict), "no control", "seeds", "CPU-seconds"]


def scoreboard_summary(standings: Sequence[Standing]) -> str:
    """One line per study, at most 80 columns: name and verdict counts."""
    shown = 1 + len(get_args(Verdict))
    return align_columns([line[:shown] for line in (COLUMNS, *map(_cells, standings))])


def _cost(one: Standing, claim: Judgement) -> str:
    """CPU-seconds of every job the claim depends on; empty if unknown."""
    return f"{one.costs[claim.id]:.0f}" if claim.id in one.costs else ""


def _cells(one: Standing) -> list[str]:
    """The summary cells of a study."""
    bare = sum(claim.control is None and claim.kind != "set-up" for claim in one.claims)
    counts = (*count_verdicts(one.claims).values(), bare, one.seeds, f"{one.cpu_seconds:.0f}")
    return [one.study, *map(str, counts)]


def board_markdown(standings: Sequence[Standing]) -> str:
    """The scoreboard as Markdown: the summary, then a folded section of claims per study."""
    parts = [summary_markdown(standings)]
    for one in standings:
        measured = [claim for claim in one.claims if claim.measured is not None]
        seeds = f"{one.seeds_in_words} {sham_counts(one.claims)}".rstrip()
        parts.append(
            f"<details><summary><b>{one.study}</b>: {verdict_counts(measured)}. {one.source}</summary>\n\n"
            f"{seeds}\n\n{claims_markdown(measured, one.costs)}\n\n"
            f"`{one.command}` ({one.date}, {one.machine})\n\n</details>"
        )
    return "\n\n".join(parts)


def summary_markdown(standings: Sequence[Standing]) -> str:
    """The summary as a Markdown table, one row per study."""
    return markdown_table([COLUMNS, *map(_cells, standings)], numbers=True)


def board_page(standings: Sequence[Standing]) -> str:
    """The scoreboard as an HTML page with links to figures on the pages of the runs; all inserted text is escaped."""
    return fill_template(
        "scoreboard.html",
        title="Verdicts on the claims",
        papers="one paper" if len(standings) == 1 else f"{len(standings)} papers",
        head="".join(f'<th scope="col">{name}</th>' for name in COLUMNS),
        summary="\n".join(map(_summary_row, standings)),
        studies="\n".join(map(_section, standings)),
    )


def _summary_row(one: Standing) -> str:
    name, *counts = map(escape, _cells(one))
    cells = "".join(f"<td class=number>{count}</td>" for count in counts)
    return f'<tr><th scope="row"><a href="#{claim_anchor(one.study)}">{name}</a></th>{cells}</tr>'


def _section(one: Standing) -> str:
    """The section of a study with all its claims."""
    lines = "\n".join(
        f'<tr class=kind><th colspan=5 scope="rowgroup">{title}</th></tr>\n'
        + "\n".join(_row(claim, _cost(one, claim), one.link(claim)) for claim in of_kind)
        for title, of_kind in by_kind(one.claims).items()
    )
    return f"""<section id="{claim_anchor(one.study)}"><h2>{escape(one.study)}</h2>
<p>{escape(one.title)}</p><p class=note>{escape(one.source)}</p>
<p class=note>{escape(f"{one.seeds_in_words} {sham_counts(one.claims)}")}</p>
<table class=board><thead><tr><th scope="col">Verdict</th><th scope="col">Claim</th>
<th scope="col">Measured [{interval_in_words(one.claims)}]</th>
<th scope="col">Seeds</th><th scope="col">CPU-s</th></tr></thead><tbody>
{lines}
</tbody></table>
<pre>{escape(f"{one.command}  # {one.date}, {one.machine}")}</pre></section>"""


def _row(claim: Judgement, cost: str, link: str) -> str:
    facts = "; ".join(f"{name.lower()}: {fact}" for name, fact in further_notes(claim).items())
    notes = "".join(f"<p class=note>{escape(text)}</p>" for text in (control_text(claim), facts, claim.note) if text)
    return f"""<tr class="{escape(shown_verdict(claim).replace(" ", "-"))}">
<td class=verdict><span>{escape(verdict_in_words(claim))}</span></td>
<td><p class=statement>{escape(claim.statement)}
<a href="{escape(link)}" aria-label="Show {escape(claim.id)}">Show</a></p>
<p class=note>Criterion: {escape(claim.criterion)} ({escape(claim.place)})</p>{notes}</td>
<td class=measured>{escape(measured_in_words(claim))}</td><td class=number data-of="seeds">{len(claim.seeds)}</td>
<td class=number data-of="CPU-s">{cost}</td></tr>"""
