"""Adapters for models of other libraries: GPT-2 of transformers, TransformerLens, and `nn.TransformerEncoder`.

    model = adopt(GPT2LMHeadModel(config), patterns=True)
    points(model)                                   # the same names as in toylab's own models
    with watch(model, "blocks.*.attn.pattern") as cache:
        model(tokens)                               # logits

TransformerLens and transformers are installed by `pip install 'toylab[interop]'` and imported only when needed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.probes import Tap

_READ_ONLY_PATTERN = "it is reported after the attention has used it; edit attn.z or attn_out instead"
_READ_ONLY_STREAM = "the block also adds to it by another way; edit attn_out or mlp_out instead"


class AdoptedModel(nn.Module):
    """A wrapper that gives a model of another library toylab's hook points; returns logits.

    Attributes:
        model: the wrapped model (not a copy).
        taps: from hook point to its location in the model.
        hidden: from unavailable hook point to the reason.
    """

    def __init__(self, model: nn.Module, taps: dict[str, Tap], hidden: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self.taps = {name: replace(tap, module=f"model.{tap.module}") for name, tap in taps.items()}
        self.hidden = hidden

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        for name in _OWN_ARGUMENTS & options.keys():
            raise ToylabError(
                f"{name}: is an argument of toylab's own models, not of {type(self.model).__name__}; "
                f"leave it out{', as generate does with cache=False' if name == 'cache' else ''}"
            )
        out = self.model(*inputs, **options)
        return getattr(out, "logits", out)


_OWN_ARGUMENTS = {"cache", "queries", "segments", "token_counts"}


def adopt(model: nn.Module, patterns: bool = False) -> AdoptedModel:
    """Wrap a model of another library so that probes, edits and `survey` work on it under toylab's point names.

    Supported: GPT-2 of transformers (`GPT2LMHeadModel`), `HookedTransformer`, and `nn.TransformerEncoder`.

    Args:
        patterns: whether to switch the model to eager attention, in place; fused kernels return no attention patterns.
            HookedTransformer always computes them.

    Raises:
        ToylabError: for any other model.
    """
    if isinstance(model, nn.TransformerEncoder):
        return _transformer_encoder(model, patterns)
    if any(base.__name__ == "HookedTransformer" for base in type(model).__mro__):
        return _hooked_transformer(model)
    if hasattr(getattr(model, "transformer", None), "h") and hasattr(model, "lm_head"):
        return _gpt2(model, patterns)
    raise ToylabError(
        f"model={type(model).__name__}: known are GPT2LMHeadModel, HookedTransformer and nn.TransformerEncoder; any "
        "other can be probed under the names that probes.points(model) lists, or wrapped with `taps` of its own: see "
        "probes.Tap"
    )


def _gpt2(model: Any, patterns: bool) -> AdoptedModel:
    if patterns:
        model.set_attn_implementation("eager")
    width, heads = model.config.n_embd, model.config.n_head
    taps = {"embed": Tap("transformer.wte"), "pos_embed": Tap("transformer.wpe")}
    hidden = {}
    layers = len(model.transformer.h)
    for i in range(layers):
        block, name = f"transformer.h.{i}", f"blocks.{i}"
        after = f"transformer.h.{i + 1}" if i + 1 < layers else "transformer.ln_f"
        taps |= {
            f"{name}.resid_pre": Tap(block, "input"),
            f"{name}.ln1": Tap(f"{block}.ln_1"),
            f"{name}.attn.q": Tap(f"{block}.attn.c_attn", columns=(0, width), heads=heads),
            f"{name}.attn.k": Tap(f"{block}.attn.c_attn", columns=(width, 2 * width), heads=heads),
            f"{name}.attn.v": Tap(f"{block}.attn.c_attn", columns=(2 * width, 3 * width), heads=heads),
            f"{name}.attn.pattern": Tap(f"{block}.attn", 1, read_only=_READ_ONLY_PATTERN),
            f"{name}.attn.z": Tap(f"{block}.attn.c_proj", "input", heads=heads),
            f"{name}.attn_out": Tap(f"{block}.attn.resid_dropout"),
            f"{name}.resid_mid": Tap(f"{block}.ln_2", "input", read_only=_READ_ONLY_STREAM),
            f"{name}.ln2": Tap(f"{block}.ln_2"),
            f"{name}.mlp.pre": Tap(f"{block}.mlp.c_fc"),
            f"{name}.mlp.post": Tap(f"{block}.mlp.c_proj", "input"),
            f"{name}.mlp_out": Tap(f"{block}.mlp"),
            f"{name}.resid_post": Tap(after, "input"),
        }
        hidden[f"{name}.attn.scores"] = "GPT-2 of transformers has one function from queries and keys to the pattern"
    return AdoptedModel(model, taps | {"final": Tap("transformer.ln_f"), "ln_final": Tap("transformer.ln_f")}, hidden)


def _hooked_transformer(model: Any) -> AdoptedModel:
    modules = {name for name, _ in model.named_modules()}
    taps, rotated = {"embed": Tap("hook_embed")}, ""
    if model.cfg.positional_embedding_type == "standard":
        taps["pos_embed"] = Tap("hook_pos_embed")
    elif model.cfg.positional_embedding_type == "rotary":
        rotated = "rot_"  # toylab's q and k are after rotation
    for i in range(model.cfg.n_layers):
        block = f"blocks.{i}"
        point_names = {
            "resid_pre": "hook_resid_pre",
            "ln1": "ln1",
            "attn.q": f"attn.hook_{rotated}q",
            "attn.k": f"attn.hook_{rotated}k",
            "attn.v": "attn.hook_v",
            "attn.scores": "attn.hook_attn_scores",
            "attn.pattern": "attn.hook_pattern",
            "attn.z": "attn.hook_z",
            "attn_out": "hook_attn_out",
            "resid_mid": "hook_resid_mid",
            "ln2": "ln2",
            "mlp.pre": "mlp.hook_pre",
            "mlp.post": "mlp.hook_post",
            "mlp_out": "hook_mlp_out",
            "resid_post": "hook_resid_post",
        }
        taps |= {f"{block}.{own_name}": Tap(f"{block}.{their_name}") for own_name, their_name in point_names.items()}
    taps |= {"final": Tap("ln_final"), "ln_final": Tap("ln_final")}
    return AdoptedModel(model, {name: tap for name, tap in taps.items() if tap.module in modules}, {})


def _transformer_encoder(model: Any, patterns: bool) -> AdoptedModel:
    taps, hidden = {}, {}
    for i, layer in enumerate(model.layers):
        block, name = f"layers.{i}", f"blocks.{i}"
        mid = Tap(f"{block}.norm2", "input", read_only=_READ_ONLY_STREAM) if layer.norm_first else Tap(f"{block}.norm1")
        taps |= {
            f"{name}.resid_pre": Tap(block, "input"),
            f"{name}.ln1": Tap(f"{block}.norm1"),
            f"{name}.attn.pattern": Tap(
                f"{block}.self_attn", 1, read_only=_READ_ONLY_PATTERN.replace("attn.z or ", "")
            ),
            f"{name}.attn_out": Tap(f"{block}.dropout1"),
            f"{name}.resid_mid": mid,
            f"{name}.ln2": Tap(f"{block}.norm2"),
            f"{name}.mlp.pre": Tap(f"{block}.linear1"),
            f"{name}.mlp.post": Tap(f"{block}.linear2", "input"),
            f"{name}.mlp_out": Tap(f"{block}.dropout2"),
            f"{name}.resid_post": Tap(block),
        }
        for part in ("q", "k", "v", "scores", "z"):
            hidden[f"{name}.attn.{part}"] = "nn.MultiheadAttention is one function from its input to its output"
        if patterns:
            layer.self_attn.register_forward_pre_hook(_request_weights, with_kwargs=True)
    if model.norm is not None:
        taps |= {"final": Tap("norm"), "ln_final": Tap("norm")}
    return AdoptedModel(model, taps, hidden)


def _request_weights(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return inputs, options | {"need_weights": True, "average_attn_weights": False}
