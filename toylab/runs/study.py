"""The `Study` protocol: its jobs, how to run a job, and the claims judged from their results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from toylab.console import ToylabError
from toylab.files import is_file_name
from toylab.settings import as_json, check_seed, check_settings, convert_value
from toylab.training.loop import TrainConfig
from toylab.verdicts.claim import Claim, Conditions, judge_claims
from toylab.verdicts.decision import Plan
from toylab.verdicts.judgement import Judgement


@dataclass(frozen=True)
class JobInput:
    """An output file of another job that this job reads."""

    job: Job
    file: str = "model.safetensors"


@dataclass(frozen=True)
class Job:
    """One training run and its measurements, identified by name and seed.

    Attributes:
        name: name of the condition and of the job's folder.
        seed: seed of initial weights and data.
        inputs: files of other jobs that this job reads, by the name used in the study; those jobs run first.
        result_type: frozen dataclass returned by the job, or `dict`.
        what: settings of the condition, read only by the study.
        condition: the condition of the result, if jobs of several names share one; by default `name`.
    """

    name: str
    seed: int
    inputs: Mapping[str, JobInput] = field(default_factory=dict, compare=False)
    result_type: type = field(default=dict, compare=False)
    what: Any = field(default=None, compare=False)
    condition: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", self.condition or self.name)

    @property
    def needs(self) -> tuple[Job, ...]:
        """The jobs that must finish first."""
        return tuple(dict.fromkeys(job_input.job for job_input in self.inputs.values()))

    def path(self, name: str, folder: Path) -> Path:
        """The path of an input, given the folder of this job."""
        return self.inputs[name].job.folder(folder.parents[1]) / self.inputs[name].file

    def folder(self, out: Path | str) -> Path:
        """The folder of this job within the folder of a run."""
        return Path(out) / f"seed-{self.seed}" / self.name


def with_dependencies(jobs: Iterable[Job], among: Iterable[Job]) -> set[Job]:
    """The given jobs with all their direct and indirect dependencies."""
    known, selected = {job: job for job in among}, set(jobs)
    while added := {known[need] for job in selected for need in job.needs if need in known} - selected:
        selected |= added
    return selected


@runtime_checkable
class Study(Protocol):
    """A frozen dataclass of settings with the jobs of the study, a method to run one, and the claims to judge.

    Optional methods: `pictures(results, out)` returns a list of `toylab.report.page.Picture` and `film(results, out)`
    a `toylab.training.attention_history.HistoryPage`, a `toylab.report.bars.BarHistory` or None, from results by
    condition and the files of the jobs.
    For a study in a folder, `live(study, results, out)` in its `figures.py` returns a `toylab.report.live.LivePanel`.
    `shams()` returns, for each name of a sham, a dictionary from a replaced condition to the condition whose results
    replace it; `untrained()` returns the study without training (see `untrained_study`).
    """

    if TYPE_CHECKING:  # or `isinstance` would look for it
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings."""
        ...

    def jobs(self) -> list[Job]:
        """All jobs in the order of their start: dependencies first, then the longest, to keep all workers busy."""
        ...

    def run_job(self, job: Job, folder: Path) -> Any:
        """Run one job, a pure function of the settings and the job; its return value is saved as `result.json`."""
        ...

    def claims(self) -> Sequence[Claim]:
        """The claims to judge from the results of the jobs."""
        ...


_Study = TypeVar("_Study", bound=Study)


def untrained_study(study: _Study) -> _Study:
    """The study without any training: the result of its method `untrained`, by default `without_training(study)`."""
    override = getattr(study, "untrained", None)
    return without_training(study) if override is None else override()


def without_training(study: _Study, **changes: Any) -> _Study:
    """The study with `steps=0` in every TrainConfig among its settings, and with further changes."""
    values = {dataclass_field.name: getattr(study, dataclass_field.name) for dataclass_field in fields(study)}
    untrained = {name: replace(value, steps=0) for name, value in values.items() if isinstance(value, TrainConfig)}
    return replace(study, **untrained, **changes)


def check_jobs(study: Study) -> None:
    """Raises `ToylabError` for a job name that is not a valid folder name, or a dependency missing from `jobs()`."""
    jobs = study.jobs()
    for job in jobs:
        if not is_file_name(job.name):
            raise ToylabError(
                f"job {job.name!r} of {type(study).__name__}: must be a valid folder name: no separators, not "
                "hidden, not too long; rename it in jobs(), for example with letters, digits and -"
            )
        check_seed(job.seed, f"seed of job {job.name!r} of {type(study).__name__}")
    known = set(jobs)
    for job in jobs:
        for need in job.needs:
            if need not in known:
                raise ToylabError(
                    f"job {job.name!r} of seed {job.seed}: depends on {need.name!r} of seed {need.seed}, which "
                    "jobs() does not list; add that job, or correct the name"
                )


def judge_study(study: Study, results: Mapping[Job, Any], plan: Plan | None = None) -> list[Judgement]:
    """The judgements of a study's claims from the results of finished jobs; by default with a fixed number of seeds."""
    return judge_claims(list(study.claims()), by_condition(results), plan or Plan.of(study.seeds))


def by_condition(results: Mapping[Job, Any]) -> Conditions:
    """Results by condition name and seed."""
    conditions = Conditions()
    for job, result in results.items():
        conditions.setdefault(job.condition, {})[job.seed] = result
    return conditions


def check_study(study: Study) -> None:
    """Check the settings of a study, and convert its seeds to a tuple of integers.

    Raises:
        ToylabError: naming a setting that is invalid, or that does not survive a round trip through `settings.json`.
    """
    check_settings(study)
    convert_value(type(study), settings_of(study), "settings")


def settings_of(study: Study) -> dict[str, Any]:
    """The settings of a study in JSON form; `toylab.runs.judge.settings_from_json` is the inverse."""
    return json.loads(json.dumps(as_json(study, "settings", type(study))))


def upgraded(settings: dict[str, Any], study_class: type) -> dict[str, Any]:
    """Stored settings with the fields that were added since, at their defaults; those of another version unchanged."""
    try:
        return settings_of(convert_value(study_class, settings, "settings"))
    except ToylabError:
        return settings
