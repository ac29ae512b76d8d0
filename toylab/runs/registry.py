"""Studies by name: the folder name is the registration (`studies/iteration_head/` is `iteration-head`).

The module `study` in that folder, or a study in one file, defines `STUDY`: a frozen dataclass of settings that follows
`toylab.runs.study.Study`, with class methods `quick()`, `default()` and `paper()`. A user's own study, in any file, is
named `module:Class`. The folder of a run names its study but is not trusted: that name loads only studies of this
package, see `study_of_folder`. No other module loads a study by name.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from toylab.console import ToylabError, unknown_name

PRESETS = ("quick", "default", "paper")
TRAINED_ON = "training on "
"""Begins the name in the record of a folder of `toylab train`; no study has such a name."""
_PACKAGE = "toylab.studies"
_FOLDER = Path(__file__).parents[1] / "studies"


def study_names() -> list[str]:
    """The names of all studies in kebab case."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(_FOLDER)]))


def load_study(name: str) -> Any:
    """The module of a study by name; for a user's `package.module:Class`, a module whose `STUDY` is that class.

    Raises:
        ToylabError: for an unknown name, with the nearest names.
    """
    if ":" in name:
        study_class = load_class("study", name)
        refuse_incomplete("study", name, study_class, ("jobs", "run_job", "claims"))
        return _as_module(study_class)
    if name not in study_names():
        raise unknown_name("study", name, study_names())
    module = name.replace("-", "_")
    return importlib.import_module(
        f"{_PACKAGE}.{module}.study" if (_FOLDER / module).is_dir() else f"{_PACKAGE}.{module}"
    )


def study_docstring(name: str) -> str | None:
    """The docstring of a study of this package, without its import, which would wait for torch."""
    path = _FOLDER / name.replace("-", "_")
    source = path / "study.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))


def _as_module(study_class: type) -> Any:
    return SimpleNamespace(
        STUDY=study_class, __doc__=sys.modules[study_class.__module__].__doc__ or study_class.__doc__
    )


def figures_beside(study_class: type) -> Any:
    """The module `figures` beside the module of a study in a package; None without one."""
    package = study_class.__module__.rpartition(".")[0]
    if not package or find_spec(f"{package}.figures") is None:
        return None
    return importlib.import_module(f"{package}.figures")


def study_of_folder(name: str, folder: Path | str, study_class: type | None, command: str) -> Any:
    """The module of the study that a folder names, without executing code chosen by the folder.

    Args:
        name: study name in the folder's record.
        kind: class of a user's own study; None for a study of this package.
        command: command template with `{folder}` and `{study}`, for the error message.

    Raises:
        ToylabError: if a user's own study is named without its class, or with another class.
    """
    if study_class is not None:
        if not is_study_name(study_class, name):
            raise ToylabError(
                f"study={study_name(study_class)}: {folder} holds a run of {name!r}; give the class of {name!r}"
            )
        return _as_module(study_class)
    if ":" in name:
        # A script run as __main__ is importable only under its file name.
        printed = name.replace("__main__", "MODULE")
        hint = ", where MODULE is the script without .py" if printed != name else ""
        raise ToylabError(
            f"{folder}: holds a run of {name!r}, which is not a study of toylab, and a folder may not choose the code "
            f"to run; if you trust that study, name it: {command.format(folder=folder, study=printed)}{hint} (study= "
            "in Python)"
        )
    if name.startswith(TRAINED_ON):
        raise ToylabError(f"{folder}: holds no run of a study, but a {name}; give it to toylab survey {folder}")
    return load_study(name)


def is_study_name(study_class: type, name: str) -> bool:
    """Whether a study name in a record denotes this class, which a script may have defined as `__main__:Class`."""
    return name in (study_name(study_class), f"__main__:{study_class.__qualname__}") or not (
        ":" in name or name in study_names()
    )


def preset_settings(study_class: type, name: str) -> Any:
    """The settings of a preset; `default` of a study without presets is the study with the defaults of its fields.

    Raises:
        ToylabError: for a name other than quick, default and paper, or a preset that the study does not define.
    """
    if name in PRESETS and hasattr(study_class, name):
        return getattr(study_class, name)()
    if name != "default":
        available = [preset for preset in PRESETS if hasattr(study_class, preset) or preset == "default"]
        raise ToylabError(
            f"preset={name}: is not a preset of {study_class.__name__}; choose from {', '.join(available)}"
        )
    return study_class()


def study_name(study_class: type) -> str:
    """The name of a study class: its registered name, or `module:Class` for a user's own study."""
    if not study_class.__module__.startswith(f"{_PACKAGE}."):
        return f"{study_class.__module__}:{study_class.__qualname__}"
    return study_class.__module__.removeprefix(f"{_PACKAGE}.").removesuffix(".study").replace("_", "-")


def load_class(category: str, name: str) -> type:
    """The class named by `package.module:Class`, as `load_object` finds it. Raises `ToylabError` if it is no class."""
    value = load_object(category, name)
    if not isinstance(value, type):
        raise _unknown_object(category, name)
    return value


def load_object(category: str, name: str) -> Any:
    """The class or instance named by `package.module:name`; the working directory is searched first.

    Errors raised while importing the module keep their traceback.

    Raises:
        ToylabError: if the module or the name in it does not exist.
    """
    module, _, last = name.partition(":")
    if not all(module.split(".")) or set(module) & set("/\\") or module.endswith(".py"):
        raise ToylabError(
            f"{category} {name!r}: {module!r} is not a module name; mine:Reverse is the class Reverse in mine.py"
        )
    with suppress(FileNotFoundError):  # the folder may have been deleted
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
    first = importlib.util.find_spec(module.split(".")[0])
    copies = [str(_FOLDER.parents[1] / part / "__init__.py") for part in ("tasks", "probes")]
    if first is not None and first.origin in copies:
        raise ToylabError(f"{category} {name!r}: is a second copy of a toylab module; write toylab.{name}")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ToylabError(
            f"{category} {name!r}: module {module!r} is neither in the working directory nor installed"
        ) from None
    if not hasattr(imported, last):
        raise _unknown_object(category, name)
    return getattr(imported, last)


def _unknown_object(category: str, name: str) -> ToylabError:
    module, _, last = name.partition(":")
    values = vars(sys.modules[module]).items()
    return unknown_name(category, last, [n for n, v in values if isinstance(v, type) and v.__module__ == module])


def refuse_incomplete(category: str, name: str, value: Any, parts: Sequence[str]) -> None:
    """Raises `ToylabError` if a class named as a task or study lacks one of these attributes."""
    if missing := [part for part in parts if not hasattr(value, part)]:
        other = "; it is a study: toylab run" if category == "task" and hasattr(value, "run_job") else ""
        other = "; it is a task: toylab train" if category == "study" and hasattr(value, "sample") else other
        raise ToylabError(
            f"{category} {name!r}: has no {' and no '.join(missing)}{other or _REQUIRED_MEMBERS[category]}"
        )


_REQUIRED_MEMBERS = {
    "task": "; a task has vocabulary, context, sample and solve (see toylab.tasks.Task)",
    "study": "; a study has jobs, run_job and claims (see toylab.runs.study.Study)",
}
