"""Iteration heads: attention heads that let small transformers iterate a map in a chain of thought, found and tested.

Source: Cabannes et al. 2024, "Iteration Head: A Mechanistic Study of Chain-of-Thought" (arXiv 2406.02128).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.checkpoint import load_model
from toylab.model.config import ModelConfig
from toylab.model.controls import with_shuffled_weights
from toylab.model.transformer import Transformer
from toylab.probes import IterationHead
from toylab.report.page import Picture
from toylab.runs.store import train_and_keep, write_metrics
from toylab.runs.study import Job, JobInput
from toylab.settings import check_range, check_settings, later_field
from toylab.studies.iteration_head import exact
from toylab.studies.iteration_head import measures as interventions
from toylab.studies.iteration_head.claims import claims
from toylab.studies.iteration_head.claims_transfer import LEARNED, MAPS
from toylab.studies.iteration_head.examples import example_of, recorded_sequences
from toylab.studies.iteration_head.figures import HISTORY_FILE, attention_page, draw
from toylab.studies.iteration_head.measures import (
    Emergence,
    IterationResult,
    PairsResult,
    Transfer,
    UntrainedHead,
)
from toylab.tasks import Batch, Copy, IteratedMap, ModularSum, Parity, Polynomial, WordProblem
from toylab.training import evaluate
from toylab.training.attention_history import AttentionHistory, HistoryPage
from toylab.training.batches import (
    ScoredBatch,
    epoch_batches,
    length_curriculum,
    next_token_loss,
    pack,
    pad,
    training_batches,
)
from toylab.training.loop import History, TrainConfig, Training, first_step, train
from toylab.verdicts.claim import Claim, Conditions
from toylab.verdicts.judgement import measured

MODEL = ModelConfig(
    heads=3,
    width=48,
    hidden=128,
    activation="silu",
    position_width=10,
    position_frequency=1.6,
    position_base=20.0,
    position_std=1.8,
)
"""The model of the study. Position encodings of five sinusoids (ten coordinates) fit into one head of 16 dimensions.
More heads help on seeds in which a head learns another function; with four, two heads often share the steps.
Measurements are in notebooks/LOG.md."""


@dataclass(frozen=True, kw_only=True)
class IterationHeadStudy:
    """Settings of the study; every field is a flag of `toylab run iteration-head`."""

    task: Polynomial = Polynomial()
    model: ModelConfig = MODEL
    train: TrainConfig = TrainConfig(weight_decay=0.1, stop_at=0.9, cooldown=600)
    """At a sequence accuracy of .9 over all lengths, no length is left that is never answered; decaying the learning
    rate then reaches full accuracy."""
    growth: int = 600
    """Optimiser steps of the length curriculum, from at most 4 inputs to the longest of the task; 0 trains on all
    lengths from the start. Without it two of six seeds stay on the plateau; with it, none of six."""
    transfer: TrainConfig = TrainConfig(
        steps=300, learning_rate=1e-3, warmup=0, evaluate_every=20, stop_at=LEARNED, stop_after=1, cooldown=0
    )
    """Fine-tuning from the polynomial to parity."""
    end_weight: float = 4.0
    """Weight of EoS in the loss, relative to 1 for a state. Predicting EoS requires finding the end of the input, half
    of the circuit, so a larger weight shortens the plateau."""
    batches: Literal["packed", "padded", "sweep"] = "packed"
    """Batching of training sequences. "packed": several per row, without padding; "padded": one per row; "sweep", as in
    the published code: a fixed set of 1024 per length, from shortest to longest, one length per batch."""
    parts: tuple[Literal["pairs"], ...] = later_field(())
    """Conditions in addition to the default ones. "pairs": models of three more maps, and fine-tuning of the models of
    all five maps on each other map."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Seeds of every condition, including controls."""
    rows: int = 64
    """Held-out sequences of each length in an evaluation."""
    exact_inputs: int = later_field(12_000)
    """Number of inputs that claims on all inputs may take: all of the shortest lengths that have so few together."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(rows=self.rows, least=1)
        check_range(end_weight=self.end_weight, above=0)
        check_range("0 trains on all lengths from the start", growth=self.growth, least=0)
        check_range("0 leaves out the claims on all inputs", exact_inputs=self.exact_inputs, least=0)
        if not self.task.chain_of_thought:
            raise ToylabError(
                "task.chain_of_thought=False: the study itself adds conditions without chain of thought; leave it True"
            )
        if self.task.max_length < 6 or self.task.max_length - self.task.min_length < 2:
            raise ToylabError(
                f"task.lengths={self.task.lengths}: iteration heads are searched on lengths of at least 4; give a "
                "range up to at least 6, such as 1 16"
            )
        if self.task.score_padding and self.batches == "packed":
            raise ToylabError("task.score_padding=True: packed rows have no padding; choose batches=padded or sweep")

    @classmethod
    def quick(cls) -> IterationHeadStudy:
        """Runs in seconds, for tests and notebooks: short inputs and one seed, too few for a verdict."""
        return cls(
            task=Polynomial(p=7, lengths=(1, 6)),
            train=TrainConfig(steps=900, warmup=100, stop_at=0.9, cooldown=150),
            growth=0,
            transfer=TrainConfig(steps=120, learning_rate=2e-3, warmup=0, evaluate_every=20, cooldown=0),
            seeds=(0,),
            rows=32,
            exact_inputs=2000,
        )

    @classmethod
    def default(cls) -> IterationHeadStudy:
        """Runs in minutes on two cores: lengths up to 16."""
        return cls()

    @classmethod
    def paper(cls) -> IterationHeadStudy:
        """Scale and conventions of the published code; days on a CPU."""
        steps = 4 * 32 * 1000  # 1000 sweeps of 4 batches of 256 for each of 32 lengths
        return cls(
            task=Polynomial(lengths=(1, 32), score_padding=True),
            model=ModelConfig(heads=1, width=128, activation="gelu", norm="entry", biases=False, positions="learned"),
            train=TrainConfig(
                steps=steps, rows=256, learning_rate=3e-4, warmup=0, schedule="constant", clip=1e9, evaluate_every=1280
            ),
            growth=0,
            transfer=TrainConfig(steps=64_000, rows=256, learning_rate=3e-4, warmup=0, schedule="constant", clip=1e9),
            end_weight=1.0,
            batches="sweep",
        )

    # Jobs --------------------------------------------------------------------------------------------------------

    def conditions(self) -> dict[str, Condition]:
        """All conditions of the study by name."""
        longest = replace(self.task, lengths=self.task.max_length)
        parity = Parity(lengths=self.task.lengths, alphabet=self.task.p, score_padding=self.task.score_padding)
        one_head, one_layer = replace(self.model, heads=1), replace(self.model, layers=1)
        # Guessing gets half of the parities correct, which must not trigger early stopping.
        above_guessing = replace(
            self.train, stop_at=None if self.train.stop_at is None else max(self.train.stop_at, 0.9)
        )
        conditions = {
            "main": Condition(self.task, self.model, self.train),
            "fresh": Condition(self.task, self.model, self.train, fresh=True),
            "one-head": Condition(self.task, one_head, self.train),
            "parity": Condition(parity, self.model, above_guessing),
            "one-layer": Condition(self.task, one_layer, self.train),
            "one-length": Condition(longest, self.model, self.train),
            "no-chain": Condition(replace(self.task, chain_of_thought=False), self.model, self.train),
            "parity-no-chain": Condition(replace(parity, chain_of_thought=False), self.model, above_guessing),
        }
        if "pairs" in self.parts:
            shared = {"lengths": self.task.lengths, "alphabet": self.task.p, "score_padding": self.task.score_padding}
            maps = {"copy": Copy(p=self.task.p, **shared), "sum": ModularSum(p=self.task.p, **shared)}
            maps["word"] = WordProblem(**shared)
            conditions |= {name: Condition(task, self.model, self.train) for name, task in maps.items()}
        if one_head == self.model:
            del conditions["one-head"]  # identical to the main condition
        return conditions

    def jobs(self) -> list[Job]:
        """One job per condition and seed, the longest first."""
        conditions = self.conditions().items()
        jobs = [
            Job(name, seed, result_type=IterationResult, what=condition.of(seed))
            for name, condition in conditions
            for seed in self.seeds
        ]
        for source in MAPS if "pairs" in self.parts else ():
            inputs = [{"model": JobInput(Job(source, seed))} for seed in self.seeds]
            shared = {"result_type": PairsResult, "what": source}
            jobs += [Job(f"pairs-{source}", *one, **shared) for one in zip(self.seeds, inputs, strict=True)]
        return jobs

    def run_job(self, job: Job, folder: Path) -> IterationResult | PairsResult:
        """Train and measure one condition, or fine-tune its model on other maps."""
        if job.result_type is PairsResult:
            return self._fine_tuned_on_others(job, folder)
        condition = job.what
        model, history = self.train_condition(condition, job.seed, folder, film=job.name == "main")
        test = evaluate.by_length(condition.task, job.seed, lengths_of(condition.task), self.rows)
        result = IterationResult(
            accuracy=evaluate.free_running_accuracy(model, condition.task, test),
            steps=int(history[-1]["step"]),
            solved_at=first_step(history, "accuracy", LEARNED),
        )
        # A model of one length is asked about the short inputs too, which are its control.
        exact_task = self.task if job.name == "one-length" else condition.task
        lengths = exact.small_lengths(exact_task, self.exact_inputs)
        if job.name in ("main", "fresh", "parity", "no-chain", "one-length"):
            result = replace(result, exact=exact.answers(model, exact_task, lengths, job.seed))
        if not condition.task.chain_of_thought:
            return result
        # One-length models are searched on all lengths: at one length an iteration head equals a fixed offset.
        all_lengths = evaluate.by_length(condition.task, job.seed, lengths_of(self.task), self.rows)
        head = evaluate.search_iteration_head(model, all_lengths)
        result = replace(result, head=head)
        if job.name in ("main", "one-length"):
            result = replace(result, **self._causal_tests(model, head, all_lengths))
            result = replace(result, exact=exact.edits(result.exact, model, self.task, lengths, head, job.seed))
        if job.name == "main":
            result = replace(result, **self._emergence_and_example(model, test, history))
        if job.name in ("main", "fresh"):
            result = replace(result, untrained=self._untrained_head(model, job.seed, test))
        if job.name in ("main", "one-length"):
            result = replace(result, transfer=self._transfer_to_parity(model, head, job.seed, folder))
        return result

    def train_condition(
        self, condition: Condition, seed: int, folder: Path, film: bool = False
    ) -> tuple[Transformer, History]:
        """The model of a condition and its history, loaded from the folder or trained and saved there."""

        def learn(checkpoint: Path) -> tuple[Transformer, Training]:
            model = Transformer.for_task(condition.task, condition.model, seed)
            recorder = (
                AttentionHistory(folder / HISTORY_FILE, recorded_sequences(condition.task, seed)) if film else None
            )
            record = recorder and recorder.add
            return model, self._learn(
                model, condition.task, seed, condition.train, self.growth, checkpoint=checkpoint, record=record
            )

        return train_and_keep(folder, learn)

    def _learn(
        self, model: nn.Module, task: IteratedMap, seed: int, training: TrainConfig, growth: int = 0, **options: Any
    ) -> Training:
        """Train in place, evaluating accuracy and heads on a few rows of each length."""
        lengths = lengths_of(task)
        rows = max(1, 2 * self.rows // len(lengths))
        validation = evaluate.by_length(task, seed, lengths, rows, "validation")
        return train(
            model,
            self._loss(task),
            self.batches_of(task, seed, training.rows, growth),
            training,
            evaluate=lambda m: evaluate.evaluation_metrics(m, validation),
            **options,
        )

    def _loss(self, task: IteratedMap) -> Callable[[nn.Module, ScoredBatch], Tensor]:
        weights = torch.ones(len(task.vocabulary))
        weights[task.end_of_sequence] = self.end_weight
        return partial(next_token_loss, weights=weights)

    def batches_of(self, task: IteratedMap, seed: int, rows: int, growth: int) -> Callable[[int], ScoredBatch]:
        """The training batch of each step; the longest sequences grow over the first `growth` steps."""
        if self.batches == "sweep":
            return epoch_batches(task, seed, rows)
        first = max(task.min_length, min(4, task.max_length))
        longest = length_curriculum(first, task.max_length, growth)

        def sample(rng: np.random.Generator, rows: int, step: int) -> Batch:
            return replace(task, lengths=(task.min_length, longest(step))).sample(rng, rows)

        return training_batches(task, seed, rows, pack if self.batches == "packed" else pad, sample)

    def _causal_tests(self, model: Transformer, head: IterationHead, test: dict[int, Batch]) -> dict[str, Any]:
        """The causal tests of a model."""
        return {
            "covered": interventions.covered_share(model, test, head),
            "tests": interventions.causal_tests(model, test, head),
            "steered": interventions.steered_share(model, self.task, test, head),
            "steered_upstream": interventions.steered_upstream(model, self.task, test, -1),
            "steered_upstream_reverse": interventions.steered_upstream(model, self.task, test, 1),
            "invariance": interventions.head_invariance(model, head, test),
        }

    def _emergence_and_example(self, model: Transformer, test: dict[int, Batch], history: History) -> dict[str, Any]:
        """Emergence of the circuit during training, and an example sequence."""
        return {
            "emergence": Emergence(
                **{name: _half_final_step(history, name) for name in ("end_of_input", "carry", "accuracy")}
            ),
            "example": example_of(model, self.task, test),
        }

    def _untrained_head(self, model: Transformer, seed: int, test: dict[int, Batch]) -> UntrainedHead:
        """Control: head, steered answers and invariance of a model with shuffled weights."""
        shuffled = with_shuffled_weights(model, seed)
        head = evaluate.search_iteration_head(shuffled, test)
        steered = interventions.steered_share(shuffled, self.task, test, head)
        return UntrainedHead(head=head, steered=steered, invariance=interventions.head_invariance(shuffled, head, test))

    def _transfer_to_parity(self, model: Transformer, head: IterationHead, seed: int, folder: Path) -> Transfer:
        """Fine-tune a trained model on parity; before, measure its head's attention on the untrained symbol 0."""
        parity = self.conditions()["parity"].task
        test = evaluate.by_length(parity, seed, lengths_of(parity), self.rows)
        by_symbol = interventions.mass_by_symbol(model, test[max(test)], head)
        training = self._learn(model, parity, seed, self.transfer)
        write_metrics(folder / "transfer.jsonl", training)
        after = evaluate.free_running_accuracy(model, parity, test)
        return Transfer(
            mass_by_symbol=by_symbol,
            solved_at=first_step(training.history, "accuracy", LEARNED),
            accuracy=after,
            head=evaluate.search_iteration_head(model, test),
        )

    def _fine_tuned_on_others(self, job: Job, folder: Path) -> PairsResult:
        """Fine-tune the model of one map on each other map, for at most the steps of `transfer`."""
        solved_at = {}
        for target in MAPS:
            if target != job.what:
                model, task = load_model(job.path("model", folder)), self.conditions()[target].task
                training = self._learn(model, task, job.seed, self.transfer)
                write_metrics(folder / f"{target}.jsonl", training)
                solved_at[target] = first_step(training.history, "accuracy", LEARNED)
        return PairsResult(solved_at=solved_at)

    def shams(self) -> dict[str, dict[str, str]]:
        """Models that learned the task without the mechanism."""
        return {"models trained on one length": {"main": "one-length"}}

    def claims(self) -> list[Claim]:
        """The claims of the paper and our own, at these settings."""
        conditions = self.conditions()
        return claims(
            exact.guess_accuracy(self.task, lengths_of(self.task)),
            exact.guess_accuracy(conditions["parity"].task, lengths_of(self.task)).constant,
            self.transfer.steps,
            "one-head" if "one-head" in conditions else "main",
            "pairs" in self.parts,
            exact.small_inputs(self.task, conditions["parity"].task, self.exact_inputs),
        )

    def pictures(self, results: Conditions, out: Path) -> list[Picture]:
        """The figures of the report, from results and stored histories."""
        return draw(
            results, out, f"{self.model.layers} layers, {self.model.heads} heads each", self.task.p, self.transfer.steps
        )

    def film(self, results: Conditions, out: Path) -> HistoryPage | None:
        """The attention history of the best main model, for the page."""
        return attention_page(results, out)


@dataclass(frozen=True)
class Condition:
    """The settings of one condition: task, model and training."""

    task: IteratedMap
    model: ModelConfig
    train: TrainConfig
    fresh: bool = False
    """Whether every seed draws its own polynomial."""

    def of(self, seed: int) -> Condition:
        """The settings of one seed."""
        if not self.fresh or not isinstance(self.task, Polynomial):
            return self
        return replace(self, task=self.task.instance(seed))


STUDY = IterationHeadStudy


def lengths_of(task: IteratedMap) -> list[int]:
    """The evaluated lengths: at least 4, since there are too few shorter prompts for a held-out set."""
    return list(range(max(4, task.min_length), task.max_length + 1))


def _half_final_step(history: History, name: str) -> int:
    """The first evaluated step at which a metric reaches half of its final value."""
    return measured(first_step(history, name, history[-1][name] / 2))
