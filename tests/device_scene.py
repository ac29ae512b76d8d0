"""What a model of a task does with a loss on one device: the scene that probes are shown."""

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

ROWS, WIDTH = 4, 6
"""Of the tokens that probes are shown: the beginnings of the rows that the loss had."""
WIDTHS = 16


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


class Scene:
    """A model of a task on a device, the gradient of a loss, and what probes are shown of both.

    Attributes:
        put: see `Place`.
        found: logits, loss, gradients, patterns.
        links: those of the task that lie within the tokens shown; `SAME_LINKS` stands in for none.
    """

    def __init__(self, task: Task, loss: str, put: Place) -> None:
        layout, make = LOSSES[loss]
        positions = list(POSITIONS)[TASKS.index(type(task)) % len(POSITIONS)]
        config = ModelConfig(width=WIDTHS, positions=positions)
        batch = task.sample(stream(0), ROWS)
        self.put, self.model = put, put(Transformer.for_task(task, config))
        self.tokens = put(torch.from_numpy(batch.tokens[:, :WIDTH]))
        reference = put(Transformer.for_task(task, config, seed=1))
        gradients = slopes(make(reference)(self.model, put(layout(batch))), self.model)
        with watch(self.model, "blocks.*.attn.pattern") as seen, torch.no_grad():
            logits = self.model(self.tokens)
        self.patterns = list(seen.values())
        self.found = [logits, gradients, self.patterns]
        names = [name for name, _ in self.model.named_parameters()]
        up = torch.cat([g.flatten() for name, g in zip(names, gradients[1:], strict=True) if "mlp.up.w" in name])
        self._numbers = (up - up.mean()) / up.std()
        edges = np.concatenate([np.zeros((0, 3), dtype=int), *batch.links.values()])
        edges = edges[(edges[:, 1:] < WIDTH).all(axis=1)]
        self.links = edges if len(edges) else np.array([[0, 3, 1]])

    def normal(self, seed: int, *shape: int) -> Tensor:
        """Entries of the gradient of the MLPs, of mean 0 and variance 1."""
        start = 131 * seed
        return self._numbers[start : start + int(np.prod(shape))].view(shape)

    def pattern(self, layer: int = 0) -> Tensor:
        return self.patterns[layer % len(self.patterns)]

    def mask(self) -> Tensor:
        return self.normal(0, ROWS, 3, WIDTH) > 0

    def masses(self) -> dict[str, Tensor]:
        return {name: self.normal(seed, 9).abs() for seed, name in enumerate(("ones", "zeros", "begin"))}
