"""Models in float64 to patch, prompts for them, and a change that depends on what it changes."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from toylab import ModelConfig, Transformer
from toylab.probes import edit, watch

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=4)
VOCAB, LENGTH, WIDTH, LAYERS = 7, 6, 8, 3
POINT = "blocks.0.resid_post"
LATER = ("blocks.1.ln1", "blocks.1.ln2", "blocks.2.ln1", "blocks.2.ln2", "ln_final")
WITHIN = tuple(
    f"blocks.{layer}.{name}"
    for layer in (1, 2)
    for name in ("attn.q", "attn.k", "attn.v", "attn.pattern", "attn.z", "attn_out", "mlp.post", "mlp_out", "ln1")
)
# Ways to name positions, each with what it means.
POSITIONS = [
    (slice(None), [0, 1, 2, 3, 4, 5]),
    (slice(2, 4), [2, 3]),
    (slice(-1, None), [5]),
    ([1, 4], [1, 4]),
    ((3,), [3]),
    (range(1, 4), [1, 2, 3]),
    ([-2], [4]),
    ([], []),
]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance: float = 1e-9):
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=tolerance, atol=tolerance)


def transformer(seed: int, **options) -> Transformer:
    """A small model in float64, with gains and biases of its norms drawn, so that leaving one out shows."""
    config = ModelConfig(layers=LAYERS, heads=2, width=WIDTH, hidden=10, **options)
    model = Transformer(config, VOCAB, 16, seed).double()
    for i, norm in enumerate(module for module in model.modules() if isinstance(module, nn.LayerNorm)):
        norm.weight.data = 1 + normal(seed + i, *norm.weight.shape) / 2
        if norm.bias is not None:
            norm.bias.data = normal(seed + i + 50, *norm.bias.shape)
    return model.requires_grad_(False)


def prompts(seed: int, rows: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def adder(seed: int, width: int = WIDTH):
    """A change that depends on what it changes."""
    vector, gate = 2 * normal(seed, width), normal(seed + 1, width)
    return lambda x: x + (1 + torch.tanh(x @ gate))[..., None] * vector


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def streams(model, tokens, *names, edits=None):
    """What passes some points, and the logits."""
    with edit(model, edits or {}), watch(model, *names) as seen:
        logits = model(tokens)
    return [seen[name] for name in names], logits
