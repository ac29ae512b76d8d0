"""What a command of the tests leaves behind, and how it is looked at."""

import hashlib
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.short_runs import FEW_STEPS

TINY = ["--preset", "quick", *FEW_STEPS["iteration-head"].split()]
"""The flags of `tiny_run`."""
REMEDY = re.compile(
    r"did you mean|there are|must (be|end with)|give |for example|such as|another folder|delete|again|run --help"
    r"|[Uu]nrecognized"
)


MADE_ANEW = ("claims.json", "report.html", "figures", "error.txt")
"""What any run writes again, also one that stops at a mistake."""


class Outcome:
    """What a command left behind: its exit code, and what it printed in one line without frames."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.message = " ".join(re.sub(r"[│╭╮╰╯─]", " ", err.split("job/s]")[-1]).split())


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not set(MADE_ANEW) & set(path.relative_to(folder).parts)
    }


def check_refused(outcome: Outcome, *expected: str) -> None:
    assert outcome.code == 2, outcome.err
    for words in expected:
        assert words in outcome.message
    assert REMEDY.search(outcome.message), f"there is no remedy in: {outcome.message}"
    assert "Traceback" not in outcome.err + outcome.out
    assert len(outcome.message) < 800


PROGRAM = str(Path(sys.executable).with_name("toylab"))


def outside(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def members(group: int) -> list[str]:
    """The processes of a group that still live (those that only wait to be buried do not)."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end while we look
            stats.append(path.read_text())
    return [stat for stat in stats if (fields := stat.rpartition(")")[2].split())[2] == str(group) and fields[0] != "Z"]
