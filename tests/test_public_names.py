"""Laws of names: two public things never share one, and what begins with an underscore stays at home."""

import ast
from collections import defaultdict

from tests.test_layers import package, sources

INTERFACES = {
    "studies": {"Condition", "MODEL", "Part", "STUDY", "claims", "draw", "edits", "exact_claims", "live"},
    "calibration": {"DETECTORS"},
    "widgets": {"Attention"},
}
"""What each study, each family of detectors defines under the same name. A widget is named by
what it shows."""


def defined(source: str) -> list[str]:
    """The public names that a module defines at its top."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if "overload" not in map(ast.unparse, node.decorator_list):  # the function itself follows
                found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name for name in found if not name.startswith("_")]


def test_no_two_public_things_share_a_name():
    homes = defaultdict(list)
    for module, source in sources().items():
        for name in defined(source):
            if name not in INTERFACES.get(package(module), ()):
                homes[name].append(module)
    assert not {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_no_attribute_of_another_object_is_private():
    borrowed = [
        f"{module}:{node.lineno}: {ast.unparse(node)}"
        for module, source in sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    ]
    outside = ("torch._C", "os._exit", "module._", "self._pool._processes")  # of torch and the standard library
    assert not [line for line in borrowed if not line.split(": ")[1].startswith(outside)]
