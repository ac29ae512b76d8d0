"""Laws of the program: faults keep their traceback, streams may be missing or closed, Ctrl-C ends all."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import toylab
from tests.commands.helpers import PROGRAM, TINY, members, outside
from toylab.cli import run
from toylab.console import ToylabError
from toylab.runs import registry
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.verdicts.judgement import claims_table, read_claims

FAULTS = (ValueError, KeyError, OSError, RuntimeError, BrokenPipeError)


FAULTY = """
from dataclasses import dataclass
from toylab.tasks import Parity
from toylab import ToylabError

@dataclass(frozen=True, kw_only=True)
class Mine(Parity):
    fails: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.fails == 1:
            raise {error}("in the settings")

    def sample(self, *arguments, **others):
        if self.fails == 2:
            raise {error}("in the sampler")
        return super().sample(*arguments, **others)

class Study:
    seeds = (0,)
    @classmethod
    def quick(cls):
        raise {error}("in the preset")
    def jobs(self): ...
    def run_job(self, job, folder): ...
    def claims(self): ...
"""


WAYS = [
    (("show", "{module}:Mine", "--fails", 1), "in the settings"),
    (("show", "{module}:Mine", "--fails", 2), "in the sampler"),
    (("train", "{module}:Mine", "--task.fails", 1), "in the settings"),
    (("train", "{module}:Mine", "--task.fails", 2), "in the sampler"),
    (("run", "{module}:Study", "--preset", "quick"), "in the preset"),
]


@pytest.mark.parametrize(("command", "place"), WAYS)
def test_only_our_own_error_becomes_a_line_and_faults_of_others_keep_their_traceback(
    call, tmp_path, monkeypatch, command, place
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for error in (*FAULTS, ToylabError):
        module = f"faulty_{error.__name__.lower()}"
        (tmp_path / f"{module}.py").write_text(FAULTY.format(error=error.__name__))
        words = [str(word).format(module=module) for word in command]
        if error is ToylabError:
            outcome = call(*words)
            assert outcome.code == 2
            assert place in outcome.message
        else:
            with pytest.raises(error, match=place) as caught:
                call(*words)
            assert caught.type is error
            assert caught.traceback[-1].path.name == f"{module}.py"


def test_the_program_shows_the_traceback_of_a_fault_and_ends_with_1(tmp_path):
    (tmp_path / "mine.py").write_text(FAULTY.format(error="ValueError"))
    for command in (["show", "mine:Mine", "--fails", 1], ["show", "mine:Mine", "--fails", 2]):
        done = outside(tmp_path, *command)
        assert done.returncode == 1
        assert "mine.py" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("ValueError: in the s")
        assert "─" not in done.stderr  # tyro's box, which would call it a mistake in a flag
    (tmp_path / "mine.py").write_text("import not_installed\n")
    done = outside(tmp_path, "check", "mine:Mine")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'not_installed'"


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (("bench", "step"), "toylab.bench.matmul_limit"),
        (("bench", "growth"), "toylab.bench.growth.growth_curves"),
        (("plot", "RUN", "--x", "seed", "--y", "steps"), "toylab.report.figures.plot_intervals"),
        (("run", "iteration-head"), "toylab.runs.jobs.execute_jobs"),
        (("sweep", "iteration-head", "--grid", "seed=0..1"), "toylab.runs.sweep.execute_jobs"),
    ],
)
def test_what_cannot_be_written_is_noticed_before_the_work(call, tmp_path, monkeypatch, tiny_run, command, work):
    def begun(*_, **__):
        raise AssertionError("the work began")

    (tmp_path / "file").touch()
    monkeypatch.setattr(work, begun)
    words = [str(tiny_run) if word == "RUN" else word for word in command]
    outcome = call(*words, "--out", tmp_path / "file" / "out.svg")
    assert outcome.code == 2
    assert str(tmp_path / "file") in outcome.err
    assert len(outcome.err.splitlines()) == 1


PRINTING = [
    ("list",),
    ("show", "parity"),
    ("show", "parity", "--help"),
    ("run", "iteration-head", "--help"),
    ("table", "RUN"),
    ("table", "RUN", "--columns", "positions", "--csv"),
    ("claims", "RUN"),
    ("claims", "RUN", "--markdown"),
    ("claims", "RUN", "--json"),
    pytest.param(("report", "RUN"), marks=pytest.mark.slow),
    ("show", "größe"),
    ("show", "polynomial", "--p", "9"),
]


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_a_terminal_that_knows_ascii_alone_is_shown_what_it_can_show(copied, monkeypatch, command):
    held = [replace(claim, statement=f"größer: {claim.statement}") for claim in read_claims(copied / "claims.json")]
    monkeypatch.setattr("toylab.verdicts.judgement.read_claims", lambda _: held)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    for stream, name in zip(streams, ("stdout", "stderr"), strict=True):
        monkeypatch.setattr(sys, name, stream)
    try:
        code = run([str(copied) if word == "RUN" else word for word in command])
    except SystemExit as left:
        code = left.code
    monkeypatch.undo()
    out, err = (stream.buffer.getvalue().decode("ascii") for stream in streams if stream.flush() is None)
    assert code == (2 if command[1:] in (("größe",), ("polynomial", "--p", "9")) else 0)
    assert out or err
    if "--json" in command:
        assert [one["statement"] for one in json.loads(out)] == [claim.statement for claim in held]
    elif command[0] == "claims":
        assert out.count("gr\\xf6\\xdfer: ") == len(held)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("command", [*PRINTING[:5], ("run", "iteration-head", *TINY, "--workers", "1", "--out", "RUN")])
def test_a_process_without_streams_works_as_any_other(copied, tmp_path, monkeypatch, command, closed):
    """As a daemon, under `pythonw`, or after `2>&-`."""
    monkeypatch.chdir(tmp_path)
    (copied / "report.html").unlink()
    (copied / "seed-0" / "one-layer" / "done").unlink()
    monkeypatch.setattr(IterationHeadStudy, "pictures", lambda *_: [])
    for name in ("stdout", "stderr"):
        stream = io.StringIO() if closed else None
        if closed:
            stream.close()
        monkeypatch.setattr(sys, name, stream)
    try:
        code = run([str(copied) if word == "RUN" else word for word in command])
    except SystemExit as left:
        code = left.code
    monkeypatch.undo()
    assert code == 0
    assert (copied / "report.html").exists() == ("--out" in command)
    assert (copied / "seed-0" / "one-layer" / "done").exists() == ("--out" in command)


@pytest.mark.skipif(os.name != "posix", reason="a shell")
@pytest.mark.parametrize("command", ["list", "show parity --rows 3000", "show parity --help", "run rnu 2>&1"])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(tmp_path, command):
    line = f"{shlex.quote(PROGRAM)} {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (2 if "rnu" in command else 0, "")


@pytest.mark.slow
def test_the_program_works_from_any_folder(tmp_path, tiny_run):
    listed = outside(tmp_path, "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "iteration-head" in listed.stdout
    printed = outside(tmp_path, "claims", tiny_run)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout.strip("\n") == claims_table(read_claims(tiny_run / "claims.json"))
    assert not list(tmp_path.iterdir())


def test_the_program_leaves_with_the_code_of_a_mistake_and_a_short_message(tmp_path):
    wrong = outside(tmp_path, "run", "iteration-hed")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "toylab: there is no study 'iteration-hed'; did you mean iteration-head?\n"
    tyros = outside(tmp_path, "show", "polynomial", "--p", 9)
    assert tyros.returncode == 2
    assert "p=9" in tyros.stderr
    assert "Traceback" not in tyros.stderr
    assert not list(tmp_path.iterdir())


def test_help_and_misspelt_names_need_not_wait_for_torch():
    code = (
        "import atexit, os, sys; from toylab.cli import main;"
        "atexit.register(lambda: 'torch' in sys.modules and os._exit(9)); main()"
    )
    for arguments, expected in ((["--help"], 0), (["run", "iteration-hed"], 2), (["show", "parity"], 0)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
        assert done.returncode == expected


IN_ONE_PROCESS = """
import sys
from toylab.cli import run

