"""The README and the documentation work: every example in Python, every command, every flag, every link."""

import json
import re
import shlex
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from toylab import cli
from toylab.bench import Comparison
from toylab.console import ToylabError
from toylab.model.positions import POSITIONS
from toylab.runs.study import Job
from toylab.runs.table import load_runs
from toylab.runs.task_training import StoredModel, TrainedModel
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.survey import Survey
from toylab.tasks import IGNORE, stream
from toylab.training.loop import TrainConfig, train

HOME = Path(__file__).parent.parent
DOCS = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
PAGES = [*DOCS, *sorted(HOME.glob("[AC]*.md")), *sorted((HOME / "notebooks").glob("*.md"))]
SHOWN = "\n".join(page.read_text(encoding="utf-8") for page in DOCS)
"""The README and the documentation; contributors' pages show parts of files."""
README = DOCS[0].read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", SHOWN, flags=re.DOTALL)


def example(words: str) -> str:
    """The one example in Python that has these words."""
    (found,) = [code for code in EXAMPLES if words in code]
    return found


def written() -> str:
    """All pages, and the prose of all lessons."""
    lessons = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((HOME / "notebooks").glob("*.ipynb"))]
    prose = ["".join(c["source"]) for lesson in lessons for c in lesson["cells"] if c["cell_type"] == "markdown"]
    return "\n".join([*(page.read_text(encoding="utf-8") for page in PAGES), *prose])


ALONE = ("list", "calibrate", "report", "bench")
"""What says all without a word more; of others the bare name in a sentence is no command."""


def commands(program: str) -> list[str]:
    """Every whole command of a program that is written anywhere; not those that only name it, or have a placeholder."""
    text = written()
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks = "\n".join(block for kind, block in fences if kind in ("", "sh"))
    lines = re.findall(rf"^(?:\$ )?({program} .*)$", blocks, flags=re.MULTILINE)
    inline = re.findall(rf"`({program} [^`\n]+)`", text)
    lines += [line for line in inline if program == "make" or len(line.split()) > 2 or line.split()[1] in ALONE]
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return sorted({line for line in lines if not re.search(r"\b[A-Z]{4,}\b", line)})


# Python --------------------------------------------------------------------------------------------------------------


def test_every_example_is_tried_here():
    here = [Path(__file__), HOME / "tests" / "test_widgets.py"]
    asked = [words for path in here for words in re.findall(r'example\("(.*?)"\)', path.read_text(encoding="utf-8"))]
    untried = [code for code in EXAMPLES if not any(words in code for words in asked)]
    assert not untried, untried


@pytest.mark.slow
def test_the_first_example_is_short_and_ends_in_the_table_that_it_shows(capsys):
    code = example("# four key-value pairs")
    assert len(code.splitlines()) <= 10
    exec(code, {})
    (shown,) = re.findall(r"```\n([^`]*^induction .*?)```", README, flags=re.MULTILINE | re.DOTALL)
    for table in capsys.readouterr().out, shown:
        head, names, *rows = table.splitlines()
        assert re.search(r" 1\.000 of the rows$", head)
        assert len(names.split("  ")) > 4
        assert {row.split("  ")[0] for row in rows} == {"previous token", "induction"}
        mass, uniform, without = re.fullmatch(r"induction +1\.\d +(\S+) +(\S+) +(\S+) +\S+", rows[1]).groups()
        assert float(mass) > 0.9 > 0.7 > float(without)
        assert float(uniform) == 0.086


@pytest.mark.slow
def test_watching_shows_an_induction_head(capsys):
    exec(example("seed=700"), {})
    first, second = capsys.readouterr().out.splitlines()
    said = re.findall(r"^blocks\.\d\.attn\.pattern \[.*\]$", SHOWN, flags=re.MULTILINE)
    for lower, upper in ((first, second), said):
        assert max(heads(lower, 0)) < 0.5
        assert max(heads(upper, 1)) > 0.9


def heads(line: str, layer: int) -> list[float]:
    """What is printed of the heads of a layer."""
    (found,) = re.findall(rf"^blocks\.{layer}\.attn\.pattern \[(.*)\]$", line)
    return [float(mass.strip("'")) for mass in found.split(", ")]


