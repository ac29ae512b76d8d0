"""Models of other libraries: our probes on theirs, our weights in TransformerLens and back.

    model = adopt(GPT2LMHeadModel(config), patterns=True)
    points(model)                                   # the names that toylab's own models use
    with watch(model, "blocks.*.attn.pattern") as seen:
        model(tokens)                               # logits

TransformerLens and transformers come with the extra `pip install 'toylab[interop]'`; nothing here imports them before
it is asked for one of their models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.transformer import ModelConfig, Transformer
from toylab.probes import Tap

_AFTERWARDS = "it is reported after the attention has used it; edit attn.z or attn_out instead"
_TWO_WAYS = "the block also adds to it by another way; edit attn_out or mlp_out instead"


class Adopted(nn.Module):
    """A model of another library under the names of this one; called like the model, it gives logits.

    Attributes:
        model: the one that was adopted; it is not copied.
        taps: where each point lies in it.
        hidden: points that toylab's own models have and this one has not, and why.
    """

    def __init__(self, model: nn.Module, taps: dict[str, Tap], hidden: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self.taps = {name: replace(tap, module=f"model.{tap.module}") for name, tap in taps.items()}
        self.hidden = hidden

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        for name in _OURS & options.keys():
            raise ToylabError(
                f"{name}: is an argument of toylab's own models, and {type(self.model).__name__} has no such thing; "
                f"leave it out{', as generate does with cache=False' if name == 'cache' else ''}"
            )
        out = self.model(*inputs, **options)
        return getattr(out, "logits", out)


_OURS = {"cache", "queries", "segments", "tally"}


def adopt(model: nn.Module, patterns: bool = False) -> Adopted:
    """Give a model of another library the point names of this one, so that probes, edits and `survey` work on it.

    Known are GPT-2 of transformers (`GPT2LMHeadModel`), `HookedTransformer`, and `nn.TransformerEncoder`.

    Args:
        patterns: whether to change the model so that it computes its attention patterns one by one; the fused kernels
            that it uses otherwise keep none. HookedTransformer always has them.

    Raises:
        ValueError: for any other model.
    """
    if isinstance(model, nn.TransformerEncoder):
        return _encoder(model, patterns)
    if any(kind.__name__ == "HookedTransformer" for kind in type(model).__mro__):
        return _hooked(model)
    if hasattr(getattr(model, "transformer", None), "h") and hasattr(model, "lm_head"):
        return _gpt2(model, patterns)
    raise ToylabError(
        f"model={type(model).__name__}: known are GPT2LMHeadModel, HookedTransformer and nn.TransformerEncoder; any "
        "other can be probed under the names that probes.points(model) lists, or wrapped with `taps` of its own: see "
        "probes.Tap"
    )


def _gpt2(model: nn.Module, patterns: bool) -> Adopted:
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
            f"{name}.attn.pattern": Tap(f"{block}.attn", 1, read_only=_AFTERWARDS),
            f"{name}.attn.z": Tap(f"{block}.attn.c_proj", "input", heads=heads),
            f"{name}.attn_out": Tap(f"{block}.attn.resid_dropout"),
            f"{name}.resid_mid": Tap(f"{block}.ln_2", "input", read_only=_TWO_WAYS),
            f"{name}.ln2": Tap(f"{block}.ln_2"),
            f"{name}.mlp.pre": Tap(f"{block}.mlp.c_fc"),
            f"{name}.mlp.post": Tap(f"{block}.mlp.c_proj", "input"),
            f"{name}.mlp_out": Tap(f"{block}.mlp"),
            f"{name}.resid_post": Tap(after, "input"),
        }
        hidden[f"{name}.attn.scores"] = "GPT-2 of transformers has one function from queries and keys to the pattern"
    return Adopted(model, taps | {"final": Tap("transformer.ln_f"), "ln_final": Tap("transformer.ln_f")}, hidden)


def _hooked(model: nn.Module) -> Adopted:
    there = {name for name, _ in model.named_modules()}
    taps, turned = {"embed": Tap("hook_embed")}, ""
    if model.cfg.positional_embedding_type == "standard":
        taps["pos_embed"] = Tap("hook_pos_embed")
    elif model.cfg.positional_embedding_type == "rotary":
        turned = "rot_"  # our queries and keys are those that meet each other
    for i in range(model.cfg.n_layers):
        block = f"blocks.{i}"
        places = {
            "resid_pre": "hook_resid_pre",
            "ln1": "ln1",
            "attn.q": f"attn.hook_{turned}q",
            "attn.k": f"attn.hook_{turned}k",
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
        taps |= {f"{block}.{ours}": Tap(f"{block}.{theirs}") for ours, theirs in places.items()}
    taps |= {"final": Tap("ln_final"), "ln_final": Tap("ln_final")}
    return Adopted(model, {name: tap for name, tap in taps.items() if tap.module in there}, {})


def _encoder(model: nn.TransformerEncoder, patterns: bool) -> Adopted:
    taps, hidden = {}, {}
    for i, layer in enumerate(model.layers):
        block, name = f"layers.{i}", f"blocks.{i}"
        mid = Tap(f"{block}.norm2", "input", read_only=_TWO_WAYS) if layer.norm_first else Tap(f"{block}.norm1")
        taps |= {
            f"{name}.resid_pre": Tap(block, "input"),
            f"{name}.ln1": Tap(f"{block}.norm1"),
            f"{name}.attn.pattern": Tap(f"{block}.self_attn", 1, read_only=_AFTERWARDS.replace("attn.z or ", "")),
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
            layer.self_attn.register_forward_pre_hook(_weights_wanted, with_kwargs=True)
    if model.norm is not None:
        taps |= {"final": Tap("norm"), "ln_final": Tap("norm")}
    return Adopted(model, taps, hidden)


def _weights_wanted(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return inputs, options | {"need_weights": True, "average_attn_weights": False}


# Weights -------------------------------------------------------------------------------------------------------------

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
    """A HookedTransformer of TransformerLens with the same weights and the same logits, in the same number format.

    Its `generate` is wrong with the cache that it has by default for learned, sinusoidal and no positions: give it
    `use_past_kv_cache=False`.

    Args:
        context: positions that it shall know, as many as the model's task has if not given.

    Raises:
        ValueError: for a setting that it does not know, by name; for more positions than learned ones there are.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = model.config
    context = model.context if context is None else context
    _refuse_ours(model, context)
    hidden = 4 * config.width if config.hidden is None else config.hidden
    weight = model.embedding.weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it goes away with version 4, which the extra leaves out
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
        parameter.zero_()  # what we do not have adds nothing
    state = {"embed.W_E": weight, "unembed.W_U": model.unembedding.weight.T}
    if _POSITIONS[config.positions] == "standard" and config.positions != "none":
        state["pos_embed.W_pos"] = model.positions.embed(torch.arange(context, device=weight.device))
    if config.norm == "pre":
        state |= _norm("ln_final", model.ln_final)
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}"
        for theirs, linear in zip("QKV", (block.attn.query, block.attn.key, block.attn.value), strict=True):
            state[f"{name}.attn.W_{theirs}"] = linear.weight.unflatten(0, (config.heads, -1)).mT
            if linear.bias is not None:
                state[f"{name}.attn.b_{theirs}"] = linear.bias.unflatten(0, (config.heads, -1))
        state[f"{name}.attn.W_O"] = block.attn.output.weight.T.unflatten(0, (config.heads, -1))
        if block.attn.output.bias is not None:
            state[f"{name}.attn.b_O"] = block.attn.output.bias
        if config.norm == "pre":
            state |= _norm(f"{name}.ln1", block.ln1)
        if block.mlp is None:
            continue
        if config.norm == "pre":
            state |= _norm(f"{name}.ln2", block.ln2)
        for theirs, linear in (("in", block.mlp.up), ("out", block.mlp.down)):
            state[f"{name}.mlp.W_{theirs}"] = linear.weight.T
            if linear.bias is not None:
                state[f"{name}.mlp.b_{theirs}"] = linear.bias
    unknown = hooked.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise RuntimeError(f"TransformerLens has no weight {unknown[0]!r}; is it a version below 4?")
    for block in hooked.blocks:
        _write_positions(block.attn, model, context)
    return hooked.eval()


