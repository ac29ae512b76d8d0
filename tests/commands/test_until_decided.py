"""Laws of a run until decided: it is looked at with 10, 20 and 30 seeds, and stops as soon as no claim waits."""

from dataclasses import dataclass, replace
from operator import itemgetter
from types import SimpleNamespace

import pytest

from toylab.files import read_json
from toylab.runs import registry
from toylab.runs.lock import check_run, read_lock
from toylab.runs.study import Job
from toylab.verdicts.claim import Claim
from toylab.verdicts.criterion import at_least
from toylab.verdicts.judgement import read_claims


@dataclass(frozen=True, kw_only=True)
class Tossed:
    """A study of which every so many-th seed fails; none where that is 0."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    every: int = 0

    @classmethod
    def quick(cls) -> "Tossed":
        return cls(seeds=(0,))

    def jobs(self) -> list[Job]:
        return [Job("main", seed) for seed in self.seeds]

    def run_job(self, job, folder):
        return {"value": 1 if self.every == 0 or job.seed % self.every else 0}

    def claims(self) -> list[Claim]:
        claim = Claim(
            id="most", place="p", statement="It is learned.", conditions=("main",), measure="accuracy",
            quantity=itemgetter("value"), criterion=at_least(0.99), statistic="share", uncontrolled="it is exact",
        )  # fmt: skip
        never = replace(claim, id="checked", kind="set-up", quantity=lambda main: 0.5 + main["value"], needs=())
        return [claim, replace(never, criterion=at_least(1))]


@dataclass(frozen=True, kw_only=True)
class Settled(Tossed):
    """One whose seeds agree."""


@dataclass(frozen=True, kw_only=True)
class Wavering(Tossed):
    """One that 10 seeds do not decide, and 20 do."""

    every: int = 5


@dataclass(frozen=True, kw_only=True)
class WaveringSetUp(Settled):
    """One whose claim is settled while half of its seeds fail a check of the set-up."""

    def claims(self) -> list[Claim]:
        claim, checked = super().claims()
        return [claim, replace(checked, conditions=("main",), quantity=self.fails, criterion=at_least(1))]

    @staticmethod
    def fails(main: dict) -> float:
        return main["seed"] % 2

    def run_job(self, job, folder):
        return super().run_job(job, folder) | {"seed": job.seed}


NAME = "tests.commands.test_until_decided:Tossed"


@pytest.fixture
def toss(call, tmp_path):
    """Runs the study, and tells the seeds that it has then."""

    def run(every: int, *more: object) -> list[int]:
        outcome = call("run", NAME, "--every", every, "--workers", 1, "--out", tmp_path / "out", *more)
        assert outcome.code == 0, outcome.err
        seeds = read_json(tmp_path / "out" / "settings.json")["settings"]["seeds"]
        assert sorted(path.name for path in (tmp_path / "out").glob("seed-*")) == sorted(f"seed-{n}" for n in seeds)
        return seeds

    return run


@pytest.mark.parametrize(
    ("every", "size", "verdict"),
    [(0, 10, "supported"), (1, 10, "refuted"), (5, 20, "supported"), (4, 30, "supported"), (2, 30, "undecided")],
)
def test_it_goes_on_to_10_20_and_30_seeds_until_its_claim_is_decided(toss, tmp_path, every, size, verdict):
    assert toss(every, "--until-decided") == list(range(size))
    (claim, _) = read_claims(tmp_path / "out" / "claims.json")
    assert (claim.verdict, len(claim.seeds), claim.level) == (verdict, size, pytest.approx(0.05 / 3))
    assert (read_json(tmp_path / "out" / "settings.json")["fixed"], read_lock(tmp_path / "out")["fixed"]) == (0, 0)
    assert check_run(tmp_path / "out", Tossed) == []


def test_the_seeds_are_counted_on_from_the_first_one_given(toss):
    assert toss(0, "--until-decided", "--seeds", 600, 700) == list(range(600, 610))


@pytest.mark.parametrize(("every", "size"), [(0, 6), (5, 20), (4, 30)])
def test_a_run_begun_with_six_seeds_is_looked_at_with_6_10_20_and_30(toss, tmp_path, every, size):
    assert toss(every, "--seeds", *range(600, 606)) == list(range(600, 606))
    first = read_claims(tmp_path / "out" / "claims.json")[0]
    assert first.level == 0.05
    assert toss(every, "--seeds", *range(600, 606), "--until-decided") == list(range(600, 600 + size))
    claim = read_claims(tmp_path / "out" / "claims.json")[0]
    assert (claim.verdict, len(claim.seeds)) == ("supported", size)
    assert read_json(tmp_path / "out" / "settings.json")["fixed"] == 6


def test_a_run_that_was_stopped_between_two_looks_is_finished_and_looked_at_before_more_seeds(toss, tmp_path):
    toss(0, "--until-decided")
    for seed in range(1, 10):
        (tmp_path / "out" / f"seed-{seed}" / "main" / "done").unlink()
    assert toss(0, "--until-decided") == list(range(10))
    assert len(read_claims(tmp_path / "out" / "claims.json")[0].seeds) == 10


def test_what_was_decided_at_a_look_stands_when_seeds_are_added(toss, tmp_path):
    toss(0, "--until-decided")
    toss(0, "--seeds", *range(20))
    assert len(read_claims(tmp_path / "out" / "claims.json")[0].seeds) == 10


def test_without_it_a_run_stays_at_the_seeds_that_are_given(toss):
    assert toss(5) == list(range(6))


def test_a_quick_run_prints_measurements_without_verdicts(call, tmp_path):
    outcome = call("run", NAME, "--preset", "quick", "--workers", 1, "--out", tmp_path / "out")
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if "  most " in line]
    assert line.split()[:3] == ["MEASURED", "most", "1"]
    for verdict in ("SUPPORTED", "REFUTED", "UNDECIDED"):
        assert verdict not in outcome.out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8").split("</style>")[1]
    assert "<span>measured</span>" in page
    assert "Seeds 0: design seeds." in page


def test_all_studies_go_on_each_until_it_is_decided(call, tmp_path, monkeypatch):
    kinds = {"settled": Settled, "wavering": Wavering}
    monkeypatch.setattr(registry, "study_names", lambda: list(kinds))
    monkeypatch.setattr(registry, "load_study", lambda name: SimpleNamespace(STUDY=kinds[name], __doc__=name))
    command = ["run", "all", "--preset", "quick", "--until-decided", "--seeds", 600, "--workers", 1, "--out", tmp_path]
    outcome = call(*command)
    assert outcome.code == 0, outcome.err
    for name, size in {"settled": 10, "wavering": 20}.items():
        assert len(read_json(tmp_path / f"{name}-quick" / "settings.json")["settings"]["seeds"]) == size
    assert "Seeds 600 to 609: scoreboard." in outcome.out


def test_a_check_of_the_set_up_asks_for_no_more_seeds(call, tmp_path):
    outcome = call(
        "run", f"{NAME.partition(':')[0]}:WaveringSetUp", "--until-decided", "--workers", 1, "--out", tmp_path
    )
    assert outcome.code == 0, outcome.err
    claim, checked = read_claims(tmp_path / "claims.json")
    assert (claim.verdict, checked.more) == ("supported", True)
    assert read_json(tmp_path / "settings.json")["settings"]["seeds"] == list(range(10))
