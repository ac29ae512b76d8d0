"""Judge a run: verdicts, figures and the page, from the results of its jobs."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import isinf
from pathlib import Path
from typing import Any, get_args

from toylab.console import ToylabError, print_beside_bars, supports_colour
from toylab.files import UnwritableError, refuse_links, write_text
from toylab.report.bars import BarHistory
from toylab.report.live import LivePanel
from toylab.report.page import Picture, Threshold, file_names, render_page
from toylab.runs import registry
from toylab.runs.store import is_done, read_cost, read_results, read_settings, stored_plan
from toylab.runs.study import Job, Study, by_condition, untrained_study, with_dependencies
from toylab.settings import convert_value, field_types, kebab_case
from toylab.training.attention_history import HistoryPage
from toylab.verdicts.claim import Claim, Conditions, judge_claims
from toylab.verdicts.judgement import Judgement, claims_table, sham_summary, verdict_counts, write_claims
from toylab.verdicts.ledger import seeds_in_words

SHAM = "sham"
"""Subfolder of a run that holds the same measurements on untrained weights."""


@dataclass(frozen=True, kw_only=True)
class JudgedRun:
    """A run with its verdicts and figures.

    Attributes:
        name: name of the study.
        title: one-line summary of the study.
        about: the rest of the study's docstring, with the paper.
        command: the command that reruns it.
        settings: the content of `settings.json`.
        machine: system and processor, with the version of torch.
        revision: git revision of the source.
        date: start of the run.
        claims: judgements.
        pictures: figures.
        film: attention or bars through training for the viewer of the page, if the study has one.
        live: models that run in the page, if the study has a panel for them.
        thresholds: lower and upper threshold of the judged value, by claim id.
        costs: CPU-seconds of every job the claim depends on, by claim id.
        cpu_seconds: total of the run.
        jobs: number of finished jobs, and of all jobs.
        fault: the exception that the study raised while drawing its figures, if any.
    """

    name: str
    title: str
    about: str
    command: str
    settings: Mapping[str, Any]
    machine: str
    revision: str
    date: str
    claims: Sequence[Judgement]
    pictures: Sequence[Picture]
    film: HistoryPage | BarHistory | None
    live: LivePanel | None
    thresholds: Mapping[str, Threshold]
    costs: Mapping[str, float | int]
    cpu_seconds: float | int
    jobs: tuple[int, int]
    fault: Exception | None = None

    @property
    def heading(self) -> str:
        """The title, which says of an unfinished run how far it is."""
        done, of = self.jobs
        return self.title if done == of else f"{self.title} Unfinished: {done} of {of} jobs."

    @property
    def cost(self) -> str:
        """Total cost, machine, revision and date, in words."""
        done, of = self.jobs
        return (
            f"{done} of {of} jobs finished in {self.cpu_seconds:.0f} CPU-seconds; {self.machine}, "
            f"revision {self.revision}, {self.date}."
        )


def judge_run(out: Path | str, study: type | None = None) -> JudgedRun:
    """Judge a run and draw its figures from stored results, without writing files.

    Args:
        study: the class of a user's own study, which must be passed since a folder may not choose the code to run.

    Raises:
        ToylabError: if the folder holds no run, a run of another study, or settings of another version.
    """
    out = Path(out)
    about, module, default, settings = _open_run(out, study)
    measured = read_results(settings, out)
    cpu_seconds = {job: read_cost(job.folder(out)).cpu_seconds for job in measured}
    declared = list(settings.claims())
    results = by_condition(measured)
    claims = judge_claims(declared, results, stored_plan(about), shams(settings, results, out))
    pictures: list[Picture] = []
    film = live = fault = None
    try:
        draw, animate = getattr(settings, "pictures", None), getattr(settings, "film", None)
        figures: list[Any] = [] if draw is None else list(draw(results, out) or ())
        if invalid := [item for item in figures if not isinstance(item, Picture)]:
            raise TypeError(f"pictures: holds {invalid[0]!r}, and each must be a toylab.report.page.Picture")
        pictures = [
            replace(item, claims=(*item.claims, *(claim.id for claim in declared if claim.figure == item.title)))
            for item in figures
        ]
        film = None if animate is None else animate(results, out)
        live = _live_panel(settings, results, out)
    except ToylabError:
        raise
    except Exception as error:  # claims are written before `write_report` raises this error
        fault = error
    title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    return JudgedRun(
        name=about["study"],
        title=title.replace("\n", " ") or about["study"],  # `python -OO` drops docstrings
        about=rest.replace("\n", " "),
        command=f"toylab run {about['study']} {shlex.join(settings_flags(default, settings))}".strip(),
        settings=about,
        machine=f"{about['machine']}, torch {about['versions']['torch']}",
        revision=about["revision"] or "unknown",
        date=about["date"],
        claims=claims,
        pictures=pictures,
        film=film,
        live=live,
        thresholds={claim.id: _threshold(claim) for claim in declared},
        costs=claim_costs(declared, cpu_seconds),
        cpu_seconds=sum(cpu_seconds.values()),
        jobs=(len(measured), len({*settings.jobs(), *measured})),
        fault=fault,
    )


def _live_panel(study: Study, results: Conditions, out: Path) -> LivePanel | None:
    """The result of `live(study, results, out)` in `figures.py` beside a study in a folder, if there is one."""
    show = getattr(registry.figures_beside(type(study)), "live", None)
    return None if show is None else show(study, results, out)


def _threshold(claim: Claim) -> Threshold:
    """The thresholds of the judged value: of a share, that most seeds meet the criterion."""
    if claim.statistic == "share":
        return 0.5, None
    low, high = claim.criterion.low, claim.criterion.high
    return None if isinf(low) else low, None if isinf(high) else high


def is_decided(out: Path | str, study: type | None = None) -> bool:
    """Whether more seeds could decide no further claim of a finished run; checks of the set-up do not count."""
    about, _, _, settings = _open_run(Path(out), study)
    results = by_condition(read_results(settings, out))
    claims = judge_claims(list(settings.claims()), results, stored_plan(about), shams(settings, results, out))
    return not any(claim.more for claim in claims if claim.kind != "set-up")


def shams(study: Study, results: Conditions, out: Path | str) -> dict[str, Conditions]:
    """Results of models without the mechanism, by name of the sham: results of the conditions that a study
    names as substitutes and, if the run has them, results of untrained weights."""
    declared = getattr(study, "shams", None)
    sham_results = {
        sham_name: Conditions(results | {name: results[other] for name, other in instead.items()})
        for sham_name, instead in ({} if declared is None else declared()).items()
    }
    untrained = Path(out) / SHAM
    if (untrained / "settings.json").exists():
        sham_results["untrained weights"] = by_condition(read_results(untrained_study(study), untrained))
    return sham_results


def _open_run(out: Path, study: type | None) -> tuple[dict[str, Any], Any, Study, Study]:
    """The record of a run, the module of its study, the study at default settings, and the study at the run's
    settings."""
    about = read_settings(out / "settings.json")
    module = registry.study_of_folder(about["study"], out, study, "toylab report {folder} --study {study}")
    default = registry.preset_settings(module.STUDY, "default")
    return about, module, default, restore_settings(default, about["settings"], out / "settings.json")


def write_report(judged: JudgedRun, out: Path | str) -> Path:
    """Write claims.json, the figures and report.html; returns the path of the page.

    Raises:
        ToylabError: if the folder is not writable, or a link leads out of it.
        Exception: the error that the study raised while drawing, after everything else is written.
    """
    out = Path(out)
    names = file_names(judged.pictures)
    svg_files = {
        out / "figures" / f"{name}.svg": picture.svg for name, picture in zip(names, judged.pictures, strict=True)
    }
    report = out / "report.html"
    refuse_links(out, out / "claims.json", report, *svg_files)
    write_claims(out / "claims.json", judged.claims)
    for path, svg in svg_files.items():
        write_text(path, svg)
    write_text(
        report,
        render_page(
            title=judged.heading,
            introduction=judged.about,
            claims=judged.claims,
            pictures=judged.pictures,
            film=judged.film,
            live=judged.live,
            thresholds=judged.thresholds,
            settings=judged.settings,
            command=judged.command,
            cost=judged.cost,
            seeds=seeds_in_words(judged.settings["settings"]["seeds"]),
            costs=judged.costs,
        ),
    )
    if judged.fault is not None:
        raise judged.fault
    return report.resolve()


def judge_and_report(out: Path | str, study: type | None = None) -> str:
    """Judge a run, write its claims, figures and page, and return a summary that ends with the path of the page.

    Args:
        study: the class of a user's own study.

    Raises:
        ToylabError: if the folder holds no run, a run of another study, or settings of another version.
    """
    judged = judge_run(out, study)
    counts = " ".join(filter(None, (f"Claims: {verdict_counts(judged.claims)}.", sham_summary(judged.claims))))
    claims = claims_table(judged.claims, costs=judged.costs or None, coloured=supports_colour(sys.stdout))
    try:
        last_line = f"Report: {write_report(judged, out)}"
    except UnwritableError:
        last_line = f"{out} is not writable, so no page was written; copy the run and run `toylab report` on the copy."
    return f"{claims}\n\n{counts} {judged.cost}\n{last_line}"


def judge_unfinished(out: Path | str, judging: Callable[..., Any], *arguments: Any) -> None:
    """Judge a folder with missing jobs as far as possible; an error is printed to stderr, not raised."""
    try:
        judging(*arguments)
    except Exception as error:  # of a study that needs all its jobs; the caller still reports the failed jobs
        message = f"{type(error).__name__}: {error}"
        print(f"toylab: {out}: could not be judged while jobs are missing ({message})", file=sys.stderr)


class FirstPage:
    """Writes the page of an unfinished run once, when a claim of its paper has all conditions in every seed.

    It is called with each job of the run that is done (`on_done` of `toylab.runs.jobs.execute_all`). A run that is
    resumed after this point, or that ends with it, gets its page at the end alone.
    """

    def __init__(self, study: Study, out: Path | str, own: type | None = None) -> None:
        jobs = study.jobs()
        paper = [claim for claim in study.claims() if claim.kind == "paper"]
        self._out, self._own = Path(out), own
        self._missing = {job for job in jobs if not is_done(job, out)}
        self._needed = [{job for job in jobs if job.condition in claim.depends_on} for claim in paper]
        self._is_awaited = not self._can_judge()

    def _can_judge(self) -> bool:
        return any(needed and needed.isdisjoint(self._missing) for needed in self._needed)

    def __call__(self, job: Job) -> None:
        self._missing.discard(job)
        if self._is_awaited and self._missing and self._can_judge():
            self._is_awaited = False
            judge_unfinished(self._out, self._write)

    def _write(self) -> None:
        judged = judge_run(self._out, self._own)
        done, of = judged.jobs
        print_beside_bars(f"First page, after {done} of {of} jobs: {write_report(judged, self._out)}")


def claim_costs(claims: Sequence[Claim], cpu_seconds: Mapping[Job, float | int]) -> dict[str, float | int]:
    """CPU-seconds of every job that a claim depends on, directly or through job inputs, by claim id.

    Args:
        spent: CPU-seconds of each job.
    """

    def behind(claim: Claim) -> set[Job]:
        return with_dependencies((job for job in cpu_seconds if job.condition in claim.depends_on), cpu_seconds)

    return {claim.id: sum(cpu_seconds[job] for job in behind(claim)) for claim in claims}


def restore_settings(default: Any, settings: Any, path: Path | str) -> Any:
    """The settings in a file. Raises `ToylabError`, naming the file, for settings of another version of the study."""
    try:
        return settings_from_json(default, settings)
    except ToylabError as error:
        raise ToylabError(f"{path}: does not hold settings of this version of the study ({error})") from None


def settings_from_json(default: Any, settings: Mapping[str, Any]) -> Any:
    """Settings of the class of `default` from their JSON form.

    Raises:
        ToylabError: naming a setting that is unknown, missing, or has an invalid value.
    """
    return convert_value(type(default), settings, "settings")


def settings_flags(default: Any, study: Any, prefix: str = "") -> list[str]:
    """The command-line flags that turn the default settings into the settings of `study`."""
    flags: list[str] = []
    for field in fields(study):
        default_setting, setting = getattr(default, field.name, field), getattr(study, field.name)
        flag = f"--{prefix}{field.name.replace('_', '-')}"
        if default_setting == setting and type(default_setting) is type(setting):
            continue
        if any(map(is_dataclass, get_args(field_types(type(study))[field.name]))):  # a choice of classes
            if type(setting) is not type(default_setting):
                flags += [flag, kebab_case(type(setting).__name__) if is_dataclass(setting) else "none"]
                default_setting = type(setting)
            if setting is None:
                continue
        if is_dataclass(setting):
            flags += settings_flags(default_setting, setting, f"{flag[2:]}.")
        elif isinstance(setting, bool):
            flags.append(f"--{prefix}{'' if setting else 'no-'}{field.name.replace('_', '-')}")
        elif isinstance(setting, dict):
            known = default_setting if isinstance(default_setting, Mapping) else {}
            flags += [f"{flag}.{key}={value}" for key, value in setting.items() if known.get(key) != value]
        elif isinstance(setting, str) and setting.startswith("-"):
            flags.append(f"{flag}={setting}")
        else:
            flags += [flag, *_flag_values(setting)]
    return flags


def _flag_values(value: Any) -> list[str]:
    return [word for item in value for word in _flag_values(item)] if isinstance(value, tuple | list) else [str(value)]
