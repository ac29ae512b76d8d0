"""Laws of the command line: what was asked for is printed, and a mistake costs one short message and nothing else."""

import hashlib
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
import tyro

import toylab
from tests.test_readme import example
from toylab import tasks
from toylab.cli import run
from toylab.console import ToylabError
from toylab.model.checkpoint import load_model
from toylab.runs import registry
from toylab.runs.judge import finish, flags
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import check
from toylab.verdicts.claim import claims_markdown, claims_table, read_claims

TINY = [
    "--task.lengths", "1", "6", "--rows", "4", "--seeds", "0", "--control-seeds", "1", "--control-steps", "2",
    *(f"--{part}.{name}={value}" for part in ("train", "transfer") for name, value in {
        "steps": 2, "rows": 8, "warmup": 0, "cooldown": 0, "evaluate-every": 1,
    }.items()),
]  # fmt: skip
REMEDY = re.compile(
    r"did you mean|there are|must be|give |for example|such as|another folder|delete|again|run --help|[Uu]nrecognized"
)
NEEDED = ("result.json", "metrics.jsonl")
MADE_ANEW = ("claims.json", "report.html", "figures", "error.txt")
"""What any run writes again, also one that stops at a mistake."""


class Outcome:
    """What a command left behind: its exit code, and what it printed in one line without frames."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.message = " ".join(re.sub(r"[│╭╮╰╯─]", " ", err.split("job/s]")[-1]).split())


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


# Printing ------------------------------------------------------------------------------------------------------------


def test_list_names_every_study_and_every_task(call):
    outcome = call("list")
    assert (outcome.code, outcome.err) == (0, "")
    named = re.findall(r"^  ([\w-]+) +\S", outcome.out, flags=re.MULTILINE)
    files = [path.parent.name for path in (Path(registry.__file__).parents[1] / "studies").glob("*/study.py")]
    studied, generated = named[: len(files)], named[len(files) :]  # a task may be called as the study of it
    assert sorted(studied) == sorted(name.replace("_", "-") for name in files)
    assert len(generated) == len(set(generated)) == len(tasks.TASKS)
    for name in generated:
        assert call("show", name, "--rows", 1).code == 0


@pytest.mark.parametrize("kind", tasks.TASKS)
@pytest.mark.parametrize("rows", [1, 4])
def test_show_prints_the_rows_of_the_task(call, kind, rows):
    name = re.sub(r"(?<!^)([A-Z])", r"-\1", kind.__name__).lower()
    fields = {"lengths": (2, 5)} if issubclass(kind, tasks.IteratedMap) else {}
    fields |= {"length": (12, 15)} if issubclass(kind, tasks.ContextualCounting) else {}
    flags = [word for field, ends in fields.items() for word in (f"--{field}", *ends)]
    outcome = call("show", name, "--rows", rows, "--seed", 7, *flags)
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    blocks = outcome.out.strip().split("\n" + "-" * 80 + "\n")
    assert len(blocks) == rows
    task = kind(**fields)
    batch = task.sample(tasks.stream(7, "show"), rows)
    for block, tokens, size in zip(blocks, batch.tokens.tolist(), batch.sizes.tolist(), strict=True):
        shown = [line.split()[1:] for line in block.splitlines() if line.startswith("token")]
        assert [cell for cells in shown for cell in cells] == tasks.decode(task, tokens[:size])


def test_show_takes_the_settings_of_the_task_in_any_place(call):
    plain = call("show", "polynomial", "--p", 5, "--rows", 2, "--lengths", 3, "--no-chain-of-thought")
    assert plain.code == 0
    assert call("show", "polynomial", "--lengths", 3, "--no-chain-of-thought", "--p", 5, "--rows", 2).out == plain.out
    assert {token for line in plain.out.splitlines() if line.startswith("token") for token in line.split()[2:5]} <= set(
        "1234"
    )


def test_check_tells_every_law_of_a_task_of_anybody(call, tmp_path, monkeypatch):
    """A file in the current folder is enough, and a law that it breaks is told with the place to look at."""
    source = example("class Reverse:")
    (tmp_path / "sound_task.py").write_text(source)
    (tmp_path / "broken_task.py").write_text(source.replace("self.length - 1 - i", "self.length + 1 + i"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sound = call("check", "sound_task:Reverse", "--length", 4)
    assert (sound.code, sound.err) == (0, "")
    assert sound.out.count("holds: ") == len(check.LAWS)
    assert f"{len(check.LAWS)} of {len(check.LAWS)} laws hold for Reverse(length=4" in sound.out
    broken = call("check", "broken_task:Reverse")
    assert broken.code == 1
    assert "broken: links stay inside their row" in broken.out
    assert "look at links['mirror']" in broken.out
    shown = call("show", "sound_task:Reverse", "--rows", 1)
    assert "reads: mirror" in shown.out


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
    def conclude(self, results): ...
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


OWN = '''"""A task with a field that must be given, and classes that are no task."""

from dataclasses import dataclass

import numpy as np

from toylab.tasks import IGNORE, Batch


@dataclass(frozen=True, kw_only=True)
class Need:
    """Letters that are to be repeated."""

    length: int
    held: bool = True
    vocabulary = tuple("abcdefgh")

    @property
    def context(self):
        return self.length

    def sample(self, rng, rows, split="train"):
        if split == "test" and not self.held:
            raise ValueError("no test rows")
        tokens = rng.integers(8, size=(rows, self.length))
        targets = np.full_like(tokens, IGNORE)
        targets[:, :-1] = tokens[:, 1:]
        return Batch(tokens, targets, np.full(rows, self.length))

    def solve(self, prompt):
        return list(prompt)


class Nothing:
    """Nothing."""


@dataclass(frozen=True)
class Speechless:
    """Without a vocabulary."""

    context: int = 3

    def sample(self, rng, rows, split="train"): ...

    def solve(self, prompt): ...
'''
FEW = ("--train.steps", 3, "--train.evaluate-every", 1, "--model.layers", 1, "--model.width", 16)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_task.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_task", None)


def test_train_takes_a_task_with_a_required_field_and_asks_for_it(call, own):
    outcome = call("train", "own_task:Need", "--task.length", 5, *FEW, "--out", "deep/er/model.safetensors")
    assert outcome.code == 0
    assert load_model("deep/er/model.safetensors").context == 5
    bare = call("train", "own_task:Need", *FEW)
    assert bare.code == 2
    assert "--task.length" in bare.message
    assert "Traceback" not in bare.err
    assert call("train", "own_task:Need", "--help").code == 0


@pytest.mark.parametrize("command", ["show", "check", "train"])
@pytest.mark.parametrize(("name", "missing"), [("Nothing", "no sample and no solve"), ("Speechless", "no vocabulary")])
def test_a_class_that_is_no_task_is_refused_with_what_it_lacks(call, own, command, name, missing):
    outcome = call(command, f"own_task:{name}")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"toylab: task 'own_task:{name}': has {missing}; a task has vocabulary, context, sample and solve (see "
        "toylab.tasks.Task)\n"
    )


def test_train_says_whether_the_task_is_solved(call, own):
    """A random letter cannot be predicted."""
    unsolved = call("train", "own_task:Need", "--task.length", 5, *FEW)
    assert unsolved.code == 0
    assert re.match(r"not solved: accuracy 0\.\d+ on held-out rows after 3 steps, below 0\.995\n", unsolved.out)
    assert "of the rows: not solved\n" in unsolved.out
    assert max(map(len, unsolved.out.splitlines())) <= 80
    reached = call("train", "own_task:Need", "--task.length", 5, *FEW, "--train.stop-at", 0.01)
    assert not reached.out.startswith("not solved")
    solved = call("train", "copy", "--task.p", 2, "--task.lengths", 1, *FEW, "--train.steps", 400)
    assert "not solved" not in solved.out


def test_rows_and_files_that_training_cannot_do_without_are_tried_before_it(call, own, monkeypatch):
    def begun(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr("toylab.survey.learn", begun)
    with pytest.raises(ValueError, match="no test rows"):
        call("train", "own_task:Need", "--task.length", 5, "--task.no-held", *FEW)
    (own / "file").touch()
    for out in ("file/model.safetensors", "file/deep/model.safetensors"):
        outcome = call("train", "parity", *FEW, "--out", out)
        assert outcome.code == 2
        assert outcome.err.startswith(f"toylab: out={out}: cannot be written")
    assert call("train", "parity", *FEW, "--out", "file").message.startswith("toylab: out=file: exists already")


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (("bench", "step"), "toylab.bench.matmul_limit"),
        (("bench", "growth"), "toylab.bench.growth.growth_curves"),
        (("plot", "RUN", "--x", "seed", "--y", "steps"), "toylab.report.figures.intervals"),
        (("run", "iteration-head"), "toylab.runs.jobs.work"),
        (("sweep", "iteration-head", "--grid", "seed=0..1"), "toylab.runs.sweep.work"),
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


def test_claims_prints_the_table_or_the_file(call, tiny_run):
    held = read_claims(tiny_run / "claims.json")
    assert call("claims", tiny_run).out.strip("\n") == claims_table(held)
    outcome = call("claims", tiny_run, "--json")
    assert outcome.code == 0
    assert [one["id"] for one in json.loads(outcome.out)] == [one.id for one in held]
    assert call("claims", tiny_run, "--markdown").out.strip("\n") == claims_markdown(held)


def test_report_makes_the_page_anew_from_what_was_measured(call, copied):
    before, page = hashes(copied), (copied / "report.html").read_bytes()
    for path in (copied / "report.html", copied / "claims.json", *(copied / "figures").iterdir()):
        path.unlink()
    outcome = call("report", copied)
    assert outcome.code == 0
    assert outcome.out.strip().endswith(str((copied / "report.html").resolve()))
    assert (copied / "report.html").read_bytes() == page
    assert hashes(copied) == before


def test_the_commands_work_on_a_run_that_was_trained(call, short_run):
    summary = finish(short_run)
    assert call("report", short_run).out.strip() == summary
    claims = re.sub(r" +\d+ CPU-s$", "", summary, flags=re.MULTILINE)
    assert claims.startswith(call("claims", short_run).out.strip())
    assert len(json.loads(call("claims", short_run, "--json").out)) == len(read_claims(short_run / "claims.json"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "COMMAND"),
        (["list", "--help"], "usage"),
        (["run", "--help"], "--workers"),
        (["run", "iteration-head", "--help"], "--task.lengths"),
        (["run", "iteration-head", "-h"], "--workers"),
        (["show", "-h"], "--rows"),
        (["show", "parity", "--help"], "--lengths"),
        (["claims", "--help"], "--json"),
        (["report", "--help"], "FOLDER"),
    ],
)
def test_help_is_given_at_every_place(call, arguments, expected):
    outcome = call(*arguments)
    assert outcome.code == 0
    assert expected in outcome.out
    assert outcome.err == ""


# Running -------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_whole_folder(tiny_run):
    jobs = {f"seed-{job.seed}/{job.name}" for job in IterationHeadStudy(seeds=(0,), control_seeds=1).jobs()}
    assert {str(path.parent.relative_to(tiny_run)) for path in tiny_run.rglob("done")} == jobs
    for job in jobs:
        assert {"done", "metrics.jsonl", "model.safetensors", "result.json"} <= set(os.listdir(tiny_run / job))
        assert not (tiny_run / job / "checkpoint.safetensors").exists()
    assert {"settings.json", "claims.json", "report.html", "figures"} <= set(os.listdir(tiny_run))
    assert {path.name for path in tiny_run.rglob(".*")} == {".lock"}


def test_the_same_command_again_repeats_nothing_and_says_the_same(call, copied):
    before = hashes(copied)
    first = call("run", "iteration-head", *TINY, "--workers", 1, "--out", copied)
    assert first.code == 0
    assert hashes(copied) == before
    assert call("report", copied).out == first.out


def test_a_job_that_was_cut_off_between_training_and_measuring_is_measured_again(call, copied):
    before = hashes(copied)
    job = copied / "seed-0" / "one-layer"
    (job / "done").unlink()
    (job / "result.json").unlink()
    assert call("run", "iteration-head", *TINY, "--workers", 1, "--out", copied).code == 0
    changed = {name for name, held in hashes(copied).items() if before.get(name) != held}
    # The cost in seconds, and the checksum of the file that holds it.
    assert changed <= {"seed-0/one-layer/result.json", "seed-0/one-layer/done"}


def test_the_flags_on_the_page_make_the_settings_of_the_run():
    default = IterationHeadStudy.default()
    quick, paper = IterationHeadStudy.quick(), IterationHeadStudy.paper()
    changed = replace(
        quick,
        task=replace(quick.task, lengths=(2, 9), coefficients=(1, 2, 0, -1), zero_input=True, alphabet=13),
        model=replace(quick.model, hidden=0, biases=False, unembedding="tied"),
        train=replace(quick.train, stop_at=0.5, betas=(0.8, 0.9)),
        transfer=replace(quick.transfer, stop_at=None),
        seeds=(3, 1),
    )
    assert flags(default, default) == []
    for study in (quick, paper, changed):
        assert tyro.cli(IterationHeadStudy, default=default, args=flags(default, study)) == study


# Mistakes ------------------------------------------------------------------------------------------------------------

MISTAKES = [
    (["run", "iteration-hed"], ["'iteration-hed'", "did you mean iteration-head?"]),
    (["run", "zzz"], ["'zzz'", "there are", "iteration-head"]),
    (["run"], ["which study?", "iteration-head"]),
    (["show", "party"], ["'party'", "did you mean parity?"]),
    (["show", "zzzz"], ["'zzzz'", "there are", "polynomial"]),
    (["show"], ["which task?", "parity"]),
    (["show", "polynomial", "--p", "9"], ["p=9", "prime", "7, 11 or 13"]),
    (["show", "parity", "--lengths", "0"], ["lengths=0", "at least 1"]),
    (["show", "parity", "--lengths", "5", "2"], ["lengths=(5, 2)", "1 <= shortest <= longest"]),
    (["show", "copy", "--alphabet", "1"], ["alphabet=1", "2 values"]),
    (["show", "parity", "--rows", "0"], ["rows=0", "at least 1"]),
    (["show", "parity", "--rows", "many"], ["many"]),
    (["show", "parity", "--seed", "-1"], ["seed=-1"]),
    (["show", "parity", "--colour", "red"], ["--colour"]),
    (["check"], ["which task?", "package.module:Class", "parity"]),
    (["check", "party"], ["'party'", "did you mean parity?"]),
    (["check", "nowhere.at_all:Task"], ["no module 'nowhere.at_all'"]),
    (["check", "tasks.iteration:Paraty"], ["'Paraty'", "did you mean Parity?"]),
    (["check", "parity", "--examples", "0"], ["examples=0", "at least 1"]),
    (["check", "parity", "--lengths", "0"], ["lengths=0", "at least 1"]),
    (["list", "--colour"], ["--colour"]),
    (["claims", "folder", "--colour"], ["--colour"]),
    (["claims", "folder", "--json", "--markdown"], ["--markdown", "not allowed with"]),
    (["frobnicate"], ["frobnicate"]),
    (["rnu"], ["no command 'rnu'", "did you mean run?"]),
    (["--colour"], ["COMMAND"]),
    (["run", "parity"], ["parity is a task", "toylab train parity"]),
    (["sweep", "parity", "--grid", "seed=0"], ["parity is a task", "toylab train parity"]),
    (["run", "tasks:Parity"], ["has no jobs", "it is a task: toylab train"]),
    *(
        ([command, "iteration-head"], ["iteration-head is a study", "toylab run iteration-head"])
        for command in ("show", "check", "train")
    ),
    (
        ["check", "toylab.studies.iteration_head.study:IterationHeadStudy"],
        ["has no sample", "it is a study: toylab run"],
    ),
    (["show", "--p", "5", "polynomial"], ["give it before its settings", "toylab show polynomial"]),
    (["run", "--seeds", "0", "iteration-head"], ["give it before its settings", "toylab run iteration-head"]),
    (["show", "mqar"], ["did you mean associative-recall?"]),
    (["check", "mine.py:Reverse"], ["'mine.py' names no module", "mine:Reverse"]),
    (["check", ":Reverse"], ["'' names no module"]),
    (["check", "tests/mine:Reverse"], ["'tests/mine' names no module"]),
    (["show", "parity", "--rows", "100000000"], ["rows=100000000", "at most 10000"]),
    (["show", "parity", "--rows", "1e9"], ["1e9"]),
    (["train", "parity", "--seed", "-1"], ["seed=-1", "at least 0"]),
    (["train", "parity", "--model.positions", "rope"], ["'rope'", "did you mean rotary?"]),
    (["calibrate", "--workers", "0"], ["workers=0", "at least 1"]),
    (["calibrate", "--each", "1"], ["each=1", "at least 2"]),
    (["calibrate", "--seed", "-1"], ["seed=-1", "at least 0"]),
    # What is cut short is not guessed: --p may be a setting, and --row must not be --rows.
    (["show", "polynomial", "--row", "3"], ["--row"]),
    (["run", "iteration-head", "--pre", "quick"], ["--pre"]),
    (["table", "folder", "--column", "seed"], ["--column"]),
    (["list", "--vers"], ["--vers"]),
]
RUN_MISTAKES = [
    (["--task.p", "9"], ["p=9", "prime", "7, 11 or 13"]),
    (["--task.lengths", "0"], ["lengths=0", "at least 1"]),
    (["--task.lengths", "5"], ["lengths=5", "1 16"]),
    (["--model.width", "30", "--model.heads", "4"], ["width=30", "multiple of heads=4"]),
    (["--train.steps", "0"], ["steps=0", "at least 1"]),
    (["--train.learning-rate", "-1"], ["learning_rate=-1"]),
    (["--seeds", "0", "0"], ["seeds=(0, 0)", "different"]),
    (["--batches", "sliced"], ["sliced", "packed"]),
    (["--workers", "0"], ["workers=0", "at least 1"]),
    (["--workers", "two"], ["two"]),
    (["--preset", "tiny"], ["tiny", "quick"]),
    (["--lengths", "0"], ["--lengths"]),
    (["--task.colour", "red"], ["--task.colour"]),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda part: " ".join(part))
def test_a_mistake_is_named_with_a_remedy(call, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = call(*arguments)
    assert outcome.code == 2
    for words in expected:
        assert words in outcome.message
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "expected"), RUN_MISTAKES, ids=lambda part: " ".join(part))
def test_a_mistake_in_a_setting_is_named_with_a_remedy_before_anything_is_written(
    call, tmp_path, monkeypatch, arguments, expected
):
    def begun(self, job, folder):
        raise AssertionError("a job was begun with these settings")

    monkeypatch.setattr(IterationHeadStudy, "run_job", begun)
    out = tmp_path / "out"
    outcome = call("run", "iteration-head", "--workers", 1, *arguments, "--out", out)
    assert outcome.code == 2
    for words in expected:
        assert words in outcome.message
    assert "Traceback" not in outcome.err
    assert not out.exists()


@pytest.mark.parametrize("command", ["claims", "report"])
def test_a_missing_folder_is_named_with_a_remedy(call, tmp_path, command):
    check_refused(call(command, tmp_path / "missing"), str(tmp_path / "missing"), "there is no such file")


def test_a_file_in_place_of_the_folder_is_named_with_a_remedy(call, tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    check_refused(call("run", "iteration-head", *TINY, "--workers", 1, "--out", path), str(path))
    assert path.read_text() == "precious"


def test_a_folder_of_another_run_is_refused_and_left_alone(call, copied):
    before = hashes(copied)
    outcome = call("run", "iteration-head", *TINY, "--task.p", 7, "--workers", 1, "--out", copied)
    check_refused(outcome, f"{copied}: holds a run with task.p=11, and now task.p=7", "another folder with --out")
    assert hashes(copied) == before


def test_a_folder_of_other_things_is_refused_and_left_alone(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    outcome = call("run", "iteration-head", *TINY, "--workers", 1, "--out", tmp_path)
    check_refused(outcome, str(tmp_path), "holds no run", "another folder with --out")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "model.safetensors", "metrics.jsonl"])
def test_a_job_that_meets_a_damaged_file_names_it_and_loses_nothing(call, copied, file):
    job = copied / "seed-0" / "one-layer"
    whole = (job / "metrics.jsonl" if file == "metrics.jsonl" else job / "model.safetensors").read_bytes()
    (job / "done").unlink()
    if file == "checkpoint.safetensors":
        (job / "model.safetensors").unlink()
    (job / file).write_bytes(whole[: len(whole) // 2])
    (copied / "claims.json").unlink()
    before = hashes(copied)
    again = ["run", "iteration-head", *TINY, "--workers", 1, "--out", copied]
    outcome = call(*again)
    check_refused(outcome, str(job / file), "is damaged", "delete")
    assert hashes(copied) == before
    assert str(job / file) in (job / "error.txt").read_text()
    # What the other jobs found does not wait for it.
    assert {one.id: one.measured for one in read_claims(copied / "claims.json")}["depth"] is None
    # What the message tells to do is enough.
    if "delete this file" in outcome.message:
        (job / file).unlink()
    else:
        shutil.rmtree(job)
    assert call(*again).code == 0
    assert (job / "done").exists()
    assert not (job / "error.txt").exists()


@pytest.mark.parametrize(
    "file", ["claims.json", "settings.json", "seed-0/main/result.json", "seed-0/main/metrics.jsonl"]
)
@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_finished_run_with_a_damaged_file_names_it_and_loses_nothing(call, copied, file, damage):
    content = (copied / file).read_bytes()
    if damage == "cut short":
        (copied / file).write_bytes(content[: len(content) // 2])
    else:
        (copied / file).unlink()
    before = hashes(copied)
    check_refused(call("claims" if file == "claims.json" else "report", copied), str(copied / file))
    assert hashes(copied) == before


# Streams -------------------------------------------------------------------------------------------------------------

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
    ("report", "RUN"),
    ("show", "größe"),
    ("show", "polynomial", "--p", "9"),
]


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_a_terminal_that_knows_ascii_alone_is_shown_what_it_can_show(copied, monkeypatch, command):
    held = [replace(claim, statement=f"größer: {claim.statement}") for claim in read_claims(copied / "claims.json")]
    monkeypatch.setattr("toylab.verdicts.claim.read_claims", lambda _: held)
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
@pytest.mark.parametrize("command", [*PRINTING[:5], ("run", "iteration-head", *TINY, "--workers", "1", "--out", "out")])
def test_a_process_without_streams_works_as_any_other(tiny_run, tmp_path, monkeypatch, command, closed):
    """As a daemon, under `pythonw`, or after `2>&-`."""
    monkeypatch.chdir(tmp_path)
    for name in ("stdout", "stderr"):
        stream = io.StringIO() if closed else None
        if closed:
            stream.close()
        monkeypatch.setattr(sys, name, stream)
    try:
        code = run([str(tiny_run) if word == "RUN" else word for word in command])
    except SystemExit as left:
        code = left.code
    monkeypatch.undo()
    assert code == 0
    assert (tmp_path / "out" / "report.html").exists() == ("--out" in command)


@pytest.mark.skipif(os.name != "posix", reason="a shell")
@pytest.mark.parametrize("command", ["list", "show parity --rows 3000", "show parity --help", "run rnu 2>&1"])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(tmp_path, command):
    line = f"{shlex.quote(PROGRAM)} {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (2 if "rnu" in command else 0, "")


# From outside --------------------------------------------------------------------------------------------------------

PROGRAM = str(Path(sys.executable).with_name("toylab"))


def outside(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


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
    tyros = outside(tmp_path, "run", "iteration-head", "--task.p", 9)
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


@pytest.mark.parametrize("level", ["-O", "-OO"])
def test_no_command_needs_docstrings(tmp_path, tiny_run, level):
    shutil.copytree(tiny_run, tmp_path / "run")
    commands = ("list", "show parity --help", "train --help", "run iteration-head --help", "calibrate --help")
    for command in (*commands, "check parity --examples 1", "report run"):
        arguments = [sys.executable, level, "-m", "toylab", *command.split()]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        if command == "list":
            assert all(f"  {name}" in done.stdout for name in registry.study_names())
    title = re.search(r"<title>(.*?)</title>", (tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert title[1].strip()


def test_the_module_and_the_version_are_those_of_the_program(tmp_path):
    for command in ([PROGRAM], [sys.executable, "-m", "toylab"]):
        done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"toylab {toylab.__version__}\n"
        wrong = subprocess.run([*command, "rnu"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (wrong.returncode, wrong.stderr) == (2, "toylab: there is no command 'rnu'; did you mean run?\n")


def members(group: int) -> list[str]:
    """The processes of a group that still live (those that only wait to be buried do not)."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end while we look
            stats.append(path.read_text())
    return [stat for stat in stats if (fields := stat.rpartition(")")[2].split())[2] == str(group) and fields[0] != "Z"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to find processes; runs on any Linux")
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
    assert "stopped; what is finished is kept, and the same command continues" in err
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
