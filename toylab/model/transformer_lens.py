"""Conversion between `Transformer` and the `HookedTransformer` of TransformerLens."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.positions import LearnedPositions, RotaryPositions
from toylab.model.transformer import Transformer

_ACTIVATIONS = {"gelu": "gelu", "gelu-tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


_NORMS = {"pre": "LN", "none": None}


_POSITIONS = {
    "none": "standard",
    "learned": "standard",
    "sinusoidal": "standard",
    "rotary": "rotary",
    "alibi": "alibi",
}


@torch.no_grad()
def to_hooked(model: Transformer, context: int | None = None) -> nn.Module:
    """Convert to a HookedTransformer with the same weights, logits and dtype.

    A HookedTransformer has no dropout: the result has the logits of evaluation mode in both modes.

    With learned, sinusoidal or no positions, `generate` of the HookedTransformer gives wrong output with its default
    key-value cache; call it with `use_past_kv_cache=False`.

    Args:
        context: context length of the result; by default the context length of `model`.

    Raises:
        ToylabError: for a setting without a HookedTransformer equivalent, with its name; for a context longer than the
            table of learned positions.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = model.config
    context = model.context if context is None else context
    _refuse_unsupported_config(model, context)
    hidden = 4 * config.width if config.hidden is None else config.hidden
    weight = model.embedding.weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about version 4, which the extra excludes
        hooked = HookedTransformer(
            HookedTransformerConfig(
                n_layers=config.layers,
                n_heads=config.heads,
                d_model=config.width,
                d_head=config.width // config.heads,
                d_mlp=hidden or None,
                attn_only=not hidden,
                n_ctx=context,
                d_vocab=model.vocab,
                act_fn=_ACTIVATIONS[config.activation],
                normalization_type=_NORMS[config.norm],
                positional_embedding_type=_POSITIONS[config.positions],
                attention_dir="causal" if config.causal else "bidirectional",
                rotary_base=config.position_base,
                dtype=weight.dtype,
                device=str(weight.device),
                init_weights=False,
            )
        )
    for parameter in hooked.parameters():
        parameter.zero_()  # weights that toylab's model lacks stay 0
    state = _weights(model)
    if _POSITIONS[config.positions] == "standard" and config.positions != "none":
        table = model.positions.embed(torch.arange(context, device=weight.device))
        assert table is not None
        state["pos_embed.W_pos"] = table
    unexpected = hooked.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise RuntimeError(f"TransformerLens has no weight {unexpected[0]!r}; is it a version below 4?")
    for block in hooked.blocks:
        _write_positions(block.attn, model, context)
    return hooked.eval()


def _weights(model: Transformer) -> dict[str, Tensor]:
    """The weights of all layers under their TransformerLens names, as views in the shapes of TransformerLens."""
    weights = {"embed.W_E": model.embedding.weight, "unembed.W_U": model.unembedding.weight.T}
    norms = {"ln_final": model.ln_final}
    for i, block in enumerate(model.blocks):
        name, attn, mlp = f"blocks.{i}", block.attn, block.mlp
        norms |= {f"{name}.ln1": block.ln1, f"{name}.ln2": block.ln2}
        for theirs, linear in zip("QKV", (attn.query, attn.key, attn.value), strict=True):
            weights[f"{name}.attn.W_{theirs}"] = linear.weight.unflatten(0, (attn.heads, -1)).mT
            if linear.bias is not None:
                weights[f"{name}.attn.b_{theirs}"] = linear.bias.unflatten(0, (attn.heads, -1))
        weights[f"{name}.attn.W_O"] = attn.output.weight.T.unflatten(0, (attn.heads, -1))
        biases = {f"{name}.attn.b_O": attn.output.bias}
        for theirs, linear in {} if mlp is None else {"in": mlp.up, "out": mlp.down}.items():
            weights[f"{name}.mlp.W_{theirs}"], biases[f"{name}.mlp.b_{theirs}"] = linear.weight.T, linear.bias
        weights |= {place: bias for place, bias in biases.items() if bias is not None}
    for name, norm in norms.items():
        if isinstance(norm, nn.LayerNorm):
            weights |= {f"{name}.w": norm.weight} | ({} if norm.bias is None else {f"{name}.b": norm.bias})
    return weights


def _write_positions(attn: Any, model: Transformer, context: int) -> None:
    """Copy rotary angles and ALiBi slopes bit-exactly."""
    positions = torch.arange(context, device=model.embedding.weight.device)
    if isinstance(model.positions, RotaryPositions):
        angles = (positions[:, None] * model.positions.frequencies).repeat(1, 2)
        attn.rotary_sin, attn.rotary_cos = angles.sin(), angles.cos()
    elif model.config.positions == "alibi":
        slopes = model.positions.bias(positions[None], positions[None])
        assert slopes is not None
        attn.alibi = slopes[0].to(model.embedding.weight.dtype)


def _refuse_unsupported_config(model: Transformer, context: int) -> None:
    """Raises `ToylabError` for the first setting without a HookedTransformer equivalent."""
    config = model.config
    reasons: dict[str, Callable[[], bool]] = {
        "norm": lambda: config.norm not in _NORMS,
        "unembedding": lambda: config.unembedding == "none",
        "position_frequency": lambda: config.positions == "rotary" and config.position_frequency != 1,
        "alibi_slope": lambda: config.positions == "alibi" and config.alibi_slope is not None,
        "causal": lambda: config.positions == "alibi" and not config.causal,
    }
    for name, applies in reasons.items():
        if applies():
            raise ToylabError(
                f"{name}={getattr(config, name)}: HookedTransformer does not support it (with "
                f"positions={config.positions}); only models without it can be converted"
            )
    if config.positions == "learned" and context > model.context:
        raise ToylabError(f"context={context}: learned positions end at {model.context}; give at most that")


