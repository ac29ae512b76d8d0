"""Mutation check: plants each fault of a list, one at a time, and tells which of them the tests let pass.

    make mutants                                  all lists
    make mutants ARGS="claims M08"                one area, and one fault
    make mutants ARGS=--hypothesis-profile=soak   on more examples

A list, `AREA.txt`, has a block of lines a fault: its name, its file and the tests that should fail (by default those
that mirror the file); then the text to replace, which occurs once in the file, and what replaces it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import beartype  # noqa: F401  what all tests need is loaded once, and every fault is tried in a fork
import hypothesis  # noqa: F401
import jaxtyping  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("toylab", "tasks", "probes", "tests", "notebooks", "docs", "tools")
WORKERS = 2
SECONDS = 180
"""Of a fault: tests that take longer wait for ever."""
GOAL = 0.95
SOUND = "no fault"
"""The name under which all tests run on the project as it is."""


@dataclass(frozen=True)
class Mutant:
    """A fault: in a file, one text in the place of another."""

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, source: str) -> str:
        """The source with the fault. Raises `ValueError` where the list is out of date."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {source.count(self.old)} times, not once: {self.old}")
        return source.replace(self.old, self.new)


def read_mutants() -> list[Mutant]:
    """Those of all lists."""
    return [
        _parsed(path.stem, block)
        for path in sorted(Path(__file__).parent.glob("*.txt"))
        for block in path.read_text().strip().split("\n\n")
    ]


def _parsed(area: str, block: str) -> Mutant:
    head, *lines = [line for line in block.splitlines() if not line.startswith("#")]
    name, file, *tests = head.split()
    old, new = ("\n".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    return Mutant(area, name, file, old, new, tuple(tests) or _mirrors(file))


def _mirrors(file: str) -> tuple[str, ...]:
    """The tests of a file: `tests/<package>/test_<file>*.py`, or all of the package."""
    path = Path("tests") / file.removeprefix("toylab/")
    found = sorted(str(one.relative_to(ROOT)) for one in (ROOT / path.parent).glob(f"test_{path.stem}*.py"))
    return tuple(found) or (str(path.parent),)


def start(mutant: Mutant, folder: Path, flags: list[str]) -> int:
    """The process in which tests run on a copy of the project with a fault; its exit code is that of pytest."""
    if pid := os.fork():
        return pid
    try:
        signal.alarm(SECONDS if mutant.name != SOUND else 0)  # which ends it, as one that waits for ever
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        for part in PARTS:
            shutil.copytree(ROOT / part, folder / part, copy_function=os.link)
        for file in (ROOT / "pyproject.toml", ROOT / "Makefile", *ROOT.glob("*.md")):
            shutil.copy(file, folder)
        path = folder / mutant.file
        source = path.read_text()
        path.unlink()  # which leaves the other link, the file of the project
        path.write_text(mutant.planted(source))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        os.chdir(folder)
        os.environ["PYTHONPATH"] = sys.path[0] = str(folder)
        plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutants"]
        plain += ["-W", "ignore:Module already imported"]
        code = int(pytest.main([*plain, *flags, *mutant.tests]))
    except BaseException:
        code = 1
    os._exit(code)


def caught_of(mutants: Sequence[Mutant], folder: Path, flags: list[str]) -> dict[str, bool]:
    """By name, whether a test fails."""
    left, running, caught = list(mutants), {}, {}
    with tqdm(total=len(mutants), unit="fault", disable=None) as bar:
        while left or running:
            while left and len(running) < WORKERS:
                mutant = left.pop(0)
                copy = folder / mutant.name
                copy.mkdir()
                running[start(mutant, copy, flags)] = mutant
            pid, status = os.wait()
            mutant = running.pop(pid)
            caught[mutant.name] = status != 0
            shutil.rmtree(folder / mutant.name)
            bar.update()
    return caught


def main(arguments: list[str]) -> int:
    """Print what was caught, by area, and what was not; 1 below the goal."""
    flags = [one for one in arguments if one.startswith("-")]
    names = {*arguments} - {*flags}
    mutants = [one for one in read_mutants() if not names or {one.name, one.area} & names]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:  # hard links need one file system
        every = tuple(sorted({test for one in mutants for test in one.tests}))
        caught = caught_of(
            [replace(mutants[0], name=SOUND, new=mutants[0].old, tests=every), *mutants], Path(folder), flags
        )
    if caught.pop(SOUND):
        raise SystemExit("the tests fail without any fault")
    total = Counter(one.area for one in mutants)
    for area in total:
        print(f"{area:<18} {sum(caught[one.name] for one in mutants if one.area == area):>4} of {total[area]}")
    print(f"{'all':<18} {sum(caught.values()):>4} of {len(mutants)} ({sum(caught.values()) / len(mutants):.1%})")
    for one in mutants:
        if not caught[one.name]:
            print(f"survives: {one.name} {one.file}: {one.old.strip()} -> {one.new.strip()}")
    return int(sum(caught.values()) < GOAL * len(mutants))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
