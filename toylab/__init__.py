"""A laboratory of toy transformers: train them on generated tasks, find their circuits, test them causally.

The names below are loaded when first used, so that `toylab --help` need not wait for torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_HOMES = {
    "ModelConfig": "model",
    "ToylabError": "names",
    "Transformer": "model",
    "generate": "model",
    "grid": "sweeps",
    "load_runs": "sweeps",
    "sweep": "sweeps",
    "fresh": "batches",
    "next_token_loss": "batches",
    "pack": "batches",
    "pad": "batches",
    "load_model": "runs",
    "save_model": "runs",
    "single_thread": "runs",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("toylab")
        except PackageNotFoundError:
            return "of a checkout that is not installed"
    if name not in _HOMES:
        raise AttributeError(f"module 'toylab' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"toylab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