def test_models_behave_like_their_encodings_as_the_page_says(capsys):
    exec(example("name_encoding"), {})
    shown = re.findall(r"```\n(encoding    behaves like.*?)```", SHOWN, flags=re.DOTALL)[0]
    for said, found in zip(shown.splitlines()[1:], capsys.readouterr().out.splitlines()[1:], strict=True):
        assert said.split()[:2] == found.split()[:2] == [said.split()[0]] * 2
        assert [float(x) for x in found.split()[2:]] == pytest.approx([float(x) for x in said.split()[2:]], abs=2e-3)


def test_a_module_of_ones_own_is_trained(capsys):
    code = example("class Recurrent")
    exec(code, {})
    assert eval(capsys.readouterr().out)["loss"] < np.log(16)  # it has learned at least that a value follows
    with pytest.raises(ToylabError, match="segments: forward of Recurrent takes none"):
        exec(code.replace(", layout=pad", ""), {})


def test_a_module_of_ones_own_is_surveyed(capsys):
    code = example("class AttentionOnly")
    with torch.random.fork_rng():
        exec(code.replace("steps=600", "steps=3"), {})
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        *("link", "previous token", "induction")
    ]
    with pytest.raises(ToylabError, match=r"^AttentionOnly: has no hook points of attention heads; pass the pattern"):
        exec(code.replace("steps=600", "steps=0").replace("nn.Identity()", "nn.Sequential()"), {})


def test_any_module_is_trained_with_an_optimizer_a_schedule_and_a_logger(capsys):
    names = {}
    with torch.random.fork_rng():
        exec(example("optimizer=partial("), names)
    exec(example("def muon("), names)
    assert names["history"][-1]["accuracy"] > 0.9
    assert capsys.readouterr().out.splitlines() == [f"{entry['step']} {entry}" for entry in names["history"]]
    if hasattr(torch.optim, "Muon"):
        loss = lambda model, step: model(names["x"]).square().mean()  # noqa: E731
        train(names["model"], loss, lambda step: step, TrainConfig(steps=2), optimizer=names["muon"])


LOGGERS = {"tensorboard": "SummaryWriter", "trackio": "import trackio", "wandb": "import wandb"}


@pytest.mark.slow
@pytest.mark.parametrize("package", LOGGERS)
def test_every_logger_that_is_installed_receives_the_metrics(package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (code,) = [code for code in re.findall(r"```py\n(.*?)```", SHOWN, flags=re.DOTALL) if LOGGERS[package] in code]
    names = {"train": train, "model": nn.Linear(1, 1), "batch_at": lambda step: torch.ones(1)}
    exec(code, names | {"loss": lambda model, x: model(x).square().mean(), "config": TrainConfig(steps=2)})
    assert [*tmp_path.rglob("*")]


@pytest.mark.slow
def test_the_sweep_in_python_runs(tmp_path, monkeypatch):
    """With fewer seeds and steps."""
    monkeypatch.chdir(tmp_path)
    few = replace(IterationHeadStudy.quick(), train=TrainConfig(steps=2, rows=4), rows=4)
    code = example("rows = sweep(points").replace("IterationHeadStudy.quick()", "few").replace("range(10)", "range(1)")
    names = {"__name__": "__main__", "few": few}
    exec(code, names)
    assert [row["settings.model.positions"] for row in names["rows"]] == ["none", "rotary"]
    assert names["rows"] == load_runs("runs/mine")


def test_a_model_of_someone_elses_is_adopted(capsys):
    theirs = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0), 2)
    names = {"theirs": theirs, "tokens": torch.randn(3, 5, 16)}
    exec(example("adopt(theirs"), names)
    assert "blocks.0.resid_pre" in capsys.readouterr().out
    assert names["cache"]["blocks.1.attn.pattern"].shape == (3, 2, 5, 5)


@pytest.mark.slow
def test_the_wrong_probe_is_caught(capsys):
    exec(example("def mine(shown)"), {})
    found = capsys.readouterr().out
    assert re.match(r"([5-9]|1\d)/14 ", found), found


def test_the_example_for_slurm_is_python():
    compile(example("SLURMCluster"), "studies.md", "exec")


