"""Laws of the package: everything that is needed travels, and one name has one module wherever toylab is used from."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import toylab
from tests.modules import FOLDERS, ROOT

HOMES = {name.replace(".", "/"): folder for name, folder in FOLDERS.items()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the repository stays as it is."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in (*FOLDERS.values(), ROOT / "tests"):
        shutil.copytree(folder, source / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", base / "dist", source]
    built = subprocess.run(command, capture_output=True, text=True, cwd=base, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (base / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that the wheel is installed in."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True)
    return target


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the source that is not installed."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    shutil.copy(ROOT / "pyproject.toml", copy)
    for folder in FOLDERS.values():
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def call(code: str, *arguments: str | Path, home: Path, cwd: Path, **more: str) -> str:
    """What a Python that finds toylab in `home` prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**environment, "PYTHONPATH": str(home), **more},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


HOME_OF_EACH = """
import multiprocessing, pickle, sys
import toylab, toylab.tasks
from toylab.tasks import Parity

def home(_):
    return toylab.tasks.__file__

if __name__ == "__main__":
    import toylab.probes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (there,) = pool.map(home, [0])
    task = pickle.loads(pickle.dumps(Parity()))
    print(toylab.__file__, toylab.tasks.__file__, toylab.probes.__file__, there)
    print(sys.modules[type(task).__module__].__file__)
"""
"""The file of toylab and of its two parts, of the tasks in a spawned process, and of a task that was pickled."""


def one_home(where: Path, home: Path | None, cwd: Path) -> None:
    """All of them lie in one folder, also in another process, whatever lies beside the script."""
    script = cwd / "script.py"
    script.write_text(HOME_OF_EACH)
    (cwd / "tasks.py").write_text("raise SystemExit('the file of somebody else')")
    (cwd / "probes.py").write_text("raise SystemExit('the file of somebody else')")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, script], cwd=cwd, capture_output=True, text=True, check=False,
        env={**environment, "PYTHONPATH": str(home)} if home else environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for file in done.stdout.split():
        assert Path(file).is_relative_to(where), done.stdout


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_file_beside_them(wheel):
    held = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in HOMES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"toylab/report/page.html", "toylab/tasks/iteration.py", "toylab/probes/hooks.py"} <= held
    assert members(wheel) == held


@pytest.mark.slow
def test_the_wheel_says_that_it_is_annotated(wheel):
    assert {f"{part}/py.typed" for part in ("toylab", "toylab/tasks", "toylab/probes")} <= members(wheel)


def test_a_type_checker_knows_every_name_that_is_loaded_when_first_used():
    tree = ast.parse((ROOT / "toylab" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    known = {line.names[0].asname: f"{line.module}.{line.names[0].name}" for line in block.body}
    assert known == {name: f"toylab.{home}.{name}" for name, home in toylab._HOMES.items()}


@pytest.mark.slow
def test_the_wheel_names_its_command_its_licence_and_no_package_but_one(wheel):
    with zipfile.ZipFile(wheel) as file:
        about = {name.split("/", 1)[1]: name for name in file.namelist() if ".dist-info/" in name}
        assert "toylab = toylab.cli:main" in file.read(about["entry_points.txt"]).decode()
        assert any(name.endswith("LICENSE") for name in about)
        assert file.read(about["top_level.txt"]).decode().split() == ["toylab"]


@pytest.mark.slow
def test_a_checkout_works_without_being_installed_and_mixes_with_no_other(checkout, tmp_path):
    # Another checkout is installed here: an editable install would give its tasks to this one.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    one_home(checkout, checkout, elsewhere)


@pytest.mark.slow
def test_an_installed_wheel_works_from_any_folder(installed, tmp_path):
    one_home(installed, installed, tmp_path)


@pytest.mark.slow
def test_in_the_root_of_a_checkout_an_installed_wheel_gives_way_to_it_as_a_whole(installed, checkout):
    code = "import sys; sys.path.insert(0, '.'); import toylab, toylab.tasks, toylab.probes as probes"
    told = "print(toylab.__file__, toylab.tasks.__file__, probes.__file__)"
    files = call(f"{code}; {told}", home=installed, cwd=checkout).split()
    assert all(Path(file).resolve().is_relative_to(checkout) for file in files), files


@pytest.mark.slow
def test_the_editable_install_finds_both_parts(tmp_path):
    one_home(ROOT, None, tmp_path)


@pytest.mark.slow
def test_the_installed_wheel_works_away_from_the_repository(installed, tmp_path):
    main = "from toylab.cli import main; main()"
    assert "iteration-head" in call(main, "list", home=installed, cwd=tmp_path)
    assert call(main, "show", "parity", "--rows", "1", home=installed, cwd=tmp_path).startswith("position")
    drawn = "from toylab.report.page import render_page; print(render_page('t', 'i', [], [], {}, 'c', 'd'))"
    assert "<style>" in call(drawn, home=installed, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
