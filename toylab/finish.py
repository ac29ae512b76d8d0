"""From the results of a run to its verdicts, figures and page."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from toylab import studies
from toylab.claims import Claim, table, verdicts, write_claims
from toylab.files import write_text
from toylab.film import Shown
from toylab.names import ToylabError, takes_colour
from toylab.report import Picture, page
from toylab.runs import Job, Study, read_settings, results, with_needs


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a run has come to.

    Attributes:
        name: of the study.
        title: what it is about, in a line.
        about: the rest of what the study says of itself, with the paper.
        command: what runs it again.
        settings: what `settings.json` holds.
        machine: where it ran, with the version of torch.
        revision: of the source.
        date: when it began.
        claims: judged.
        pictures: drawn.
        film: for the viewer of the page, where the study has one.
        costs: CPU-seconds behind each claim, by its id.
        cpu_seconds: of all that was run.
        jobs: how many are done, and of how many.
    """

    name: str
    title: str
    about: str
    command: str
    settings: Mapping[str, Any]
    machine: str
    revision: str
    date: str
    claims: Sequence[Claim]
    pictures: Sequence[Picture]
    film: Shown | None
    costs: Mapping[str, float | int]
    cpu_seconds: float | int
    jobs: tuple[int, int]

    @property
    def cost(self) -> str:
        """What it took, and where and when it was made."""
        done, of = self.jobs
        return (
            f"{done} of {of} trainings done in {self.cpu_seconds:.0f} CPU-seconds; {self.machine}, "
            f"revision {self.revision}, {self.date}."
        )


def judge(out: Path | str) -> Judged:
    """Judge and draw a run from what it measured; nothing is written.

    Raises:
        ValueError: if the folder holds no run, or its settings are not those of a study of this version.
    """
    out = Path(out)
    about = read_settings(out / "settings.json")
    try:
        module = studies.load(about["study"])
        default = studies.preset(module.STUDY, "default")
        study = rebuild(default, about["settings"])
        machine = f"{about['machine']}, torch {about['versions']['torch']}"
        revision, date = about["revision"] or "unknown", about["date"]
    except (KeyError, TypeError, ValueError) as error:
        raise ToylabError(
            f"{out / 'settings.json'}: is not the settings of a study of this version ({error!r})"
        ) from None
    measured = results(study, out)
    claims = study.conclude(measured)
    title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    return Judged(
        name=about["study"],
        title=title.replace("\n", " "),
        about=rest.replace("\n", " "),
        command=f"toylab run {about['study']} {shlex.join(flags(default, study))}".strip(),
        settings=about,
        machine=machine,
        revision=revision,
        date=date,
        claims=claims,
        pictures=study.pictures(measured, out),
        film=study.film(measured, out) if hasattr(study, "film") else None,
        costs=costs(study, measured, claims),
        cpu_seconds=sum(result["cost"]["cpu_seconds"] for result in measured.values()),
        jobs=(len(measured), len(study.jobs())),
    )


def keep(judged: Judged, out: Path | str) -> Path:
    """Write claims.json, the figures and report.html; returns the page."""
    out = Path(out)
    write_claims(out / "claims.json", judged.claims)
    for picture in judged.pictures:
        write_text(out / "figures" / f"{picture.name}.svg", picture.svg)
    report = out / "report.html"
    write_text(
        report,
        page(
            title=judged.title,
            introduction=judged.about,
            claims=judged.claims,
            pictures=judged.pictures,
            film=judged.film,
            settings=judged.settings,
            command=judged.command,
            cost=judged.cost,
            costs=judged.costs,
        ),
    )
    return report.resolve()


def finish(out: Path | str) -> str:
    """Judge a run, keep what that gives, and return a summary that ends with where to look next.

    Raises:
        ValueError: if the folder holds no run, or its settings are not those of a study of this version.
    """
    judged = judge(out)
    report = keep(judged, out)
    counts = "{holds} claims hold, {fails} fail, {open} are open.".format(**verdicts(judged.claims))
    claims = table(judged.claims, costs=judged.costs, coloured=takes_colour(sys.stdout))
    return f"{claims}\n\n{counts} {judged.cost}\nReport: {report}"


def costs(study: Study, measured: Mapping[Job, Mapping[str, Any]], claims: Sequence[Claim]) -> dict[str, float | int]:
    """CPU-seconds behind each claim: of all jobs without which it, or a number in its details, would be another, and of
    what those go on from.

    Jobs are left out by name, all seeds at once.
    """
    behind: dict[str, set[Job]] = {claim.id: set() for claim in claims}
    for name in dict.fromkeys(job.name for job in measured):
        without = study.conclude({job: result for job, result in measured.items() if job.name != name})
        for claim, other in zip(claims, without, strict=True):
            if claim != other:
                behind[claim.id] |= {job for job in measured if job.name == name}
    return {
        id: sum(measured[job]["cost"]["cpu_seconds"] for job in with_needs(jobs, measured))
        for id, jobs in behind.items()
    }


def rebuild(default: Any, settings: dict[str, Any]) -> Any:
    """Settings from their JSON form; `default` gives the classes.

    Raises:
        TypeError: for a setting that the class does not have.
    """
    known = {field.name: getattr(default, field.name) for field in fields(default)}
    values = {
        name: rebuild(known[name], value)
        if is_dataclass(known.get(name))
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in settings.items()
    }
    return type(default)(**values)


def flags(default: Any, study: Any, prefix: str = "") -> list[str]:
    """The command-line flags that turn one setting of a study into another."""
    found: list[str] = []
    for field in fields(study):
        before, now = getattr(default, field.name), getattr(study, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        if before == now:
            continue
        if is_dataclass(now) and type(before) is type(now):
            found += flags(before, now, f"{name}.")
        elif isinstance(now, bool):
            found.append(f"--{prefix}{'' if now else 'no-'}{field.name.replace('_', '-')}")
        else:
            found += [f"--{name}", *(map(str, now) if isinstance(now, tuple) else [str(now)])]
    return found