def test_the_encoding_of_ones_own_hides_what_is_far(monkeypatch):
    monkeypatch.setitem(POSITIONS, "nearest", None)  # what the example adds goes again
    names = {}
    exec(example("class Nearest"), names)

    from toylab import ModelConfig, Transformer
    from toylab.probes import watch

    model = Transformer(ModelConfig(positions="nearest", heads=2), vocab=5, context=12)
    with watch(model, "blocks.0.attn.pattern") as seen, torch.no_grad():
        model(torch.randint(5, (3, 10), generator=torch.Generator().manual_seed(0)))
    query, key = torch.arange(10)[:, None], torch.arange(10)
    for head, reach in enumerate((2, 4)):
        near = (query >= key) & (query - key < reach)
        assert torch.equal(seen["blocks.0.attn.pattern"][:, head] > 0, near.expand(3, -1, -1))


def test_the_probe_of_ones_own_tells_how_far_heads_look():
    names = {}
    code = example("def reach(pattern)")
    exec(code[: code.index("task = ")], names)
    back = torch.zeros(2, 3, 6, 6)
    for head in range(3):
        back[:, head, range(head, 6), range(6 - head)] = 1
    assert names["reach"](back).tolist() == pytest.approx([0, 5 / 6, 8 / 6])


def test_the_property_of_ones_own_is_proved(capsys):
    exec(example("class WritesNoInputToken"), {})
    assert capsys.readouterr().out.count("for all 62 inputs of lengths 1 to 5") == 2


@pytest.mark.slow
def test_the_probe_of_ones_own_reads_a_model_that_was_trained(capsys):
    exec(example("def reach(pattern)"), {})
    assert "blocks.1.attn.pattern" in capsys.readouterr().out


def test_the_property_tests_of_a_suite_pass():
    names = {}
    exec(example("strategies.batches("), names)
    names["test_edited_models_stay_finite"]()
    exec(example("@check_cases("), names)
    (laws,) = names["test_parity"].pytestmark
    for case in laws.args[1][-3:]:  # all are tried on all tasks elsewhere
        names["test_parity"](case)


def test_an_iterated_map_of_ones_own_has_the_rows_of_its_reference_solution():
    names = {}
    exec(example("class Largest("), names)
    task = names["Largest"]()
    assert task.solve([task.vocabulary.index(word) for word in ("largest", "1", "4", "2", "EoI")])[:3] == [1, 4, 4]
    batch = task.sample(stream(0, "largest"), 20)
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets, strict=True):
        prompt = tokens[: tokens.index(task.vocabulary.index("EoI")) + 1]
        assert task.solve(prompt) == targets[targets != IGNORE].tolist()


def test_the_mutants_of_a_task_are_printed_with_their_laws(capsys):
    exec(example("mutants_of("), {})
    assert re.search(r"^leaked split +no_prompt_is_in_two_splits$", capsys.readouterr().out, flags=re.MULTILINE)


FILES = {
    "mine.py": example("class Reverse:"),
    "reversal.py": example("class Reversal:"),
    "figured.py": example("class Figured("),
}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder with the task and the studies of the README and of the documentation."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.parametrize("study", ["reversal:Reversal", "figured:Figured"])
def test_the_study_of_ones_own_runs_judges_draws_and_is_repeated(study, own, capsys):
    command = ["run", study, "--train.steps", "3", "--seeds", "0", "--workers", "1", "--sham"]
    assert cli.run(command) == 0
    told = capsys.readouterr().out
    assert "Positions are needed to write backwards." in told
    (folder,) = (own / "runs").iterdir()
    assert (folder / "sham" / "settings.json").exists()
    assert "untrained weights meet 0 of 1 criteria" in told.replace("\n", " ")
    figured = study == "figured:Figured"
    assert (folder / "figures" / "which-positions.svg").exists() == figured
    assert ("models without positions meet 0 of 1 criteria" in told.replace("\n", " ")) == figured
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"toylab run {study}" in page
    assert cli.run(["report", str(folder), "--study", study]) == 0
    assert capsys.readouterr().out == told


def test_a_study_that_is_not_there_is_a_mistake_in_what_was_asked(own, capsys):
    assert cli.run(["run", "reversal:Reversal", "--preset", "paper"]) == 2
    assert "preset=paper" in capsys.readouterr().err
    assert cli.run(["run", "reversal:Reversla"]) == 2
    assert "did you mean Reversal?" in capsys.readouterr().err


# Commands ------------------------------------------------------------------------------------------------------------

