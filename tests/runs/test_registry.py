"""Laws of folders of somebody else's: they choose no code, and nothing is written outside them."""

import sys
from pathlib import Path

import pytest

from tests.runs.helpers import Small, rewritten
from toylab import cli
from toylab.console import ToylabError
from toylab.files import read_json
from toylab.runs.grid import grid
from toylab.runs.registry import load_class, preset_settings
from toylab.runs.sweep import resume_sweep, sweep

OWN = '''
from dataclasses import dataclass
from pathlib import Path
from tests.runs.helpers import Small

Path("imported").touch()


@dataclass(frozen=True, kw_only=True)
class Own(Small):
    """Somebody's study."""


@dataclass(frozen=True, kw_only=True)
class Another(Small):
    """Another one."""
'''


@pytest.fixture
def received(tmp_path, monkeypatch) -> Path:
    """A folder with a sweep of a study that is not ours, beside the module that it names; nothing is imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "notes").mkdir()
    (tmp_path / "theirs.py").write_text(OWN)
    arguments = ["sweep", "theirs:Own", "--notes", str(tmp_path / "notes"), "--workers", "1", "--out", "out"]
    assert cli.run([*arguments, "--grid", "kind=plain,round"]) == 0
    sys.modules.pop("theirs")
    (tmp_path / "imported").unlink()
    yield tmp_path / "out"
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize("command", ["report out/kind=plain", "report out", "sweep --continue out"])
def test_a_folder_does_not_choose_the_code_that_runs(received, capsys, command):
    assert cli.run([*command.split(), *(["--workers", "1"] if "sweep" in command else [])]) == 2
    told = capsys.readouterr().err
    assert "'theirs:Own', which is not a study of toylab" in told
    assert ("toylab sweep theirs:Own --continue out" if "sweep" in command else " --study theirs:Own") in told
    assert not Path("imported").exists()


def test_what_only_reads_a_folder_imports_nothing(received):
    for command in (["table", "out"], ["claims", "out/kind=plain"]):
        assert cli.run(command) == 0
    assert not Path("imported").exists()


def test_the_study_of_a_folder_runs_where_the_user_names_it(received, capsys):
    (received / "kind=plain" / "seed-0" / "other" / "done").unlink()
    assert cli.run(["sweep", "theirs:Own", "--continue", "out", "--workers", "1"]) == 0
    assert (received / "kind=plain" / "seed-0" / "other" / "done").exists()
    assert cli.run(["report", "out/kind=plain", "--study", "theirs:Own"]) == 0
    assert cli.run(["report", "out", "--study", "theirs:Own"]) == 0
    assert Path("imported").exists()
    assert (received / "scoreboard.html").exists()
    capsys.readouterr()
    for command in (
        ["report", "out/kind=plain", "--study", "theirs:Another"],
        ["report", "out/kind=plain", "--study", "iteration-head"],
        ["sweep", "theirs:Another", "--continue", "out"],
    ):
        assert cli.run(command) == 2
        assert "holds a run of 'theirs:Own'; give the class of 'theirs:Own'" in capsys.readouterr().err


def test_a_sweep_of_a_script_goes_on_from_its_module(received, capsys):
    for path in (received / "sweep.json", *received.glob("*/settings.json")):
        rewritten(path, study="__main__:Own")
    assert cli.run(["sweep", "--continue", "out"]) == 2
    assert "toylab sweep MODULE:Own --continue out, where MODULE is the script without .py" in capsys.readouterr().err
    rows = resume_sweep(received, study=load_class("study", "theirs:Own"), workers=1, progress=False)
    assert {row["study"] for row in rows} == {"__main__:Own"}


@pytest.mark.parametrize("name", ["../../outside", "..", "", "/tmp/toylab-outside", "a/b", ".hidden"])
def test_a_run_of_a_sweep_is_a_folder_in_it(small, tmp_path, name):
    out = tmp_path / "deep" / "er" / "out"
    sweep([small], out, workers=1, progress=False)
    (settings,) = read_json(out / "sweep.json")["runs"].values()
    rewritten(out / "sweep.json", runs={name: settings})
    before = set(tmp_path.rglob("*"))
    for call in (
        lambda: resume_sweep(out, study=Small, workers=1, progress=False),
        lambda: sweep([small], out, workers=1),
    ):
        with pytest.raises(ToylabError, match=r"sweep\.json: names a run .+, which is not a valid folder name"):
            call()
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/tmp/toylab-outside").exists()


@pytest.mark.parametrize("name", ["run", "sweep.json", "run/settings.json", "run/claims.json"])
def test_a_sweep_writes_nothing_through_a_link_that_leads_out(small, out, tmp_path, name):
    sweep([small], out, workers=1, progress=False)
    (out / name).rename(tmp_path / "moved")
    (out / name).symlink_to(tmp_path / "moved")

    def kept() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("moved/**/*") if path.is_file()}

    before = kept()
    with pytest.raises(ToylabError, match=r"a link leads out of .+; delete the link"):
        sweep(grid(small, {"seed": [0, 1]}), out, workers=1, progress=False)
    assert kept() == before


def test_a_record_of_no_sweep_is_refused_by_name(small, out):
    sweep([small], out, workers=1, progress=False)
    for changes in ({"study": None}, {"runs": []}, {"runs": {"run": {"seeds": 3}}}, {"jobs": "main"}, {"jobs": [3]}):
        rewritten(out / "sweep.json", **{"study": "x:Y", "runs": {}, "jobs": None} | changes)
        with pytest.raises(ToylabError, match=r"sweep\.json: is not a sweep; give another folder"):
            resume_sweep(out, study=Small)


@pytest.mark.parametrize("name", ["jobs", "seeds", "kind", "__init__", "quick", ""])
def test_an_attribute_that_is_no_preset_is_refused(name):
    assert preset_settings(Small, "default") == Small()
    with pytest.raises(ToylabError, match=rf"preset={name}: is not a preset of Small; choose from default"):
        preset_settings(Small, name)
