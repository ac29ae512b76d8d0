"""Low-rank adaptation of the MLP weights (LoRA, Hu et al. 2021)."""

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
    """The weight W + B A with trainable B (output by rank, zero at init) and A (rank by input)."""

    def __init__(self, outputs: int, inputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.write = nn.Parameter(torch.zeros(outputs, rank))
        self.read = nn.Parameter(torch.randn(rank, inputs, generator=generator) / inputs**0.5)

    def forward(self, weight: Float[Tensor, "output input"]) -> Float[Tensor, "output input"]:
        return weight + self.write @ self.read


def add_lora(model: Transformer, rank: int, seed: int = 0) -> Transformer:
    """Add LoRA to both weight matrices of every MLP and freeze all other parameters, in place.

    Raises:
        ToylabError: for a rank below 1 or above the rank of the matrices; for a model without MLPs.
    """
    largest = min(_mlp_layers(model.blocks[0])[0].weight.shape)
    check_range("at most the rank of the matrices", rank=rank, least=1, most=largest)
    model.requires_grad_(False)
    generator = torch_stream(seed, "low rank")
    for block in model.blocks:
        for layer in _mlp_layers(block):
            outputs, inputs = layer.weight.shape
            change = LoRAWeight(outputs, inputs, rank, generator).to(layer.weight.device, layer.weight.dtype)
            parametrize.register_parametrization(layer, "weight", change)
    return model


def merge_lora(model: Transformer) -> Transformer:
    """Merge LoRA into the weights and make all parameters trainable again, in place."""
    for block in model.blocks:
        for layer in _mlp_layers(block):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            bias = layer.bias
            del layer.bias
            layer.bias = bias  # after the weight: keeps the parameter order
    return model.requires_grad_(True)


def _mlp_layers(block: Block) -> tuple[nn.Linear, nn.Linear]:
    if block.mlp is None:
        raise ToylabError("hidden=0: the model has no MLPs, whose matrices LoRA changes; give one with MLPs")
    return block.mlp.up, block.mlp.down
