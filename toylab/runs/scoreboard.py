"""The scoreboard: verdicts on the claims of all studies, from a folder with one run per study.

    toylab run all --out runs         run every study at its default settings
    toylab report runs                print all verdicts; write runs/scoreboard.html and runs/scoreboard.json

The scoreboard shown in README.md ships with the package: `published_scoreboard()`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from toylab.console import ToylabError, align_columns, markdown_table, progress_bar, supports_colour, unknown_name
from toylab.files import UnwritableError, read_json, refuse_links, write_json, write_text
from toylab.runs.board import board_page
from toylab.runs.judge import judge_run, write_report
from toylab.runs.store import read_settings
from toylab.runs.study_verdicts import COLUMNS, StudyVerdicts
from toylab.settings import convert_value
from toylab.verdicts.judgement import (
    Verdict,
    claims_markdown,
    interval_in_words,
    measured_in_words,
    sham_summary,
    verdict_counts,
    verdict_in_words,
)


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
        write_text(folder / "scoreboard.html", board_page(studies, folder))
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
    try:
        return convert_value(list[StudyVerdicts], read_json(path), "studies")
    except ToylabError as error:
        raise ToylabError(
            f"{path}: is not a scoreboard of this version ({error}); rewrite it with `toylab report`"
        ) from None


def published_scoreboard(study: str | None = None) -> Any:
    """The scoreboard shown in README.md: one `StudyVerdicts` per study, or the one of the named study.

    Raises:
        ToylabError: for an unknown study.
    """
    all_verdicts = read_scoreboard(str(files("toylab.report").joinpath("scoreboard.json")))
    if study is None:
        return all_verdicts
    by_study = {verdicts.study: verdicts for verdicts in all_verdicts}
    if study not in by_study:
        raise unknown_name("study", study, by_study)
    return by_study[study]


def scoreboard_summary(studies: Sequence[StudyVerdicts]) -> str:
    """One line per study, at most 80 columns: name and verdict counts."""
    columns = 1 + len(get_args(Verdict))
    return align_columns([line[:columns] for line in (COLUMNS, *(study.summary for study in studies))])


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
    return markdown_table([COLUMNS, *(study.summary for study in studies)], numbers=True)


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
