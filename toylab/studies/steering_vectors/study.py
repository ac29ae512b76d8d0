"""Steering vectors: trained additions to the residual stream of a frozen model, compared with full training.

Source: Sinii et al. 2025, "Small Vectors, Big Effects: A Mechanistic Study of RL-Induced Reasoning via Steering
Vectors" (arXiv 2509.06608). Every branch of an answer is known here, so each claim has a ground truth. Every vector is
compared with the prefix, random vectors, a random reward, and a constant logit bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from toylab.report.bars import BarHistory
from toylab.report.page import Picture
from toylab.runs.study import Job, JobInput, without_training
from toylab.studies.steering_vectors import experiments, results
from toylab.studies.steering_vectors.bases import pretrain_base
from toylab.studies.steering_vectors.claims import claims
from toylab.studies.steering_vectors.exact import with_exact
from toylab.studies.steering_vectors.figures import draw
from toylab.studies.steering_vectors.lens_history import lens_page
from toylab.studies.steering_vectors.separability import SeparabilityResult
from toylab.studies.steering_vectors.settings import Settings
from toylab.studies.steering_vectors.transfer import FamilyResult, TransferResult
from toylab.verdicts.claim import Claim, Conditions


@dataclass(frozen=True, kw_only=True)
class SteeringVectorsStudy(Settings):
    """The study; every field is a flag of `toylab run steering-vectors`."""

    def jobs(self) -> list[Job]:
        """Bases first, then the jobs that start from them."""
        bases = [job for seed in self.seeds for job in self._base_jobs(seed)]
        return bases + [job for seed in self.seeds for job in self._jobs_on_base(seed)]

    def _base_jobs(self, seed: int) -> Iterator[Job]:
        yield _job("base", seed, results.BaseResult, pretrain_base)
        for part, variant in {"learned": "learned", "transfer": "apart", "flag": "flag"}.items():
            if part in self.parts:
                yield _job(f"base-{variant}", seed, results.BaseResult, pretrain_base, variant=variant)

    def _jobs_on_base(self, seed: int) -> Iterator[Job]:
        """Jobs that start from the base of a seed, or from vectors trained on it."""
        base, last, parts = {"base": _model("base", seed)}, self.last, self.parts
        after_last, before = (base | {"vector": _vector(f"vector-{layer}", seed)} for layer in (last, last - 1))
        layers = tuple(reversed(range(last + 1)))
        vector = partial(_job, seed=seed, result_type=results.VectorResult, function=experiments.train_vector)
        for layer in layers:
            yield vector(f"vector-{layer}", inputs=base, layer=layer, examine=layer >= last - 1)
        yield _job("full", seed, results.FullResult, experiments.train_full, base)
        yield _job("joint", seed, results.JointResult, experiments.train_joint, base)
        if "converged" in parts:
            yield _job("full-converged", seed, results.FullResult, experiments.train_full, base, rl=self.converged)
            yield _job("joint-converged", seed, results.JointResult, experiments.train_joint, base, rl=self.converged)
        yield vector("random-reward", inputs=base, layer=last, examine=True, random_reward=True)
        rewarded = after_last | {"random-reward": _vector("random-reward", seed)}
        yield _job("baselines", seed, results.BaselinesResult, experiments.compare_baselines, rewarded)
        yield _job("paths", seed, results.PathsResult, experiments.cut_paths, before)
        if "adaptive" in parts:
            yield _job("adaptive", seed, results.AdaptiveResult, experiments.train_adaptive, base)
        if "combine" in parts:
            all_vectors = base | {f"vector-{layer}": _vector(f"vector-{layer}", seed) for layer in layers}
            yield _job("combine", seed, results.CombineResult, experiments.combine_layers, all_vectors)
        if "family" in parts:
            yield _job("family", seed, FamilyResult, experiments.transfer_to_child, after_last)
        if "features" in parts:
            yield _job("features", seed, results.FeaturesResult, experiments.find_features, before)
        yield from self._jobs_on_other_bases(seed)
        if "transfer" in parts and len(self.seeds) > 1:
            donor = self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]
            donor_vectors = {layer: _vector(f"vector-{layer}", donor) for layer in (last - 1, last)}
            # Named by the donor, since added seeds may change which seed is next.
            yield _transfer(
                f"transfer-from-{donor}", seed, _model("base", donor), donor_vectors, condition="transfer-from"
            )

    def _jobs_on_other_bases(self, seed: int) -> Iterator[Job]:
        """Jobs that start from a base with another unembedding, or from the base of the flagged task."""
        last, parts = self.last, self.parts
        vector = partial(
            _job, seed=seed, result_type=results.VectorResult, function=experiments.train_vector, layer=last
        )
        if "learned" in parts:  # trained although the pre-flight check may refuse it, to test the check
            yield vector("vector-learned", inputs={"base": _model("base-learned", seed)}, refuse=False)
        if "separability" in parts:
            skill = {"skill": JobInput(Job("base", seed), "skill.safetensors")}
            cosine_job = partial(_job, seed=seed, result_type=SeparabilityResult, function=experiments.turn_openers)
            for cosine in self.cosines:
                yield cosine_job(f"cosine-{cosine:g}", inputs=skill, cosine=cosine)
        if "transfer" in parts:
            apart = _model("base-apart", seed)
            yield vector("vector-apart", inputs={"base": apart})
            yield _transfer("transfer-apart", seed, apart, {last: _vector("vector-apart", seed)})
        if "flag" in parts:
            base = {"base": _model("base-flag", seed)}
            for training in ("gate", "full", "scale", "before", "last"):
                yield _job(
                    f"flag-{training}", seed, results.FlagResult, experiments.train_flagged, base, training=training
                )

    def run_job(self, job: Job, folder: Path) -> Any:
        """Pre-train a base, or train on a base and measure the result."""
        return with_exact(self, job, folder, job.what(self, job, folder))

    def untrained(self) -> SteeringVectorsStudy:
        """The study with zero training steps, without the pre-flight check, which would refuse untrained bases, and
        without features of correct answers, of which there are none."""
        parts = tuple(part for part in self.parts if part != "features")
        return without_training(self, adaptive_steps=0, least_shift=0, parts=parts)

    def shams(self) -> dict[str, dict[str, str]]:
        """Vectors trained for as many steps on a reward that ignores the answer."""
        return {"a vector trained on a random reward": {self.vectors[-1]: "random-reward"}}

    def claims(self) -> list[Claim]:
        """The claims of the paper and our own, at these settings."""
        return claims(self)

    def pictures(self, results: Conditions, out: Path) -> list[Picture]:
        """The figures of the report, from the results."""
        return draw(results, self, out)

    def film(self, results: Conditions, out: Path) -> BarHistory | None:
        """The logit lens of the last layer's vector through its training, for the page."""
        return lens_page(self, results, out)


