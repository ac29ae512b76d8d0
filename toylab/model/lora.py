"""Fine-tuning that can change weights only by a matrix of low rank (Hu et al. 2021, LoRA)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toylab.console import ToylabError
from toylab.model.layers import Block, torch_stream
from toylab.model.transformer import Transformer
from toylab.settings import check_range


class LoRAWeight(nn.Module):
    """A weight plus a trained product of two thin matrices, the first of which starts at 0."""

    def __init__(self, outputs: int, inputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.write = nn.Parameter(torch.zeros(outputs, rank))
        self.read = nn.Parameter(torch.randn(rank, inputs, generator=generator) / inputs**0.5)

    def forward(self, weight: Float[Tensor, "output input"]) -> Float[Tensor, "output input"]:
        return weight + self.write @ self.read


def add_lora(model: Transformer, rank: int, seed: int = 0) -> Transformer:
    """Let training change nothing but the MLPs' two matrices, each by this rank at the most; in place.

    Raises:
        ValueError: for a rank below 1 or above what the matrices have; for a model without MLPs.
    """
    largest = min(_mlp_layers(model.blocks[0])[0].weight.shape)
    check_range("the rank of the matrices themselves is the largest", rank=rank, least=1, most=largest)
    model.requires_grad_(False)
    generator = torch_stream(seed, "low rank")
    for block in model.blocks:
        for layer in _mlp_layers(block):
            outputs, inputs = layer.weight.shape
            change = LoRAWeight(outputs, inputs, rank, generator).to(layer.weight.device, layer.weight.dtype)
            parametrize.register_parametrization(layer, "weight", change)
    return model


def merge_lora(model: Transformer) -> Transformer:
    """The confined model with its changes merged into the weights, all of which may be trained again; in place."""
    for block in model.blocks:
        for layer in _mlp_layers(block):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            bias = layer.bias
            del layer.bias
            layer.bias = bias  # behind the weight again: parameters keep their order
    return model.requires_grad_(True)


def _mlp_layers(block: Block) -> tuple[nn.Linear, nn.Linear]:
    if block.mlp is None:
        raise ToylabError("hidden=0: the model has no MLPs, whose matrices LoRA changes; give one with MLPs")
    return block.mlp.up, block.mlp.down
