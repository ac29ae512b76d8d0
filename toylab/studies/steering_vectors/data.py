"""Step-by-step answers as a language model meets them: pre-training in two phases, reinforcement learning, evaluation.

What connects `toylab.tasks.Reasoning` to the model, its steering, the losses and the training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.layers import torch_stream
from toylab.model.steering import Steered
from toylab.model.transformer import Transformer
from toylab.runs.store import round_floats
from toylab.settings import check_range
from toylab.tasks import Batch, Reasoning, Split, Styles, held_out, stream
from toylab.training.batches import ScoredBatch, device_of, pad, prompt_tokens, training_batches
from toylab.training.loop import TrainConfig
from toylab.training.losses import Rollouts, entropy, kl_divergence, up_to_end
from toylab.training.modes import evaluation_mode

MODEL = ModelConfig(
    layers=4, heads=4, width=64, positions="learned", unembedding="orthogonal", embedding_std=0.125, position_std=0.125
)
"""Four layers of width 64, and an unembedding that stays as it is: the model of the steering study."""

READOUT_SEED = 123
"""Of the orthogonal unembedding that all models share."""


def reasoning_model(
    task: Reasoning,
    config: ModelConfig = MODEL,
    seed: int = 0,
    *,
    readout: int = READOUT_SEED,
    length: float | int = 2.0,
    cosine: float | int = 0.0,
) -> Transformer:
    """A model of the task's vocabulary; a frozen unembedding is the same for all seeds.

    Args:
        readout: seed of the orthogonal unembedding.
        length: of its rows: it bounds the logits, and so how sure the model can be.
        cosine: of the rows of THINK and DIRECT, which are turned toward each other.
    """
    model = Transformer.for_task(task, config, seed)
    if config.unembedding == "orthogonal":
        model.unembedding.weight.data = length * readout_rows(task, config.width, readout, cosine)
    return freeze_readout(model)


def freeze_readout(model: Transformer) -> Transformer:
    """Let a frozen unembedding read what it read at first: the gain of the final norm is no longer trained."""
    if not model.unembedding.weight.requires_grad:
        model.ln_final.requires_grad_(False)
    return model


def readout_rows(
    task: Reasoning, width: int, seed: int = READOUT_SEED, cosine: float | int = 0.0
) -> Float[Tensor, "vocab width"]:
    """Orthonormal rows, orthogonal also to the constant direction that a LayerNorm takes away; those of THINK and
    DIRECT are turned toward each other, in their plane, until they have the given cosine.

    Raises:
        ValueError: for a cosine outside 0 .. 1, or a vocabulary as large as the width.
    """
    vocab = len(task.vocabulary)
    check_range("openers are orthogonal at 0, the same at 1", cosine=cosine, least=0, most=1)
    if vocab >= width:
        raise ToylabError(f"width={width}: must be larger than the vocabulary of {vocab} tokens, for example 64")
    drawn = torch.randn(width, vocab, generator=torch_stream(seed, "readout"))
    drawn = torch.cat([torch.ones(width, 1), drawn], dim=1)
    rows = torch.linalg.qr(drawn)[0].T[1:].contiguous()
    think, direct = task.token("THINK"), task.token("DIRECT")
    middle, across = rows[think] + rows[direct], rows[think] - rows[direct]
    middle, across = middle / middle.norm(), across / across.norm()
    near, far = ((1 + cosine) / 2) ** 0.5, ((1 - cosine) / 2) ** 0.5
    rows[think], rows[direct] = near * middle + far * across, near * middle - far * across
    return rows


# Pre-training --------------------------------------------------------------------------------------------------------


def reasoning_batches(
    task: Reasoning, seed: int, rows: int, styles: Styles, purpose: str
) -> Callable[[int], ScoredBatch]:
    """The batch of each step, a pure function of its arguments: answers in a mixture of styles.

    Phases of another `purpose` are drawn independently.
    """

    def draw(rng: np.random.Generator, count: int, first_step: int) -> Batch:
        return task.mixture(rng, count, "train", styles)

    return training_batches(task, seed, rows, lambda batch: pad(trim_padding(batch)), draw, purpose)


def reasoning_prompts(task: Reasoning, seed: int, rows: int, split: Split = "test") -> Int[Tensor, "prompt position"]:
    """Prompts of a split; of another split or seed, they are drawn independently."""
    return prompt_tokens(task, held_out(task, seed, rows, split, purpose="prompts"))


def chain_accuracy(task: Reasoning, seed: int, rows: int = 200) -> Callable[[nn.Module], dict[str, float]]:
    """What the stop rule of the first phase watches: `accuracy`, the share of validation prompts answered right when
    THINK is given, greedily; on the flagged task, of those prompts that ask for a chain."""
    prompts = reasoning_prompts(task, seed, rows, "validation")
    prompts = prompts[~torch.from_numpy(task.flagged(prompts.numpy()))]
    return lambda model: {"accuracy": measure_answers(model, task, prompts, 0, opener="THINK").accuracy}


def trim_padding(batch: Batch) -> Batch:
    """The batch without columns that are all padding."""
    width = int(batch.sizes.max()) if len(batch) else 0
    return Batch(batch.tokens[:, :width], batch.targets[:, :width], batch.sizes, batch.links, batch.labels)


# Writing -------------------------------------------------------------------------------------------------------------


def write_answers(
    model: nn.Module,
    task: Reasoning,
    prompts: Int[Tensor, "prompt position"],
    temperature: float | int = 1.0,
    generator: torch.Generator | None = None,
    samples: int = 1,
    opener: str | None = None,
) -> Int[Tensor, "row step"]:
    """What a model answers to prompts, `samples` times each; with an `opener`, its first token is given."""
    end = task.token("EOS")
    begun = prompts
    if opener is not None:
        begun = torch.cat([prompts, torch.full((len(prompts), 1), task.token(opener), device=prompts.device)], dim=1)
    steps = task.answer - (opener is not None)
    tokens = generate(
        model,
        begun,
        steps,
        temperature=float(temperature),
        generator=generator,
        stop=end,
        samples=samples,
        drop=isinstance(model, Transformer | Steered),  # others may know their rows by number
    )[:, task.prompt :]
    return torch.nn.functional.pad(tokens, (0, task.answer - tokens.shape[1]), value=end)


@dataclass(frozen=True)
class AnswerShares:
    """What a model makes of held-out prompts, writing freely; all are shares.

    Attributes:
        accuracy: answers that the verifier accepts.
        thinks: answers that open with THINK.
        dialect: of those, whose first state is in the second dialect.
        accuracy_if_thinks: of those, that the verifier accepts.
        flagged_right, flagged_thinks: the same for flagged prompts alone; 0 without any.
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
    """What a model makes of prompts at a temperature."""
    generator = torch_stream(seed, f"answers at {temperature:g}")
    with evaluation_mode(model):
        written = write_answers(model, task, prompts.to(device_of(model)), temperature, generator, opener=opener).cpu()
    prompts = prompts.cpu()
    right = torch.from_numpy(task.verify(prompts.numpy(), written.numpy()))
    thinks = written[:, 0] == task.token("THINK")
    second = (written[:, 1] >= task.p) & (written[:, 1] < 2 * task.p)
    flagged = torch.from_numpy(task.flagged(prompts.numpy()))
    return AnswerShares(
        accuracy=_share(right),
        thinks=_share(thinks),
        dialect=_share(second[thinks]),
        accuracy_if_thinks=_share(right[thinks]),
        flagged_accuracy=_share(right[flagged]),
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
    """`measure_answers` at each temperature, rounded to four places."""
    return round_floats({heat: measure_answers(model, task, prompts, heat, seed, opener) for heat in temperatures})


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
"""Of vectors: `rows` prompts a step."""

Reward = Callable[[Int[np.ndarray, "row position"], Int[np.ndarray, "row step"], int], Bool[np.ndarray, " row"]]
"""From prompts, what was written, and the step to what was earned."""


class RolloutSampler:
    """The batch of each step of reinforcement learning: what the model, as it now is, writes to fresh prompts.

    Used as `batch_at` of the training loop, with `summary` as its `evaluate`. Given the model, a pure function of the
    step, so that training can resume.

    Args:
        reward: of each sample, 0 or 1; the task's verifier if not given.
        samples: answers to each prompt.
        reference: what KL is measured to, in the summary.
        purpose: samplers of another purpose draw independently.
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
    ) -> None:
        self.purpose = purpose
        self.model, self.task, self.seed, self.prompts, self.samples = model, task, seed, prompts, samples
        self.temperature, self.reward, self.reference = temperature, reward, reference
        self._seen: list[dict[str, float]] = []

    @torch.no_grad()
    def __call__(self, step: int) -> Rollouts:
        prompts = torch.from_numpy(self.task.prompts(stream(self.seed, self.purpose, step), self.prompts))
        generator = torch_stream(self.seed, f"{self.purpose} of step {step}")
        device = device_of(self.model)
        written = write_answers(self.model, self.task, prompts.to(device), self.temperature, generator, self.samples)
        repeated = prompts.repeat_interleave(self.samples, dim=0)
        reward = self.reward or (lambda asked, said, _: self.task.verify(asked, said))
        earned = torch.from_numpy(reward(repeated.numpy(), written.cpu().numpy(), step)).float()
        rollouts = Rollouts(
            prompts=repeated.to(device),
            written=written,
            counted=up_to_end(self.task.token("EOS"), written),
            rewards=earned.view(self.prompts, self.samples).to(device),
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
        """Since the last call: mean reward, spread within a prompt, share of prompts without any, share that opens with
        THINK. Of the latest step: entropy of a token and KL to the reference, in nats."""
        found = {name: float(np.mean([one[name] for one in self._seen])) for name in self._seen[-1]}
        log_probs = self._latest.log_probs(model)
        found["entropy"] = self._latest.mean(entropy(log_probs)).item()
        if self.reference is not None:
            before = self._latest.log_probs(self.reference)
            found["kl"] = self._latest.mean(kl_divergence(log_probs, before)).item()
        self._seen.clear()
        return found


def _share(held: Bool[Tensor, " row"]) -> float:
    return held.float().mean().item() if len(held) else 0.0
