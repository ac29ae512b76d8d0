"""The circuit written by hand on which the measures are tried, and what is held out for it."""

import torch

from toylab.model.transformer import Transformer
from toylab.planted.disguise import add_heads
from toylab.planted.handwritten import iteration_head
from toylab.probes import IterationHead
from toylab.tasks import Batch, IteratedMap, Polynomial, Split, stream
from toylab.training import evaluate

TASK = Polynomial(p=5, lengths=(1, 6))
HEAD = IterationHead(
    layer=1, head=0, carry=1.0, stop=1.0, end_of_input=1.0, end_of_input_at=(0, 0), misses=(), backups=()
)
"""That of the circuit, which head 0 of layer 0 tells where the input ended."""


def held_out(task: IteratedMap, lengths, rows: int, split: Split = "test", seed: int = 0) -> dict[int, Batch]:
    """Inputs of each length on which no model was trained."""
    return evaluate.by_length(task, seed, lengths, rows, split)


def noisy(seed: int, noise: float, heads: int = 1) -> Transformer:
    """The circuit, as the last of so many heads a layer, blurred and with noise on all weights: right here, wrong
    there."""
    model, source = iteration_head(TASK).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.query.weight /= 15  # scores of 4 against 0 leave a part of the attention elsewhere
            block.attn.query.bias /= 15
    if heads > 1:
        model = add_heads(model, heads, heads - 1, stream(seed, "heads"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return model
