"""Laws of flags: help is everywhere, and a mistake costs one short message and nothing else."""

from dataclasses import replace

import pytest

from tests.flags import parsed
from toylab.runs.judge import settings_flags
from toylab.studies.iteration_head.study import IterationHeadStudy


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
    assert settings_flags(default, default) == []
    for study in (quick, paper, changed):
        assert parsed(IterationHeadStudy, default, settings_flags(default, study)) == study


MISTAKES = [
    (["run", "iteration-hed"], ["'iteration-hed'", "did you mean iteration-head?"]),
    (["run", "zzz"], ["'zzz'", "there are", "iteration-head"]),
    (["--workers", "2", "run", "iteration-head"], ["--workers: comes before the command", "give options after it"]),
    (["--seeds=0", "train", "parity"], ["--seeds=0: comes before the command"]),
    (["run"], ["study: is missing", "iteration-head"]),
    (["show", "party"], ["'party'", "did you mean parity?"]),
    (["show", "zzzz"], ["'zzzz'", "there are", "polynomial"]),
    (["show"], ["task: is missing", "parity"]),
    (["show", "polynomial", "--p", "9"], ["p=9", "prime", "7, 11 or 13"]),
    (["show", "parity", "--lengths", "0"], ["lengths=0", "at least 1"]),
    (["show", "parity", "--lengths", "5", "2"], ["lengths=(5, 2)", "from low to high"]),
    (["show", "copy", "--alphabet", "1"], ["alphabet=1", "2 values"]),
    (["show", "parity", "--rows", "0"], ["rows=0", "at least 1"]),
    (["export", "parity", "--rows", "99999999999999"], ["rows=99999999999999", "at most 10000000"]),
    (["show", "parity", "--rows", "many"], ["many"]),
    (["show", "parity", "--seed", "-1"], ["seed=-1"]),
    (["show", "parity", "--colour", "red"], ["--colour"]),
    (["check"], ["task: is missing", "package.module:Class", "parity"]),
    (["check", "party"], ["'party'", "did you mean parity?"]),
    (["check", "nowhere.at_all:Task"], ["module 'nowhere.at_all'"]),
    (["check", "toylab.tasks.iteration:Paraty"], ["'Paraty'", "did you mean Parity?"]),
    (["check", "tasks.iteration:Parity"], ["second copy", "write toylab.tasks.iteration:Parity"]),
    (["check", "parity", "--examples", "0"], ["examples=0", "at least 1"]),
    (["check", "parity", "--lengths", "0"], ["lengths=0", "at least 1"]),
    (["list", "--colour"], ["--colour"]),
    (["claims", "folder", "--colour"], ["--colour"]),
    (["claims", "folder", "--json", "--markdown"], ["--markdown", "not allowed with"]),
    (["frobnicate"], ["frobnicate"]),
    (["rnu"], ["no command 'rnu'", "did you mean run?"]),
    (["--colour"], ["COMMAND"]),
    (["run", "parity"], ["parity: is a task", "toylab train parity"]),
    (["sweep", "parity", "--grid", "seed=0"], ["parity: is a task", "toylab train parity"]),
    (["run", "toylab.tasks:Parity"], ["has no jobs", "it is a task: toylab train"]),
    *(
        ([command, "iteration-head"], ["iteration-head: is a study", "toylab run iteration-head"])
        for command in ("show", "check", "train")
    ),
    (
        ["check", "toylab.studies.iteration_head.study:IterationHeadStudy"],
        ["has no sample", "it is a study: toylab run"],
    ),
    (["show", "--p", "5", "polynomial"], ["must come before its settings", "toylab show polynomial"]),
    (["run", "--seeds", "0", "iteration-head"], ["must come before its settings", "toylab run iteration-head"]),
    (["show", "mqar"], ["did you mean associative-recall?"]),
    (["check", "mine.py:Reverse"], ["'mine.py' is not a module name", "mine:Reverse"]),
    (["check", ":Reverse"], ["'' is not a module name"]),
    (["check", "tests/mine:Reverse"], ["'tests/mine' is not a module name"]),
    (["show", "parity", "--rows", "100000000"], ["rows=100000000", "at most 10000"]),
    (["show", "parity", "--rows", "1e9"], ["1e9"]),
    (["train", "parity", "--seeds", "-1"], ["seeds=(-1,)", "at least 0"]),
    (["train", "parity", "--seeds", "3..1"], ["seeds=3..1", "must be"]),
    (["train", "dyck", "--growth", "5"], ["growth=5", "must be 0 for Dyck"]),
    (
        ["train", "parity", "--optimizer", "os:getcwd"],
        ["weight_decay=0.1", "os:getcwd sets its own", "give --train.weight-decay 0"],
    ),
    (["train", "parity", "--device", "warp"], ["device=warp", "there are cpu"]),
    (["train", "parity", "--seed", "1"], ["no option --seed", "did you mean --seeds?"]),
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
    (["--train.steps", "-1"], ["steps=-1", "at least 0"]),
    (["--train.learning-rate", "-1"], ["learning_rate=-1"]),
    (["--train.learning-rate", "-1e-3"], ["learning_rate=-0.001"]),
    (["--seeds", "0", "0"], ["seeds=(0, 0)", "different"]),
    (["--seeds", "1", "0..999999999999"], ["seeds=1 0..999999999999", "at most 10,000 numbers"]),
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


@pytest.mark.parametrize("words", [["0", "1", "2"], ["0..2"], ["0,1,2"], ["0,1..2"], ["0..1", "2"]], ids=" ".join)
def test_lists_of_integers_are_words_ranges_or_separated_by_commas(words):
    default = IterationHeadStudy.default()
    assert parsed(IterationHeadStudy, default, ["--seeds", *words]) == replace(default, seeds=(0, 1, 2))


@pytest.mark.parametrize("columns", [50, 80, 160])
@pytest.mark.parametrize("command", ["run iteration-head", "train", "show polynomial", "sweep", "survey"])
def test_help_is_as_wide_as_the_terminal_and_names_every_option(call, monkeypatch, columns, command):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = call(*command.split(), "--help").out
    assert max(map(len, shown.splitlines())) <= columns
    expected = {"train": "--model.width --train.steps --seeds", "sweep": "--seeds --grid", "survey": "--task"}
    assert all(option in shown for option in expected.get(command, "--help").split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_knows_commands_names_and_options(call, shell):
    script = call("--print-completion", shell).out
    assert all(word in script for word in ("survey", "iteration-head", "associative-recall", "--until-decided"))
