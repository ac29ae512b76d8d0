"""Writes `forward.json`: small models of every architecture of the four studies, with tokens and logits.

    python -m tests.cases.make_forward

Other implementations of the forward pass are held to this table. Each case is an object:

    name      of the case
    kind      Transformer or EncoderDecoder
    config    every field of `ModelConfig` or `EncoderDecoderConfig`
    sizes     arguments of the constructor after the configuration, such as vocab and context
    weights   name to {shape, data}: float32, little-endian, base64; as in model.safetensors
    steering  layer to a vector of the same form, added to the residual stream after that block; mostly empty
    tokens    [row, position]
    logits    [row, position, token], for an encoder-decoder [row, label, count]; computed in float64
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.model.layers import torch_stream
from toylab.model.steering import Steered, Vector
from toylab.model.transformer import Transformer

PATH = Path(__file__).with_name("forward.json")
VOCAB, CONTEXT, ROWS = 7, 9, 2
ENCODINGS = ("none", "learned", "sinusoidal", "rotary", "alibi")
"""The positional encodings of the studies."""
SMALL = ModelConfig(heads=2, width=8, hidden=12, embedding_std=0.5)
ENCODER = ModelConfig(layers=1, heads=1, width=8, hidden=0, biases=False, unembedding="none")


def decoders() -> Iterator[tuple[str, ModelConfig]]:
    """The decoders of the iteration, safety and steering studies, and every option of `ModelConfig` in turn."""
    for positions in ENCODINGS:
        yield f"decoder, {positions} positions", replace(SMALL, positions=positions)
    sinusoids = {"position_width": 6, "position_frequency": 1.6, "position_base": 20.0, "position_std": 1.8}
    yield "iteration head", replace(SMALL, activation="silu", **sinusoids)
    published = replace(SMALL, heads=1, norm="entry", biases=False, positions="learned")
    yield "iteration head, published code", published
    yield "safety fine-tuning", replace(SMALL, positions="learned", embedding_std=0.125, position_std=0.125)
    yield "norm after each sublayer", replace(SMALL, norm="post", activation="relu")
    yield "no norm, tied unembedding", replace(SMALL, norm="none", activation="gelu-tanh", unembedding="tied")
    yield "attention only, bidirectional", replace(SMALL, hidden=0, causal=False, positions="rotary")


def encoder_decoders() -> Iterator[tuple[str, EncoderDecoderConfig]]:
    """The models of the counting study: every encoding, causal and bidirectional, and every option of the decoder."""
    for positions in ENCODINGS:
        slope = 0.01 if positions == "alibi" else None
        encoder = replace(ENCODER, positions=positions, alibi_slope=slope)
        yield f"encoder-decoder, {positions} positions", EncoderDecoderConfig(encoder=encoder)
    yield "bidirectional encoder", EncoderDecoderConfig(encoder=replace(ENCODER, positions="none", causal=False))
    complete = replace(ENCODER, positions="none", heads=2, hidden=12, biases=True)
    yield (
        "encoder and decoder with every sublayer",
        EncoderDecoderConfig(encoder=complete, heads=2, self_attention=True, residual=True, hidden=12, logit_scale=1.0),
    )


def cases() -> Iterator[dict[str, Any]]:
    """All cases; each has weights of its own seed."""
    for seed, (name, config) in enumerate(decoders()):
        yield _case(name, Transformer(config, VOCAB, CONTEXT, seed), seed, {"vocab": VOCAB, "context": CONTEXT})
    steering_study = replace(SMALL, layers=3, positions="learned", unembedding="orthogonal", embedding_std=0.125)
    model, generator = Transformer(steering_study, VOCAB, CONTEXT, 100), torch_stream(100, "steering")
    vectors = {layer: torch.randn(8, generator=generator) for layer in (0, 2)}
    yield _case("steering vectors", model, 100, {"vocab": VOCAB, "context": CONTEXT}, vectors)
    sizes = {"symbols": 5, "queries": 2, "classes": 6, "context": CONTEXT}
    for seed, (name, config) in enumerate(encoder_decoders(), start=200):
        yield _case(name, EncoderDecoder(config, **sizes, seed=seed), seed, sizes)


def _case(
    name: str,
    model: Transformer | EncoderDecoder,
    seed: int,
    sizes: dict[str, int],
    vectors: dict[int, Tensor] | None = None,
) -> dict[str, Any]:
    generator = torch_stream(seed, "case")
    with torch.no_grad():
        for parameter in model.parameters():  # gains of 1 and biases of 0 would hide a fault
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    tokens = torch.randint(next(iter(sizes.values())), (ROWS, CONTEXT), generator=generator)
    called = Steered(model, {layer: Vector(8, v) for layer, v in vectors.items()}) if vectors else model
    with torch.no_grad():
        logits = called.double()(tokens)
    weights = model.float().state_dict()
    if getattr(model.config, "unembedding", "") == "tied":
        del weights["unembedding.weight"]
    return {
        "name": name,
        "kind": type(model).__name__,
        "config": asdict(model.config),
        "sizes": sizes,
        "weights": {name: _packed(tensor) for name, tensor in weights.items()},
        "steering": {str(layer): _packed(vector) for layer, vector in (vectors or {}).items()},
        "tokens": tokens.tolist(),
        "logits": [[[float(f"{x:.10g}") for x in row] for row in rows] for rows in logits.tolist()],
    }


def _packed(tensor: Tensor) -> dict[str, Any]:
    data = tensor.detach().numpy().astype("<f4").tobytes()
    return {"shape": list(tensor.shape), "data": base64.b64encode(data).decode()}


def unpacked(packed: dict[str, Any]) -> Tensor:
    """The tensor of an object {shape, data}."""
    data = np.frombuffer(base64.b64decode(packed["data"]), dtype="<f4")
    return torch.from_numpy(data.copy()).view(*packed["shape"])


if __name__ == "__main__":
    PATH.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases()) + "\n]\n", encoding="utf-8")
