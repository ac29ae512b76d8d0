"""Laws of shams on the command line: what untrained weights score stands beside a claim and may decide it."""

from dataclasses import dataclass, fields

import pytest

from toylab.runs import registry
from toylab.runs.judge import SHAM, shams
from toylab.runs.study import Job, untrained_study
from toylab.training.loop import TrainConfig
from toylab.verdicts.claim import Claim, Conditions
from toylab.verdicts.criterion import at_least
from toylab.verdicts.judgement import read_claims


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Two claims: one follows from training, the other from nothing."""

    train: TrainConfig = TrainConfig(steps=3)
    seeds: tuple[int, ...] = tuple(range(6))

    def jobs(self):
        return [Job("main", seed) for seed in self.seeds]

    def run_job(self, job, folder):
        return {"learned": self.train.steps, "given": 3}

    def claims(self):
        return [
            Claim(
                id=name,
                place="here",
                statement=f"It is {name}.",
                conditions=("main",),
                measure="steps",
                quantity=lambda main, name=name: main[name],
                criterion=at_least(3),
            )
            for name in ("learned", "given")
        ]

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def default(cls):
        return cls()


NAME = f"{Stepped.__module__}:Stepped"


def test_a_claim_that_untrained_weights_meet_as_well_is_uninformative(call, tmp_path):
    out = tmp_path / "out"
    for sham in (False, True):
        command = ["run", NAME, "--workers", 1, "--out", out]
        outcome = call(*command, *["--sham"] * sham)
        assert outcome.code == 0, outcome.err
        learned, given = read_claims(out / "claims.json")
        assert (learned.verdict, given.verdict) == ("supported", "uninformative" if sham else "supported")
        assert [one.measured for one in learned.shams] == [0] * sham
    told = "Shams: untrained weights meet 1 of 2 criteria (given)."
    assert told in outcome.out.replace("\n", " ")
    assert told in (out / "report.html").read_text(encoding="utf-8")
    assert (out / SHAM / "settings.json").exists()


@pytest.mark.parametrize("name", registry.study_names())
def test_every_study_has_a_sham_without_any_training_and_shams_of_its_own_conditions(name):
    study = registry.preset_settings(registry.load_study(name).STUDY, "default")
    held = untrained_study(study)
    steps = {one.name: getattr(held, one.name) for one in fields(held)}
    trainings = [value.steps for value in steps.values() if isinstance(value, TrainConfig)]
    assert trainings
    assert not any(trainings)
    conditions = {job.condition for job in study.jobs()}
    for instead in study.shams().values() if hasattr(study, "shams") else ():
        assert {*instead, *instead.values()} <= conditions


def test_a_sham_leaves_every_condition_as_it_is_but_the_replaced_one(tmp_path):
    study = registry.preset_settings(registry.load_study("iteration-head").STUDY, "quick")
    found = Conditions({name: {0: f"result of {name}"} for name in study.conditions()})
    ((what, instead),) = study.shams().items()
    assert shams(study, found, tmp_path) == {what: found | {name: found[other] for name, other in instead.items()}}