for line in sys.argv[1:]:
    try:
        code = run(line.split())
    except SystemExit as left:  # help
        code = left.code
    if code:  # an assertion would say nothing under -O
        sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O", "-OO"])
def test_no_command_needs_docstrings(tmp_path, tiny_run, level):
    shutil.copytree(tiny_run, tmp_path / "run")
    commands = ("show parity --help", "train --help", "run iteration-head --help", "calibrate --help")
    lines = ("list", *commands, "check parity --examples 1", "report run")
    arguments = [sys.executable, level, "-c", IN_ONE_PROCESS]
    done = subprocess.run([*arguments, *lines], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert all(f"  {name}" in done.stdout for name in registry.study_names())
    title = re.search(r"<title>(.*?)</title>", (tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert title[1].strip()


def test_the_module_and_the_version_are_those_of_the_program(tmp_path):
    for command in ([PROGRAM], [sys.executable, "-m", "toylab"]):
        done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"toylab {toylab.__version__}\n"
        wrong = subprocess.run([*command, "rnu"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (wrong.returncode, wrong.stderr) == (2, "toylab: there is no command 'rnu'; did you mean run?\n")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to find processes; runs on any Linux")
@pytest.mark.slow
def test_ctrl_c_stops_all_processes_at_once_with_a_short_message_and_keeps_checkpoints(tmp_path):
    out = tmp_path / "out"
    command = [PROGRAM, "run", "iteration-head", *TINY, "--train.steps", "100000", "--workers", "2", "--out", str(out)]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets what it runs in the background ignore Ctrl-C, and the tests may be that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.rglob("checkpoint.safetensors")) and time.monotonic() < deadline:
            assert started.poll() is None, started.stderr.read()
            time.sleep(0.1)
        os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
        _, err = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130
    assert "stopped; finished jobs are kept" in err
    assert "Traceback" not in err
    deadline = time.monotonic() + 20
    while members(started.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert members(started.pid) == []
    assert list(out.rglob("checkpoint.safetensors"))
    assert {path.name for path in out.rglob(".*")} == {".lock"}


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(tmp_path):
    out = tmp_path / "out"
    command = [PROGRAM, "run", "iteration-head", *TINY, "--train.steps", "100000", "--workers", "2", "--out", str(out)]
    started = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.rglob("checkpoint.safetensors")) and time.monotonic() < deadline:
            assert started.poll() is None
            time.sleep(0.1)
        assert len(members(started.pid)) > 1
        started.kill()
        started.wait()
        deadline = time.monotonic() + 20
        while members(started.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert members(started.pid) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
