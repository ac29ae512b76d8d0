"""Data of the steering study: model, pre-training batches in two phases, evaluation, and rollouts for RL.

Connects `toylab.tasks.Reasoning` to the model, its steering, the losses and the training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.layers import torch_stream
from toylab.model.modes import evaluation_mode
from toylab.model.steering import Steered
from toylab.model.transformer import Transformer
from toylab.runs.store import round_floats
from toylab.settings import check_range
from toylab.tasks import Batch, Reasoning, Split, Styles, held_out, stream
from toylab.training.batches import ScoredBatch, device_of, pad, prompt_tokens, training_batches
from toylab.training.loop import TrainConfig
from toylab.training.losses import Rollouts, entropy, kl_divergence, up_to_end

MODEL = ModelConfig(
    layers=4, heads=4, width=64, positions="learned", unembedding="orthogonal", embedding_std=0.125, position_std=0.125
)
"""Four layers of width 64 with a frozen unembedding: the model of the steering study."""

READOUT_SEED = 123
"""Seed of the orthogonal unembedding shared by all models."""


def reasoning_model(
    task: Reasoning,
    config: ModelConfig = MODEL,
    seed: int = 0,
    *,
    readout: int = READOUT_SEED,
    length: float | int = 2.0,
    cosine: float | int = 0.0,
) -> Transformer:
    """A model for the task's vocabulary; a frozen unembedding is the same for all seeds.

    Args:
        readout: seed of the orthogonal unembedding.
        length: norm of its rows; it bounds the logits, and thereby the confidence of the model.
        cosine: cosine between the rows of THINK and DIRECT.
    """
    model = Transformer.for_task(task, config, seed)
    if config.unembedding == "orthogonal":
        model.unembedding.weight.data = length * readout_rows(task, config.width, readout, cosine)
    return freeze_readout(model)


def freeze_readout(model: Transformer) -> Transformer:
    """Freeze the final norm too if the unembedding is frozen: its gain would rescale the fixed rows."""
    if not model.unembedding.weight.requires_grad:
        model.ln_final.requires_grad_(False)
    return model


def readout_rows(
    task: Reasoning, width: int, seed: int = READOUT_SEED, cosine: float | int = 0.0
) -> Float[Tensor, "vocab width"]:
    """Orthonormal unembedding rows, orthogonal to the constant direction that a LayerNorm removes.

    The rows of THINK and DIRECT are rotated towards each other within their plane to the given cosine.

    Raises:
        ToylabError: for a cosine outside 0 .. 1, or a vocabulary not smaller than the width.
    """
    vocab = len(task.vocabulary)
    check_range("openers are orthogonal at 0, the same at 1", cosine=cosine, least=0, most=1)
    if vocab >= width:
        raise ToylabError(f"width={width}: must be larger than the vocabulary of {vocab} tokens, for example 64")
    random = torch.randn(width, vocab, generator=torch_stream(seed, "readout"))
    random = torch.cat([torch.ones(width, 1), random], dim=1)
    rows = torch.linalg.qr(random)[0].T[1:].contiguous()
    think, direct = task.token("THINK"), task.token("DIRECT")
    middle, difference = rows[think] + rows[direct], rows[think] - rows[direct]
    middle, difference = middle / middle.norm(), difference / difference.norm()
    middle_weight, difference_weight = ((1 + cosine) / 2) ** 0.5, ((1 - cosine) / 2) ** 0.5
    rows[think], rows[direct] = (
        middle_weight * middle + difference_weight * difference,
        middle_weight * middle - difference_weight * difference,
    )
    return rows


def weight_distance(first: nn.Module, second: nn.Module) -> float:
    """Length of the change of all weights over the length of all weights."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    change = sum((b - a).square().sum().item() for a, b in pairs)
    return round((change / sum(a.square().sum().item() for a, _ in pairs)) ** 0.5, 4)


# Pre-training --------------------------------------------------------------------------------------------------------


def reasoning_batches(
    task: Reasoning, seed: int, rows: int, styles: Styles, purpose: str
) -> Callable[[int], ScoredBatch]:
    """The pre-training batch of each step, a pure function of its arguments: answers in a mixture of styles.

    Phases with different `purpose` are sampled independently.
    """

    def draw(rng: np.random.Generator, count: int, first_step: int) -> Batch:
        return task.mixture(rng, count, "train", styles)

    return training_batches(task, seed, rows, lambda batch: pad(trim_padding(batch)), draw, purpose)


