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
    sham_summary,
    shown_verdict,
    verdict_counts,
    verdict_in_words,
)
from toylab.verdicts.ledger import seeds_in_words


@dataclass(frozen=True, kw_only=True)
class StudyVerdicts:
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
    def of(cls, judged: JudgedRun, folder: str) -> StudyVerdicts:
        """From a judged run."""
        return cls(
            study=judged.name,
            title=judged.title,
            source=_source_of(judged.about),
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
        unmeasured = ", ".join(claim.id for claim in self.claims if claim.measured is None)
        parts = [
            textwrap.fill(f"{self.study}: {self.source}", 80),
            textwrap.fill(f"{self.seeds_in_words} {sham_summary(self.claims)}", 80),
            claims_table(measured, costs=self.costs or None, coloured=coloured),
            textwrap.fill(f"Not measured by this run: {unmeasured}.", 80, break_on_hyphens=False) if unmeasured else "",
        ]
        return "\n".join(filter(None, parts))

    __str__ = text


def _source_of(about: str) -> str:
    """The first sentence on the source in a study's docstring, up to the arXiv number."""
    text = about.removeprefix("Source: ")
    match = re.match(r".*?\(arXiv [\d.]+\)", text)
    return f"{match[0]}." if match else text


def finish_all(folder: Path | str, study: type | None = None) -> str:
    """Judge the runs in a folder, one per study; write their pages and the scoreboard; return the scoreboard as text.

    Args:
        study: the class of a user's own study.

    Raises:
        ToylabError: if the folder holds no run.
    """
    studies, is_written = _judge_folder(folder, study)
    parts = [verdicts.text(supports_colour(sys.stdout)) for verdicts in studies]
    last_line = f"\nScoreboard: {(Path(folder) / 'scoreboard.html').resolve()}" if is_written else ""
    return "\n\n".join([*parts, scoreboard_summary(studies)]) + last_line


def build_scoreboard(folder: Path | str, study: type | None = None) -> list[StudyVerdicts]:
    """The verdicts of each study with a run in a folder; also writes the pages and the scoreboard.

    Of several runs of a study, the one with the most seeds is used, then the latest. Runs that cannot be judged, such
    as those of a user's own study other than `study`, are reported on stderr and omitted.

    Raises:
        ToylabError: if the folder holds no run that can be judged.
    """
    return _judge_folder(folder, study)[0]


def _judge_folder(folder: Path | str, study: type | None) -> tuple[list[StudyVerdicts], bool]:
    """The verdicts of each study, and whether the scoreboard could be written."""
    studies, messages, is_written = [], [], True
    folder = Path(folder)
    for out in progress_bar(_runs_to_judge(folder), desc="judging", unit="study", disable=None, leave=False):
        try:
            judged = judge_run(out, study if ":" in read_settings(out / "settings.json")["study"] else None)
            write_report(judged, out)
        except UnwritableError as error:
            messages.append(f"no page written: {error}")
        except ToylabError as error:
            messages.append(f"omitted: {error}")
            continue
        studies.append(StudyVerdicts.of(judged, out.name))
    if not studies:
        raise ToylabError("; ".join(messages))
    try:
        refuse_links(folder, folder / "scoreboard.json", folder / "scoreboard.html")
        write_json(folder / "scoreboard.json", [asdict(study_verdicts) for study_verdicts in studies])
        write_text(folder / "scoreboard.html", board_page(studies))
    except UnwritableError as error:
        messages.append(f"no scoreboard written: {error}")
        is_written = False
    print(*(f"toylab: {line}" for line in messages), sep="\n", end="\n" * bool(messages), file=sys.stderr)
    return studies, is_written


def _runs_to_judge(folder: Path) -> list[Path]:
    """One run per study, ordered by study name."""
    runs: dict[str, list[tuple[int, str, Path]]] = {}
    for path in sorted(folder.glob("*/settings.json")):
        record = read_settings(path)
        runs.setdefault(str(record["study"]), []).append(
            (len(record["settings"]["seeds"]), str(record["date"]), path.parent)
        )
    if not runs:
        raise ToylabError(
            f"{folder / 'settings.json'}: there is no such file, nor one a folder deeper; give the folder of "
            "a run, or one that holds runs, such as that of `toylab run all --out FOLDER`"
        )
    return [max(record)[-1] for _, record in sorted(runs.items())]


def read_scoreboard(path: Path | str) -> list[StudyVerdicts]:
    """A scoreboard from its file.

    Raises:
        ToylabError: naming the file, if it is not a scoreboard.
    """
    return _parse_scoreboard(read_bytes(path), str(path))


def published_scoreboard(study: str | None = None) -> Any:
    """The scoreboard shown in README.md: one `StudyVerdicts` per study, or the one of the named study.

    Raises:
        ToylabError: for an unknown study.
    """
    all_verdicts = _parse_scoreboard(files("toylab.report").joinpath("scoreboard.json").read_bytes(), "scoreboard.json")
    if study is None:
        return all_verdicts
    if study not in [verdicts.study for verdicts in all_verdicts]:
        raise unknown_name("study", study, [verdicts.study for verdicts in all_verdicts])
    return next(verdicts for verdicts in all_verdicts if verdicts.study == study)


def _parse_scoreboard(content: bytes, name: str) -> list[StudyVerdicts]:
    try:
        records = parse_json(content.decode())
        if not isinstance(records, list):
            raise TypeError("not a list")
        studies = [StudyVerdicts(**{**record, "claims": as_claims(record["claims"])}) for record in records]
        for study in studies:
            texts = (study.study, study.title, study.source, study.command, study.folder, study.machine, study.date)
            costs = (study.cpu_seconds, *study.costs.values())
            if not (
                all(isinstance(text, str) for text in (*texts, *study.figures.values()))
                and all(isinstance(cost, int | float) for cost in costs)
            ):
                raise TypeError(f"{study.study!r} has a field of another type")
        return studies
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ToylabError(
            f"{name}: is not a scoreboard of this version ({error!r}); rewrite it with `toylab report`"
        ) from None


COLUMNS = ["study", *get_args(Verdict), "no control", "seeds", "CPU-seconds"]


def scoreboard_summary(studies: Sequence[StudyVerdicts]) -> str:
    """One line per study, at most 80 columns: name and verdict counts."""
    columns = 1 + len(get_args(Verdict))
    return align_columns([line[:columns] for line in (COLUMNS, *map(_cells, studies))])


def _cost(study: StudyVerdicts, claim: Judgement) -> str:
    """CPU-seconds of every job the claim depends on; empty if unknown."""
    return f"{study.costs[claim.id]:.0f}" if claim.id in study.costs else ""


def _cells(study: StudyVerdicts) -> list[str]:
    """The summary cells of a study."""
    uncontrolled = sum(claim.control is None and claim.kind != "set-up" for claim in study.claims)
    counts = (*count_verdicts(study.claims).values(), uncontrolled, study.seeds, f"{study.cpu_seconds:.0f}")
    return [study.study, *map(str, counts)]


def board_markdown(studies: Sequence[StudyVerdicts]) -> str:
    """The scoreboard as Markdown: the summary, then a folded section of claims per study."""
    parts = [summary_markdown(studies)]
    for study in studies:
        measured = [claim for claim in study.claims if claim.measured is not None]
        seeds = f"{study.seeds_in_words} {sham_summary(study.claims)}".rstrip()
        parts.append(
            f"<details><summary><b>{study.study}</b>: {verdict_counts(measured)}. {study.source}</summary>\n\n"
            f"{seeds}\n\n{claims_markdown(measured, study.costs)}\n\n"
            f"`{study.command}` ({study.date}, {study.machine})\n\n</details>"
        )
    return "\n\n".join(parts)


def summary_markdown(studies: Sequence[StudyVerdicts]) -> str:
    """The summary as a Markdown table, one row per study."""
    return markdown_table([COLUMNS, *map(_cells, studies)], numbers=True)


def results_markdown(study: StudyVerdicts) -> str:
    """The measured claims of a study as a short Markdown table, ordered by verdict: no criteria, origins or costs."""
    rows = [
        [
            verdict_in_words(claim),
            f"{claim.statement} ({'' if claim.kind == 'paper' else 'ours, '}`{claim.id}`)",
            measured_in_words(claim),
            f"{claim.control.what}: {claim.control.measured:.3g}" if claim.control else "",
        ]
        for verdict in get_args(Verdict)
        for claim in study.claims
        if claim.verdict == verdict and claim.measured is not None and claim.kind != "set-up"
    ]
    return markdown_table([["verdict", "claim", f"measured [{interval_in_words(study.claims)}]", "control"], *rows])


def board_page(studies: Sequence[StudyVerdicts]) -> str:
    """The scoreboard as an HTML page with links to figures on the pages of the runs; all inserted text is escaped."""
    return fill_template(
        "scoreboard.html",
        title="Verdicts on the claims",
        papers="one paper" if len(studies) == 1 else f"{len(studies)} papers",
        head="".join(f'<th scope="col">{name}</th>' for name in COLUMNS),
        summary="\n".join(map(_summary_row, studies)),
        studies="\n".join(map(_section, studies)),
    )


def _summary_row(study: StudyVerdicts) -> str:
    name, *counts = map(escape, _cells(study))
    cells = "".join(f"<td class=number>{count}</td>" for count in counts)
    return f'<tr><th scope="row"><a href="#{claim_anchor(study.study)}">{name}</a></th>{cells}</tr>'


def _section(study: StudyVerdicts) -> str:
    """The section of a study with all its claims."""
    lines = "\n".join(
        f'<tr class=kind><th colspan=5 scope="rowgroup">{title}</th></tr>\n'
        + "\n".join(_row(claim, _cost(study, claim), study.link(claim)) for claim in of_kind)
        for title, of_kind in by_kind(study.claims).items()
    )
    return f"""<section id="{claim_anchor(study.study)}"><h2>{escape(study.study)}</h2>
<p>{escape(study.title)}</p><p class=note>{escape(study.source)}</p>
<p class=note>{escape(f"{study.seeds_in_words} {sham_summary(study.claims)}")}</p>
<table class=board><thead><tr><th scope="col">Verdict</th><th scope="col">Claim</th>
<th scope="col">Measured [{interval_in_words(study.claims)}]</th>
<th scope="col">Seeds</th><th scope="col">CPU-s</th></tr></thead><tbody>
{lines}
</tbody></table>
<pre>{escape(f"{study.command}  # {study.date}, {study.machine}")}</pre></section>"""


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