def _norm(name: str, norm: nn.LayerNorm) -> dict[str, Tensor]:
    bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    return {f"{name}.w": norm.weight, f"{name}.b": bias}


def _write_positions(attn: nn.Module, model: Transformer, context: int) -> None:
    """Angles and slopes as our model has them, to the last bit."""
    places = torch.arange(context, device=model.embedding.weight.device)
    if model.config.positions == "rotary":
        angles = (places[:, None] * model.positions.frequencies).repeat(1, 2)
        attn.rotary_sin, attn.rotary_cos = angles.sin(), angles.cos()
    elif model.config.positions == "alibi":
        attn.alibi = model.positions.bias(places[None], places[None])[0].to(model.embedding.weight.dtype)


def _refuse_ours(model: Transformer, context: int) -> None:
    """Name the first setting that TransformerLens has no counterpart for."""
    config = model.config
    reasons: dict[str, Callable[[], bool]] = {
        "norm": lambda: config.norm not in _NORMS,
        "unembedding": lambda: config.unembedding == "none",
        "position_frequency": lambda: config.positions == "rotary" and config.position_frequency != 1,
        "alibi_slope": lambda: config.positions == "alibi" and config.alibi_slope is not None,
        "causal": lambda: config.positions == "alibi" and not config.causal,
    }
    for name, wrong in reasons.items():
        if wrong():
            raise ToylabError(
                f"{name}={getattr(config, name)}: HookedTransformer has no such thing (with positions="
                f"{config.positions}); only models without it can be converted"
            )
    if config.positions == "learned" and context > model.context:
        raise ToylabError(f"context={context}: learned positions end at {model.context}; give at most that")


