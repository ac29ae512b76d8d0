"""The studies by name: the folder's name is the registration (`studies/iteration_head/` is `iteration-head`).

The module `study` of the folder, or a study in one file, defines `STUDY`: a frozen dataclass of settings that follows
`toylab.runs.study.Study`, with class methods `quick()`, `default()` and `paper()`. A study of one's own, in a file
anywhere, goes by `module:Class`. The folder of a run names its study and may come from anybody: by that name only
studies of this package are loaded, see `study_of_folder`. No other module loads a study by name.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from toylab.console import ToylabError, unknown_name

PRESETS = ("quick", "default", "paper")
_HOME = "toylab.studies"
_FOLDER = Path(__file__).parents[1] / "studies"


def study_names() -> list[str]:
    """The names of all studies, as the command line spells them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(_FOLDER)]))


def load_study(name: str) -> Any:
    """The module of a study of ours by its name; of anybody's by `package.module:Class`, which is its `STUDY` then.

    Raises:
        ValueError: for a name that is none, with the nearest ones.
    """
    if ":" in name:
        kind = load_class("study", name)
        refuse_incomplete("study", name, kind, ("jobs", "run_job", "claims"))
        return _as_module(kind)
    if name not in study_names():
        raise unknown_name("study", name, study_names())
    module = name.replace("-", "_")
    return importlib.import_module(f"{_HOME}.{module}.study" if (_FOLDER / module).is_dir() else f"{_HOME}.{module}")


def _as_module(kind: type) -> Any:
    return SimpleNamespace(STUDY=kind, __doc__=sys.modules[kind.__module__].__doc__ or kind.__doc__)


def study_of_folder(name: str, folder: Path | str, kind: type | None, command: str) -> Any:
    """The module of the study that a folder names, without running code that the folder chose.

    Args:
        name: what its record says.
        kind: the class of one's own; none for a study of ours.
        command: that takes `{folder}` and `{study}`, to be shown.

    Raises:
        ValueError: for a study that is not ours without its class, or with the class of another one.
    """
    if kind is not None:
        if not is_study_name(kind, name):
            raise ToylabError(
                f"study={study_name(kind)}: {folder} holds a run of {name!r}; give the class of that study"
            )
        return _as_module(kind)
    if ":" in name:
        # A script has no name to be imported by but that of its file.
        shown = name.replace("__main__", "MODULE")
        where = ", where MODULE is the script without .py" if shown != name else ""
        raise ToylabError(
            f"{folder}: holds a run of {name!r}, which is no study of ours, and a folder does not choose the code that "
            f"runs; if you trust that study, name it: {command.format(folder=folder, study=shown)}{where} (study= in "
            "Python)"
        )
    return load_study(name)


def is_study_name(kind: type, name: str) -> bool:
    """Whether a record that names its study so is of this class, which a script may have defined or named freely."""
    return name in (study_name(kind), f"__main__:{kind.__qualname__}") or not (":" in name or name in study_names())


def preset_settings(kind: type, name: str) -> Any:
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


def study_name(kind: type) -> str:
    """The name of a study's class: that of the command line, or where it is found if it is not one of these."""
    if not kind.__module__.startswith(f"{_HOME}."):
        return f"{kind.__module__}:{kind.__qualname__}"
    return kind.__module__.removeprefix(f"{_HOME}.").removesuffix(".study").replace("_", "-")


def load_class(kind: str, name: str) -> type:
    """The class that `package.module:Class` names; modules are looked for in the working directory first.

    What goes wrong while the module is imported is a fault of its own, and keeps its traceback.

    Raises:
        ValueError: naming what there is not: the module, or the class.
    """
    module, _, last = name.partition(":")
    if not all(module.split(".")) or set(module) & set("/\\") or module.endswith(".py"):
        raise ToylabError(f"{kind} {name!r}: {module!r} names no module; mine:Reverse is the class Reverse of mine.py")
    with suppress(FileNotFoundError):  # the folder may have been deleted
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    first = importlib.util.find_spec(module.split(".")[0])
    copies = [str(_FOLDER.parents[1] / part / "__init__.py") for part in ("tasks", "probes")]
    if first is not None and first.origin in copies:
        raise ToylabError(f"{kind} {name!r}: is a second copy of a module of ours; write toylab.{name}")
    try:
        held = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ToylabError(f"{kind} {name!r}: there is no module {module!r} here or among what is installed") from None
    found = getattr(held, last, None)
    if not isinstance(found, type):
        raise unknown_name(
            kind, last, [one for one, v in vars(held).items() if isinstance(v, type) and v.__module__ == module]
        )
    return found


def refuse_incomplete(kind: str, name: str, found: Any, parts: Sequence[str]) -> None:
    """Raises `ToylabError` for what was named as a task or study, and lacks one of these parts."""
    if missing := [part for part in parts if not hasattr(found, part)]:
        other = "; it is a study: toylab run" if kind == "task" and hasattr(found, "run_job") else ""
        other = "; it is a task: toylab train" if kind == "study" and hasattr(found, "sample") else other
        raise ToylabError(f"{kind} {name!r}: has no {' and no '.join(missing)}{other or _WHOLE[kind]}")


_WHOLE = {
    "task": "; a task has vocabulary, context, sample and solve (see toylab.tasks.Task)",
    "study": "; a study has jobs, run_job and claims (see toylab.runs.study.Study)",
}
