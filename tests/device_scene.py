"""What a model of a task does with a loss on one device: the scene that probes are shown."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.places import Place, slopes
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS
from toylab.model.transformer import Transformer
from toylab.probes import watch
from toylab.tasks import TASKS, Batch, Task, stream
from toylab.training import losses
from toylab.training.batches import next_token_loss, pack, pad
from toylab.training.losses import PreferencePairs, Rollouts

ROWS, WIDTH = 4, 5
"""Of the tokens that probes are shown: the beginnings of the rows that the loss had."""


def pairs_of(batch: Batch) -> PreferencePairs:
    """The tokens before the last one of each row as its chosen answer, those of another row as the rejected one."""
    tokens = torch.from_numpy(batch.tokens)
    chosen = tokens[:, -3:-1]
    return PreferencePairs(tokens[:, :-3], chosen, chosen.roll(1, dims=0), torch.arange(len(tokens)) % 2 == 0)


def rollouts_of(batch: Batch) -> Rollouts:
    """Two answers to each prompt."""
    tokens = torch.from_numpy(batch.tokens)
    written = tokens[:, -3:]
    prompts = tokens[::2, :-3].repeat_interleave(2, dim=0)
    counted = losses.up_to_end(int(written[0, 1]), written)
    return Rollouts(prompts, written, counted, torch.tensor([[1.0, 0.0], [0.0, 0.5]]))


def wide(batch: Batch) -> Batch:
    """Rows of at least `WIDTH` + 3 tokens: short rows are repeated."""
    copies = -(-(WIDTH + 3) // batch.tokens.shape[1])
    tokens, targets = (np.tile(array, copies) for array in (batch.tokens, batch.targets))
    return Batch(tokens, targets, batch.sizes * copies, batch.links)


Loss = tuple[Callable[[Batch], Any], Callable[[nn.Module], Callable[[nn.Module, Any], Tensor]]]
LOSSES: dict[str, Loss] = {
    "next_token_loss": (pad, lambda reference: next_token_loss),
    "next_token_loss, packed": (pack, lambda reference: next_token_loss),
    "RefusalLoss": (pairs_of, lambda reference: losses.RefusalLoss()),
    "ConstantAnswerLoss": (pairs_of, lambda reference: losses.ConstantAnswerLoss()),
    "Unlearning": (pairs_of, lambda reference: losses.Unlearning()),
    "DPO": (pairs_of, lambda reference: losses.DPO(reference, anchor=0.5)),
    "NPO": (pairs_of, losses.NPO),
    "PolicyGradient": (rollouts_of, partial(losses.PolicyGradient, 0.3, 0.2)),
}
"""From a loss to the function from rows to its batch, and to the function from a reference model to the loss."""


class Models:
    """A model of a task and a reference on a device, and what the model does with the beginnings of some rows.

    Attributes:
        put: see `Place`.
        links: those of the task that lie within the tokens shown, or one link where there are none.
    """

    def __init__(self, task: Task, put: Place) -> None:
        positions = list(POSITIONS)[TASKS.index(type(task)) % len(POSITIONS)]
        config = ModelConfig(width=16, positions=positions)
        self.put, self.batch = put, wide(task.sample(stream(0), ROWS))
        context = max(task.context, self.batch.tokens.shape[1])
        self.model, self.reference = (put(Transformer(config, len(task.vocabulary), context, seed)) for seed in (0, 1))
        self.tokens = put(torch.from_numpy(self.batch.tokens[:, :WIDTH]))
        with watch(self.model, "blocks.*.attn.pattern") as seen, torch.no_grad():
            self.logits = self.model(self.tokens)
        self.patterns = list(seen.values())
        edges = np.concatenate([np.zeros((0, 3), dtype=int), *self.batch.links.values()])
        edges = edges[(edges[:, 1:] < WIDTH).all(axis=1)]
        self.links = edges if len(edges) else np.array([[0, 3, 1]])


class Scene:
    """What probes are shown: the models of a task, and the gradient of a loss as the numbers that they take.

    Attributes:
        loss: its value.
        gradient: of all parameters, flattened.
    """

    def __init__(self, models: Models, loss: str) -> None:
        layout, make = LOSSES[loss]
        self.put, self.model, self.tokens, self.links = models.put, models.model, models.tokens, models.links
        self.patterns = models.patterns
        self.loss, *gradients = slopes(make(models.reference)(self.model, self.put(layout(models.batch))), self.model)
        self.gradient = torch.cat([one.flatten() for one in gradients])
        names = [name for name, _ in self.model.named_parameters()]
        up = torch.cat([one.flatten() for name, one in zip(names, gradients, strict=True) if "mlp.up.w" in name])
        self._numbers = (up - up.mean()) / up.std()

    def normal(self, seed: int, *shape: int) -> Tensor:
        """Entries of the gradient of the MLPs, of mean 0 and variance 1."""
        start = 131 * seed
        return self._numbers[start : start + math.prod(shape)].view(shape)

    def pattern(self, layer: int = 0) -> Tensor:
        return self.patterns[layer % len(self.patterns)]

    def mask(self) -> Tensor:
        return self.normal(0, ROWS, 3, WIDTH) > 0

    def masses(self) -> dict[str, Tensor]:
        return {name: self.normal(seed, 9).abs() for seed, name in enumerate(("ones", "zeros", "begin"))}
