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
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
SECONDS = 180
"""Of a fault: tests that take longer wait for ever."""
GOAL = 0.95


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
    """All lists."""
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


def is_caught(mutant: Mutant, copy: Path, flags: list[str]) -> bool:
    """Whether a test fails, in a copy of the project that is left as it was."""
    path = copy / mutant.file
    source = path.read_text()
    path.write_text(mutant.planted(source))
    try:
        return not passes(copy, mutant.tests, flags)
    finally:
        path.write_text(source)


def passes(copy: Path, tests: tuple[str, ...], flags: list[str]) -> bool:
    """Whether these tests of a copy pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *flags, *tests]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return not subprocess.run(command, cwd=copy, env=environment, timeout=SECONDS, **quiet).returncode
    except subprocess.TimeoutExpired:
        return False


def main(arguments: list[str]) -> int:
    """Print what was caught, by area, and what was not; 1 below the goal."""
    flags = [one for one in arguments if one.startswith("-")]
    names = {*arguments} - {*flags}
    mutants = [one for one in read_mutants() if not names or {one.name, one.area} & names]
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for k in range(WORKERS):
            copies.put(copy := Path(folder) / str(k))
            for part in ("toylab", "tasks", "probes", "tests", "notebooks"):
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", copy)
        if not passes(copy, tuple(sorted({test for one in mutants for test in one.tests})), flags):
            raise SystemExit("the tests fail without any fault")
        bar = tqdm(total=len(mutants), unit="fault")

        def tried(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                return is_caught(mutant, copy, flags)
            finally:
                copies.put(copy)
                bar.update()

        with ThreadPoolExecutor(WORKERS) as pool, bar:
            caught = list(pool.map(tried, mutants))
    total = Counter(one.area for one in mutants)
    found = Counter(one.area for one, hit in zip(mutants, caught, strict=True) if hit)
    for area in total:
        print(f"{area:<10} {found[area]:>4} of {total[area]}")
    print(f"{'all':<10} {sum(caught):>4} of {len(mutants)} ({sum(caught) / len(mutants):.1%})")
    for one, hit in zip(mutants, caught, strict=True):
        if not hit:
            print(f"survives: {one.name} {one.file}: {one.old.strip()} -> {one.new.strip()}")
    return int(sum(caught) < GOAL * len(mutants))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
