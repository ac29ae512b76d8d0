"""Places of models and tensors: copies here or on the pretend accelerator, what agrees between them, and small models.

A route takes a `Place`, puts all its models and tensors through it, and gives back what it found.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.accelerator import DEVICE, Accelerator, is_far
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.model.generate import generate
from toylab.model.transformer import Transformer
from toylab.probes import watch
from toylab.studies.contextual_counting import data as counting
from toylab.studies.safety_finetuning import data as concept
from toylab.tasks import AssociativeRecall, ContextualCounting, Polynomial, Reasoning, TaskConcept, held_out
from toylab.training.batches import to_device

Place = Callable[[Any], Any]
"""Puts a copy of a model, a tensor, or what is made of them where a route is gone."""
VOCAB, CONTEXT = 7, 14


def placed(x: Any, device: torch.device) -> Any:
    """A copy on a device."""
    if isinstance(x, nn.Module):
        return deepcopy(x).to(device)
    if isinstance(x, Tensor):
        return x.detach().to(device).requires_grad_(x.requires_grad)
    if isinstance(x, Mapping):
        return {name: placed(one, device) for name, one in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(placed(one, device) for one in x)
    return to_device(x, device)


def agree(found: Any, expected: Any, where: str) -> None:
    """The same numbers; tensors lie on the accelerator."""
    if isinstance(expected, nn.Module):
        agree(found.state_dict(), expected.state_dict(), where)
    elif isinstance(expected, Tensor):
        assert is_far(found), f"{where} is left on the CPU"
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected)
        for name in expected:
            agree(found[name], expected[name], f"{where}[{name}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for n, pair in enumerate(zip(found, expected, strict=True)):
            agree(*pair, f"{where}[{n}]")
    elif is_dataclass(expected):
        agree(vars(found), vars(expected), where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    else:
        assert found == expected


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(rows: int = 3, width: int = 6, vocab: int = VOCAB) -> Tensor:
    return torch.randint(vocab, (rows, width), generator=torch.Generator().manual_seed(rows))


def model_of(positions: str = "rotary", **shape: Any) -> Transformer:
    return Transformer(ModelConfig(width=16, positions=positions, **shape), VOCAB, CONTEXT)


def slopes(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


def same_on_an_accelerator(go: Callable[..., Any], name: str, *given: Any) -> None:
    expected = go(lambda x: placed(x, torch.device("cpu")), *given)
    with Accelerator():
        agree(go(lambda x: placed(x, DEVICE), *given), expected, name)


# Small tasks and models ----------------------------------------------------------------------------------------------


ITERATED = Polynomial(p=5, lengths=(1, 5))
RECALL = AssociativeRecall(pairs=4)
COUNTING = ContextualCounting(length=(10, 20), regions=(1, 3))
CONCEPT = TaskConcept(letters=6, nodes=2, safe=1, unsafe=1, mixed=1, duplicates=1, soft_slots=1)
CHAINS = Reasoning(p=3, length=3)
SMALL = replace(concept.MODEL, width=16, heads=2)


def counter(**encoder: Any) -> nn.Module:
    shape = replace(ENCODER, width=8, **encoder)
    return counting.counting_model(COUNTING, EncoderDecoderConfig(encoder=shape, self_attention=True, hidden=8))


def strings_of(rows: int) -> Any:
    return held_out(COUNTING, 0, rows, **COUNTING.largest)


# What a model does with tokens ---------------------------------------------------------------------------------------


def whole(model: Transformer, read: Tensor) -> Any:
    with watch(model, "blocks.*.attn.pattern") as seen:
        return slopes(model(read).logsumexp(dim=-1).mean(), model), dict(seen)


WAYS_TO_WRITE = (
    {},
    {"cache": False, "samples": 2},
    {"temperature": 1.0, "samples": 3},
    {"temperature": 1e-9, "stop": 0},
    {"temperature": 2.0, "stop": 1, "samples": 4, "drop": True},
)


def written(model: nn.Module, read: Tensor, ways: Iterable[Mapping[str, Any]] = WAYS_TO_WRITE) -> list[Tensor]:
    return [generate(model, read, 4, generator=torch.Generator().manual_seed(0), **way) for way in ways]
