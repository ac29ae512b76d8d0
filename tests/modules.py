"""Every module of the package, by its name: the folders tasks/ and probes/ lie beside toylab/ and are parts of it."""

import pkgutil
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"toylab": ROOT / "toylab", "toylab.tasks": ROOT / "tasks", "toylab.probes": ROOT / "probes"}


@cache
def module_names() -> tuple[str, ...]:
    """All that can be imported without running a command."""
    found = [found.name for name, path in FOLDERS.items() for found in pkgutil.walk_packages([str(path)], f"{name}.")]
    return tuple(name for name in found if not name.endswith("__main__"))