_PLAIN: dict[str, Any] = {
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
"""What a HookedTransformer must have in its config to be one of our models."""


@torch.no_grad()
def from_hooked(hooked: nn.Module) -> Transformer:
    """A `Transformer` with the weights and the logits of a HookedTransformer.

    A fixed table of positions comes back as a learned one.

    Raises:
        ValueError: for a setting that our model does not have, by name.
    """
    cfg = hooked.cfg
    _refuse_theirs(hooked)
    norms = {theirs: ours for ours, theirs in _NORMS.items()} | {"LNPre": "pre"}
    activations = {theirs: ours for ours, theirs in _ACTIVATIONS.items()} | {"gelu_new": "gelu-tanh"}
    state = hooked.state_dict()
    table = state.get("pos_embed.W_pos")
    if cfg.positional_embedding_type == "standard":
        positions = "learned" if bool(table.any()) else "none"
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
    model.embedding.weight.copy_(weight)
    model.unembedding.weight.copy_(state["unembed.W_U"].T)
    if positions == "learned":
        model.positions.table.copy_(table)
    elif positions == "rotary":
        attn = hooked.blocks[0].attn
        features = torch.arange(0, cfg.d_head, 2, dtype=torch.double)
        own = float(cfg.rotary_base) ** (-features / cfg.d_head)  # as our config has them, so that they survive saving
        theirs = torch.atan2(attn.rotary_sin[1], attn.rotary_cos[1])[: len(own)].double().cpu()
        if (own - theirs).abs().max() > 1e-6:
            raise ToylabError(
                f"rotary frequencies: are not those of rotary_base={cfg.rotary_base}, so they are scaled (as by "
                "use_NTK_by_parts_rope); a Transformer has no such setting"
            )

    def copy_norm(norm: nn.Module, name: str) -> None:
        if f"{name}.w" in state:  # folded norms have neither weights nor biases: ours start at 1 and 0
            norm.weight.copy_(state[f"{name}.w"])
            norm.bias.copy_(state[f"{name}.b"])

    copy_norm(model.ln_final, "ln_final")
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}"
        for theirs, linear in zip("QKV", (block.attn.query, block.attn.key, block.attn.value), strict=True):
            linear.weight.copy_(state[f"{name}.attn.W_{theirs}"].mT.flatten(0, 1))
            linear.bias.copy_(state[f"{name}.attn.b_{theirs}"].flatten())
        block.attn.output.weight.copy_(state[f"{name}.attn.W_O"].flatten(0, 1).T)
        block.attn.output.bias.copy_(state[f"{name}.attn.b_O"])
        copy_norm(block.ln1, f"{name}.ln1")
        if block.mlp is not None:
            copy_norm(block.ln2, f"{name}.ln2")
            for theirs, linear in (("in", block.mlp.up), ("out", block.mlp.down)):
                linear.weight.copy_(state[f"{name}.mlp.W_{theirs}"].T)
                linear.bias.copy_(state[f"{name}.mlp.b_{theirs}"])
    _compare(hooked, model)
    return model


def _refuse_theirs(hooked: nn.Module) -> None:
    cfg = hooked.cfg
    wanted = {
        "normalization_type": (cfg.normalization_type, ("LN", "LNPre", None)),
        "positional_embedding_type": (cfg.positional_embedding_type, ("standard", "rotary", "alibi")),
        "n_key_value_heads": (cfg.n_key_value_heads, (None, cfg.n_heads)),
        "d_head": (cfg.d_head, (cfg.d_model / cfg.n_heads,)),
        "d_vocab_out": (cfg.d_vocab_out, (cfg.d_vocab,)),
        "attention_dir": (cfg.attention_dir, ("causal", "bidirectional")),
        "attn_scale": (cfg.attn_scale if cfg.use_attn_scale else 1.0, (cfg.d_head**0.5,)),
    }
    if not cfg.attn_only:
        wanted["act_fn"] = (cfg.act_fn, (*_ACTIVATIONS.values(), "gelu_new"))
    if cfg.positional_embedding_type == "rotary":
        wanted["rotary_dim"] = (cfg.rotary_dim, (cfg.d_head,))
    wanted |= {name: (getattr(cfg, name, value), (value,)) for name, value in _PLAIN.items()}
    for name, (value, allowed) in wanted.items():
        if value not in allowed:
            choices = " or ".join(str(one) for one in allowed)
            raise ToylabError(f"{name}={value}: a Transformer knows {choices}; no other model can be converted")
    if bool(hooked.unembed.b_U.any()):
        raise ToylabError("unembed.b_U: a Transformer has no bias there; fold it away, or set it to 0")


def _compare(hooked: nn.Module, model: Transformer) -> None:
    """Whatever setting was not thought of shows here."""
    size = min(256, model.context)
    tokens = torch.arange(2 * size, device=model.embedding.weight.device).view(2, size) % model.vocab
    theirs: Float[Tensor, "batch position vocab"] = hooked(tokens)
    scale = max(1.0, theirs.abs().max().item())
    if (model(tokens) - theirs).abs().max().item() > 1e-4 * scale:
        raise ToylabError(f"cfg={hooked.cfg}: some setting of it has no counterpart; the logits would differ")
