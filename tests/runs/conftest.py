"""Folders of runs, and of what their jobs note down."""

from pathlib import Path

import pytest

from tests.runs.helpers import Small


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def small(notes) -> Small:
    return Small(notes=str(notes))
