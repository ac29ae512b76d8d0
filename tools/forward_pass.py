"""A forward pass of toylab's models in plain torch, in float64, without toylab.

Takes the architectures of the four studies, and refuses other settings by name. Weights are those of
`model.safetensors`, settings those in its header."""

import hashlib
import json
import math
import sys

import torch
from safetensors import safe_open
from torch.nn.functional import gelu, layer_norm, linear, pad, silu

TAKES = {
    "positions": ("none", "learned", "sinusoidal", "rotary", "alibi"),
    "norm": ("pre", "entry"),
    "activation": ("gelu", "silu"),
    "unembedding": ("learned", "orthogonal", "none"),
    "residual": (False,),
    "self_attention": (False,),
    "flag": (False,),
    "score_padding": (False,),
    "answer": ("counts",),
}
"""Settings of models and tasks, with the values that are taken."""


def need(condition, message):
    """End the program with a message unless the condition holds."""
    if not condition:
        sys.exit(f"refused: {message}")


def taken(settings):
    """The settings, if all of them are in `TAKES`; others are refused."""
    for key in TAKES.keys() & settings.keys():
        need(settings[key] in TAKES[key], f"{key}={settings[key]} is none of {TAKES[key]}")
    return settings


def layer(w, name, x):
    """A linear layer."""
    return linear(x, w[name + ".weight"], w.get(name + ".bias"))


def norm(w, name, x):
    """A LayerNorm."""
    return layer_norm(x, x.shape[-1:], w[name + ".weight"], w.get(name + ".bias"))


def angles(c, at, size):
    """Position times frequency, (position, size / 2)."""
    return (
        at.double()[:, None]
        * c["position_frequency"]
        * c["position_base"] ** -(torch.arange(0, size, 2).double() / size)
    )


def attention(w, name, c, x, keys, heads, bias):
    """Attention of the stream `x` to the stream `keys`."""
    parts = (("query", x), ("key", keys), ("value", keys))
    q, k, v = (layer(w, f"{name}.{part}", of).unflatten(-1, (heads, -1)).transpose(1, 2) for part, of in parts)
    if c["positions"] == "rotary":
        turns = angles(c, torch.arange(q.shape[2]), q.shape[3])
        rotation = torch.polar(torch.ones_like(turns), turns)
        q, k = (torch.complex(*y.chunk(2, -1)) * rotation for y in (q, k))
        q, k = (torch.cat([y.real, y.imag], dim=-1) for y in (q, k))
    pattern = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(dim=-1)
    return layer(w, name + ".output", (pattern @ v).transpose(1, 2).flatten(2))


def transformer(w, c, tokens, vectors):
    """Logits at each position or, without an unembedding, the residual stream."""
    taken(c)
    x, at, heads = w["embedding.weight"][tokens], torch.arange(tokens.shape[1]), c["heads"]
    if c["positions"] == "learned":
        x = x + w["positions.table"][at]
    if c["positions"] == "sinusoidal":
        turns = angles(c, at, c["position_width"] or c["width"])
        waves = c["position_std"] * torch.cat([turns.sin(), turns.cos()], dim=-1)
        x = x + pad(waves, (0, c["width"] - waves.shape[-1]))
    distance = (at[:, None] - at).double()
    bias = torch.zeros_like(distance).masked_fill((distance < 0) & c["causal"], -torch.inf)
    if c["positions"] == "alibi":
        slopes = [2 ** (-8 * (h + 1) / heads) if c["alibi_slope"] is None else c["alibi_slope"] for h in range(heads)]
        bias = bias - torch.tensor(slopes, dtype=torch.float32).double()[:, None, None] * distance.abs()
    for n in range(c["layers"]):
        block, normed = f"blocks.{n}", norm(w, f"blocks.{n}.ln1", x)
        x = (normed if c["norm"] == "entry" else x) + attention(w, block + ".attn", c, normed, normed, heads, bias)
        if c["hidden"] != 0:
            up = layer(w, block + ".mlp.up", norm(w, block + ".ln2", x))
            x = x + layer(w, block + ".mlp.down", {"gelu": gelu, "silu": silu}[c["activation"]](up))
        x = x + vectors.get(n, 0)
    x = norm(w, "ln_final", x)
    return x if c["unembedding"] == "none" else x @ w["unembedding.weight"].mT


def forward(kind, w, c, tokens, vectors):
    """Logits in float64: (row, position, token), of an encoder-decoder (row, label query, count)."""
    need(kind in ("Transformer", "EncoderDecoder"), f"class={kind}")
    w, vectors = ({key: t.double() for key, t in part.items()} for part in (w, vectors))
    if kind == "Transformer":
        return transformer(w, c, tokens, vectors)
    taken(c)
    need(not c["hidden"], f"hidden={c['hidden']} of the decoder")
    stream = transformer({k[8:]: t for k, t in w.items() if k.startswith("encoder.")}, c["encoder"], tokens, {})
    queries = w["decoder.queries"].expand(len(tokens), -1, -1)
    attended = attention(w, "decoder.cross", {"positions": "none"}, queries, stream, c["heads"], 0)
    return layer(w, "decoder.head", c["logit_scale"] * attended)


def tensors_of(path):
    """The tensors of a file and what its header says about them."""
    with safe_open(path, "pt") as file:
        about = json.loads(json.loads(file.metadata()["toylab"])["about"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def digest_of(tensors):
    """SHA-256 of names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_of(path, vectors=None):
    """A function from tokens to logits, the class, the settings and the digest of a model with steering vectors."""
    w, about = tensors_of(path)
    stored, steering = w, {}
    if vectors:
        added, where = tensors_of(vectors)
        need(where["at"] == {"from": None, "to": None}, f"at={where['at']}: vectors that act at some positions only")
        stored = {f"model.{name}": t for name, t in w.items()} | {f"additions.{name}": t for name, t in added.items()}
        steering = {int(name.removesuffix(".vector")): t for name, t in added.items()}
    kind, c = about["kind"], about["config"]
    return (lambda tokens: forward(kind, w, c, tokens, steering)), kind, c, digest_of(stored)
