"""Models whose activations, answers or logits are laid down by hand, so that every measure of them is known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toylab import tasks
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import JAILBREAKS, Batch, Kind, Split, TaskConcept, stream

TASK = TaskConcept()
WIDTH, HIDDEN, LAYERS = 6, 10, 2
SHAPE = ModelConfig(layers=LAYERS, heads=1, width=WIDTH, hidden=HIDDEN, positions="none")
KINDS_OF_SETS: dict[str, Kind] = {
    **{name: name for name in ("safe", "unsafe", *JAILBREAKS)},
    "M, safe text": "safe",
    "M, unsafe text": "unsafe",
}


def held_out(task: TaskConcept, seed: int, rows: int, kind: Kind, split: Split = "test") -> Batch:
    """Prompts that no training has seen."""
    return tasks.held_out(task, seed, rows, split, kind=kind)


def draw_sets(seed: int, rows: int) -> dict[str, Batch]:
    """Prompts for every name of a set, each set a row longer than the one before, no two prompts alike."""
    sets, drawn = {}, set()
    for name, kind in KINDS_OF_SETS.items():
        batch = TASK.sample(stream(seed, name), 8 * rows, kind=kind)
        new = {prompt: row for row, prompt in enumerate(prompts_of(batch)) if prompt not in drawn}
        kept = [*new.values()][: rows + len(sets)]
        drawn |= {*new}
        sets[name] = replace(
            batch, tokens=batch.tokens[kept], targets=batch.targets[kept], sizes=batch.sizes[kept], links={}, labels={}
        )
        assert len(kept) == rows + len(sets) - 1
    return sets


def prompts_of(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(row) for row in batch.tokens[:, : TASK.prompt].tolist()]


def transforms_of(batch: Batch) -> list[list[int]]:
    """What complying with each prompt would be, by the task's slow solver."""
    return [TASK.solve(prompt) for prompt in prompts_of(batch)]


class Planted(Transformer):
    """Shows and writes what was laid down for each prompt; its weights, drawn at random, take no part in either.

    Activations are those of EOT; every other position, before or behind it, shows their opposite.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(SHAPE, len(TASK.vocabulary), TASK.context, seed)
        for block in self.blocks:
            block.ln1, block.ln2 = nn.Identity(), nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
        self.shown: dict[str, dict[tuple[int, ...], Tensor]] = {}
        self.written: dict[tuple[int, ...], Sequence[int]] = {}

    def show(self, point: str, sets: Mapping[str, Batch], clouds: Mapping[str, np.ndarray]) -> None:
        """Lay down what passes a point, a row for each prompt of each set."""
        self.shown[point] = {
            prompt: torch.tensor(row, dtype=torch.float)
            for name, cloud in clouds.items()
            for prompt, row in zip(prompts_of(sets[name]), cloud, strict=True)
        }

    def write(self, batch: Batch, answers: Sequence[Sequence[int]]) -> None:
        """Lay down the answers to the prompts of a batch."""
        self.written |= dict(zip(prompts_of(batch), answers, strict=True))

    def forward(self, tokens, *, cache=None, **_):
        if cache is not None:
            tokens = torch.cat([*(held[0] for held in cache.layers.values()), tokens], dim=1)
            cache.layers[0] = tokens, tokens
        asked = [tuple(row[: TASK.prompt]) for row in tokens.tolist()]
        sign = torch.full((tokens.shape[1], 1), -1.0)
        sign[TASK.prompt - 1] = 1
        for point, shown in self.shown.items():
            self.get_submodule(point)(sign * torch.stack([shown[prompt] for prompt in asked])[:, None])
        step = tokens.shape[1] - TASK.prompt
        letters = [self.written[prompt][step] if prompt in self.written else 0 for prompt in asked]
        return F.one_hot(torch.tensor(letters), len(TASK.vocabulary)).float()[:, None]


class Linear(Transformer):
    """Logits at EOT that are linear in the embeddings of the prompt, and steeper for some prompts than for others."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(SHAPE, len(TASK.vocabulary), TASK.context, seed)
        self.maps = torch.from_numpy(stream(seed, "maps").normal(size=(TASK.prompt, WIDTH, self.vocab))).float()

    @staticmethod
    def slope(prompt: Sequence[int]) -> float:
        return 1 + prompt[4] / 10  # by the first letter of the text

    def forward(self, tokens, **_):
        x = self.embed(self.embedding(tokens))
        slopes = torch.tensor([self.slope(row) for row in tokens.tolist()])
        logits = x.new_zeros(*tokens.shape, self.vocab)
        return torch.cat([logits[:, 1:], (slopes[:, None] * torch.einsum("bpw,pwv->bv", x, self.maps))[:, None]], dim=1)


class Persuadable(Transformer):
    """Writes NULL unless what stands in the PAD slots moves it: logits are linear in the slots, step by step.

    Attributes:
        maps: from both slots to the logits of each step of the answer.
        reluctance: the logit of NULL.
        slots: what stood in the PAD slots of the latest rows.
    """

    def __init__(self, maps: np.ndarray, reluctance: float, seed: int = 0) -> None:
        super().__init__(SHAPE, len(TASK.vocabulary), TASK.context, seed)
        self.maps, self.reluctance = torch.from_numpy(maps).float(), reluctance
        letters = torch.arange(self.vocab) < TASK.letters
        with torch.no_grad():  # letters of several lengths; all else is far longer, and PAD lies off the origin
            self.embedding.weight *= torch.where(letters, torch.linspace(0.5, 2, self.vocab), 10)[:, None]

    @property
    def pad(self) -> np.ndarray:
        return self.embedding.weight[TASK.vocabulary.index("PAD")].detach().double().numpy()

    def forward(self, tokens, *, queries=None, **_):
        x = self.embed(self.embedding(tokens))
        self.slots = x[:, TASK.soft].detach()
        answers = torch.einsum("bsw,tswv->btv", x[:, TASK.soft], self.maps)
        answers[..., TASK.null] += self.reluctance
        logits = torch.cat([answers.new_zeros(len(x), TASK.prompt - 1, self.vocab), answers], dim=1)
        logits = logits[:, : tokens.shape[1]]
        return logits if queries is None else logits[torch.arange(len(x))[:, None], queries]
