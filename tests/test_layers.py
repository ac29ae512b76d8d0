"""The two leaves stay leaves: `tasks` knows no torch, no probe and no model; `probes` knows no task and no model."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"tasks": {"torch", "probes", "toylab"}, "probes": {"tasks", "toylab"}}
ALLOWED = "toylab.console"
"""The class of errors, and words for the terminal: the floor that everything stands on."""


def offences(source: str, forbidden: set[str], file: str) -> list[str]:
    """One line, with file and number, for each import of a forbidden package, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = [str(word.value) for word in node.args if isinstance(word, ast.Constant)]
        else:
            continue
        bad = [name for name in names if name.split(".")[0] in forbidden and name != ALLOWED]
        found += [f"{file}:{node.lineno}: imports {name}" for name in bad]
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_leaf_imports_no_other_part_of_the_house(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ holds no source: the law would hold for nothing"
    found = [
        line
        for file in files
        for line in offences(file.read_text(encoding="utf-8"), FORBIDDEN[package], str(file.relative_to(ROOT)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "import torch.nn.functional as F",
        "import numpy, torch",
        "from torch import nn",
        "from torch.nn import Module",
        "def later():\n    import torch",
        "if TYPE_CHECKING:\n    from torch import Tensor",
        "importlib.import_module('torch.nn')",
        "__import__('torch')",
    ],
)
def test_every_way_to_import_is_seen_and_named_with_its_file_and_line(line):
    source = '"""A file."""\n\n' + line + "\n"
    (found,) = offences(source, {"torch"}, "tasks/bad.py")
    assert found.startswith(f"tasks/bad.py:{3 + line.count(chr(10))}: imports torch")


@pytest.mark.parametrize(
    "line", ["from toylab.tasks.base import Batch", "from . import torch", "import torches", "torch = 1"]
)
def test_what_only_looks_like_a_forbidden_import_passes(line):
    assert not offences(line, {"torch"}, "tasks/good.py")


@pytest.mark.parametrize("package", FORBIDDEN)
def test_importing_a_leaf_loads_nothing_that_is_forbidden_to_it(package):
    # The reading above cannot see what a third package drags in; a fresh process can.
    code = f"import sys, {package}; print(*(m for m in sys.modules if m.split('.')[0] in {FORBIDDEN[package]}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"toylab", ALLOWED}
