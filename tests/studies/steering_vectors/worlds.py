"""Models whose streams and logits are known, and what stands in the place of training and of drawing answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.small_steerings import numbers
from tests.studies.steering_vectors.helpers import SMALL, TASK
from toylab.model.layers import Block
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors import bases, data, measures
from toylab.studies.steering_vectors.data import AnswerShares
from toylab.tasks import Reasoning, Split, held_out
from toylab.training.batches import prompt_tokens
from toylab.training.losses import Rollouts

LAYERS, WIDTH, SEP, CONTEXT = 3, SMALL.width, TASK.prompt - 1, TASK.context


def questions(seed: int, rows: int, task: Reasoning = TASK, split: Split = "test") -> Tensor:
    """Prompts of one split, as the study draws them."""
    return prompt_tokens(task, held_out(task, seed, rows, split, purpose="prompts"))


def drawn(seed: int, task: Reasoning = TASK, **shape: Any) -> Transformer:
    """In float64, with norms that are not the identity; what it writes ends at all lengths."""
    model = Transformer.for_task(task, replace(SMALL, **({"layers": LAYERS} | shape)), seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name:
                parameter += 0.3 * numbers(seed, *parameter.shape)
        for block in model.blocks:  # heads that do look at something
            block.attn.query.weight.mul_(5)
    return model


def silenced(parts: Iterable[nn.Module]) -> None:
    """Let these last maps of attentions or MLPs write nothing."""
    for part in parts:
        for parameter in part.parameters():
            nn.init.zeros_(parameter)


def writers(block: Block) -> tuple[nn.Module, nn.Module]:
    """The last map of the attention, and that of the MLP."""
    return block.attn.output, block.mlp.down


def still(seed: int, after: int = -1, **shape: Any) -> Transformer:
    """A drawn model whose blocks behind a layer pass the stream on as it is."""
    model = drawn(seed, **shape)
    silenced(writer for block in model.blocks[after + 1 :] for writer in writers(block))
    return model


def biased(model: Transformer, by_layer: Mapping[int, Tensor]) -> Transformer:
    """A vector after a block, as a bias of its last map."""
    moved = deepcopy(model)
    with torch.no_grad():
        for layer, vector in by_layer.items():
            moved.blocks[layer].mlp.down.bias += vector
    return moved


def shifted(model: Transformer, layer: int, vector: Tensor, places: Iterable[int]) -> Transformer:
    """A vector after a block at these positions of whole rows."""
    moved, there = deepcopy(model), torch.tensor([p in set(places) for p in range(CONTEXT)])
    moved.blocks[layer].register_forward_hook(lambda _, __, h: h + there[: h.shape[1], None] * vector)
    return moved


def streams(model: Transformer, rows: Tensor, layer: int) -> Tensor:
    """What a block passes on."""
    kept = []
    handle = model.blocks[layer].register_forward_hook(lambda _, __, h: kept.append(h))
    with torch.no_grad():
        model(rows)
    handle.remove()
    return kept[0]


# In the place of drawing and training --------------------------------------------------------------------------------


def witness(
    model: nn.Module, task: Reasoning, prompts: Tensor, temperature: float, seed: int = 0, opener: str | None = None
) -> AnswerShares:
    """No shares, but mean logits of the first tokens: they tell models, prompts, temperatures and seeds apart."""
    said = (prompts[:, 1:2] + torch.arange(task.answer - 1)) % task.p
    if opener is not None:
        said[:, 0] = task.token(opener)
    with torch.no_grad():
        logits = model(torch.cat([prompts, said], dim=1))[:, task.prompt - 1 :]
    found = 10 * logits.mean(dim=(0, 1)) / (1 + temperature) + seed / 10
    return AnswerShares(*found[:6].tolist())


def rightly(model: nn.Module, prompts: Tensor, temperature: float = 1, seed: int = 0) -> float:
    """What the witness says in the place of the share of right answers."""
    return round(witness(model, TASK, prompts, temperature, seed).accuracy, 4)


@contextmanager
def witnessed() -> Iterator[list[nn.Module]]:
    """The witness in the place of drawn answers: yields the models that were asked."""
    asked = []

    def answers(model: nn.Module, *others: Any, **named: Any) -> AnswerShares:
        asked.append(model)
        return witness(model, *others, **named)

    with pytest.MonkeyPatch.context() as patch:
        for module in (data, measures, bases):
            patch.setattr(module, "measure_answers", answers)
        yield asked


@contextmanager
def writing(given: Callable[[list[int]], list[int]]) -> Iterator[list[tuple[Tensor, int]]]:
    """Answers written by hand in the place of drawn ones: yields prompts and seeds that were asked for."""
    asked = []

    def rollouts(model: nn.Module, task: Reasoning, prompts: Tensor, seed: int = 0) -> Rollouts:
        asked.append((prompts, seed))
        end = task.token("EOS")
        said = [(given(row) + [end] * task.answer)[: task.answer] for row in prompts.tolist()]
        counted = [[end not in row[:i] for i in range(task.answer)] for row in said]
        right = task.verify(prompts.numpy(), torch.tensor(said).numpy())
        return Rollouts(prompts, torch.tensor(said), torch.tensor(counted), torch.tensor(right).float()[:, None])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "rollouts", rollouts)
        yield asked


def flat(found: Any, name: str = "") -> dict[str, Any]:
    """The numbers of a result by their paths."""
    if is_dataclass(found):
        found = asdict(found)
    if isinstance(found, list | tuple):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        return {name: found}
    return {path: one for key, value in found.items() for path, one in flat(value, f"{name}/{key}").items()}


def alike(found: Any, expected: Any) -> bool:
    """Whether two results hold the same numbers, each in its slot, but for rounding to four places."""
    one, other = flat(found), flat(expected)
    empty = [{name for name, value in held.items() if value is None} for held in (one, other)]
    assert empty[0] == empty[1]
    assert {name: x for name, x in one.items() if x is not None} == pytest.approx(
        {name: x for name, x in other.items() if x is not None}, abs=2e-4, rel=1e-5
    )
    return True
