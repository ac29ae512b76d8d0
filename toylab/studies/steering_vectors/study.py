"""Steering vectors: what a few trained numbers do to a frozen model, beside training all of it, and by which path.

Source: Sinii et al. 2025, "Small Vectors, Big Effects: A Mechanistic Study of RL-Induced Reasoning via Steering
Vectors" (arXiv 2509.06608). Here every fork of an answer is known, so each sentence has a ground truth, and every
vector stands beside the prefix, random vectors, a random reward, and a constant logit bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toylab.report.page import Picture
from toylab.runs.study import Job, by_arm
from toylab.studies.steering_vectors.claims import judge
from toylab.studies.steering_vectors.experiments import run_experiment
from toylab.studies.steering_vectors.figures import draw
from toylab.studies.steering_vectors.quantities import FROM
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.judgement import Judgement


@dataclass(frozen=True, kw_only=True)
class SteeringVectorsStudy(Settings):
    """The study; every field is a flag of `toylab run steering-vectors`."""

    def jobs(self) -> list[Job]:
        """Bases first, then what goes on from them."""
        return [job for seed in self.seeds for job in self._bases(seed)] + [
            job for seed in self.seeds for job in self._arms(seed)
        ]

    def _bases(self, seed: int) -> list[Job]:
        names = ["base"]
        if seed in self.controls:
            extra = {"learned": "base-learned", "transfer": "base-apart", "flag": "base-flag"}
            names += [name for part, name in extra.items() if part in self.parts]
        return [Job(name, seed) for name in names]

    def _arms(self, seed: int) -> list[Job]:
        last, before = f"vector-{self.last}", f"vector-{self.last - 1}"
        each = [f"vector-{layer}" for layer in reversed(range(self.last + 1))]
        after: dict[str, tuple[str, ...]] = dict.fromkeys((*each, "full", "joint"), ("base",))
        after |= {"baselines": ("base", last), "paths": ("base", before)}
        if "adaptive" in self.parts:
            after["adaptive"] = ("base", before)
        if "combine" in self.parts:
            after["combine"] = ("base", *each)
        if "family" in self.parts:
            after["family"] = ("base", last)
        if "features" in self.parts:
            after["features"] = ("base", before)
        if seed in self.controls:
            if "learned" in self.parts:
                after["vector-learned"] = ("base-learned",)
            if "separability" in self.parts:
                after |= {f"cosine-{cosine:g}": ("base",) for cosine in self.cosines}
            if "transfer" in self.parts:
                after |= {"vector-apart": ("base-apart",), "transfer-apart": ("base", last, "vector-apart")}
            if "flag" in self.parts:
                after |= {f"flag-{arm}": ("base-flag",) for arm in ("gate", "full", "scale", "before", "last")}
        jobs = [Job(name, seed, tuple(Job(need, seed) for need in needs)) for name, needs in after.items()]
        if "transfer" in self.parts and len(self.seeds) > 1:
            # Named by the donor: where seeds are added, the next one may be another.
            donor = self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]
            needs = [Job(name, s) for s in (seed, donor) for name in ("base", before, last)]
            jobs.append(Job(f"{FROM}{donor}", seed, tuple(needs)))
        return jobs

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        """Pre-train a base, or train something on one and measure it."""
        found = run_experiment(self, job, folder)
        for left in folder.glob("checkpoint*"):  # jobs that go on from this one read its models
            left.unlink()
        return found

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Judgement]:
        """The paper's sentences, judged by what the jobs measured."""
        return judge(by_arm(results), self.last, 1 / self.task.p, self.least_shift)

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        """The figures of the report, from the results."""
        return draw(by_arm(results), self.task, self.last)


STUDY = SteeringVectorsStudy
