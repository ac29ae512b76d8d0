"""What a study is: jobs, how to run one, and the claims that follow."""

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
    """A file that another job leaves, and that a job starts from."""

    job: Job
    file: str = "model.safetensors"


@dataclass(frozen=True)
class Job:
    """One training with what is measured on it. Its name and seed tell it from all others.

    Attributes:
        name: of the condition, and of the folder.
        seed: of initial weights and data.
        inputs: the files that it starts from, by the name that the study calls them; their jobs are done first.
        result_type: the frozen dataclass that it returns; a plain dictionary where it is none.
        what: the settings of the condition, for the study itself.
        condition: that its result belongs to, where jobs of several names are one condition; else its own name.
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
        """The jobs that must be done first."""
        return tuple(dict.fromkeys(one.job for one in self.inputs.values()))

    def path(self, name: str, folder: Path) -> Path:
        """The path of an input, from the folder of this job."""
        return self.inputs[name].job.folder(folder.parents[1]) / self.inputs[name].file

    def folder(self, out: Path | str) -> Path:
        """Where it is kept."""
        return Path(out) / f"seed-{self.seed}" / self.name


def with_dependencies(jobs: Iterable[Job], among: Iterable[Job]) -> set[Job]:
    """Some of the jobs of a study, and all that is made first so that they can go on from it."""
    known, found = {job: job for job in among}, set(jobs)
    while more := {known[need] for job in found for need in job.needs if need in known} - found:
        found |= more
    return found


@runtime_checkable
class Study(Protocol):
    """A frozen dataclass of settings that knows its jobs, how to run one, and the claims that their results decide.

    For the page it may have `pictures(results, out)`, a list of `toylab.report.page.Picture` from the results by
    condition and what the jobs left in their folders, and `film(results, out)`, a
    `toylab.training.attention_history.Shown` or None. For shams it may have `shams()`, by what they are, the conditions
    whose results stand in the place of others, and `untrained()` (see `without_training`).
    """

    if TYPE_CHECKING:  # or `isinstance` would look for it
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the trainings."""
        ...

    def jobs(self) -> list[Job]:
        """In the order in which they should start: the longest first keeps all workers busy to the end, and what others
        come after before those."""
        ...

    def run_job(self, job: Job, folder: Path) -> Any:
        """Do one job, a pure function of the settings and the job; what it returns is kept as `result.json`."""
        ...

    def claims(self) -> Sequence[Claim]:
        """The claims that are judged from the results of the jobs."""
        ...


_Study = TypeVar("_Study", bound=Study)


def without_training(study: _Study, **changes: Any) -> _Study:
    """The same study with trainings of no step: as it says itself, or with those among its settings so."""
    untrained = getattr(study, "untrained", None)
    if not changes and untrained is not None:
        return untrained()
    held = {one.name: getattr(study, one.name) for one in fields(study)}
    still = {name: replace(value, steps=0) for name, value in held.items() if isinstance(value, TrainConfig)}
    return replace(study, **still, **changes)


def check_jobs(study: Study) -> None:
    """Raises `ValueError` for a job whose name cannot be a folder, or that goes on from one that the study lacks."""
    jobs = study.jobs()
    for job in jobs:
        if not is_file_name(job.name):
            raise ToylabError(
                f"job {job.name!r} of {type(study).__name__}: must be a name for a folder, without separators, not "
                "hidden and not long; rename it in jobs(), for example to letters, digits and -"
            )
        check_seed(job.seed, f"seed of job {job.name!r} of {type(study).__name__}")
    known = set(jobs)
    for job in jobs:
        for need in job.needs:
            if need not in known:
                raise ToylabError(
                    f"job {job.name!r} of seed {job.seed}: goes on from {need.name!r} of seed {need.seed}, which "
                    "jobs() does not list; add that one, or correct the name"
                )


def judge_study(study: Study, results: Mapping[Job, Any], plan: Plan | None = None) -> list[Judgement]:
    """The claims of a study, judged from the results of the jobs that finished; by default at a fixed size."""
    return judge_claims(list(study.claims()), by_condition(results), plan or Plan.of(study.seeds))


def by_condition(results: Mapping[Job, Any]) -> Conditions:
    """Results by the name of the condition and the seed."""
    found = Conditions()
    for job, result in results.items():
        found.setdefault(job.condition, {})[job.seed] = result
    return found


def check_study(study: Study) -> None:
    """Check the settings of a study, which may have no check of its own, and make its seeds a tuple of integers.

    Raises:
        ToylabError: naming the setting that is wrong, or that `settings.json` could not give back.
    """
    check_settings(study)
    convert_value(type(study), settings_of(study), "settings")


def settings_of(study: Study) -> dict[str, Any]:
    """The settings of a study as `settings.json` holds them; `toylab.runs.judge.settings_from_json` reads them."""
    return json.loads(json.dumps(as_json(study, "settings", type(study))))
