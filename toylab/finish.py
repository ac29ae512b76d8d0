"""From the results of a run to its verdicts, figures and page."""

from __future__ import annotations

import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from toylab import studies
from toylab.claims import table, write_claims
from toylab.files import write_text
from toylab.report import page
from toylab.runs import read_settings, results


def finish(out: Path) -> str:
    """Judge and draw a run from what it measured; write claims.json, figures and report.html; return the summary.

    Raises:
        ValueError: if the folder holds no run, or its settings are not those of a study of this version.
    """
    about = read_settings(out / "settings.json")
    try:
        module = studies.load(about["study"])
        study = rebuild(module.STUDY.default(), about["settings"])
        origin = (about["machine"], about["versions"]["torch"], about["revision"] or "unknown", about["date"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{out / 'settings.json'}: is not the settings of a study of this version ({error!r})"
        ) from None
    measured = results(study, out)
    claims = study.conclude(measured)
    write_claims(out / "claims.json", claims)
    pictures = study.pictures(measured, out)
    for picture in pictures:
        write_text(out / "figures" / f"{picture.title.lower().replace(' ', '-')}.svg", picture.svg)
    seconds = sum(result["cost"]["cpu_seconds"] for result in measured.values())
    jobs = len(study.jobs())
    cost = (
        f"{len(measured)} of {jobs} trainings done in {seconds:.0f} CPU-seconds; "
        "{}, torch {}, revision {}, {}.".format(*origin)
    )
    report = out / "report.html"
    write_text(
        report,
        page(
            title=(module.__doc__ or "").strip().splitlines()[0],
            introduction=(module.__doc__ or "").strip().split("\n\n", 1)[-1].replace("\n", " "),
            claims=claims,
            pictures=pictures,
            film=study.film(measured, out) if hasattr(study, "film") else None,
            settings=about,
            command=f"toylab run {about['study']} {shlex.join(flags(module.STUDY.default(), study))}".strip(),
            cost=cost,
        ),
    )
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in ("holds", "fails", "open")}
    summary = f"{counts['holds']} claims hold, {counts['fails']} fail, {counts['open']} are open. {cost}"
    return f"{table(claims)}\n\n{summary}\nReport: {report.resolve()}"


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
