"""Laws of the commands on tasks: list, show, check and train."""

import re
import sys
from pathlib import Path

import pytest

from tests.commands.helpers import check_refused
from toylab import tasks
from toylab.model.checkpoint import load_model
from toylab.runs import registry
from toylab.tasks import check


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
    from tests.test_readme import example  # lazily: the check of faults has no README

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
    outcome = call("train", "own_task:Need", "--task.length", 5, *FEW, "--out", "deep/er")
    assert outcome.code == 0
    assert load_model("deep/er/seed-0/train/model.safetensors").context == 5
    check_refused(call("survey", "deep/er"), "may not choose the code to run", "--task own_task:Need")
    assert call("survey", "deep/er", "--task", "own_task:Need").code == 0
    bare = call("train", "own_task:Need", *FEW)
    assert bare.code == 2
    assert "--task.length" in bare.message
    assert "Traceback" not in bare.err
    assert call("train", "own_task:Need", "--help").code == 0


def test_an_installed_package_may_declare_tasks_and_studies_by_name(call, own, monkeypatch):
    declared = own / "other-1.0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    lines = [
        "[toylab.tasks]",
        "needy = own_task:Need",
        "parity = own_task:Nothing",
        "[toylab.studies]",
        "s = own_task:Need",
    ]
    (declared / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(own))
    by_name = call("show", "needy", "--length", 5)
    assert (by_name.code, by_name.out) == (0, call("show", "own_task:Need", "--length", 5).out)
    assert call("show", "parity").out == call("show", "parity", "--seed", 0).out != ""  # a name of toylab comes first
    assert "own_task:Need" in call("list").out
    assert "it is a task: toylab train" in call("run", "s").err


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
    assert re.match(r"not solved: reached 3 steps with accuracy 0\.\d+ on held-out rows, below 0\.995\n", unsolved.out)
    assert max(map(len, unsolved.out.splitlines())) <= 80
    reached = call("train", "own_task:Need", "--task.length", 5, *FEW, "--train.stop-at", 0.01, "--out", "reached")
    assert not reached.out.startswith("not solved")
    solved = call("train", "copy", "--task.p", 2, "--task.lengths", 1, *FEW, "--train.steps", 400)
    assert "not solved" not in solved.out


def test_rows_and_files_that_training_cannot_do_without_are_tried_before_it(call, own, monkeypatch):
    def begun(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr("toylab.runs.task_training.train_with_history", begun)
    with pytest.raises(ValueError, match="no test rows"):
        call("train", "own_task:Need", "--task.length", 5, "--task.no-held", *FEW)
    (own / "file").touch()
    for out in ("file/deep", "file/deep/er", "file"):
        outcome = call("train", "parity", *FEW, "--out", out)
        assert outcome.code == 2
        assert outcome.err.startswith(f"toylab: {out}: ")
