"""Commands in this process, and the folder of a whole run of a few steps."""

import shutil
from pathlib import Path

import pytest

from tests.commands.helpers import (
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


@pytest.fixture
def tiny_run(short_run) -> Path:
    """The folder of a whole run of a few steps, which no test may change."""
    return short_run


@pytest.fixture
def copied(tiny_run, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copied"))
