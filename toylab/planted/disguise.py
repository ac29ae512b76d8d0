"""Function-preserving transformations of planted circuits, and weight noise, for testing detectors.

Handwritten circuits are unrealistically clean: one head, one coordinate per feature. `add_heads` adds heads that attend
at random, `add_layer` adds idle layers, and `rotate_basis` rotates the residual stream; all three preserve the logits.
`add_noise` interpolates the weights with random ones.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.layers import Attention, BlockList, LayerNorm
from toylab.model.positions import LearnedPositions
from toylab.model.transformer import Transformer
from toylab.settings import check_range

Model = TypeVar("Model", bound=nn.Module)

RANDOM_SCORE = 4.0
"""Magnitude of the attention scores of added heads."""


def add_heads(model: Transformer, heads: int, at: int, rng: np.random.Generator) -> Transformer:
    """A model with the same logits and `heads` heads per layer: the original head at index `at`, the others random.

    Random heads attend with scores of magnitude about `RANDOM_SCORE` and have zero output.

    Raises:
        ToylabError: for a model with norms or several heads, or an index `at` out of range.
    """
    config = model.config
    if config.norm != "none" or config.heads != 1 or config.positions not in ("none", "learned"):
        raise ToylabError(
            f"norm={config.norm}, heads={config.heads}, positions={config.positions}: heads can be added to one head "
            "without norms, of no or learned positions"
        )
    check_range("it is one of the heads", at=at, least=0, most=heads - 1)
    head_width, width = config.width, heads * config.width
    hidden = 4 * head_width if config.hidden is None else config.hidden
    result = Transformer(replace(config, heads=heads, width=width, hidden=hidden), model.vocab, model.context)
    result.to(**_dtype_and_device(model))
    head_slice = slice(at * head_width, (at + 1) * head_width)  # features of the original head
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            source = model.get_parameter(name)
            parameter.zero_()
            if name.endswith(("query.weight", "key.weight", "value.weight")):
                parameter[head_slice, :head_width] = source
            elif name.endswith(("query.bias", "key.bias", "value.bias")):
                parameter[head_slice] = source
            elif name.endswith("attn.output.weight"):
                parameter[:head_width, head_slice] = source
            else:  # the circuit occupies the first coordinates of the residual stream
                parameter[tuple(slice(size) for size in source.shape)] = source
        for block in result.blocks:
            random_heads = [h for h in range(heads) if h != at]
            for h in random_heads:
                _attend_at_random(block.attn, slice(h * head_width, (h + 1) * head_width), slice(0, head_width), rng)
    return result


def add_layer(model: Transformer, before: int, rng: np.random.Generator) -> Transformer:
    """A model with the same logits and an idle layer before layer `before`: random attention, zero output.

    Raises:
        ToylabError: for norms on the residual stream itself (post, entry), under which no layer is the identity.
    """
    config = model.config
    if config.norm not in ("none", "pre"):
        raise ToylabError(f"norm={config.norm}: acts on the stream, so no layer is idle; give a model with pre or none")
    result = Transformer(replace(config, layers=config.layers + 1), model.vocab, model.context).to(
        **_dtype_and_device(model)
    )
    blocks = list(deepcopy(model).blocks)
    idle = result.blocks[-1]
    with torch.no_grad():
        for parameter in idle.parameters():
            parameter.zero_()
        for head in range(config.heads):
            size = config.width // config.heads
            head_slice = slice(head * size, (head + 1) * size)
            _attend_at_random(idle.attn, head_slice, slice(0, config.width), rng)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("blocks.")}
    result.load_state_dict(state, strict=False)
    result.blocks = BlockList([*blocks[:before], idle, *blocks[before:]])
    return result


def rotate_basis(model: Transformer, rng: np.random.Generator) -> Transformer:
    """A model with the same logits and a randomly rotated residual stream.

    With LayerNorm, which subtracts the mean, the rotation fixes the all-ones direction.

    Raises:
        ToylabError: for a norm with unequal weights or biases, which is not rotation-equivariant.
    """
    rotated = deepcopy(model)
    _rotate_weights(rotated, rotated.blocks, _rotation(model, rng))
    return rotated


def rotate_encoder_basis(model: EncoderDecoder, rng: np.random.Generator) -> EncoderDecoder:
    """`rotate_basis` for the encoder's residual stream, including the cross-attention that reads it."""
    rotated = deepcopy(model)
    rotation = _rotation(model.encoder, rng)
    _rotate_weights(rotated.encoder, rotated.encoder.blocks, rotation)
    with torch.no_grad():
        for linear in (rotated.decoder.cross.key, rotated.decoder.cross.value):
            linear.weight.copy_(linear.weight @ rotation)
    return rotated


