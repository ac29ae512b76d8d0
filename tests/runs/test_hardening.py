"""Laws of robustness, with real processes: kills, lost workers, damaged files and full disks cost nothing finished."""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toylab import cli
from toylab.files import sha256_of
from toylab.runs.table import load_runs

PROGRAM = str(Path(sys.executable).with_name("toylab"))
SHORT = [
    "--train.steps", "60", "--train.rows", "8", "--train.evaluate-every", "5", "--train.warmup", "5",
    "--train.cooldown", "10", "--transfer.steps", "10", "--transfer.evaluate-every", "5",
    "--task.lengths", "1", "6", "--rows", "8",
]  # fmt: skip
"""Settings of the quick preset with which a job takes about a second."""


def sweep_command(out: Path, grid: list[str], jobs: list[str], *more: str) -> list[str]:
    command = [PROGRAM, "sweep", "iteration-head", "--preset", "quick", *SHORT, "--jobs", *jobs]
    return [*command, "--out", str(out), *more, "--grid", *grid]


def kept(out: Path) -> dict[str, Any]:
    """What a run found, without its cost: weights, metrics and claims as bytes, results as values."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name in ("model.safetensors", "metrics.jsonl", "transfer.jsonl", "claims.json"):
            found[name] = sha256_of(path.read_bytes())
        elif path.name == "result.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "cost"}
    return found


# Kills ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_killed_at_any_moment_and_started_again_ends_with_the_same_bits(tmp_path):
    """SIGKILL at 20 random moments, two at a time; each then runs to its end."""
    grid, jobs = ["seed=3"], ["one-layer", "parity"]
    began = time.monotonic()
    whole = tmp_path / "whole"
    subprocess.run(sweep_command(whole, grid, jobs, "--workers", "1"), check=True, capture_output=True, timeout=300)
    length = time.monotonic() - began
    expected = kept(whole)
    assert len(expected) >= 7
    moments = random.Random(7).sample(range(1000), 20)
    unfinished = 0
    for first in range(0, 20, 2):
        outs = [tmp_path / f"killed-{k}" for k in (first, first + 1)]
        killed = [
            subprocess.Popen(sweep_command(out, grid, jobs, "--workers", "1"), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
            for out in outs
        ]  # fmt: skip
        began = time.monotonic()
        for process, moment in sorted(zip(killed, moments[first : first + 2], strict=True), key=lambda one: one[1]):
            time.sleep(max(0.0, 1.0 + moment / 1000 * length - (time.monotonic() - began)))
            process.kill()
            process.wait()
        unfinished += sum(len(list(out.rglob("done"))) < 2 for out in outs)
        again = [
            subprocess.Popen(sweep_command(out, grid, jobs, "--workers", "1"), stdout=subprocess.DEVNULL)
            for out in outs
        ]
        for process in again:
            assert process.wait(timeout=300) == 0
        for out in outs:
            assert kept(out) == expected
            shutil.rmtree(out)
    assert unfinished >= 10, "the kills came too late to say anything"


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_at_once_and_the_same_command_ends_it(tmp_path):
    command = sweep_command(tmp_path / "out", ["seed=0..19"], ["one-layer"])
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.rglob("done")) and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        message = process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert time.monotonic() - began < 5
    assert "finished jobs are kept" in message
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done")}
    assert 1 <= len(finished) < 20
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert len(list(tmp_path.rglob("done"))) == 20
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


# A cluster -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def dask(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler and two worker processes on this machine."""
    pytest.importorskip("distributed")
    python, log = [sys.executable, "-m", "distributed.cli."], (tmp_path / "dask.log").open("w")
    address = tmp_path / "scheduler.json"
    common = {"stdout": log, "stderr": log, "cwd": tmp_path}
    scheduler = [*python[:2], "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen([*scheduler, "--scheduler-file", str(address)], **common)]
    worker = [*python[:2], "distributed.cli.dask_worker", "--scheduler-file", str(address), "--nthreads", "1"]
    try:
        while not address.exists():
            assert processes[0].poll() is None, (tmp_path / "dask.log").read_text()
            time.sleep(0.1)
        for k in range(2):
            folder = ["--local-directory", str(tmp_path / f"worker-{k}"), "--no-dashboard", "--no-nanny"]
            processes.append(subprocess.Popen([*worker, *folder], **common))
        yield json.loads(address.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        log.close()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_finds_what_one_process_finds(tmp_path):
    """24 jobs on a real scheduler with two workers, one of which is killed in the middle."""
    grid, jobs = ["model.positions=none,learned,rotary,alibi", "seed=0..5"], ["one-layer"]
    with dask(tmp_path) as (address, workers):
        command = sweep_command(tmp_path / "cluster", grid, jobs, "--scheduler", address)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            while len(list((tmp_path / "cluster").rglob("done"))) < 6:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.05)
            workers[0].kill()
            told = process.communicate(timeout=300)[0]
        assert process.returncode == 0, told
    assert "24 jobs of 4 runs" in told
    subprocess.run(sweep_command(tmp_path / "local", grid, jobs), check=True, capture_output=True, timeout=300)
    assert kept(tmp_path / "cluster") == kept(tmp_path / "local")
    assert len([name for name in kept(tmp_path / "local") if name.endswith("result.json")]) == 24


# Damaged files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    short = ["--train.steps=3", "--train.rows=4", "--task.lengths", "1", "6", "--rows=4"]
    command = ["sweep", "iteration-head", "--preset", "quick", *short, "--jobs", "one-layer", "--workers", "1"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.run([*command, "--out", str(out), "--grid", "model.positions=none,learned"]) == 0
    return out


def answered(arguments: list[str]) -> tuple[int, str, str]:
    said, warned = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        code = cli.run(arguments)
    return code, said.getvalue(), warned.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A flipped bit, a cut, a number made huge, a value of another type, or two lines swapped."""
    kind = chance.choice(["flip", "flip", "cut", "huge", "type", "swap", "nest"])
    if kind == "cut":
        return content[: chance.randrange(len(content))]
    if kind == "flip":
        at = chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]
    if kind == "nest":
        return b"[" * 100_000 + content
    digits = [k for k, byte in enumerate(content) if 48 <= byte < 58]
    if kind in ("huge", "type") and digits:
        at = chance.choice(digits)
        put = chance.choice([b"9" * 5000, b"1e999", b"-1e999", b"NaN"]) if kind == "huge" else b'{"a": null}'
        return content[:at] + put + content[at + 1 :]
    lines = content.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


@pytest.mark.parametrize("times", [30, pytest.param(170, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_by_name_or_read_as_they_were(finished, tmp_path, times):
    """No traceback, no hang, no memory blown up, and never another number than the one that was measured."""
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    run = out / "model.positions=none"
    job = run / "seed-0" / "one-layer"
    from toylab.model.checkpoint import load_model
    from toylab.runs.store import read_metrics

    def read(path: Path) -> tuple[int, str, str]:
        if path.suffix == ".safetensors" or path.name == "metrics.jsonl":
            with contextlib.suppress(ValueError):
                found = load_model(path).state_dict() if path.suffix == ".safetensors" else read_metrics(path)
                return 0, str(found), ""
            return 2, "", f"toylab: {path}: refused\n"
        if path.name == "claims.json":
            return answered(["claims", str(run)])
        return answered(["table", str(out), "--json", "--columns", *columns])

    columns = [
        "run",
        "job",
        "seed",
        "settings.model.positions",
        "settings.train.steps",
        "result.accuracy.6",
        "result.steps",
    ]
    chance, memory = random.Random(11), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = [run / "settings.json", run / "claims.json", job / "result.json", job / "metrics.jsonl",
             job / "model.safetensors", job / "done"]  # fmt: skip
    refused, began = 0, time.process_time()
    for path in files:
        whole, before = path.read_bytes(), read(path)
        assert before[0] == 0, before
        for _ in range(times):
            path.write_bytes(damaged(whole, chance))
            code, said, warned = read(path)
            assert code in (0, 2), warned
            if code == 2:
                refused += 1
                assert str(path) in warned or str(job) in warned, warned
                assert warned.count("\n") == 1
            elif path.name == "done":  # without its list, the job counts as one that was not finished
                assert said == before[1] or "null" in said
            else:
                assert said == before[1]
        path.write_bytes(whole)
    assert refused > 4 * times
    assert time.process_time() - began < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000, "kilobytes"


def test_a_sweep_record_that_is_damaged_is_refused_by_name(finished, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    path, chance = out / "sweep.json", random.Random(3)
    whole = path.read_bytes()
    for _ in range(60):
        path.write_bytes(damaged(whole, chance))
        code, _, warned = answered(["sweep", "--continue", str(out), "--workers", "1"])
        assert code in (0, 2)
        assert code == 0 or (str(path) in warned and warned.count("\n") == 1), warned


# Disks ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True,
                       capture_output=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def jobs_of(out: Path, *more: str) -> list[str]:
    short = [
        "--train.steps=3",
        "--train.rows=4",
        "--task.lengths",
        "1",
        "6",
        "--rows=4",
    ]
    return ["sweep", "iteration-head", "--preset", "quick", *short, "--jobs", "one-layer", "--workers", "1",
            "--out", str(out), *more, "--grid", "seed=0..5"]  # fmt: skip


def test_a_full_disk_is_named_and_what_was_finished_stays(tmp_path):
    with small_disk(tmp_path / "disk", "2m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"0" * 1_400_000)
        code, _, warned = answered(jobs_of(disk / "out"))
        assert code == 2
        assert "No space left on device" in warned
        done = {path.parent.parent.name for path in disk.rglob("done")}
        assert 1 <= len(done) < 6, "the disk must fill in the middle"
        before = {path: path.stat().st_mtime_ns for path in disk.rglob("done")}
        ballast.unlink()
        assert answered(jobs_of(disk / "out"))[0] == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
        rows = load_runs(disk / "out")
        assert [row["status"] for row in rows] == ["done"] * 6
        hidden = {path.name for path in disk.rglob(".*")}
        assert hidden <= {".lock", ".training-seconds"}, "nothing half written is left"


def test_a_folder_one_may_not_write_is_named(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, _, warned = answered(jobs_of(disk / "out"))
        assert code == 2
        assert "Read-only file system" in warned
        assert "give another folder with --out" in warned
        assert warned.count("\n") == 1


@pytest.mark.slow
def test_two_sweeps_started_at_the_same_moment_do_every_job_once(tmp_path):
    command = sweep_command(tmp_path / "out", ["seed=0..3"], ["one-layer"])
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert sum("another process is writing there" in one for one in said) == 1
    assert len(list(tmp_path.rglob("done"))) == 4
