"""Small trainings, and ways to interrupt them."""

import itertools
from dataclasses import asdict

import torch
from torch import nn

from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import Copy
from toylab.training.batches import next_token_loss
from toylab.training.loop import TrainConfig, Training

TASK = Copy(lengths=(1, 3), p=3)
SMALL = ModelConfig(layers=1, heads=1, width=8, hidden=8)
PLAIN = TrainConfig(
    steps=6, rows=4, learning_rate=1e-2, warmup=0, schedule="constant", weight_decay=0.0, betas=(0.9, 0.999), clip=1e9,
    evaluate_every=2, stop_at=None, stop_after=1, cooldown=0,
)  # fmt: skip


def build(seed: int = 0, config: ModelConfig = SMALL) -> Transformer:
    return Transformer.for_task(TASK, config, seed)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


class Number(nn.Module):
    """The smallest model: one weight."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))


class Interrupted(Exception):  # noqa: N818
    pass


def interrupted_at(call: int):
    """The loss, which raises at one of its calls."""
    calls = itertools.count()

    def loss(model: nn.Module, batch: object) -> torch.Tensor:
        if next(calls) == call:
            raise Interrupted
        return next_token_loss(model, batch)

    return loss


def free_of_times(state: Training) -> dict:
    return {name: value for name, value in asdict(state).items() if name != "cpu_seconds"}
