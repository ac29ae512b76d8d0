"""The verdicts of one study, as the scoreboard holds them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args
from urllib.parse import quote

from toylab.report.page import Threshold, claim_anchor, file_names
from toylab.runs.judge import JudgedRun
from toylab.verdicts.judgement import Judgement, Verdict, claims_table, count_verdicts, sham_summary
from toylab.verdicts.ledger import seeds_in_words

COLUMNS = ["study", *get_args(Verdict), "no control", "seeds", "CPU-seconds"]
"""Columns of the summary of a study."""


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
        figures: by claim id, the anchor of its figure on the page of the run, which is also the name of its file.
        thresholds: lower and upper threshold of the judged value, by claim id.
    """

    study: str
    title: str
    source: str
    command: str
    folder: str
    machine: str
    date: str
    cpu_seconds: float | int
    claims: list[Judgement]
    costs: Mapping[str, float | int]
    figures: Mapping[str, str]
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)

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
            claims=list(judged.claims),
            costs={id: round(seconds) for id, seconds in judged.costs.items()},
            figures={
                id: name
                for name, picture in zip(file_names(judged.pictures), judged.pictures, strict=True)
                for id in picture.claims
            },
            thresholds=judged.thresholds,
        )

    @property
    def seeds(self) -> int:
        """The largest number of seeds of any claim."""
        return max((len(claim.seeds) for claim in self.claims), default=0)

    @property
    def summary(self) -> list[str]:
        """The cells of the summary, in the order of `COLUMNS`."""
        uncontrolled = sum(claim.control is None and claim.kind != "set-up" for claim in self.claims)
        counts = (*count_verdicts(self.claims).values(), uncontrolled, self.seeds, f"{self.cpu_seconds:.0f}")
        return [self.study, *map(str, counts)]

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
