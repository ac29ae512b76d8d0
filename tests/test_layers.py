"""Imports point downwards: a package imports those below it, never one beside or above it, and no circle is left."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.modules import FOLDERS, ROOT, module_names

FLOORS = (
    ("console", "files", "settings"),
    ("tasks", "probes"),
    ("model", "verdicts"),
    ("training", "planted"),
    ("report", "survey", "export"),
    ("runs",),
    ("proofs",),
    ("studies",),
    ("calibration", "bench", "widgets"),
    ("lessons",),
    ("commands",),
    ("cli", "pytest_plugin"),
    ("__main__",),
)
"""Packages and modules of toylab, lowest floor first; those of one floor do not import each other."""
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
WITHIN = {"settings": ("console",), "files": ("console", "settings"), "console": ()}
"""The lowest floor alone has an order of its own."""
LOADS_BY_NAME = ("toylab.__init__", "toylab.runs.registry", "toylab.calibration.__init__", "toylab.bench.__init__")
"""Only these import a module whose name is worked out; only the registry loads a study so."""


def imported(name: str, source: str) -> list[tuple[int, str, str]]:
    """Line, module and name of each import of ours, also of those inside functions and of relative ones."""
    known = {*module_names(), *FOLDERS}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = ".".join([*name.split(".")[: -node.level], *([node.module] if node.module else [])])
            module = home if node.level else str(node.module)
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                found.append((node.lineno, whole, "") if whole in known else (node.lineno, module, alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            word = node.args[0]
            found.append((node.lineno, str(word.value) if isinstance(word, ast.Constant) else "?", ""))
    return found


def sources() -> dict[str, str]:
    """The text of every module by its name, packages as `package.__init__`."""
    return {
        ".".join([name, *path.relative_to(folder).with_suffix("").parts]): path.read_text(encoding="utf-8")
        for name, folder in FOLDERS.items()
        for path in sorted(folder.rglob("*.py"))
    }


def package(module: str) -> str:
    """The part of the house that a module belongs to."""
    return module.split(".")[1] if module.count(".") else ""


def offences(name: str, source: str) -> list[str]:
    """What a module imports that it must not, one line each."""
    found = []
    own = package(name)
    for line, module, word in imported(name, source):
        where, other = f"{name}:{line}: imports {module}", package(module)
        if module.split(".")[0] in ("tasks", "probes"):
            found.append(f"{where}: the parts of toylab are toylab.tasks and toylab.probes")
        if module == "?" and name not in LOADS_BY_NAME:
            found.append(f"{where}: only toylab.runs.registry loads a study by name")
        if not module.startswith("toylab.") or own == "__init__":
            continue
        if other != own and not (FLOOR[other] < FLOOR[own] or other in WITHIN.get(own, ())):
            found.append(f"{where}: {own} stands below {other} or beside it")
        if own == other == "studies" and module.split(".")[2:3] != name.split(".")[2:3]:
            found.append(f"{where}: a study imports no other study")
        if other != own and any(part.startswith("_") for part in (word, *module.split(".")[2:])):
            found.append(f"{where}.{word}: is a private name of another package")
    return found


def test_every_part_of_the_house_has_a_floor():
    assert {package(name) for name in sources()} - {"__init__"} == set(FLOOR)


def test_imports_point_downwards():
    assert not [line for name, source in sources().items() for line in offences(name, source)]


def test_no_circle_of_modules():
    modules = sources()
    names = {name.removesuffix(".__init__"): name for name in modules}
    graph = {
        name: {names[module] for _, module, _ in imported(name, source) if names.get(module, name) != name}
        for name, source in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("toylab.tasks.base", "from toylab.probes import edit"),
        ("toylab.tasks.base", "def later():\n    from toylab.model.config import ModelConfig"),
        ("toylab.model.config", "if TYPE_CHECKING:\n    from toylab.training.loop import train"),
        ("toylab.model.config", "from ..training import loop"),
        ("toylab.training.loop", "from toylab import cli"),
        ("toylab.training.loop", "importlib.import_module('toylab.cli')"),
        ("toylab.report.page", "import toylab.survey"),
        ("toylab.runs.jobs", "from toylab.studies.iteration_head import study"),
        ("toylab.runs.jobs", "importlib.import_module(f'toylab.studies.{name}')"),
        ("toylab.studies.iteration_head.study", "from toylab.studies.safety_finetuning.data import MODEL"),
        ("toylab.studies.iteration_head.study", "from ..safety_finetuning import data"),
        ("toylab.bench.growth", "from toylab.training.loop import _resume"),
        ("toylab.bench.growth", "import tasks"),
        ("toylab.files", "from toylab.tasks import stream"),
        ("toylab.console", "from toylab.files import file_errors"),
    ],
)
def test_every_forbidden_import_is_seen_with_its_line(name, source):
    (line,) = offences(name, source + "\n")
    assert line.startswith(f"{name}:{source.count(chr(10)) + 1}: imports ")


@pytest.mark.parametrize(("part", "unknown"), [("tasks", ("torch", "matplotlib")), ("probes", ("matplotlib",))])
def test_importing_a_leaf_loads_nothing_that_it_does_not_need(part, unknown):
    code = f"import sys, toylab.{part}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & set(unknown)
    ours = {package(name) for name in loaded if name.startswith("toylab.")}
    assert ours <= {part, "console", "settings"}


def test_no_file_is_longer_than_400_lines():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("toylab", "tasks", "probes", "tests", "notebooks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {path: length for path, length in lengths.items() if length > 400}