def add_noise(model: Model, noise: float | int, rng: np.random.Generator) -> Model:
    """Interpolate every parameter w with Gaussian noise: (1 - noise) w + noise g, where g has the RMS of w.

    Raises:
        ToylabError: for `noise` outside 0 to 1.
    """
    check_range("it is a share", noise=noise, least=0, most=1)
    noisy = deepcopy(model)
    with torch.no_grad():
        for parameter in noisy.parameters():
            size = parameter.square().mean().sqrt()
            random = torch.from_numpy(rng.standard_normal(tuple(parameter.shape))).to(parameter)
            parameter.mul_(1 - noise).add_(noise * size * random)
    return noisy


def _dtype_and_device(model: nn.Module) -> dict[str, Any]:
    first = next(model.parameters())
    return {"dtype": first.dtype, "device": first.device}


def _attend_at_random(attn: Attention, features: slice, coordinates: slice, rng: np.random.Generator) -> None:
    """Random query and key weights of one head; scores of unit features have a spread of about `RANDOM_SCORE`."""
    for linear in (attn.query, attn.key):
        block = linear.weight[features, coordinates]
        block.copy_(torch.from_numpy(rng.standard_normal(tuple(block.shape))) * RANDOM_SCORE**0.5)


def _rotation(model: Transformer, rng: np.random.Generator) -> Float[Tensor, "width width"]:
    width = model.config.width
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    for norm in norms:
        if bool((norm.weight != norm.weight[0]).any()) or (norm.bias is not None and bool(norm.bias.any())):
            raise ToylabError("norm: its weights mark a basis; only norms of equal weights without biases can turn")
    if not norms:
        return torch.from_numpy(np.linalg.qr(rng.standard_normal((width, width)))[0]).to(**_dtype_and_device(model))
    frame = rng.standard_normal((width, width))
    frame[:, 0] = 1
    basis = np.linalg.qr(frame)[0]
    inner = np.eye(width)  # fixes the first direction, rotates the rest
    inner[1:, 1:] = np.linalg.qr(rng.standard_normal((width - 1, width - 1)))[0]
    return torch.from_numpy(basis @ inner @ basis.T).to(**_dtype_and_device(model))


def _rotate_weights(model: Transformer, blocks: BlockList, rotation: Float[Tensor, "width width"]) -> None:
    """Rotate all weights that write to the residual stream, and rotate all weights that read it inversely."""
    with torch.no_grad():
        model.embedding.weight.copy_(model.embedding.weight @ rotation)
        if isinstance(model.positions, LearnedPositions):
            model.positions.table.copy_(model.positions.table @ rotation)
        for block in blocks:
            reading = [block.attn.query, block.attn.key, block.attn.value]
            writing = [block.attn.output]
            if block.mlp is not None:
                reading.append(block.mlp.up)
                writing.append(block.mlp.down)
            for linear in reading:
                linear.weight.copy_(linear.weight @ rotation)
            for linear in writing:
                linear.weight.copy_(rotation.T @ linear.weight)
                if linear.bias is not None:
                    linear.bias.copy_(linear.bias @ rotation)
        if isinstance(model.unembedding, nn.Linear) and model.config.unembedding != "tied":
            model.unembedding.weight.copy_(model.unembedding.weight @ rotation)