STUDY = SteeringVectorsStudy


def _model(base: str, seed: int) -> JobInput:
    return JobInput(Job(base, seed), "model.safetensors")


def _vector(name: str, seed: int) -> JobInput:
    return JobInput(Job(name, seed), "vector.safetensors")


def _job(
    name: str,
    seed: int,
    result_type: type,
    function: Callable[..., Any],
    inputs: Mapping[str, JobInput] | None = None,
    condition: str = "",
    **settings: Any,
) -> Job:
    """A job whose `what` is the function that runs it, with its settings."""
    function_of_job = partial(function, **settings)
    return Job(name, seed, inputs=inputs or {}, result_type=result_type, what=function_of_job, condition=condition)


def _transfer(name: str, seed: int, donor: JobInput, donor_vectors: Mapping[int, JobInput], condition: str = "") -> Job:
    """A job that adds the vectors of another model to the base of a seed, compared with the base's own vectors."""
    inputs = {"base": _model("base", seed), "donor": donor}
    inputs |= {f"own-{layer}": _vector(f"vector-{layer}", seed) for layer in donor_vectors}
    inputs |= {f"theirs-{layer}": job_input for layer, job_input in donor_vectors.items()}
    layers = tuple(donor_vectors)
    return _job(name, seed, TransferResult, experiments.transfer, inputs, condition, layers=layers)
