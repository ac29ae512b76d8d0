"""The studies: one file each, and the file name is the registration (`iteration_head.py` is `iteration-head`).

A study module defines `STUDY`, a frozen dataclass of settings that follows `toylab.runs.Study`, with class methods
`quick()`, `default()` and `paper()`. What grows too long for one file moves to modules that begin with an underscore.
A study of one's own, in a file anywhere, goes by `module:Class`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import SimpleNamespace
from typing import Any

from toylab.names import ToylabError, load_class, unknown

PRESETS = ("quick", "default", "paper")


def names() -> list[str]:
    """The names of all studies, as the command line spells them."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def load(name: str) -> Any:
    """The module of a study of ours by its name; of anybody's by `package.module:Class`, which is its `STUDY` then.

    Raises:
        ValueError: for a name that is none, with the nearest ones.
    """
    if ":" in name:
        kind = load_class("study", name)
        return SimpleNamespace(STUDY=kind, __doc__=sys.modules[kind.__module__].__doc__ or kind.__doc__)
    if name not in names():
        raise unknown("study", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def preset(kind: type, name: str) -> Any:
    """The settings of a study that go by the name of a preset; a study without presets has its own defaults alone.

    Raises:
        ValueError: for a preset that it does not have.
    """
    if hasattr(kind, name):
        return getattr(kind, name)()
    if name != "default":
        has = [one for one in PRESETS if hasattr(kind, one) or one == "default"]
        raise ToylabError(f"preset={name}: {kind.__name__} does not have it; there is {', '.join(has)}")
    return kind()


def name_of(kind: type) -> str:
    """The name of a study's class: that of the command line, or where it is found if it is not one of these."""
    home, _, last = kind.__module__.rpartition(".")
    return last.replace("_", "-") if home == __name__ else f"{kind.__module__}:{kind.__qualname__}"
