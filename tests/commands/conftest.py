"""Commands in this process, and the folder of a whole run of a few steps."""

import shutil
from pathlib import Path

import pytest

from tests.commands.helpers import (
    TINY,
    Outcome,
)
from toylab.cli import run


@pytest.fixture
def call(capsys):
    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = run([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
        return Outcome(code, *capsys.readouterr())

    return command


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    """The folder of a whole run of a few steps."""
    out = tmp_path_factory.mktemp("cli") / "tiny"
    assert run(["run", "iteration-head", *TINY, "--workers", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(tiny_run, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copied"))
