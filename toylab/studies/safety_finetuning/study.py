"""Safety fine-tuning: how learning to refuse changes a model's MLP weights, and which attacks undo it.

Source: Jain et al. 2024, "What Makes and Breaks Safety Fine-tuning? A Mechanistic Study" (arXiv 2407.10264). Every
measurement of weights and activations has two baselines that the paper lacks: chance, and a control that was fine-tuned
on safe prompts alone for as many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from toylab.console import ToylabError
from toylab.model.checkpoint import load_model
from toylab.model.config import ModelConfig
from toylab.model.controls import with_random_change
from toylab.model.lora import add_lora, merge_lora
from toylab.model.transformer import Transformer
from toylab.report.bars import BarHistory
from toylab.report.page import Picture
from toylab.runs.store import train_and_keep
from toylab.runs.study import Job, JobInput
from toylab.settings import check_range, check_settings
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning.claims import claims
from toylab.studies.safety_finetuning.claims_weights import CONSTANT_ANSWER
from toylab.studies.safety_finetuning.conditions import METHODS, Base, Condition, Method
from toylab.studies.safety_finetuning.data import (
    MODEL,
    concept_batches,
    concept_model,
    fine_tuning_batches,
    language_loss,
    written_outcomes,
)
from toylab.studies.safety_finetuning.exact import measure_all_prompts
from toylab.studies.safety_finetuning.figures import draw, nearness_page
from toylab.studies.safety_finetuning.nearness_history import RECORDED, nearness_history
from toylab.studies.safety_finetuning.patching import move_to_unsafe
from toylab.studies.safety_finetuning.results import (
    Behaviour,
    GradientCosine,
    Parts,
    SafetyResult,
    Sensitivity,
    SoftAttack,
    as_field,
)
from toylab.studies.safety_finetuning.results_change import PartSeparations
from toylab.tasks import Batch, TaskConcept, held_out
from toylab.training.loop import TrainConfig, Training, train
from toylab.training.losses import DPO, NPO, ConstantAnswerLoss, RefusalLoss, Unlearning
from toylab.verdicts.claim import Claim, Conditions

Part = Literal["standard", "small-rate", "decay", "fresh", "more", "regime"]

PRETRAIN = TrainConfig(
    steps=600,
    rows=64,
    learning_rate=5e-3,
    warmup=60,
    schedule="cosine",
    weight_decay=1e-4,
    betas=(0.9, 0.95),
    cooldown=0,
)
FINETUNE = replace(PRETRAIN, steps=250, learning_rate=1e-3, warmup=25, evaluate_every=25)


@dataclass(frozen=True, kw_only=True)
class SafetyFinetuningStudy:
    """Settings of the study; every field is a flag of `toylab run safety-finetuning`."""

    task: TaskConcept = TaskConcept()
    model: ModelConfig = MODEL
    pretrain: TrainConfig = PRETRAIN
    finetune: TrainConfig = FINETUNE
    """Fine-tuning at the medium learning rate: a fifth of the rate of pre-training (in the paper, a tenth)."""
    small_rate: float = 2e-4
    """Peak learning rate of the conditions that end in "small"."""
    unsafe_share: float | int = 0.5
    """Share of unsafe batches in fine-tuning, for losses with both answers; .2 under SSFT."""
    unlearning: Unlearning = Unlearning()
    dpo_beta: float | int = 0.1
    """Beta of standard DPO, on summed log-probabilities."""
    dpo_anchor: float | int = 1.0
    """Weight of the cross entropy of the chosen answer in standard DPO; without it the likelihood of both answers
    falls."""
    decay: float | int = 0.5
    """Weight decay of the second base, which leaves some input directions with far less gain than others."""
    parts: tuple[Part, ...] = ("standard", "small-rate", "decay", "fresh")
    """Conditions trained besides SSFT, DPO as published, unlearning and the controls: standard DPO; SSFT at the small
    rate; control and SSFT from the second base; SSFT on a task drawn with each seed; NPO, and DPO and unlearning at the
    small rate; a map of settings for the null-space claim."""
    attack_steps: int = 20
    """Steps of the soft-token attack."""
    relearning_steps: int = 60
    """Steps of further training on safe prompts only, after which refusals are measured again."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    rows: int = 192
    """Held-out prompts of each kind in an evaluation."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range("fewer prompts give imprecise shares", rows=self.rows, least=32)
        check_range("fine-tuning needs safe and unsafe prompts", unsafe_share=self.unsafe_share, above=0, below=1)
        check_range(attack_steps=self.attack_steps, relearning_steps=self.relearning_steps, least=1)
        check_range("for example 2e-4", small_rate=self.small_rate, above=0)
        check_range("for example 0.1", dpo_beta=self.dpo_beta, above=0)
        check_range(dpo_anchor=self.dpo_anchor, decay=self.decay, least=0)
        if not self.task.soft_slots:
            raise ToylabError("task.soft_slots=0: the soft-token attack needs PAD tokens; give at least 1")
        if not self.task.duplicates:
            raise ToylabError("task.duplicates=0: one jailbreak uses duplicate operator names; give at least 1")
        check_range("texts of both concepts need several nodes", **{"task.nodes": self.task.nodes}, least=2)
        if self.model.hidden == 0 or self.model.norm != "pre" or not self.model.causal:
            raise ToylabError(
                "model: the study measures the MLPs of a causal pre-norm model; set hidden, norm and causal"
            )
        if self.model.unembedding == "none":
            raise ToylabError("model.unembedding=none: a language model needs one")

    @classmethod
    def quick(cls) -> SafetyFinetuningStudy:
        """Runs in under a minute, for tests and notebooks: one seed, fewer steps, one base."""
        return cls(
            pretrain=replace(PRETRAIN, steps=500, warmup=50),
            finetune=replace(FINETUNE, steps=120, rows=32, warmup=12),
            parts=(),
            attack_steps=8,
            relearning_steps=20,
            seeds=(0,),
            rows=64,
        )

    @classmethod
    def default(cls) -> SafetyFinetuningStudy:
        """Runs in minutes on two cores: six seeds, the minimum for a verdict."""
        return cls()

    @classmethod
    def paper(cls) -> SafetyFinetuningStudy:
        """All parts, including the map of the null-space claim: about an hour on two cores. The paper's scale (6
        layers, 100 000 steps of 512 rows) is infeasible on a laptop."""
        return cls(parts=get_args(Part))

    # Jobs ------------------------------------------------------------------------------------------------------------

    def bases(self) -> dict[str, Base]:
        """All pre-trained models by name."""
        bases = {"base": Base(self.model, self.pretrain, main=True)}
        decayed = replace(self.pretrain, weight_decay=self.decay)
        if "decay" in self.parts or "regime" in self.parts:
            bases["base-decay"] = Base(self.model, decayed)
        if "fresh" in self.parts:
            bases["base-fresh"] = Base(self.model, self.pretrain, fresh=True)
        if "regime" in self.parts:
            hidden = 4 * self.model.width if self.model.hidden is None else self.model.hidden
            bases |= {
                "base-strong-decay": Base(self.model, replace(self.pretrain, weight_decay=2 * self.decay)),
                "base-wide": Base(replace(self.model, hidden=2 * hidden), self.pretrain),
                "base-deep": Base(replace(self.model, layers=self.model.layers + 1), self.pretrain),
                "base-long": Base(
                    self.model, replace(self.pretrain, steps=2 * self.pretrain.steps, warmup=2 * self.pretrain.warmup)
                ),
            }
        return bases

    def conditions(self) -> dict[str, Condition]:
        """All fine-tuned models by name."""
        main = Condition("base", "control", self.finetune, main=True)
        omitted = {m for m, part in (("dpo-standard", "standard"), ("npo", "more")) if part not in self.parts}
        conditions = {m: replace(main, method=m) for m in METHODS if m not in omitted}
        small = replace(self.finetune, learning_rate=self.small_rate)
        if "small-rate" in self.parts:
            conditions["ssft-small"] = Condition("base", "ssft", small)
        if "more" in self.parts:
            conditions |= {f"{m}-small": Condition("base", m, small) for m in ("dpo", "unlearning")}
        if "fresh" in self.parts:
            conditions["ssft-fresh"] = Condition("base-fresh", "ssft", self.finetune, fresh=True)
        three_methods: tuple[Method, ...] = ("control", "ssft", "unlearning")
        if "decay" in self.parts:
            conditions |= {f"{m}-decay": Condition("base-decay", m, self.finetune) for m in three_methods[:2]}
        if "regime" in self.parts:
            for change in ("decay", "strong-decay", "wide", "deep", "long"):
                conditions |= {f"{m}-{change}": Condition(f"base-{change}", m, self.finetune) for m in three_methods}
            long_training = replace(self.finetune, steps=4 * self.finetune.steps)
            conditions |= {f"{m}-four-times": Condition("base", m, long_training) for m in three_methods}
            conditions |= {f"{m}-rank-1": Condition("base", m, self.finetune, rank=1) for m in three_methods}
            conditions |= {
                f"{m}-smallest": Condition("base", m, replace(small, learning_rate=self.small_rate / 4))
                for m in three_methods
            }
        return conditions

    def jobs(self) -> list[Job]:
        """Bases first, then their fine-tuned models, the slowest first."""
        bases = {
            (name, seed): Job(name, seed, result_type=SafetyResult, what=base)
            for seed in self.seeds
            for name, base in self.bases().items()
        }
        by_cost = sorted(self.conditions().items(), key=lambda i: (-i[1].train.steps, -METHODS.index(i[1].method)))
        return [*bases.values()] + [
            Job(
                name,
                seed,
                result_type=SafetyResult,
                what=condition,
                inputs={"base": JobInput(bases[condition.base, seed])},
            )
            for name, condition in by_cost
            for seed in self.seeds
        ]

    def run_job(self, job: Job, folder: Path) -> SafetyResult:
        """Pre-train a base, or fine-tune one and measure the effects."""
        if job.what.fresh:
            fresh = replace(job, what=replace(job.what, fresh=False))
            return replace(self, task=self.task.instance(job.seed)).run_job(fresh, folder)
        sets = safety.held_out_sets(self.task, job.seed, self.rows)
        if isinstance(job.what, Base):
            model = self.train_base(job.what, job.seed, folder)
            result = SafetyResult(
                behaviour=safety.measure_behaviour(model, self.task, sets),
                exact=measure_all_prompts(job.name, model, model, self.task, sets, job.seed),
            )
            if not job.what.main:
                return result
            initial = concept_model(self.task, job.what.model, job.seed)
            return replace(self._with_activations(result, model, sets), pretraining=safety.sizes(initial, model))
        condition, base = job.what, load_model(job.path("base", folder))
        record = nearness_history(folder, self.task, sets).add if job.name in RECORDED else None
        tuned = self.fine_tune(condition, base, job.seed, folder, record)
        result = SafetyResult(
            behaviour=safety.measure_behaviour(tuned, self.task, sets),
            weights=safety.weight_change(base, tuned, self.task, sets),
            random=safety.weight_change(base, with_random_change(base, tuned, job.seed), self.task, sets),
            exact=measure_all_prompts(job.name, base, tuned, self.task, sets, job.seed),
        )
        if not condition.main:
            return result
        result = replace(
            self._with_activations(result, tuned, sets),
            nearness=safety.jailbreak_nearness(tuned, self.task, sets),
            nearness_before=safety.jailbreak_nearness(base, self.task, sets, writer=tuned),
            released_sine=safety.released_sine(base, tuned, job.seed),
        )
        if condition.method in ("control", "constant"):
            return result
        result = self._with_attacks(result, base, tuned, job.seed, sets)
        if condition.method != "unlearning":
            losses = replace(self.unlearning, cap=1e9), self._loss(condition.method, base)
            unsafe_prompts = held_out(self.task, job.seed, 128, "validation", kind="unsafe")
            before, after = (
                safety.gradient_cosine(model, *losses, self.task, unsafe_prompts) for model in (base, tuned)
            )
            result = replace(result, cosine=GradientCosine(before=before, after=after))
        return result

    def train_base(self, base: Base, seed: int, folder: Path) -> Transformer:
        """A base, loaded from the folder or pre-trained and saved there."""

        def learn(checkpoint: Path) -> tuple[Transformer, Training]:
            model = concept_model(self.task, base.model, seed)
            validation = held_out(self.task, seed, 64, "validation", kind="pretraining")
            return model, train(
                model,
                language_loss,
                concept_batches(self.task, seed, base.train.rows, base.train.steps),
                base.train,
                evaluate=lambda m: {"accuracy": written_outcomes(m, self.task, validation).complies},
                checkpoint=checkpoint,
            )

        return train_and_keep(folder, learn)[0]

    def fine_tune(
        self,
        condition: Condition,
        base: Transformer,
        seed: int,
        folder: Path,
        record: Callable[[nn.Module, int], None] | None = None,
    ) -> Transformer:
        """A fine-tuned base, loaded from the folder or trained by the method of the condition and saved there."""

        def learn(checkpoint: Path) -> tuple[Transformer, Training]:
            model = deepcopy(base) if condition.rank is None else add_lora(deepcopy(base), condition.rank, seed)
            unsafe = {"control": 0.0, "constant": 0.2, "ssft": 0.2}.get(condition.method, self.unsafe_share)
            batches = fine_tuning_batches(self.task, seed, condition.train.rows, unsafe)
            loss = self._loss(condition.method, base)
            training = train(model, loss, batches, condition.train, checkpoint=checkpoint, record=record)
            return model if condition.rank is None else merge_lora(model), training

        return train_and_keep(folder, learn)[0]

    def _loss(self, method: str, base: Transformer) -> Callable[[nn.Module, Any], torch.Tensor]:
        return {
            "control": RefusalLoss,
            "constant": ConstantAnswerLoss,
            "ssft": RefusalLoss,
            "unlearning": lambda: self.unlearning,
            "dpo": lambda: DPO.as_published(base),
            "dpo-standard": lambda: DPO(base, self.dpo_beta, anchor=self.dpo_anchor),
            "npo": lambda: NPO(base),
        }[method]()

    def _with_activations(self, result: SafetyResult, model: Transformer, sets: safety.Sets) -> SafetyResult:
        """The result with measurements of activations."""
        lipschitz = {
            name: safety.measure_sensitivity(model, self.task, sets[name].rows(0, 96)) for name in ("safe", "unsafe")
        }
        return replace(
            result, clusters=safety.layer_clusters(model, self.task, sets), sensitivity=Sensitivity(**lipschitz)
        )

    def _with_attacks(
        self, result: SafetyResult, base: Transformer, tuned: Transformer, seed: int, sets: safety.Sets
    ) -> SafetyResult:
        """The result with attacks on the fine-tuning: weight interpolation, parts of the change, soft tokens, and
        further training."""
        subsets = {name: batch.rows(0, 96) for name, batch in sets.items()}

        def behaviour(model: nn.Module, *jailbreaks: str) -> Behaviour:
            return safety.measure_behaviour(
                model, self.task, {name: subsets[name] for name in ("safe", "unsafe", *jailbreaks)}
            )

        def attacked(batch: Batch) -> dict[float, float]:
            return {b: safety.soft_attack(tuned, self.task, batch, b, self.attack_steps).complies for b in BUDGETS}

        mixed_prompts, unsafe = (subsets[name].rows(0, 32) for name in ("M, unsafe text", "unsafe"))
        random_extrapolation = with_random_change(tuned, safety.interpolate_weights(base, tuned, 1.25), seed)
        parts = {as_field(name): part for name, part in safety.transplant_parts(base, tuned).items()}

        return replace(
            result,
            alpha={
                alpha: behaviour(safety.interpolate_weights(base, tuned, alpha), "mismatched-text", "competing-text")
                for alpha in ALPHAS
            },
            alpha_random=behaviour(random_extrapolation, "mismatched-text", "competing-text"),
            parts=Parts(**{name: behaviour(part) for name, part in parts.items()}),
            part_separations=PartSeparations(
                **{
                    field.name: safety.layer_clusters(parts[field.name], self.task, sets)[-1].separation
                    for field in fields(PartSeparations)
                }
            ),
            soft=SoftAttack(
                m_unsafe_text=attacked(mixed_prompts),
                unsafe=attacked(unsafe),
                m_other_answers=attacked(safety.with_other_answers(mixed_prompts)),
            ),
            relearned=behaviour(self._relearn(tuned, seed), "mismatched-text"),
            moved=move_to_unsafe(tuned, self.task, sets, seed),
        )

    def _relearn(self, tuned: Transformer, seed: int) -> Transformer:
        """The model after further training on safe prompts only."""
        model = deepcopy(tuned)
        config = replace(self.finetune, steps=self.relearning_steps, warmup=self.relearning_steps // 10)
        train(model, RefusalLoss(), fine_tuning_batches(self.task, seed, config.rows, 0.0, "relearning"), config)
        return model

    def shams(self) -> dict[str, dict[str, str]]:
        """Models fine-tuned for as many steps without refusals."""
        without = {"models fine-tuned on safe prompts alone": "control", CONSTANT_ANSWER: "constant"}
        return {what: dict.fromkeys(("ssft", "dpo", "unlearning"), name) for what, name in without.items()}

    def claims(self) -> list[Claim]:
        """The claims of the paper and our own, at these settings."""
        return claims(self.task, self.parts)

    def pictures(self, results: Conditions, out: Path) -> list[Picture]:
        """The figures of the report, from the results."""
        return draw(results)

    def film(self, results: Conditions, out: Path) -> BarHistory | None:
        """The nearness of safe and unsafe prompts through SSFT and through the control, for the page."""
        return nearness_page(results, out)


ALPHAS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BUDGETS = (0.5, 1.0, 3.0)

STUDY = SafetyFinetuningStudy