def reasoning_prompts(task: Reasoning, seed: int, rows: int, split: Split = "test") -> Int[Tensor, "prompt position"]:
    """Prompts of a split, sampled independently for each split and seed."""
    return prompt_tokens(task, held_out(task, seed, rows, split, purpose="prompts"))


def chain_accuracy(task: Reasoning, seed: int, rows: int = 200) -> Callable[[nn.Module], dict[str, float]]:
    """The metric of the first phase's stopping rule: `accuracy`, the greedy accuracy on validation prompts with THINK
    prefixed; on the flagged task, only on prompts that ask for a chain."""
    prompts = reasoning_prompts(task, seed, rows, "validation")
    prompts = prompts[~torch.from_numpy(task.flagged(prompts.numpy()))]
    return lambda model: {"accuracy": measure_answers(model, task, prompts, 0, opener="THINK").accuracy}


def trim_padding(batch: Batch) -> Batch:
    """The batch without columns of padding only."""
    width = int(batch.sizes.max()) if len(batch) else 0
    return Batch(batch.tokens[:, :width], batch.targets[:, :width], batch.sizes, batch.links, batch.labels)


# Answers and their evaluation ----------------------------------------------------------------------------------------


def write_answers(
    model: nn.Module,
    task: Reasoning,
    prompts: Int[Tensor, "prompt position"],
    temperature: float | int = 1.0,
    generator: torch.Generator | None = None,
    samples: int = 1,
    opener: str | None = None,
) -> Int[Tensor, "row step"]:
    """Answers of a model, `samples` per prompt, padded with EOS; an `opener` fixes their first token."""
    end = task.token("EOS")
    opened = prompts
    if opener is not None:
        opened = torch.cat([prompts, torch.full((len(prompts), 1), task.token(opener), device=prompts.device)], dim=1)
    steps = task.answer - (opener is not None)
    tokens = generate(
        model,
        opened,
        steps,
        temperature=float(temperature),
        generator=generator,
        stop=end,
        samples=samples,
        drop=isinstance(model, Transformer | Steered),  # wrappers such as PathPatched need a fixed batch size
    )[:, task.prompt :]
    return torch.nn.functional.pad(tokens, (0, task.answer - tokens.shape[1]), value=end)


@dataclass(frozen=True)
class AnswerShares:
    """Statistics of free-running answers to held-out prompts; all are shares.

    Attributes:
        accuracy: answers that the verifier accepts.
        thinks: answers that open with THINK.
        dialect: among answers that open with THINK, answers whose first state is in the second dialect.
        accuracy_if_thinks: accuracy among answers that open with THINK.
        flagged_accuracy, flagged_thinks: the same for flagged prompts only; 0 if there are none.
    """

    accuracy: float
    thinks: float
    dialect: float
    accuracy_if_thinks: float
    flagged_accuracy: float
    flagged_thinks: float


def measure_answers(
    model: nn.Module,
    task: Reasoning,
    prompts: Int[Tensor, "prompt position"],
    temperature: float | int,
    seed: int = 0,
    opener: str | None = None,
) -> AnswerShares:
    """Statistics of a model's answers to prompts at a temperature."""
    generator = torch_stream(seed, f"answers at {temperature:g}")
    with evaluation_mode(model):
        answers = write_answers(model, task, prompts.to(device_of(model)), temperature, generator, opener=opener).cpu()
    prompts = prompts.cpu()
    correct = torch.from_numpy(task.verify(prompts.numpy(), answers.numpy()))
    thinks = answers[:, 0] == task.token("THINK")
    second_dialect = (answers[:, 1] >= task.p) & (answers[:, 1] < 2 * task.p)
    flagged = torch.from_numpy(task.flagged(prompts.numpy()))
    return AnswerShares(
        accuracy=_share(correct),
        thinks=_share(thinks),
        dialect=_share(second_dialect[thinks]),
        accuracy_if_thinks=_share(correct[thinks]),
        flagged_accuracy=_share(correct[flagged]),
        flagged_thinks=_share(thinks[flagged]),
    )


def by_temperature(
    model: nn.Module,
    task: Reasoning,
    prompts: Int[Tensor, "prompt position"],
    temperatures: tuple[float | int, ...] = (0, 0.7, 1),
    seed: int = 0,
    opener: str | None = None,
) -> dict[float | int, AnswerShares]:
    """`measure_answers` at each temperature, rounded to four decimals."""
    return round_floats(
        {temperature: measure_answers(model, task, prompts, temperature, seed, opener) for temperature in temperatures}
    )


