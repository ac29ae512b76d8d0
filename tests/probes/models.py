"""Models to look into: small transformers of several shapes, and one that is no transformer."""

from collections import OrderedDict

import torch
from torch import nn

from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer

SHAPES = [
    ModelConfig(layers=2, heads=2, width=8, positions=positions, norm=norm)
    for positions, norm in [("sinusoidal", "pre"), ("rotary", "post"), ("alibi", "entry"), ("learned", "none")]
]


def transformer(config=SHAPES[0], seed=0):
    return Transformer(config, vocab=7, context=12, seed=seed)


def tokens(rows=3, length=6):
    return torch.randint(7, (rows, length), generator=torch.Generator().manual_seed(1))


def plain():
    """A model that knows nothing of this house."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(4, 5), here=nn.Identity(), bend=nn.ReLU(), there=nn.Identity(), last=nn.Linear(5, 2)
        )
    )


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
