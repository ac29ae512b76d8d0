"""A laboratory of toy transformers: train them on generated tasks, find their circuits, test them causally.

The names below are loaded when first used, so that `toylab --help` need not wait for torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for those that cannot load them
    from toylab.console import ToylabError as ToylabError
    from toylab.model.checkpoint import load_model as load_model
    from toylab.model.checkpoint import save_model as save_model
    from toylab.model.config import ModelConfig as ModelConfig
    from toylab.model.generate import generate as generate
    from toylab.model.transformer import Transformer as Transformer
    from toylab.proofs.prove import prove as prove
    from toylab.runs.grid import grid as grid
    from toylab.runs.processes import single_thread as single_thread
    from toylab.runs.sweep import sweep as sweep
    from toylab.runs.table import load_runs as load_runs
    from toylab.training.batches import next_token_loss as next_token_loss
    from toylab.training.batches import pack as pack
    from toylab.training.batches import pad as pad
    from toylab.training.batches import training_batches as training_batches

_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "tasks" / "base.py").is_file():
    __path__.append(str(_ROOT))  # in a checkout tasks/ and probes/ lie beside toylab/; installed they lie inside it

_HOMES = {
    "ModelConfig": "model.config",
    "ToylabError": "console",
    "Transformer": "model.transformer",
    "generate": "model.generate",
    "grid": "runs.grid",
    "load_runs": "runs.table",
    "prove": "proofs.prove",
    "sweep": "runs.sweep",
    "training_batches": "training.batches",
    "next_token_loss": "training.batches",
    "pack": "training.batches",
    "pad": "training.batches",
    "load_model": "model.checkpoint",
    "save_model": "model.checkpoint",
    "single_thread": "runs.processes",
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
