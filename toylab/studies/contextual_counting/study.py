"""Contextual counting: which positional encodings let models count ones inside brackets, and by which circuit.

Source: Golkar et al. 2024, "Contextual Counting: A Mechanistic Study of Transformers on a Quantitative Task" (arXiv
2406.02585). The paper's training is unpublished; its claims are tested on models of our own recipe, region by region.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from toylab.console import ToylabError
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.planted.handwritten import contextual_counter
from toylab.probes import permutation_sensitivity, watch
from toylab.report.page import Picture
from toylab.runs.store import round_floats, train_and_keep
from toylab.runs.study import Job
from toylab.settings import check_range, check_settings
from toylab.studies.contextual_counting import measures as circuits
from toylab.studies.contextual_counting.claims import claims
from toylab.studies.contextual_counting.claims_exact import exact_claims
from toylab.studies.contextual_counting.data import count_accuracy, count_logits, for_model, learn_counting
from toylab.studies.contextual_counting.exact import decide_on_all
from toylab.studies.contextual_counting.figures import COUNTING_FILM, counting_history, draw, recorded_string
from toylab.studies.contextual_counting.results import (
    ADDED_REGION,
    SLACK,
    SOLVED,
    CountingExample,
    CountingResult,
    HandwrittenResult,
    NamedRegion,
    OtherStrings,
)
from toylab.tasks import Batch, ContextualCounting, decode, held_out, stream
from toylab.training.attention_history import AttentionHistory, HistoryPage
from toylab.training.loop import TrainConfig, Training, first_step
from toylab.verdicts.claim import Claim, Conditions

Part = Literal["encodings", "circuits", "no-begin", "plain", "ingredients"]
Encoding = Literal["none", "rotary", "alibi", "learned", "sinusoidal"]

PLAIN = TrainConfig(
    steps=4000, learning_rate=3e-3, warmup=100, schedule="cosine", betas=(0.9, 0.99), cooldown=0, evaluate_every=100
)
"""Training of the plain set-up, the closest to the paper's."""


