"""Steering vectors: what a few trained numbers do to a frozen model, beside training all of it, and by which path.

Source: Sinii et al. 2025, "Small Vectors, Big Effects: A Mechanistic Study of RL-Induced Reasoning via Steering
Vectors" (arXiv 2509.06608). Here every fork of an answer is known, so each sentence has a ground truth, and every
vector stands beside the prefix, random vectors, a random reward, and a constant logit bias.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toylab.console import ToylabError, check_seeds, check_settings
from toylab.model.steering import (
    Scaled,
    Steered,
    Vector,
    load_steering,
    pre_flight,
    rms_normed,
    save_steering,
    vectors,
)
from toylab.model.transformer import ModelConfig, Transformer, source
from toylab.probes import watch
from toylab.report.page import Picture
from toylab.runs.store import Job, by_arm, load_model, save_model, write_metrics
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.claims import FROM, judge
from toylab.studies.steering_vectors.data import (
    MODEL,
    READOUT_SEED,
    RL,
    Reward,
    Sampler,
    answers,
    by_temperature,
    freeze_readout,
    held_out,
    model_for,
    pretraining,
    readout_rows,
    right_chains,
)
from toylab.studies.steering_vectors.figures import draw
from toylab.tasks import Reasoning, Styles, stream
from toylab.training.batches import next_token_loss
from toylab.training.loop import TrainConfig, train
from toylab.training.losses import PolicyGradient
from toylab.verdicts.claim import Claim

Part = Literal["combine", "adaptive", "family", "transfer", "learned", "separability", "flag", "features"]

SKILL = TrainConfig(
    steps=1200,
    rows=32,
    learning_rate=4e-3,
    warmup=50,
    weight_decay=0.1,
    evaluate_every=25,
    stop_at=0.6,
    stop_after=1,
    cooldown=100,
)
"""Seeds find the skill after 150 to 450 steps, and then within 25: a stop rule serves all of them."""
MIXTURE = TrainConfig(
    steps=350,
    rows=32,
    learning_rate=2e-3,
    warmup=50,
    schedule="cosine",
    weight_decay=0.1,
    cooldown=0,
    evaluate_every=50,
)
APART = 503
"""Seed of the unembedding of the model that shares it with no other."""


@dataclass(frozen=True, kw_only=True)
class SteeringVectorsStudy:
    """Settings of the study; every field is a flag of `toylab run steering-vectors`."""

    task: Reasoning = Reasoning()
    styles: Styles = Styles()
    """What the second phase of pre-training mixes."""
    model: ModelConfig = MODEL
    skill: TrainConfig = SKILL
    """First phase: clean answers, most of them chains. Mixed with direct answers from the start, chains are not
    learned."""
    mixture: TrainConfig = MIXTURE
    """Second phase: the mixture of styles."""
    rl: TrainConfig = RL
    """Reinforcement learning of vectors, `rows` prompts a step."""
    samples: int = 8
    """Answers to each prompt."""
    full_rate: float = 1e-3
    """Learning rate of reinforcement learning of the whole model."""
    flag_kl: float | int = 0.5
    """Weight of KL to the base in reinforcement learning of the whole model on the flagged task: without it, some seeds
    collapse to answering directly."""
    adaptive_steps: int = 60
    """Steps for the token-wise scale, which has more to learn than a vector."""
    least_shift: float | int = 3.0
    """Nats by which a vector must be able to shift the openers' log-odds, or reinforcement learning is refused."""
    cosines: tuple[float, ...] = (0.8, 0.95)
    """Of the openers' rows, in the sweep of separability."""
    parts: tuple[Part, ...] = (
        "combine", "adaptive", "family", "transfer", "learned", "separability", "flag", "features",
    )  # fmt: skip
    """What is measured besides vectors after each layer, jointly trained ones, full training, baselines and paths."""
    seeds: tuple[int, ...] = (0, 1, 2)
    control_seeds: int = 1
    """How many of the seeds also train the bases of "learned", "separability" and "transfer" (with an unembedding of
    its own), and of "flag", and a second vector from other rollouts."""
    rows: int = 500
    """Held-out prompts in an evaluation."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_seeds(self.seeds)
        if not 0 <= self.control_seeds <= len(self.seeds):
            raise ToylabError(f"control_seeds={self.control_seeds}: must be from 0 to the number of seeds")
        if self.rows < 64:
            raise ToylabError(f"rows={self.rows}: must be at least 64, or shares say little")
        if self.samples < 2:
            raise ToylabError(f"samples={self.samples}: the leave-one-out baseline needs at least 2, for example 8")
        if self.adaptive_steps < 1:
            raise ToylabError(f"adaptive_steps={self.adaptive_steps}: must be at least 1")
        if not self.flag_kl >= 0:
            raise ToylabError(f"flag_kl={self.flag_kl}: must be at least 0; 0 leaves the term out")
        if not self.full_rate > 0:
            raise ToylabError(f"full_rate={self.full_rate}: must be a positive number, for example 1e-3")
        if not all(0 <= cosine <= 1 for cosine in self.cosines):
            raise ToylabError(f"cosines={self.cosines}: must be from 0 (orthogonal openers) to 1 (the same)")
        if self.model.norm != "pre" or not self.model.causal or self.model.layers < 2:
            raise ToylabError("model: the study asks about a causal pre-norm model of 2 layers or more")
        if self.model.unembedding == "none":
            raise ToylabError("model.unembedding=none: a language model needs one")
        if self.task.flag:
            raise ToylabError(
                "task.flag: the flagged task is a part of the study; leave the flag out, and add --parts flag"
            )

    @classmethod
    def quick(cls) -> SteeringVectorsStudy:
        """Under a minute, for tests and notebooks: one seed, the main arms, few prompts."""
        return cls(
            mixture=replace(MIXTURE, steps=250),
            rl=replace(RL, steps=25),
            parts=("combine",),
            seeds=(0,),
            control_seeds=0,
            rows=128,
        )

    @classmethod
    def default(cls) -> SteeringVectorsStudy:
        """Minutes on two cores: three seeds."""
        return cls()

    @classmethod
    def paper(cls) -> SteeringVectorsStudy:
        """Ten seeds, every control on five of them, longer training. (The paper's models have 7 billion parameters.)"""
        return cls(
            rl=replace(RL, steps=140),
            adaptive_steps=240,
            cosines=(0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99),
            seeds=tuple(range(10)),
            control_seeds=5,
            rows=4000,
        )

    # Jobs ------------------------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The last layer."""
        return self.model.layers - 1

    def jobs(self) -> list[Job]:
        """Bases first, then what goes on from them."""
        return [job for seed in self.seeds for job in self._bases(seed)] + [
            job for seed in self.seeds for job in self._arms(seed)
        ]

    def _controls(self) -> tuple[int, ...]:
        return self.seeds[: self.control_seeds]

    def _bases(self, seed: int) -> list[Job]:
        names = ["base"]
        if seed in self._controls():
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
        if seed in self._controls():
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
        found = self._measured(job, folder)
        for left in folder.glob("checkpoint*"):  # jobs that go on from this one read its models
            left.unlink()
        return found

    def _measured(self, job: Job, folder: Path) -> dict[str, Any]:
        at = folder.parent
        kind, _, which = job.name.partition("-")
        if kind == "base":
            return self._base(which, job.seed, folder)
        if kind == "vector" and which in ("learned", "apart"):
            return self._vector(at / job.name.replace("vector", "base"), self.last, job.seed, folder)
        if kind == "cosine":
            return self._separability(float(which), at, job.seed, folder)
        if kind == "flag":
            return self._flag(which, at, job.seed, folder)
        if kind == "vector":
            return self._vector(at / "base", int(which), job.seed, folder)
        if job.name.startswith(FROM):
            return self._transfer(at, at.parent / f"seed-{job.name.removeprefix(FROM)}", job.seed)
        if job.name == "transfer-apart":
            return self._transfer(at, at, job.seed, "vector-apart", "base-apart")
        return {
            "full": self._full,
            "joint": self._joint,
            "adaptive": self._adaptive,
            "baselines": self._baselines,
            "paths": self._paths,
            "combine": self._combine,
            "family": self._family,
            "features": self._features,
        }[job.name](at, job.seed, folder)

    # Bases -----------------------------------------------------------------------------------------------------------

    def _base(self, which: str, seed: int, folder: Path) -> dict[str, Any]:
        task = replace(self.task, flag=True) if which == "flag" else self.task
        config, phase = self.model, self.skill
        if which == "learned":  # which takes longer, and does not get there under strong decay
            config = replace(config, unembedding="learned")
            phase = replace(phase, weight_decay=phase.weight_decay / 10)
        model = model_for(task, config, seed, readout=APART if which == "apart" else READOUT_SEED)
        flagged = 0.5 if which == "flag" else None
        purpose = f"{which} " if which else ""
        skill = train(
            model,
            next_token_loss,
            pretraining(task, seed, phase.rows, Styles.clean(0.9, flagged), f"{purpose}skill"),
            phase,
            evaluate=right_chains(task, seed),
            checkpoint=folder / "checkpoint-skill.safetensors",
        )
        write_metrics(folder / "metrics-skill.jsonl", skill)
        if not which:
            save_model(folder / "skill.safetensors", model)
        prompts = self._prompts(seed, task)
        chain = answers(model, task, self._few(prompts), 0, seed, opener="THINK")
        styles = replace(self.styles, think=0.5) if which == "flag" else self.styles
        self._mix(model, task, seed, folder, styles, f"{purpose}mixture")
        found: dict[str, Any] = {"chain": round(chain.right, 4), **self._of_base(model, task, prompts, seed)}
        if which == "flag":
            for opener in ("THINK", "DIRECT"):
                found[f"prefix {opener}"] = by_temperature(model, task, prompts, (0, 1), seed, opener)
        return found

    def _mix(self, model: Transformer, task: Reasoning, seed: int, folder: Path, styles: Styles, purpose: str) -> None:
        training = train(
            model,
            next_token_loss,
            pretraining(task, seed, self.mixture.rows, styles, purpose),
            self.mixture,
            checkpoint=folder / "checkpoint.safetensors",
        )
        write_metrics(folder / "metrics.jsonl", training)
        save_model(folder / "model.safetensors", model)

    def _of_base(self, model: Transformer, task: Reasoning, prompts: Tensor, seed: int) -> dict[str, Any]:
        return {
            "answers": by_temperature(model, task, prompts, seed=seed),
            "prefix": by_temperature(model, task, prompts, seed=seed, opener="THINK"),
            "direct": by_temperature(model, task, self._few(prompts), (1,), seed, "DIRECT"),
            "pre-flight": asdict(pre_flight(model, prompts, task.token("THINK"), task.token("DIRECT"))),
        }

    def _prompts(self, seed: int, task: Reasoning | None = None) -> Tensor:
        return held_out(task or self.task, seed, self.rows)

    def _few(self, prompts: Tensor) -> Tensor:
        """Enough for what is compared on the same prompts or averaged."""
        return prompts[: max(64, len(prompts) // 2)]

    # Reinforcement learning ------------------------------------------------------------------------------------------

    def _reinforce(
        self,
        model: nn.Module,
        base: Transformer,
        seed: int,
        folder: Path,
        config: TrainConfig | None = None,
        task: Reasoning | None = None,
        reward: Reward | None = None,
        name: str = "",
        purpose: str = "rollouts",
        kl: float | int = 0.0,
    ) -> None:
        """Train in place; the steps are in `metrics{name}.jsonl`."""
        config = config or self.rl
        sampler = Sampler(
            model, task or self.task, seed, config.rows, self.samples, reward=reward, reference=base, purpose=purpose
        )
        training = train(
            model,
            PolicyGradient(kl=kl, reference=base if kl else None),
            sampler,
            config,
            evaluate=sampler.summary,
            checkpoint=folder / f"checkpoint{name}.safetensors",
        )
        write_metrics(folder / f"metrics{name}.jsonl", training)

    def _vector(self, base_folder: Path, layer: int, seed: int, folder: Path) -> dict[str, Any]:
        base, prompts = _load(base_folder), self._prompts(seed)
        if base_folder.name != "base-learned":  # the lesson of what happens all the same
            pre_flight(base, prompts, self.task.token("THINK"), self.task.token("DIRECT")).check(self.least_shift)
        steered = Steered(base, {layer: Vector(base.config.width)})
        self._reinforce(steered, base, seed, folder)
        save_steering(folder / "vector.safetensors", steered)
        vector = measures.vector_of(steered)
        kl = measures.kl_by_position(steered, self.task, prompts, seed)
        after_last = measures.changes(steered, self.task, prompts[:500], seed)[self.last].mean(dim=0)
        found = {
            "answers": by_temperature(steered, self.task, prompts, seed=seed),
            "norm": vector.norm().item(),
            "kl": kl,
            "lens": measures.says(vector, base, self.task),
            "difference lens": measures.says(after_last, base, self.task),
        }
        if base_folder.name == "base" and layer >= self.last - 1:
            few = self._few(prompts)
            found["places"] = measures.by_place(steered, self.task, few, seed)
            found["few"] = {
                "base": measures.right(base, self.task, few, seed=seed),
                "steered": measures.right(steered, self.task, few, seed=seed),
            }
        if base_folder.name == "base" and layer == self.last:
            found["clean scale"] = measures.right(measures.with_clean_scale(steered), self.task, prompts, seed=seed)
            found["scaled"] = {
                f"{scale:g}": measures.right(vectors(base, {layer: scale * vector}), self.task, few, seed=seed)
                for scale in (0.5, 0.75, 1.25, 1.5, 2)
            }
        return found

    def _full(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base = _load(at / "base")
        model = freeze_readout(deepcopy(base))
        self._reinforce(model, base, seed, folder, replace(self.rl, learning_rate=self.full_rate, clip=1.0))
        save_model(folder / "model.safetensors", model)
        return {"answers": by_temperature(model, self.task, self._prompts(seed), seed=seed)}

    def _joint(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base = _load(at / "base")
        steered = vectors(base)
        self._reinforce(steered, base, seed, folder)
        save_steering(folder / "vectors.safetensors", steered)
        return {
            "answers": by_temperature(steered, self.task, self._prompts(seed), seed=seed),
            "norms": [held.vector.norm().item() for held in steered.additions.values()],
        }

    def _adaptive(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base, prompts = _load(at / "base"), self._prompts(seed)
        layer, width = self.last - 1, base.config.width
        steered = Steered(base, {layer: Scaled(width, generator=source(seed, "adaptive"))})
        config = replace(self.rl, steps=self.adaptive_steps, learning_rate=self.rl.learning_rate / 2)
        self._reinforce(steered, base, seed, folder, config)
        save_steering(folder / "scaled.safetensors", steered)
        constant = Steered(base, {layer: Vector(width)})
        self._reinforce(
            constant, base, seed, folder, replace(config, learning_rate=self.rl.learning_rate), name="-constant"
        )
        sep = self.task.prompt - 1
        rest = tuple(p for p in range(self.task.context) if p != sep)
        return {
            "answers": by_temperature(steered, self.task, prompts, seed=seed),
            "constant, as long": by_temperature(constant, self.task, prompts, seed=seed),
            "scales": measures.scales(steered, self.task, prompts, seed),
            "SEP alone": measures.right(steered.only((sep,)), self.task, self._few(prompts), seed=seed),
            "all but SEP": measures.right(steered.only(rest), self.task, self._few(prompts), seed=seed),
        }

    # Measured on trained vectors -------------------------------------------------------------------------------------

    def _baselines(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base, prompts, task = _load(at / "base"), self._few(self._prompts(seed)), self.task
        steered = load_steering(at / f"vector-{self.last}" / "vector.safetensors", base)
        vector = measures.vector_of(steered)
        norm = vector.norm().item()
        rate = answers(base, task, prompts, 1, seed).right

        def luck(asked: Any, said: Any, step: int) -> Any:
            return stream(seed, "random reward", step).random(len(said)) < rate

        blind = Steered(base, {self.last: Vector(base.config.width)})
        self._reinforce(blind, base, seed, folder, reward=luck, name="-luck")
        means = measures.difference_of_means(base, task, prompts, self.last, norm)
        bias = measures.Edited(base, measures.logit_bias(steered, task, prompts))

        def compare(model: nn.Module) -> dict[str, float]:
            return measures.right_by_temperature(model, task, prompts, seed)

        found = {
            "base": measures.right(base, task, prompts, seed=seed),
            "steered": measures.right(steered, task, prompts, seed=seed),
            "random vectors": measures.random_vectors(base, task, prompts, self.last, norm, seed=seed),
            "random reward": compare(blind)
            | {"cosine": _cosine(measures.vector_of(blind), vector), "norm": measures.vector_of(blind).norm().item()},
            "minus": compare(vectors(base, {self.last: -vector})),
            "difference of means": compare(vectors(base, {self.last: means})) | {"cosine": _cosine(means, vector)},
            "logit bias": compare(bias),
        }
        if seed in self._controls():
            again = Steered(base, {self.last: Vector(base.config.width)})
            self._reinforce(again, base, seed, folder, name="-again", purpose="other rollouts")
            found["another run"] = compare(again) | {"cosine": _cosine(measures.vector_of(again), vector)}
        return found

    def _paths(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base, prompts = _load(at / "base"), self._prompts(seed)
        before = self.last - 1
        steered = load_steering(at / f"vector-{before}" / "vector.safetensors", base)
        forced = measures.ForcedRoute(base, {before: Vector(base.config.width)})
        # For a longer way: these vectors end four times as long as others.
        longer = replace(self.rl, steps=5 * self.rl.steps // 2, learning_rate=3 * self.rl.learning_rate)
        self._reinforce(forced, base, seed, folder, longer, name="-forced")
        few = self._few(prompts)
        return {
            "routes": measures.by_route(steered, self.task, few, seed),
            "base": measures.right(base, self.task, few, seed=seed),
            "steered": measures.right(steered, self.task, few, seed=seed),
            "forced": measures.right_by_temperature(forced, self.task, prompts, seed),
            "forced norm": measures.vector_of(forced).norm().item(),
        }

    def _combine(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base, prompts, layers = _load(at / "base"), self._prompts(seed), range(self.last + 1)
        alone = {layer: load_steering(at / f"vector-{layer}" / "vector.safetensors", base) for layer in layers}
        trained = {layer: measures.vector_of(steered) for layer, steered in alone.items()}
        pairs = [(i, j) for i in layers for j in range(i + 1, self.last + 1)]
        few = self._few(prompts)
        every = (*pairs, tuple(layers))
        return {
            "alone": {str(layer): measures.right(one, self.task, few, seed=seed) for layer, one in alone.items()},
            "combined": {
                "+".join(map(str, chosen)): {
                    f"{scale:g}": measures.combined(base, self.task, few, trained, chosen, scale, seed)
                    for scale in sorted({1.0, 0.5, 1 / len(chosen)}, reverse=True)
                }
                for chosen in every
            },
            "persistence": {
                str(layer): measures.persistence(one, self.task, prompts[:300], trained, seed)
                for layer, one in alone.items()
                if layer < self.last
            },
            "cosines": {f"{i}, {j}": _cosine(trained[i], trained[j]) for i, j in pairs},
        }

    def _features(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        base = _load(at / "base")
        steered = load_steering(at / f"vector-{self.last - 1}" / "vector.safetensors", base)
        return measures.features(steered, self.task, self._prompts(seed), seed)

    # Elsewhere -------------------------------------------------------------------------------------------------------

    def _family(self, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        """A child of the base, trained further on another mixture: does the parent's vector work in it?"""
        parent, prompts, task = _load(at / "base"), self._few(self._prompts(seed)), self.task
        child = freeze_readout(deepcopy(parent))
        styles = replace(self.styles, think=0.25, dialect=0.6, early=0.1)
        further = replace(self.mixture, steps=self.mixture.steps // 2, learning_rate=self.mixture.learning_rate / 2)
        train(child, next_token_loss, pretraining(task, seed, further.rows, styles, "child"), further)
        own = Steered(child, {self.last: Vector(child.config.width)})
        self._reinforce(own, child, seed, folder)
        theirs = measures.vector_of(load_steering(at / f"vector-{self.last}" / "vector.safetensors", parent))
        mine = measures.vector_of(own)
        return {
            "base": measures.right(child, task, prompts, seed=seed),
            "own": measures.right(own, task, prompts, seed=seed),
            "of the parent": measures.right(vectors(child, {self.last: theirs}), task, prompts, seed=seed),
            "parent with that of the child": measures.right(
                vectors(parent, {self.last: mine}), task, prompts, seed=seed
            ),
            "parent": measures.right(parent, task, prompts, seed=seed),
            "parent, own": measures.right(vectors(parent, {self.last: theirs}), task, prompts, seed=seed),
            "cosine": _cosine(mine, theirs),
            "weight change": _distance(parent, child),
        }

    def _transfer(
        self, at: Path, donor_at: Path, seed: int, donor_vector: str = "", donor_base: str = "base"
    ) -> dict[str, Any]:
        """The vectors of another model in this one, as they are and mapped through the unembeddings."""
        base, donor, prompts = _load(at / "base"), _load(donor_at / donor_base), self._few(self._prompts(seed))
        found: dict[str, Any] = {"base": measures.right(base, self.task, prompts, seed=seed)}
        for layer in (self.last,) if donor_vector else (self.last - 1, self.last):
            own = load_steering(at / f"vector-{layer}" / "vector.safetensors", base)
            theirs = measures.vector_of(
                load_steering(donor_at / (donor_vector or f"vector-{layer}") / "vector.safetensors", donor)
            )
            carried = {"raw": theirs, "mapped": measures.mapped(theirs, donor, base)}
            found[str(layer)] = {
                "own": measures.right(own, self.task, prompts, seed=seed),
                "cosine": _cosine(theirs, measures.vector_of(own)),
            } | {
                name: measures.right(vectors(base, {layer: v}), self.task, prompts, seed=seed)
                for name, v in carried.items()
            }
        return found

    def _separability(self, cosine: float, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        """The same skill, read out with openers whose rows have a given cosine; then a vector, whatever the pre-flight
        check says."""
        model = _load(at / "base", "skill.safetensors")
        length = model.unembedding.weight.norm(dim=1).mean()
        model.unembedding.weight.data = length * readout_rows(self.task, model.config.width, cosine=cosine)
        self._mix(model, self.task, seed, folder, self.styles, "mixture")
        prompts = self._few(self._prompts(seed))
        steered = Steered(model, {self.last: Vector(model.config.width)})
        self._reinforce(steered, model, seed, folder, name="-vector")
        return {
            "answers": by_temperature(model, self.task, prompts, seed=seed),
            "pre-flight": asdict(pre_flight(model, prompts, self.task.token("THINK"), self.task.token("DIRECT"))),
            "vector": by_temperature(steered, self.task, prompts, seed=seed),
            "norm": measures.vector_of(steered).norm().item(),
        }

    def _flag(self, which: str, at: Path, seed: int, folder: Path) -> dict[str, Any]:
        """The task whose right opener depends on the prompt, under one kind of training."""
        task = replace(self.task, flag=True)
        base, prompts = _load(at / "base-flag"), self._prompts(seed, task)
        width, before = base.config.width, self.last - 1
        # The pace of a token-wise scale is that of a product of two trained factors.
        long = replace(self.rl, steps=5 * self.rl.steps // 2, learning_rate=self.rl.learning_rate / 2)
        if which == "full":
            model: nn.Module = freeze_readout(deepcopy(base))
            config = replace(self.rl, steps=2 * self.rl.steps, learning_rate=self.full_rate, clip=1.0)
        elif which in ("gate", "scale"):
            point = f"blocks.{before}.resid_post"
            with torch.no_grad(), watch(base, point) as seen:
                base(held_out(task, seed, 1000, "train"))
            centre = rms_normed(seen[point][:, -1]).mean(dim=0)
            held = (
                Scaled(width, "tanh", centre, source(seed, "gate"))
                if which == "gate"
                else Scaled(width, generator=source(seed, "gate"))
            )
            model, config = Steered(base, {before: held}), long
        else:
            model = Steered(base, {before if which == "before" else self.last: Vector(width)})
            config = self.rl
        self._reinforce(model, base, seed, folder, config, task, kl=self.flag_kl if which == "full" else 0.0)
        found = {"answers": by_temperature(model, task, prompts, seed=seed)}
        if which == "before":
            found["routes"] = measures.by_route(model, task, self._few(prompts), seed)
            found["steered"] = measures.right(model, task, self._few(prompts), seed=seed)
        return found

    # Verdicts --------------------------------------------------------------------------------------------------------

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Claim]:
        """The paper's sentences, judged by what the jobs measured."""
        return judge(by_arm(results), self.last, 1 / self.task.p, self.least_shift)

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        """The figures of the report, from the results."""
        return draw(by_arm(results), self.task, self.last)


STUDY = SteeringVectorsStudy


def _load(folder: Path, name: str = "model.safetensors") -> Transformer:
    return freeze_readout(load_model(folder / name))


def _cosine(one: Tensor, other: Tensor) -> float:
    return round(torch.cosine_similarity(one, other, dim=0).item(), 4)


def _distance(one: nn.Module, other: nn.Module) -> float:
    """Length of the change of all weights over the length of all weights."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    change = sum((b - a).square().sum().item() for a, b in pairs)
    return round((change / sum(a.square().sum().item() for a, _ in pairs)) ** 0.5, 4)
