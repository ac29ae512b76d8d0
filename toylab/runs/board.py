"""The page of the scoreboard: the claims of all studies in one table, which `board.js` sorts and filters."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from toylab.report.page import (
    claim_anchor,
    claim_facts,
    claim_notes,
    fill_template,
    mathematics,
    measured_with_gauge,
    script_element,
    verdict_class,
)
from toylab.runs.study_verdicts import COLUMNS, StudyVerdicts
from toylab.verdicts.judgement import (
    KINDS_IN_WORDS,
    Judgement,
    Verdict,
    interval_in_words,
    measured_in_words,
    sham_summary,
    shown_verdict,
    verdict_in_words,
)

HEADINGS = ["Verdict", "Claim", "Paper", "Measured", "Seeds", "CPU-s"]


def board_page(studies: Sequence[StudyVerdicts], folder: Path | str | None = None) -> str:
    """The scoreboard as an HTML page that sorts and filters the claims; all inserted text is escaped.

    Args:
        folder: of the runs and of the page, whose figures the page shows; without one, it shows none.
    """
    claims = [claim for study in studies for claim in study.claims]
    shown = {shown_verdict(claim): verdict_in_words(claim) for claim in sorted(claims, key=_verdict_rank)}
    return fill_template(
        "scoreboard.html",
        title="Verdicts on the claims",
        papers="one paper" if len(studies) == 1 else f"{len(studies)} papers",
        head="".join(f'<th scope="col">{name}</th>' for name in COLUMNS),
        summary="\n".join(map(_summary_row, studies)),
        papers_to_choose="".join(f"<option>{escape(study.study)}</option>" for study in studies),
        verdicts_to_choose="".join(
            f'<option value="{escape(v)}">{escape(words)}</option>' for v, words in shown.items()
        ),
        columns="".join(
            f'<th scope="col" data-name="{name.lower()}"><button type="button">{name}</button>{unit}</th>'
            for name in HEADINGS
            for unit in [f" [{interval_in_words(claims)}]" if name == "Measured" else ""]
        ),
        claims="\n".join(
            _claim(study, claim, folder)
            for study in studies
            for kind in KINDS_IN_WORDS
            for claim in study.claims
            if claim.kind == kind
        ),
        studies="\n".join(map(_study, studies)),
        scripts=script_element("board.js"),
    )


def _verdict_rank(claim: Judgement) -> int:
    """The place of a verdict in the order of columns; "measured" comes last."""
    return [*get_args(Verdict), "measured"].index(shown_verdict(claim))


def _summary_row(study: StudyVerdicts) -> str:
    name, *counts = map(escape, study.summary)
    cells = "".join(
        f'<td class=number data-of="{column}">{count}</td>' for column, count in zip(COLUMNS[1:], counts, strict=True)
    )
    return f'<tr><th scope="row"><a href="#paper={quote(study.study)}">{name}</a></th>{cells}</tr>'


def _study(study: StudyVerdicts) -> str:
    """Title, paper, seeds and command of a study."""
    return f"""<section id="{claim_anchor(study.study)}"><h3>{escape(study.study)}</h3>
<p>{escape(study.title)}</p><p class=note>{escape(study.source)}</p>
<p class=note>{escape(f"{study.seeds_in_words} {sham_summary(study.claims)}")}</p>
<pre tabindex="0">{escape(f"{study.command}  # {study.date}, {study.machine}")}</pre></section>"""


def _claim(study: StudyVerdicts, claim: Judgement, folder: Path | str | None) -> str:
    """The row of a claim, and the row below with its figure and further facts, which `board.js` folds."""
    id, kind = claim_anchor(f"{study.study}-{claim.id}"), "" if claim.kind == "paper" else KINDS_IN_WORDS[claim.kind]
    link, cost = escape(study.link(claim)), study.costs.get(claim.id)
    return f"""<tbody class="{verdict_class(claim)}" data-paper="{escape(study.study)}" data-verdict="{
        escape(shown_verdict(claim))
    }">
<tr id="{id}"><td class=verdict data-key={_verdict_rank(claim)}><span>{escape(verdict_in_words(claim))}</span></td>
<td><button type="button" class=statement aria-expanded=true aria-controls="{id}-more">{
        mathematics(claim.statement)
    }</button>
{claim_notes(claim)}</td>
<td>{escape(study.study)}<p class=note>{kind}</p></td>
<td class=measured data-key="{"" if claim.measured is None else claim.measured}">{
        measured_with_gauge(claim, study.thresholds.get(claim.id))
    }</td>
<td class=number data-of="seeds">{len(claim.seeds)}</td><td class=number data-of="CPU-s">{
        "" if cost is None else f"{cost:.0f}"
    }</td></tr>
<tr id="{id}-more"><td colspan=6>{_figure(study, claim, folder)}<dl>{claim_facts(claim, None)}</dl>
<p class=note><a href="{link}">{escape(claim.id)} on the page of the run</a></p></td></tr></tbody>"""


def _figure(study: StudyVerdicts, claim: Judgement, folder: Path | str | None) -> str:
    """The figure of a claim beside the page; empty if the folder does not hold it."""
    name = study.figures.get(claim.id, "")
    if not name or folder is None or not (Path(folder) / study.folder / f"figures/{name}.svg").is_file():
        return ""
    source = escape(f"{quote(study.folder, safe='')}/figures/{quote(name)}.svg")
    words = escape(f"Figure of the claim: {claim.statement} Measured: {measured_in_words(claim)}.")
    return f'<figure class=drawing><img loading="lazy" src="{source}" alt="{words}"></figure>'