_REQUIRED: dict[str, Any] = {
    "eps": 1e-5,
    "gated_mlp": False,
    "parallel_attn_mlp": False,
    "use_qk_norm": False,
    "use_local_attn": False,
    "use_attention_sinks": False,
    "use_normalization_before_and_after": False,
    "post_embedding_ln": False,
    "scale_attn_by_inverse_layer_idx": False,
    "num_experts": None,
    "attn_scores_soft_cap": -1.0,
    "output_logits_soft_cap": -1.0,
    "rotary_adjacent_pairs": False,
}
"""Config values that a HookedTransformer must have to be convertible."""


@torch.no_grad()
def from_hooked(hooked: nn.Module) -> Transformer:
    """Convert a HookedTransformer to a `Transformer` with the same weights and logits.

    Sinusoidal positions become learned positions with the same values.

    Raises:
        ToylabError: for a setting without a `Transformer` equivalent, with its name.
    """
    cfg = _refuse_unsupported_cfg(hooked)
    norms: dict[str | None, Any] = {theirs: ours for ours, theirs in _NORMS.items()} | {"LNPre": "pre"}
    activations: dict[str, Any] = {theirs: ours for ours, theirs in _ACTIVATIONS.items()} | {"gelu_new": "gelu-tanh"}
    state = hooked.state_dict()
    if cfg.positional_embedding_type == "standard":
        positions = "learned" if bool(state["pos_embed.W_pos"].any()) else "none"
    else:
        positions = cfg.positional_embedding_type
    config = ModelConfig(
        layers=cfg.n_layers,
        heads=cfg.n_heads,
        width=cfg.d_model,
        hidden=0 if cfg.attn_only else cfg.d_mlp,
        activation="gelu" if cfg.attn_only else activations[cfg.act_fn],
        norm=norms[cfg.normalization_type],
        causal=cfg.attention_dir == "causal",
        positions=positions,
        position_base=float(cfg.rotary_base),
    )
    weight = state["embed.W_E"]
    model = Transformer(config, cfg.d_vocab, cfg.n_ctx).to(device=weight.device, dtype=weight.dtype)
    for name, ours in _weights(model).items():
        ours.copy_(state.get(name, ours))  # folded norms have no weights: keep 1 and 0
    if isinstance(model.positions, LearnedPositions):
        model.positions.table.copy_(state["pos_embed.W_pos"])
    elif positions == "rotary":
        _refuse_scaled_rotary(hooked)
    _compare_logits(hooked, model)
    return model


def _refuse_scaled_rotary(hooked: Any) -> None:
    cfg, attn = hooked.cfg, hooked.blocks[0].attn
    features = torch.arange(0, cfg.d_head, 2, dtype=torch.double)
    expected = float(cfg.rotary_base) ** (
        -features / cfg.d_head
    )  # recomputed from the config when a saved model is loaded
    actual = torch.atan2(attn.rotary_sin[1], attn.rotary_cos[1])[: len(expected)].double().cpu()
    if (expected - actual).abs().max() > 1e-6:
        raise ToylabError(
            f"rotary frequencies: are not those of rotary_base={cfg.rotary_base}, so they are scaled (as by "
            "use_NTK_by_parts_rope); a Transformer does not support this"
        )


def _refuse_unsupported_cfg(hooked: Any) -> Any:
    """The config; raises `ToylabError` for the first setting without a `Transformer` equivalent."""
    cfg = hooked.cfg
    supported = {
        "normalization_type": (cfg.normalization_type, ("LN", "LNPre", None)),
        "positional_embedding_type": (cfg.positional_embedding_type, ("standard", "rotary", "alibi")),
        "n_key_value_heads": (cfg.n_key_value_heads, (None, cfg.n_heads)),
        "d_head": (cfg.d_head, (cfg.d_model / cfg.n_heads,)),
        "d_vocab_out": (cfg.d_vocab_out, (cfg.d_vocab,)),
        "attention_dir": (cfg.attention_dir, ("causal", "bidirectional")),
        "attn_scale": (cfg.attn_scale if cfg.use_attn_scale else 1.0, (cfg.d_head**0.5,)),
    }
    if not cfg.attn_only:
        supported["act_fn"] = (cfg.act_fn, (*_ACTIVATIONS.values(), "gelu_new"))
    if cfg.positional_embedding_type == "rotary":
        supported["rotary_dim"] = (cfg.rotary_dim, (cfg.d_head,))
    supported |= {name: (getattr(cfg, name, value), (value,)) for name, value in _REQUIRED.items()}
    for name, (value, allowed) in supported.items():
        if value not in allowed:
            choices = " or ".join(str(alternative) for alternative in allowed)
            raise ToylabError(f"{name}={value}: a Transformer supports {choices}; no other model can be converted")
    if bool(hooked.unembed.b_U.any()):
        raise ToylabError("unembed.b_U: a Transformer has no unembedding bias; fold it, or set it to 0")
    return cfg


def _compare_logits(hooked: nn.Module, model: Transformer) -> None:
    """Raises `ToylabError` if the logits differ, as through a setting that `_refuse_unsupported_cfg` does not check."""
    size = min(256, model.context)
    tokens = torch.arange(2 * size, device=model.embedding.weight.device).view(2, size) % model.vocab
    expected: Float[Tensor, "batch position vocab"] = hooked(tokens)
    scale = max(1.0, expected.abs().max().item())
    if (model(tokens) - expected).abs().max().item() > 1e-4 * scale:
        raise ToylabError(f"cfg={hooked.cfg}: a setting has no counterpart, so the logits differ")
