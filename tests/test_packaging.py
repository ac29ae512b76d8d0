"""Laws of the package: everything that is needed travels, nothing else does, and it works away from the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("tasks", "probes", "toylab")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the repository stays as it is."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", base / "dist", source]
    built = subprocess.run(command, capture_output=True, text=True, cwd=base, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (base / "dist").glob("*.whl")
    return path


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_module_and_every_file_beside_them(wheel):
    held = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"toylab/report/page.html", "toylab/report/page.css", "toylab/studies/iteration_head/study.py"} <= held
    assert {"tasks/iteration.py", "probes/hooks.py", "toylab/model/transformer.py"} <= held
    assert members(wheel) == held


def test_the_wheel_names_its_command_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as file:
        about = {name.split("/", 1)[1]: name for name in file.namelist() if ".dist-info/" in name}
        assert "toylab = toylab.cli:main" in file.read(about["entry_points.txt"]).decode()
        assert any(name.endswith("LICENSE") for name in about)
        assert set(file.read(about["top_level.txt"]).decode().split()) == set(PACKAGES)


@pytest.mark.slow
def test_the_installed_wheel_works_away_from_the_repository(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True)
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}, "PYTHONPATH": str(target)}

    def call(code: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, cwd=elsewhere, env=environment, check=False,
        )  # fmt: skip

    for package in PACKAGES:
        assert Path(call(f"import {package}; print({package}.__file__)").stdout).is_relative_to(target)
    main = "from toylab.cli import main; main()"
    listed = call(main, "list")
    assert listed.returncode == 0, listed.stderr
    assert "iteration-head" in listed.stdout
    assert call(main, "show", "parity", "--rows", "1").stdout.startswith("position")
    drawn = call("from toylab.report.page import page; print(page('t', 'i', [], [], {}, 'c', 'd'))")
    assert "<style>" in drawn.stdout
    wrong = call(main, "run", "iteration-hed")
    assert wrong.returncode == 2
    assert "did you mean iteration-head?" in wrong.stderr
    assert not list(elsewhere.iterdir())