TRAINED = {"survey": Survey(1.0, 1.0, ()), "steps": 0, "validation_accuracy": 1.0}
LONG = {
    "toylab.runs.jobs.execute": lambda *_, **__: {Job("train", 0): TrainedModel(**TRAINED)},
    "toylab.commands.proofs.named_models": lambda *_: [StoredModel("", Path("model"), None, 0)],
    "toylab.model.checkpoint.load_model": lambda *_: None,
    "toylab.proofs.named.named_property": lambda *_: None,
    "toylab.proofs.prove.prove": lambda *_, **__: "proved",
    "toylab.runs.jobs.execute_all": lambda *_, **__: None,
    "toylab.runs.judge.judge_and_report": lambda out, study=None: str(out),
    "toylab.runs.scoreboard.finish_all": lambda folder, study=None: str(folder),
    "toylab.runs.sweep.sweep": lambda *_, **__: [],
    "toylab.bench.measure_works": lambda *_, **__: iter([Comparison("work", 1.0, "s", 2.0, 1.0)]),
    "toylab.bench.growth.growth_curves": lambda *_, **__: iter(()),
    "toylab.calibration.calibrate_all": lambda *_, **__: [],
    "toylab.calibration.intervals.coverage_table": lambda _: "covered",
    "toylab.runs.store.metric_curves": lambda *_, **__: {},
    "toylab.tasks.check.try_laws": lambda *_, **__: iter(()),
}
"""What would take long is left out; that the arguments are understood, and what they name is there, is not."""


@pytest.mark.parametrize("line", commands("toylab"))
def test_every_command_that_is_written_anywhere_is_understood(line, own, monkeypatch, short_run, capsys):
    arguments = shlex.split(line)[1:]
    for name, stand_in in LONG.items():
        monkeypatch.setattr(name, stand_in)
    monkeypatch.setattr("toylab.bench.matmul_limit", lambda **_: 1e9)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    for shown in {"behind:BehindTheStar", "largest:Largest"} & set(
        arguments
    ):  # files that the pages have the reader write
        arguments[arguments.index(shown)] = "mine:Reverse"
    if arguments[0] in ("claims", "table", "plot", "report"):
        folder = next((Path(one) for one in arguments if one.startswith("runs/")), Path("runs"))
        shutil.copytree(short_run, folder if folder != Path("runs") else folder / "one")
    try:
        code = cli.run(arguments)
    except SystemExit as left:  # help
        code = left.code
    assert code in (0, None), capsys.readouterr().err


SHORT = {
    "toylab check parity": "23 of 23 laws hold",
    "toylab check mine:Reverse": "23 of 23 laws hold",
    "toylab train associative-recall": "induction",
    "toylab train mine:Reverse": "mirror",
}
"""What takes some seconds, with words of what it prints."""


@pytest.mark.slow
@pytest.mark.parametrize("line", SHORT)
def test_every_short_command_does_what_it_says(line, own, capsys):
    assert line in commands("toylab")
    assert cli.run(shlex.split(line)[1:]) == 0
    assert SHORT[line] in capsys.readouterr().out


@pytest.mark.slow
def test_links_that_are_off_by_two_are_shown_as_the_documentation_shows_them(own, capsys):
    file = own / "mine.py"
    file.write_text(file.read_text(encoding="utf-8").replace("self.length - 1 - i]", "self.length + 1 - i]"))
    with pytest.raises(SystemExit, match="1"):
        cli.run(["check", "mine:Reverse"])
    (shown,) = re.findall(r"```\n(broken: links .*?)```", SHOWN, flags=re.DOTALL)
    assert shown in capsys.readouterr().out


def test_there_are_commands_to_be_tried():
    assert len(commands("toylab")) >= 30


@pytest.mark.parametrize("line", commands("make"))
def test_every_target_of_make_that_is_written_anywhere_is_there(line):
    targets = re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert line.split()[1] in targets


def test_every_flag_is_documented(capsys):
    documented = (HOME / "docs" / "commands.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    names = re.findall(r"^    (\w+)\b", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(names) >= 12
    for name in names:
        assert f"| `toylab {name}" in documented, name
        with suppress(SystemExit):
            cli.run([name, "--help"])
        missing = {flag for flag in re.findall(r"--[a-z-]+", capsys.readouterr().out) if f"`{flag}" not in documented}
        assert missing <= {"--help"}, name