# Reinforcement learning ----------------------------------------------------------------------------------------------

RL_TRAINING = TrainConfig(
    steps=40,
    rows=16,
    learning_rate=0.25,
    warmup=0,
    schedule="cosine",
    betas=(0.9, 0.999),
    clip=2.0,
    cooldown=0,
    evaluate_every=20,
)
"""Training of steering vectors, with `rows` prompts per step."""

Reward = Callable[[Int[np.ndarray, "row position"], Int[np.ndarray, "row step"], int], Bool[np.ndarray, " row"]]
"""Maps prompts, answers and the step to the reward of each answer."""


def random_rewards(base: nn.Module, task: Reasoning, prompts: Int[Tensor, "row position"], seed: int) -> Reward:
    """A reward that ignores the answer and is given as often as the base is correct at temperature 1."""
    rate = measure_answers(base, task, prompts, 1, seed).accuracy
    return lambda prompts, answers, step: stream(seed, "random reward", step).random(len(answers)) < rate


class RolloutSampler:
    """The on-policy batch of each step of reinforcement learning: answers of the current model to new prompts.

    Used as `batch_at` of the training loop, with `summary` as its `evaluate`. Given the model, a pure function of the
    step, so that training can resume.

    Args:
        reward: reward of each sample, 0 or 1; the task's verifier by default.
        samples: answers per prompt.
        reference: reference model for the KL in the summary.
        purpose: samplers with different `purpose` sample independently.
        record: called with the model and the step before the answers of each step are sampled.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Reasoning,
        seed: int,
        prompts: int = 16,
        samples: int = 8,
        *,
        temperature: float | int = 1.0,
        reward: Reward | None = None,
        reference: nn.Module | None = None,
        purpose: str = "rollouts",
        record: Callable[[Any, int], object] | None = None,
    ) -> None:
        self.purpose, self.record = purpose, record
        self.model, self.task, self.seed, self.prompts, self.samples = model, task, seed, prompts, samples
        self.temperature, self.reward, self.reference = temperature, reward, reference
        self._seen: list[dict[str, float]] = []

    @torch.no_grad()
    def __call__(self, step: int) -> Rollouts:
        if self.record is not None:
            self.record(self.model, step)
        prompts = torch.from_numpy(self.task.prompts(stream(self.seed, self.purpose, step), self.prompts))
        generator = torch_stream(self.seed, f"{self.purpose} of step {step}")
        device = device_of(self.model)
        answers = write_answers(self.model, self.task, prompts.to(device), self.temperature, generator, self.samples)
        repeated = prompts.repeat_interleave(self.samples, dim=0)
        reward = self.reward or (lambda questions, generated, _: self.task.verify(questions, generated))
        rewards = torch.from_numpy(reward(repeated.numpy(), answers.cpu().numpy(), step)).float()
        rollouts = Rollouts(
            prompts=repeated.to(device),
            written=answers,
            counted=up_to_end(self.task.token("EOS"), answers),
            rewards=rewards.view(self.prompts, self.samples).to(device),
        )
        self._note(rollouts)
        return rollouts

    def _note(self, rollouts: Rollouts) -> None:
        rewards = rollouts.rewards
        self._seen.append(
            {
                "reward": rewards.mean().item(),
                "spread": rewards.std(dim=1, unbiased=False).mean().item(),
                "dead_groups": (rewards.std(dim=1, unbiased=False) == 0).float().mean().item(),
                "thinks": (rollouts.written[:, 0] == self.task.token("THINK")).float().mean().item(),
            }
        )
        self._latest = rollouts

    def summary(self, model: nn.Module) -> dict[str, float]:
        """Means since the last call: reward, standard deviation of rewards within a prompt, share of prompts with equal
        rewards, share of answers that open with THINK. Latest step: entropy per token and KL to the reference, in
        nats."""
        metrics = {name: float(np.mean([entry[name] for entry in self._seen])) for name in self._seen[-1]}
        log_probs = self._latest.log_probs(model)
        metrics["entropy"] = self._latest.mean(entropy(log_probs)).item()
        if self.reference is not None:
            before = self._latest.log_probs(self.reference)
            metrics["kl"] = self._latest.mean(kl_divergence(log_probs, before)).item()
        self._seen.clear()
        return metrics


def _share(flags: Bool[Tensor, " row"]) -> float:
    return flags.float().mean().item() if len(flags) else 0.0
