"""Iteration heads: small transformers learn to iterate a map step by step; we find the head that does it and test it.

Source: Cabannes et al. 2024, "Iteration Head: A Mechanistic Study of Chain-of-Thought" (arXiv 2406.02128).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from probes import IterationHead, invariance
from tasks import Batch, IteratedMap, Parity, Polynomial, decode
from toylab import evaluate, figures, interventions
from toylab.batches import Scored, fresh, next_token_loss, pack, pad, sweep
from toylab.claims import Claim, over_seeds
from toylab.model import ModelConfig, Transformer
from toylab.report import Picture
from toylab.runs import Job, load_model, read_metrics, save_model, write_metrics
from toylab.train import History, TrainConfig, train

SOLVED = 0.99
"""Sequence accuracy from which a task counts as learned."""


MODEL = ModelConfig(
    heads=4,
    width=48,
    hidden=128,
    activation="silu",
    position_width=10,
    position_frequency=1.6,
    position_base=20.0,
    position_std=1.8,
)
"""The model of the study. Five sinusoids in ten coordinates leave few phases to subtract and fit into one head of 12
features; spare heads help the seeds in which one settles on another job. notebooks/LOG.md has the figures behind it."""


@dataclass(frozen=True, kw_only=True)
class IterationHeadStudy:
    """Settings of the study; every field is a flag of `toylab run iteration-head`."""

    task: Polynomial = Polynomial()
    model: ModelConfig = MODEL
    train: TrainConfig = TrainConfig(stop_at=0.9)
    control_steps: int = 1500
    """Optimiser steps of the controls that learn early or not at all: one layer, one length, no chain of thought."""
    transfer: TrainConfig = TrainConfig(
        steps=300, learning_rate=1e-3, warmup=0, evaluate_every=20, stop_at=SOLVED, stop_after=1, cooldown=0
    )
    """Fine-tuning from the polynomial to parity."""
    end_weight: float = 4.0
    """How much EoS counts in the loss, beside 1 for a state. To place it, a model must find where the input ended,
    which is half of the circuit: a larger weight shortens the plateau."""
    batches: Literal["packed", "padded", "sweep"] = "packed"
    """How training rows are laid out: several sequences a row without padding; one a row; or as in the published
    code, a fixed set of 1024 a length, swept from the shortest to the longest, one length a batch."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    control_seeds: int = 3
    """How many of the seeds the controls use."""
    rows: int = 64
    """Held-out sequences of each length in an evaluation."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds}: give at least one, all different and not negative, such as 0 1 2")
        if not self.control_seeds >= 1:
            raise ValueError(f"control_seeds={self.control_seeds}: must be at least 1")
        if not self.task.chain_of_thought:
            raise ValueError("task.chain_of_thought=False: the study compares with and without; leave it on")
        if self.task.longest < 6 or self.task.longest - self.task.shortest < 2:
            raise ValueError(
                f"task.lengths={self.task.lengths}: heads are searched on lengths from 4 on; give a range up to 6 or "
                "more, such as 1 16"
            )
        if self.task.score_padding and self.batches == "packed":
            raise ValueError("task.score_padding=True: packed rows have no padding; choose batches=padded or sweep")
        if not self.end_weight > 0:
            raise ValueError(f"end_weight={self.end_weight}: must be above 0")
        if self.rows < 1:
            raise ValueError(f"rows={self.rows}: must be at least 1")

    @classmethod
    def quick(cls) -> IterationHeadStudy:
        """Seconds, for tests and notebooks: short inputs, one seed; too little for most verdicts to mean much."""
        return cls(
            task=Polynomial(lengths=(1, 8)),
            train=TrainConfig(steps=1400, warmup=100, stop_at=0.9, cooldown=200),
            control_steps=400,
            seeds=(0,),
            control_seeds=1,
            rows=32,
        )

    @classmethod
    def default(cls) -> IterationHeadStudy:
        """Minutes on two cores: the paper's finding at lengths up to 16."""
        return cls()

    @classmethod
    def paper(cls) -> IterationHeadStudy:
        """The published code's own scale and conventions; days on a CPU."""
        steps = 4 * 32 * 1000  # 1000 sweeps of 4 batches of 256 for each of 32 lengths
        return cls(
            task=Polynomial(lengths=(1, 32), score_padding=True),
            model=ModelConfig(heads=1, width=128, activation="gelu", norm="entry", biases=False, positions="learned"),
            train=TrainConfig(
                steps=steps, rows=256, learning_rate=3e-4, warmup=0, schedule="constant", clip=1e9, evaluate_every=1280
            ),
            control_steps=steps,
            transfer=TrainConfig(steps=64_000, rows=256, learning_rate=3e-4, warmup=0, schedule="constant", clip=1e9),
            end_weight=1.0,
            batches="sweep",
        )

    # Jobs --------------------------------------------------------------------------------------------------------

    def arms(self) -> dict[str, Arm]:
        """Every arm of the study: what differs from the main one, and on which seeds it runs."""
        few = self.seeds[: self.control_seeds]
        short = replace(self.train, steps=self.control_steps, warmup=min(self.train.warmup, self.control_steps // 4))
        last = replace(self.task, lengths=self.task.longest)
        parity = Parity(lengths=self.task.lengths, alphabet=self.task.p, score_padding=self.task.score_padding)
        one_head, one_layer = replace(self.model, heads=1), replace(self.model, layers=1)
        arms = {
            "main": Arm(self.task, self.model, self.train, self.seeds),
            "one-head": Arm(self.task, one_head, self.train, self.seeds),
            "parity": Arm(parity, self.model, self.train, few),
            "one-layer": Arm(self.task, one_layer, short, few),
            "one-length": Arm(last, self.model, short, few),
            "no-chain": Arm(replace(self.task, chain_of_thought=False), self.model, short, few),
            "parity-no-chain": Arm(replace(parity, chain_of_thought=False), self.model, self.train, few),
        }
        if one_head == self.model:
            del arms["one-head"]  # the main arm is that already
        return arms

    def jobs(self) -> list[Job]:
        """One training an arm and seed, the longest arms first."""
        return [Job(name, seed) for name, arm in self.arms().items() for seed in arm.seeds]

    def run_job(self, job: Job, folder: Path) -> dict[str, Any]:
        """Train one arm and measure it."""
        arm = self.arms()[job.name]
        model, history = self._train(arm, job.seed, folder)
        test = evaluate.held_out(arm.task, job.seed, lengths_of(arm.task), self.rows)
        result: dict[str, Any] = {
            "accuracy": evaluate.free_running_accuracy(model, arm.task, test),
            "steps": history[-1]["step"],
            "solved_at": _first(history, "accuracy", SOLVED),
        }
        if not arm.task.chain_of_thought:
            return result
        # A model of one length is searched on all lengths too: at its own, a head cannot be told from a fixed offset.
        several = evaluate.held_out(arm.task, job.seed, lengths_of(self.task), self.rows)
        head = evaluate.search_iteration_head(model, several)
        result["head"] = asdict(head)
        if job.name == "main":
            result |= self._examine(model, head, test, history)
        if job.name in ("main", "one-length"):
            result["transfer"] = self._transfer(model, head, job.seed, folder)
        return result

    def _train(self, arm: Arm, seed: int, folder: Path) -> tuple[Transformer, History]:
        saved, metrics = folder / "model.safetensors", folder / "metrics.jsonl"
        if saved.exists():
            return load_model(saved), read_metrics(metrics)
        model = Transformer.for_task(arm.task, arm.model, seed)
        followed = evaluate.held_out(arm.task, seed, _spread(lengths_of(arm.task)), self.rows // 2, "validation")
        checkpoint = folder / "checkpoint.safetensors"
        training = train(
            model,
            self._loss(arm.task),
            self._batches(arm.task, seed, arm.train.rows),
            arm.train,
            evaluate=lambda m: evaluate.progress(m, followed),
            checkpoint=checkpoint,
        )
        write_metrics(metrics, training)
        save_model(saved, model)
        checkpoint.unlink()
        return model, training.history

    def _loss(self, task: IteratedMap) -> Callable[[nn.Module, Scored], Tensor]:
        weights = torch.ones(len(task.vocabulary))
        weights[task.end_of_sequence] = self.end_weight
        return partial(next_token_loss, weights=weights)

    def _batches(self, task: IteratedMap, seed: int, rows: int) -> Callable[[int], Scored]:
        if self.batches == "sweep":
            return sweep(task, seed, rows)
        return fresh(task, seed, rows, pack if self.batches == "packed" else pad)

    def _examine(
        self, model: Transformer, head: IterationHead, test: dict[int, Batch], history: History
    ) -> dict[str, Any]:
        """The causal tests of a main model, and when its parts emerged."""
        longest = test[max(test)]
        pattern = evaluate.patterns(model, longest)[head.layer]
        return {
            "tests": {name: asdict(found) for name, found in interventions.causal_tests(model, test, head).items()},
            "steered": interventions.steered_share(model, self.task, test, head),
            "invariance": invariance(pattern, longest.links["carry"])[head.head].item(),
            "emergence": {name: _halfway(history, name) for name in ("end_of_input", "carry", "accuracy")},
            "example": _example(model, self.task, test),
        }

    def _transfer(self, model: Transformer, head: IterationHead, seed: int, folder: Path) -> dict[str, Any]:
        """Fine-tune a trained model to parity; how long it takes, and what its head makes of the untrained symbol 0."""
        parity = self.arms()["parity"].task
        test = evaluate.held_out(parity, seed, lengths_of(parity), self.rows)
        by_symbol = interventions.mass_by_symbol(model, test[max(test)], head)
        followed = evaluate.held_out(parity, seed, _spread(lengths_of(parity)), self.rows // 2, "validation")
        training = train(
            model,
            self._loss(parity),
            self._batches(parity, seed, self.transfer.rows),
            self.transfer,
            evaluate=lambda m: evaluate.progress(m, followed),
        )
        write_metrics(folder / "transfer.jsonl", training)
        after = evaluate.free_running_accuracy(model, parity, test)
        return {
            "mass_by_symbol": by_symbol,
            "solved_at": _first(training.history, "accuracy", SOLVED),
            "accuracy": after,
            "head": asdict(evaluate.search_iteration_head(model, test)),
        }

    def conclude(self, results: dict[Job, dict[str, Any]]) -> list[Claim]:
        """The paper's sentences, judged by what the jobs measured."""
        by_arm: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self.arms()}
        for job, result in results.items():
            by_arm[job.name][job.seed] = result
        return _claims(self, by_arm)

    def pictures(self, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
        """The figures of the report, from the results and the histories kept beside them."""
        return _pictures(self, results, out)


@dataclass(frozen=True)
class Arm:
    """One condition of the study: a task, a model and a training, on some seeds."""

    task: IteratedMap
    model: ModelConfig
    train: TrainConfig
    seeds: tuple[int, ...]


STUDY = IterationHeadStudy


def lengths_of(task: IteratedMap) -> list[int]:
    """The lengths on which a task is judged: from 4 on, since shorter prompts are too few to hold any out."""
    return list(range(max(4, task.shortest), task.longest + 1))


def _example(model: Transformer, task: IteratedMap, batches: dict[int, Batch]) -> dict[str, Any]:
    """What every head attends to on one held-out sequence, short enough to print."""
    length = min(max(batches), 8)
    batch = batches[length].rows(0, 1)
    return {
        "tokens": decode(task, batch.tokens[0].tolist()),
        "links": {name: edges[:, 1:].tolist() for name, edges in batch.links.items()},
        "patterns": [
            [[[round(weight, 3) for weight in query] for query in head] for head in pattern[0].tolist()]
            for pattern in evaluate.patterns(model, batch)
        ],
    }


# Claims --------------------------------------------------------------------------------------------------------------


def _claims(study: IterationHeadStudy, arms: dict[str, dict[int, dict[str, Any]]]) -> list[Claim]:
    main = arms["main"]
    one_head = arms.get("one-head", main)
    # What the head causes is asked where there is one; how often there is one is a claim of its own.
    good = {s: r for s, r in main.items() if _accuracy(r) >= SOLVED and r["head"]["carry"] >= 0.9}
    tests = {s: r["tests"] for s, r in good.items()}
    floor = 1 / study.task.p
    # That something is not learned says little where the main model did not learn either.
    unproven = "" if good else "no main model learned the task here, so a control that did not proves nothing"
    steps = study.transfer.steps
    with_head = {s: r["transfer"] for s, r in good.items()}
    without = {s: r["transfer"] for s, r in arms["one-length"].items()}

    def kept(name: str) -> dict[int, float]:
        return {s: t[name]["sequence"] / t["unedited"]["sequence"] for s, t in tests.items()}

    return [
        over_seeds(
            "accuracy",
            {s: _accuracy(r) for s, r in main.items()},
            lambda a: a >= SOLVED,
            share=0.8,
            paper="section 4",
            statement="Two layers with chain of thought learn to iterate a polynomial map on inputs never seen.",
            bar=f"share of seeds with sequence accuracy >= {SOLVED}, writing freely, is >= .8",
        ),
        over_seeds(
            "head",
            {s: r["head"]["carry"] for s, r in main.items()},
            lambda c: c >= 0.9,
            share=0.8,
            paper="section 4, peakiness",
            statement="An iteration head forms: when s_t is due, one head reads x_t.",
            bar="share of seeds whose best head has over half of its attention on x_t in >= .9 of the steps is >= .8",
            details={
                "accepted by the detector, which also asks for the stop rule": {
                    str(s): not r["head"]["misses"] for s, r in main.items()
                },
                "backup heads": {str(s): len(r["head"]["backups"]) for s, r in main.items()},
                "mean attention on EoI, best earlier head": _by_seed(main, lambda r: r["head"]["end_of_input"]),
                "invariance": _by_seed(main, lambda r: r["invariance"]),
            },
        ),
        over_seeds(
            "ablate",
            {s: float(_stops_without(t)) for s, t in tests.items()},
            lambda stopped: stopped == 1,
            share=0.8,
            paper="section 4, causal tests",
            statement="The model answers through this head: without it, it cannot go on.",
            bar="in >= .8 of seeds: zeroed from EoI on, no sequence right and <= .25 of states; on the inputs, no loss",
            details=_test_details(tests),
            note=f"guessing gives {floor:.2f} of the states; backups, which read x_t too, are zeroed as well",
        ),
        over_seeds(
            "steer",
            {s: r["steered"] for s, r in good.items()},
            lambda share: share >= 0.99,
            paper="our test of section 3",
            statement="What the head reads is what is computed with: moved to x_{t+1}, it makes F(s_{t-1}, x_{t+1}).",
            bar="mean share of answers equal to F(s_{t-1}, x_{t+1}) >= .99",
        ),
        over_seeds(
            "ideal-pattern",
            kept("ideal pattern"),
            lambda share: share >= 0.99,
            paper="section 4, causal tests",
            statement="The head needs nothing but x_t: the textbook pattern in its place keeps the model right.",
            bar="mean share of the sequence accuracy kept >= .99",
        ),
        over_seeds(
            "stop-rule",
            {s: r["head"]["stop"] for s, r in good.items()},
            lambda stop: stop >= 0.5,
            share=0.8,
            paper="our reading of section 3",
            statement="The same head stops the chain: after the last state it reads the end of the input.",
            bar="share of seeds in which it has over half of its attention on EoI at most ends is >= .8",
            note="elsewhere EoS comes by another route: the distance from EoI tells when as many states are written",
        ),
        over_seeds(
            "first-layer",
            {s: t["first layer: ideal pattern"]["sequence"] / t["unedited"]["sequence"] for s, t in tests.items()},
            lambda share: share >= 0.99,
            paper="section 3",
            statement="The first layer needs only the end of the input: the textbook pattern there does no harm.",
            bar="mean share of the sequence accuracy kept >= .99",
            note="trained first layers use their other attention too, so the textbook pattern breaks good models",
        ),
        over_seeds(
            "cot-needed",
            {s: _accuracy(r) for s, r in arms["no-chain"].items()},
            lambda a: a <= 0.15,
            open_because=unproven,
            paper="section 4",
            statement="Without chain of thought the polynomial is not learned.",
            bar=f"mean accuracy <= .15 (guessing gives {floor:.2f})",
        ),
        over_seeds(
            "cot-needed-parity",
            {s: _accuracy(r) for s, r in arms["parity-no-chain"].items()},
            lambda a: a <= 0.6,
            open_because=unproven,
            paper="section 4",
            statement="Without chain of thought parity is not learned.",
            bar="mean accuracy <= .6 (guessing gives .50)",
            details={"with chain of thought, same steps as main": _by_seed(arms["parity"], _accuracy)},
            note="parity depends on a count alone and is learned without intermediate steps: no showcase for them",
        ),
        over_seeds(
            "depth",
            {s: _accuracy(r) for s, r in arms["one-layer"].items()},
            lambda a: a <= 0.5,
            open_because=unproven,
            paper="section 3",
            statement="One layer is not enough.",
            bar="mean sequence accuracy with one layer <= .5",
        ),
        over_seeds(
            "one-head",
            {s: _accuracy(r) for s, r in one_head.items()},
            lambda a: a >= SOLVED,
            share=0.8,
            paper="section 3",
            statement="One head in each of two layers is enough, and training finds it.",
            bar=f"share of seeds with sequence accuracy >= {SOLVED} is >= .8",
            details={"diagonal": _by_seed(one_head, lambda r: r["head"]["carry"])},
        ),
        over_seeds(
            "varied-lengths",
            {s: r["head"]["carry"] for s, r in arms["one-length"].items()},
            lambda c: c < 0.5,
            open_because=unproven,
            paper="our control",
            statement="An iteration head forms only if lengths vary: with one length a fixed offset does.",
            bar="mean peakiness on x_t over all lengths < .5 for models trained on one length",
            details={"accuracy at their own length": _by_seed(arms["one-length"], _accuracy)},
        ),
        over_seeds(
            "transfer",
            {s: float(_steps_or(t["solved_at"], steps + 1)) for s, t in with_head.items()},
            lambda n: n <= min(steps, 300),
            share=0.8,
            paper="section 5",
            statement="A model with the head learns parity at once; without it, parity is slow.",
            bar=f"share of seeds that reach {SOLVED} on parity within 300 steps of fine-tuning is >= .8",
            details={
                f"steps, from a model without the head ({steps + 1} means never)": _by_seed(
                    arms["one-length"], lambda r: _steps_or(r["transfer"]["solved_at"], steps + 1)
                ),
                "steps from scratch (null means never in the budget)": _by_seed(
                    arms["parity"], lambda r: r["solved_at"]
                ),
                "accuracy from a model without the head": {str(s): round(_accuracy(t), 4) for s, t in without.items()},
                "accuracy from scratch": _by_seed(arms["parity"], _accuracy),
            },
        ),
        over_seeds(
            "symbol-zero",
            {s: _mass(t, 1) - _mass(t, 0) for s, t in with_head.items()},
            lambda gap: abs(gap) <= 0.1,
            paper="section 5",
            statement="The head does not care what stands at x_t, so it carries over to other symbols as it is.",
            bar="before fine-tuning, attention on x_t = 1 and on x_t = 0 differs by <= .1 in the mean",
            details={
                "on x_t = 0": {str(s): round(_mass(t, 0), 4) for s, t in with_head.items()},
                "on x_t = 1": {str(s): round(_mass(t, 1), 4) for s, t in with_head.items()},
            },
            note="0 is never an input of the polynomial: the head is independent of content only among trained symbols",
        ),
        over_seeds(
            "emergence",
            {s: float(_in_order(r["emergence"])) for s, r in good.items()},
            lambda ordered: ordered == 1,
            share=0.8,
            paper="section 4, training dynamics",
            statement="First a head finds the end of the input, then the iteration head forms, then answers are right.",
            bar="the three pass half of their final value in this order, ties allowed, in >= .8 of the seeds",
            details={"steps": {str(s): r["emergence"] for s, r in good.items()}},
        ),
    ]


def _accuracy(result: dict[str, Any]) -> float:
    shares = result["accuracy"].values()
    return sum(shares) / len(shares)


def _stops_without(tests: dict[str, dict[str, float]]) -> bool:
    zeroed, control = tests["zeroed"], tests["zeroed on the inputs"]
    unharmed = control["sequence"] >= 0.99 * tests["unedited"]["sequence"]
    return zeroed["sequence"] == 0 and zeroed["state"] <= 0.25 and unharmed


def _mass(transfer: dict[str, Any], symbol: int) -> float:
    return transfer["mass_by_symbol"][str(symbol)]


def _by_seed(arm: dict[int, dict[str, Any]], number: Callable[[dict[str, Any]], float | None]) -> dict[str, Any]:
    found = {str(seed): number(result) for seed, result in arm.items()}
    return {seed: value if value is None else round(value, 4) for seed, value in found.items()}


def _test_details(tests: dict[int, dict[str, Any]]) -> dict[str, Any]:
    names = next(iter(tests.values()), {})
    return {
        f"{name}: {kind} accuracy": {str(s): round(t[name][kind], 4) for s, t in tests.items()}
        for name in names
        for kind in ("sequence", "token", "state")
    }


def _steps_or(solved_at: int | None, otherwise: int) -> int:
    return otherwise if solved_at is None else solved_at


def _first(history: History, name: str, bar: float) -> int | None:
    """The first evaluated step at which a metric reaches a bar."""
    return next((entry["step"] for entry in history if entry.get(name, -1) >= bar), None)


def _halfway(history: History, name: str) -> int:
    """The first evaluated step at which a metric passes half of its final value."""
    return _first(history, name, history[-1][name] / 2)


def _in_order(emergence: dict[str, int]) -> bool:
    return emergence["end_of_input"] <= emergence["carry"] <= emergence["accuracy"]


def _spread(lengths: list[int]) -> list[int]:
    """Up to four of the lengths, evenly spread and with both ends."""
    return sorted({lengths[round(i * (len(lengths) - 1) / 3)] for i in range(4)})


# Figures -------------------------------------------------------------------------------------------------------------


def _pictures(study: IterationHeadStudy, results: dict[Job, dict[str, Any]], out: Path) -> list[Picture]:
    drawn = [_draw_heads(results), _draw_emergence(results, out), _draw_arms(study, results)]
    drawn += [_draw_tests(study, results), _draw_transfer(results, out)]
    return [picture for picture in drawn if picture is not None]


def _draw_heads(results: dict[Job, dict[str, Any]]) -> Picture | None:
    main = {job.seed: result for job, result in results.items() if job.name == "main"}
    if not main:
        return None
    seed = max(main, key=lambda s: (_accuracy(main[s]) >= SOLVED, main[s]["head"]["carry"]))
    example, head = main[seed]["example"], main[seed]["head"]
    shown = [(head["end_of_input_at"], "end of input"), ((head["layer"], head["head"]), "carry")]
    shown = [(place, link) for place, link in shown if place is not None]
    size = 0.24 * len(example["tokens"])
    figure, axes = figures.sheet(len(shown) * (size + 0.9), size + 0.9, columns=len(shown))
    for ax, ((layer, number), link) in zip(axes[0], shown, strict=True):
        pattern = np.array(example["patterns"][layer][number])
        links = example["links"][link] + (example["links"]["stop"] if link == "carry" else [])
        title = f"layer {layer}, head {number}"
        figures.attention(pattern, example["tokens"], links=np.array(links), title=title, ax=ax)
    return Picture(
        "The iteration head",
        f"Attention of two heads of seed {seed} on one held-out sequence. Right: when s_t is due, the iteration head "
        "reads x_t, and after the last state it reads EoI and stops. Left: the earlier head that finds EoI. Squares "
        "mark what the textbook circuit reads.",
        figures.svg(figure),
    )


def _draw_emergence(results: dict[Job, dict[str, Any]], out: Path) -> Picture | None:
    histories = {
        f"seed {job.seed}": read_metrics(job.folder(out) / "metrics.jsonl") for job in results if job.name == "main"
    }
    if not histories:
        return None
    rows = [
        ("end_of_input", "attention on EoI,\nbest earlier head", figures.END, None),
        ("carry", "share of steps\nread at x_t", figures.CARRY, 0.9),
        ("accuracy", "sequence accuracy", figures.ACCURACY, SOLVED),
    ]
    figure, axes = figures.sheet(6.4, 6.6, rows=3)
    for ax, (name, label, colour, bar) in zip(axes[:, 0], rows, strict=True):
        lines = {seed: ([e["step"] for e in h], [e[name] for e in h]) for seed, h in histories.items()}
        figures.curves(lines, ylabel=label, colour=colour, bar=bar, legend=name == rows[0][0], ax=ax)
    return Picture(
        "How it emerges",
        "A long plateau, then the head and the answers appear together. Each line is a seed, measured on held-out "
        "sequences while training; grey lines are the bars of the claims.",
        figures.svg(figure),
    )


ARM_TITLES = {
    "one-head": "one head in each layer",
    "one-layer": "one layer",
    "one-length": "one input length only",
    "no-chain": "no chain of thought",
    "parity": "parity",
    "parity-no-chain": "parity, no chain of thought",
}


def _draw_arms(study: IterationHeadStudy, results: dict[Job, dict[str, Any]]) -> Picture | None:
    groups: dict[str, dict[str, list[float]]] = {}
    main = f"{study.model.layers} layers, {study.model.heads} heads each"
    for name, title in {"main": main, **ARM_TITLES}.items():
        found = [result for job, result in results.items() if job.name == name]
        if found:
            groups[title] = {"sequence accuracy": [_accuracy(r) for r in found]}
            if "head" in found[0]:
                groups[title]["share of steps read at x_t"] = [r["head"]["carry"] for r in found]
    if not groups:
        return None
    ax = figures.by_seed(groups, xlabel="share on held-out sequences")
    return Picture(
        "What it takes",
        "Each point is a seed, each stroke a mean. Models are judged on lengths from 4 on (the model of one length at "
        "its own; its head is searched on all). Parity can be right without an iteration head, and without a chain "
        "of thought.",
        figures.svg(ax.figure),
    )


def _draw_tests(study: IterationHeadStudy, results: dict[Job, dict[str, Any]]) -> Picture | None:
    good = [r for job, r in results.items() if job.name == "main" and _accuracy(r) >= SOLVED]
    if not good:
        return None
    groups = {
        name: {f"{kind} accuracy": [r["tests"][name][kind] for r in good] for kind in ("sequence", "state")}
        for name in good[0]["tests"]
    }
    groups["moved to the next input"] = {"answers equal to F(s, next input)": [r["steered"] for r in good]}
    ax = figures.by_seed(groups, xlabel="share on held-out sequences", chance=1 / study.task.p)
    return Picture(
        "What the head causes",
        "Edits of the iteration head (and of the earlier head, marked first layer) where answers are written. Each "
        "point is a seed that learned the task.",
        figures.svg(ax.figure),
    )


def _draw_transfer(results: dict[Job, dict[str, Any]], out: Path) -> Picture | None:
    def histories(arm: str, file: str) -> dict[str, tuple[list[float | int], list[float | int]]]:
        paths = {job.seed: job.folder(out) / file for job in results if job.name == arm}
        kept = {seed: read_metrics(path) for seed, path in paths.items()}
        return {f"seed {seed}": ([e["step"] for e in h], [e["accuracy"] for e in h]) for seed, h in kept.items()}

    arms = [
        ("after the polynomial", histories("main", "transfer.jsonl")),
        ("after one length (no head)", histories("one-length", "transfer.jsonl")),
        ("from scratch", histories("parity", "metrics.jsonl")),
    ]
    if not any(lines for _, lines in arms):
        return None
    figure, axes = figures.sheet(9.6, 2.8, columns=3)
    for ax, (title, lines) in zip(axes[0], arms, strict=True):
        label = "sequence accuracy on parity" if ax is axes[0, 0] else ""
        figures.curves(lines, ylabel=label, bar=SOLVED, title=title, legend=len(lines) < 6, ax=ax)
    return Picture(
        "Transfer to parity",
        "Accuracy on held-out parity sequences while fine-tuning a model that has an iteration head, one that is "
        "accurate without one, and while training from scratch. Mind the different scales of steps.",
        figures.svg(figure),
    )
