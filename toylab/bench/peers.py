"""Reference models of the same shape in other libraries, with a shared loss and training step."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.bench import has_lens
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.settings import torch_seed

TORCH, LENS = "nn.TransformerEncoder", "TransformerLens"
VOCAB = 24


class TorchEncoder(nn.Module):
    """`torch.nn.TransformerEncoder` as a causal language model with learned positions."""

    def __init__(self, config: ModelConfig, vocab: int, context: int) -> None:
        super().__init__()
        width = config.width
        self.embedding, self.positions = nn.Embedding(vocab, width), nn.Parameter(torch.randn(context, width))
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.unembedding = nn.Linear(width, vocab, bias=False)
        self.mask: Tensor
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        length = tokens.shape[1]
        x = self.embedding(tokens) + self.positions[:length]
        return self.unembedding(self.encoder(x, mask=self.mask[:length, :length], is_causal=True))


def lens_model(config: ModelConfig, vocab: int, context: int, device: str) -> Any:
    """The model in TransformerLens; `None` if it is not installed."""
    if not has_lens():
        return None
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        shape = HookedTransformerConfig(
            n_layers=config.layers,
            n_heads=config.heads,
            d_model=config.width,
            d_head=config.width // config.heads,
            d_mlp=4 * config.width,
            d_vocab=vocab,
            n_ctx=context,
            act_fn="gelu",
            normalization_type="LN",
            device=device,
            seed=0,
        )
        return HookedTransformer(shape)


def peer_models(config: ModelConfig, context: int, device: str, vocab: int = VOCAB) -> dict[str, nn.Module]:
    """Models of one shape by library name: toylab ("ours"), PyTorch and, if installed, TransformerLens."""
    cpu_models = {"ours": Transformer(config, vocab, context), TORCH: TorchEncoder(config, vocab, context)}
    models = {name: model.to(device) for name, model in cpu_models.items()}
    other = lens_model(config, vocab, context, device)
    return models if other is None else {**models, LENS: other}


def peer_config(width: int, layers: int = 2) -> ModelConfig:
    """The shared architecture: four heads, learned positions, pre-norm, GELU, an MLP of four times the width."""
    return ModelConfig(layers=layers, heads=4, width=width, positions="learned")


def random_tokens(
    rows: int, length: int, device: str, vocab: int = VOCAB, seed: int = 0
) -> Int[Tensor, "batch position"]:
    """Uniformly random tokens."""
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(torch_seed(seed))).to(device)


Loss = Callable[[], Float[Tensor, ""]]


def language_model_loss(model: nn.Module, rows: Int[Tensor, "batch longer"]) -> Loss:
    """Next-token loss over every position of the rows, as a function without arguments."""
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].flatten()
    return lambda: F.cross_entropy(model(inputs).flatten(0, 1), targets)


def adamw_step(model: nn.Module) -> Callable[[Loss], None]:
    """The common PyTorch training step: fused `torch.optim.AdamW` with gradient clipping at norm 1."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step(loss: Loss) -> None:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step