@dataclass(frozen=True, kw_only=True)
class ContextualCountingStudy:
    """Settings of the study; every field is a flag of `toylab run contextual-counting`."""

    task: ContextualCounting = ContextualCounting(length=(24, 64), regions=(1, 4))
    """The training task; models are evaluated on its longest strings with most regions."""
    model: EncoderDecoderConfig = EncoderDecoderConfig()
    train: TrainConfig = replace(PLAIN, steps=2000, learning_rate=6e-3)
    auxiliary: float | int = 0.25
    """Share of training steps with an auxiliary loss on regions, which decays linearly to zero; 0 to disable it."""
    growth: float | int = 0.0
    """Share of training steps of the length curriculum, from twice the shortest length; 0 trains on all lengths from
    the start. Helps above length 64."""
    plain: TrainConfig = PLAIN
    """Training of the plain set-up: strings of one length and one number of regions, no logit scale, default
    initialisation, no auxiliary loss."""
    encodings: tuple[Encoding, ...] = ("none", "rotary", "alibi", "learned")
    """Compared positional encodings, each with a causal and a bidirectional encoder."""
    alibi_slope: float | int = 0.01
    """Slope of ALiBi's one head."""
    encoder_hidden: int = 128
    """Width of the MLP in the condition whose encoder has one."""
    parts: tuple[Part, ...] = ("encodings", "circuits", "no-begin")
    """Conditions trained in addition to the two main conditions. "encodings": the other encodings; "circuits":
    conditions that lead to other circuits; "no-begin": the plain set-up on strings without a begin token, with no and
    with rotary positions; "plain": the plain set-up with every causal encoding, and with an MLP in the encoder;
    "ingredients": the recipe without each of its ingredients."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Seeds of every condition, including controls."""
    rows: int = 1000
    """Held-out strings in an evaluation."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_range(encoder_hidden=self.encoder_hidden, least=1)
        check_range("it is a share of the training", auxiliary=self.auxiliary, growth=self.growth, least=0, most=1)
        check_range("fewer strings give imprecise accuracies", rows=self.rows, least=100)
        if not self.task.begin:
            raise ToylabError(
                "task.begin=False: the circuits are distinguished by their use of the begin token; leave it True"
            )
        if self.task.answer != "counts":
            raise ToylabError(
                f"task.answer={self.task.answer}: this study has one class per count; set task.answer=counts"
            )
        longest_task = replace(self.task, length=self.task.max_length, regions=self.task.most)
        if longest_task.constant_guess >= SOLVED - SLACK:
            raise ToylabError(
                f"task.length={self.task.length}, task.regions={self.task.regions}: a constant count is correct in "
                f"{longest_task.constant_guess:.2f} of the longest strings, and {SOLVED} counts as solved; give "
                "longer strings or fewer regions"
            )
        if "none" not in self.encodings or "rotary" not in self.encodings:
            raise ToylabError(f"encodings={self.encodings}: must include none and rotary, which most claims need")
        if self.model.encoder.positions != "none" or not self.model.encoder.causal:
            raise ToylabError(
                "model.encoder: keep positions=none and causal=True; the conditions set them (see encodings)"
            )
        if self.model.encoder.layers > 1 or self.model.heads > 1:
            raise ToylabError(
                "model: the probes of this study need one encoder layer and one decoder head; set both to 1"
            )

    @classmethod
    def quick(cls) -> ContextualCountingStudy:
        """Runs in seconds, for tests and notebooks: short strings, one seed, few conditions."""
        return cls(
            task=ContextualCounting(length=(12, 32), regions=(1, 2)),
            train=replace(PLAIN, steps=1000, learning_rate=8e-3, warmup=50),
            auxiliary=0.5,
            plain=replace(PLAIN, steps=700, warmup=50),
            encodings=("none", "rotary"),
            parts=("encodings",),
            seeds=(0,),
            rows=200,
        )

    @classmethod
    def default(cls) -> ContextualCountingStudy:
        """Runs in minutes on two cores: length 64, four regions."""
        return cls()

    @classmethod
    def paper(cls) -> ContextualCountingStudy:
        """Every encoding in the plain set-up with 20 seeds, to measure the paper's failure rates: forty minutes on two
        cores at length 64; the paper's size, `--task.length 512 --task.regions 4`, takes days."""
        return cls(parts=("no-begin", "plain"), seeds=tuple(range(20)))

    # Jobs --------------------------------------------------------------------------------------------------------

    def conditions(self) -> dict[str, Condition]:
        """All trained conditions by name."""
        main = Condition(self.task, self.model, self.train, self.auxiliary, self.growth)
        fixed = replace(self.task, length=self.task.max_length, regions=self.task.most)
        plain = Condition(fixed, _plain(self.model), self.plain, 0.0, 0.0)
        conditions = {"rotary": self._with_encoding(main, "rotary", True), "none": main}
        if "circuits" in self.parts:
            unaided = replace(main, auxiliary=0.0)
            conditions |= {
                "no-auxiliary-rotary": self._with_encoding(unaided, "rotary", True),
                "no-auxiliary": unaided,
                "fixed": replace(unaided, task=fixed),
                "encoder-mlp": replace(main, model=_encoder(self.model, hidden=self.encoder_hidden)),
            }
            base_condition = conditions["no-auxiliary-rotary"]
            conditions["no-auxiliary-slow-rotary"] = replace(
                base_condition, model=_encoder(base_condition.model, position_frequency=0.01)
            )
        for name in self.encodings if "encodings" in self.parts else ():
            if name not in conditions:
                conditions[name] = self._with_encoding(main, name, True)
            conditions[f"{name}-bidirectional"] = self._with_encoding(main, name, False)
        if "no-begin" in self.parts:
            no_begin = replace(plain, task=replace(fixed, begin=False))
            conditions |= {
                f"plain-{name}-no-begin": self._with_encoding(no_begin, name, True) for name in ("none", "rotary")
            }
        if "plain" in self.parts:
            conditions |= {f"plain-{name}": self._with_encoding(plain, name, True) for name in self.encodings}
            conditions["plain-encoder-mlp"] = replace(plain, model=_encoder(plain.model, hidden=self.encoder_hidden))
        if "ingredients" in self.parts:
            conditions |= {
                "one-length": replace(main, task=replace(self.task, length=self.task.max_length)),
                "one-number": replace(main, task=replace(self.task, regions=self.task.most)),
                "no-logit-scale": replace(main, model=replace(self.model, logit_scale=1.0)),
                "default-head": replace(main, model=replace(self.model, head="default")),
                "large-embeddings": replace(main, model=_encoder(self.model, embedding_std=1.0)),
                "large-queries": replace(main, model=replace(self.model, query_std=1.0)),
            }
        return conditions

    def _with_encoding(self, condition: Condition, encoding: str, causal: bool) -> Condition:
        slope = self.alibi_slope if encoding == "alibi" else None
        return replace(condition, model=_encoder(condition.model, positions=encoding, causal=causal, alibi_slope=slope))

    def jobs(self) -> list[Job]:
        """One job per condition and seed, the slowest first, and one for the handwritten circuits."""
        conditions = self.conditions()
        slow = sorted(conditions, key=lambda name: conditions[name].model.encoder.positions == "none")
        trained = [
            Job(name, seed, result_type=CountingResult, what=conditions[name]) for name in slow for seed in self.seeds
        ]
        return [*trained, *(Job("golden", seed, result_type=HandwrittenResult) for seed in self.seeds)]

    def run_job(self, job: Job, folder: Path) -> CountingResult | HandwrittenResult:
        """Train one condition and identify its circuits, or measure the handwritten circuits."""
        if job.what is None:
            return measure_handwritten(self.task, self.rows, job.seed)
        condition = job.what

        def learn(checkpoint: Path) -> tuple[EncoderDecoder, Training]:
            filmed = job.name == "none"
            film = AttentionHistory(folder / COUNTING_FILM, recorded_string(self.task, job.seed)) if filmed else None
            return learn_counting(
                condition.task,
                condition.model,
                condition.train,
                job.seed,
                auxiliary=condition.auxiliary,
                growth=condition.growth,
                rows=max(self.rows // 4, 100),
                checkpoint=checkpoint,
                record=film and film.add,
            )

        model, history = train_and_keep(folder, learn)
        solved_at = first_step(history, "accuracy", SOLVED)
        task = replace(self.task, begin=condition.task.begin)
        result = measure_model(task, model, job.seed, self.rows, int(history[-1]["step"]), solved_at)
        return replace(result, exact=decide_on_all(job.name, self.task, model, job.seed))

    @property
    def causal(self) -> tuple[str, ...]:
        """The conditions with a causal encoder."""
        return tuple(name for name, condition in self.conditions().items() if condition.model.encoder.causal)

    def claims(self) -> list[Claim]:
        """The claims of the paper and our own, at these settings."""
        return [
            *claims(self.encodings, self.causal, self.task.max_length, self.parts, self.model.encoder.width),
            *exact_claims(self.task, self.encodings),
        ]

    def pictures(self, results: Conditions, out: Path) -> list[Picture]:
        """The figures of the report, from results and stored histories."""
        return draw(results, out, self.encodings, self.causal, self.task.max_length)

    def film(self, results: Conditions, out: Path) -> HistoryPage | None:
        """The attention history of the best model without positions, for the page."""
        return counting_history(results, out)


@dataclass(frozen=True)
class Condition:
    """The settings of one condition: task, model and training."""

    task: ContextualCounting
    model: EncoderDecoderConfig
    train: TrainConfig
    auxiliary: float | int
    growth: float | int


STUDY = ContextualCountingStudy


def measure_model(
    task: ContextualCounting, model: EncoderDecoder, seed: int, rows: int, steps: int, solved_at: int | None
) -> CountingResult:
    """All measurements of a trained model, on held-out strings.

    Args:
        task: models are evaluated on its longest strings with most regions.
        steps: number of training steps.
        solved_at: first step at which the task counts as solved.
    """
    config = model.config
    batch = held_out(task, seed, rows, **task.largest)
    strings = for_model(task, model, batch)
    regions = circuits.find_circuits(model, strings)
    is_attention_only = not (config.residual or config.hidden or config.self_attention)
    unordered = config.encoder.positions == "none"
    probe_strings, slow = for_model(task, model, batch.rows(0, 200)), 1 / task.max_length
    changes = {f"{n} zeros": task.append_zeros(batch, n) for n in (8, 16, 32)} | {
        ADDED_REGION: task.append_region(batch)
    }
    return CountingResult(
        steps=steps,
        solved_at=solved_at,
        accuracy=[circuit.accuracy for circuit in regions],
        floor=circuits.constant_accuracy(strings),
        circuits=regions,
        probe=circuits.region_probes(model, probe_strings, seed),
        example=_example(task, model, seed),
        readout=circuits.value_readout(model, strings, regions) if is_attention_only else None,
        scores=circuits.encoder_scores(model) if unordered else None,
        permutation_gap=permutation_sensitivity(
            deepcopy(model).double(),
            for_model(task, model, batch.rows(0, 50)).tokens,
            stream(seed, "permutation"),
            kept=0,
        ).largest
        if unordered
        else None,
        # Slow planes rotate by less than one radian over a string.
        rotary=circuits.rotary_profile(model, strings, slow) if config.encoder.positions == "rotary" else None,
        untrained=circuits.measure_untrained(model, strings, probe_strings, seed, slow),
        shifts={
            name: circuits.measure_shifts(model, strings, for_model(task, model, changed))
            for name, changed in changes.items()
            if _positions_cover(model, task, changed)
        },
        elsewhere=_other_strings(task, model, seed, rows),
        encoding=circuits.named_encoding(model, for_model(task, model, batch.rows(0, 8)), seed),
    )


def _other_strings(task: ContextualCounting, model: EncoderDecoder, seed: int, rows: int) -> dict[str, OtherStrings]:
    """Accuracy by label and the floor at other lengths, numbers of regions or shares of ones, varied one at a time."""
    shorter, longer = max(5 * task.max_length // 8, _least_length(task.most)), 3 * task.max_length // 2
    variants: dict[str, tuple[ContextualCounting, dict[str, Any]]] = {
        f"length {shorter}": (task, {"length": shorter}),
        f"length {longer}": (_with_counts_up_to(task, longer), {"length": longer}),
    }
    if _least_length(task.most + 1) <= task.max_length:
        variants[f"{task.most + 1} regions"] = (task, {"regions": task.most + 1})
    variants |= {"p = 0.3": (replace(task, p=0.3), {}), "p = 0.7": (replace(task, p=0.7), {})}
    if task.most > 1:
        variants[f"{task.most - 1} regions"] = (task, {"regions": task.most - 1})
    by_variant = {}
    for name, (variant_task, size) in variants.items():
        batch = held_out(variant_task, seed, rows, **variant_task.largest | size)
        if _positions_cover(model, task, batch):
            strings = for_model(variant_task, model, batch)
            by_variant[name] = OtherStrings(
                accuracy=count_accuracy(model, strings), floor=circuits.constant_accuracy(strings)
            )
    return by_variant


def _positions_cover(model: EncoderDecoder, task: ContextualCounting, batch: Batch) -> bool:
    """Whether the model's positions cover these strings."""
    longest = task.begin + int(batch.labels["length"].max())
    return model.config.encoder.positions != "learned" or longest <= model.context


def _with_counts_up_to(task: ContextualCounting, longest: int) -> ContextualCounting:
    """The task with a class for every count of strings of this length."""
    return replace(task, length=(task.min_length, max(task.max_length, longest)))


def _least_length(regions: int) -> int:
    """A length that leaves two bits besides this number of regions, and so enough strings for every split."""
    return 2 * regions + 2


def measure_handwritten(task: ContextualCounting, rows: int, seed: int) -> HandwrittenResult:
    """Errors of the handwritten counters over lengths and regions, and the circuits that the probes identify."""
    errors, count_total, named = 0, 0, {}
    lengths = (max(16, _least_length(task.most)), task.max_length, 2 * task.max_length)
    wide_task = _with_counts_up_to(task, max(lengths))
    for bias in ("begin", "bracket"):
        for length in lengths:
            for regions in (1, task.most, min(7, length // 2 - 1)):
                model = contextual_counter(regions, length + 1, bias=bias)
                strings = for_model(task, model, held_out(wide_task, seed, 50, length=length, regions=regions))
                is_wrong = count_logits(model, strings).argmax(dim=-1) != strings.counts
                errors, count_total = errors + int(is_wrong.sum()), count_total + is_wrong.numel()
        model = contextual_counter(task.most, task.classes, bias=bias)
        identified = circuits.find_circuits(model, for_model(task, model, held_out(task, seed, rows, **task.largest)))
        named[bias] = [
            NamedRegion(circuit=c.circuit, bias=c.bias, k=c.k, r2=c.r2, blocked=c.blocked) for c in identified
        ]
    return HandwrittenResult(errors=errors, asked=count_total, named=named)


def _example(task: ContextualCounting, model: EncoderDecoder, seed: int) -> CountingExample:
    """Attention patterns on one held-out string of the shortest length, with ones in all regions."""
    batch = held_out(task, seed, 64, **dict(task.largest, length=task.min_length))
    row = int(batch.labels["count"][:, : task.most].min(axis=1).argmax())
    strings = for_model(task, model, batch.rows(row, row + 1))
    with watch(model, "encoder.blocks.0.attn.pattern", "decoder.cross.pattern") as cache, torch.no_grad():
        predicted = model(strings.tokens).argmax(dim=-1)[0]
    return CountingExample(
        tokens=list(decode(task, strings.tokens[0].tolist())),
        regions=strings.regions[0].tolist(),
        counts=strings.counts[0].tolist(),
        guessed=predicted.tolist(),
        encoder=round_floats(cache["encoder.blocks.0.attn.pattern"][0, 0], 3),
        decoder=round_floats(cache["decoder.cross.pattern"][0, 0], 3),
    )


def _encoder(model: EncoderDecoderConfig, **changes: Any) -> EncoderDecoderConfig:
    return replace(model, encoder=replace(model.encoder, **changes))


def _plain(model: EncoderDecoderConfig) -> EncoderDecoderConfig:
    """The model without the parts of the recipe that ease training."""
    return replace(_encoder(model, embedding_std=1.0), head="default", logit_scale=1.0, query_std=1.0)
