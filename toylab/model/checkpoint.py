"""Save and load models with their config, and frozen copies."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from toylab.model.transformer import Transformer

_Model = TypeVar("_Model", bound=nn.Module)


def save_model(path: Path | str, model: Transformer | EncoderDecoder) -> None:
    """Save the weights, config and sizes of a model to a safetensors file."""
    sizes = {name: getattr(model, name) for name in _LOADERS[type(model).__name__][2]}
    about = {"kind": type(model).__name__, "config": asdict(model.config), **sizes}
    write_tensors(path, stored_tensors(model), about)


def load_model(path: Path | str) -> Any:
    """Load a `Transformer` or an `EncoderDecoder`, whichever was saved.

    Raises:
        ToylabError: if the file is missing, damaged or not a model.
    """
    tensors, about = read_tensors(path)
    try:
        model_class, read_config, names = _LOADERS[about.get("kind", "Transformer")]
        config, sizes = read_config(about["config"]), [about[name] for name in names]
        first = next(iter(tensors.values()), None)
        if first is None or not first.is_floating_point() or not all(type(size) is int for size in sizes):
            raise TypeError("weights or sizes are missing")
    except (AttributeError, KeyError, TypeError, ToylabError) as error:
        raise ToylabError(f"{path}: does not hold a model of this version ({type(error).__name__}: {error})") from None
    try:  # a custom positional encoding may raise any error
        model = model_class(config, *sizes).to(first.dtype)
        absent, extra = model.load_state_dict(tensors, strict=False)
    except (ToylabError, RuntimeError, TypeError) as error:
        raise ToylabError(f"{path}: does not hold a model of this version ({error})") from error
    mismatched = [name for name in absent if not _is_tied(model, name)] + extra
    if mismatched:
        raise ToylabError(f"{path}: does not hold the weights listed in its header ({', '.join(mismatched)})")
    return model


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model as `save_model` stores them: a tied unembedding is the embedding."""
    return {name: t for name, t in model.state_dict().items() if not _is_tied(model, name)}


def _encoder_decoder_config(about: dict[str, Any]) -> EncoderDecoderConfig:
    return EncoderDecoderConfig(**{**about, "encoder": ModelConfig(**about["encoder"])})


_LOADERS: dict[str, tuple[type, Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "Transformer": (Transformer, lambda about: ModelConfig(**about), ("vocab", "context")),
    "EncoderDecoder": (EncoderDecoder, _encoder_decoder_config, ("symbols", "queries", "classes", "context")),
}
"""From class name to the class, its config parser, and the names of its sizes in constructor order."""


def _is_tied(model: nn.Module, name: str) -> bool:
    return isinstance(model, Transformer) and name == "unembedding.weight" and model.config.unembedding == "tied"


def frozen_copy(model: _Model) -> _Model:
    """A copy in evaluation mode without trainable parameters."""
    return deepcopy(model).requires_grad_(False).eval()
