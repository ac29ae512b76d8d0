"""The studies: one file each, and the file name is the registration (`iteration_head.py` is `iteration-head`).

A study module defines `STUDY`, a frozen dataclass of settings that follows `toylab.runs.Study`, with class methods
`quick()`, `default()` and `paper()`. What grows too long for one file moves to modules that begin with an underscore.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from toylab.names import unknown

PRESETS = ("quick", "default", "paper")


def names() -> list[str]:
    """The names of all studies, as the command line spells them."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a study.

    Raises:
        ValueError: for a name that is none, with the nearest ones.
    """
    if name not in names():
        raise unknown("study", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def name_of(kind: type) -> str:
    """The name of a study's class: that of the command line, or where it is found if it is not one of these."""
    home, _, last = kind.__module__.rpartition(".")
    return last.replace("_", "-") if home == __name__ else f"{kind.__module__}:{kind.__qualname__}"
