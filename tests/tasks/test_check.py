"""The check of a task: each law catches the tasks that break it, and the smallest example is told, once a cause."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.tasks.broken import MUTANTS, WaitsForEver
from toylab.console import ToylabError
from toylab.tasks import (
    BrokenLawsError,
    Parity,
    check,
    check_task,
    laws,
    task_laws,
)
from toylab.tasks.mutants import Mutant

CASES = [(task, law) for task, named in MUTANTS for law in named]


def case(task, law):
    """Of a task that waits for ever, the law waits for its patience."""
    marks = [pytest.mark.slow] if isinstance(task, WaitsForEver) else []
    return pytest.param(task, law, id=f"{getattr(task, 'fault', type(task).__name__)}-{law.__name__}", marks=marks)


@pytest.mark.parametrize(("task", "law"), [case(task, law) for task, law in CASES])
def test_a_broken_task_is_caught_by_its_law(task, law, monkeypatch):
    monkeypatch.setattr(task_laws, "PROCESS_TIMEOUT", 5.0)
    failure = check.find_failure(law, task, examples=15)
    assert failure is not None, "the mutant was not caught"
    assert failure.law == check.law_in_words(law)
    assert "Error" not in failure.why, "the law did not speak, the task failed by itself"


@pytest.mark.parametrize("law", check.LAWS, ids=check.law_in_words)
def test_every_law_has_a_mutant_that_it_catches(law):
    assert law in {one for _, one in CASES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaves(Parity):
    """Ends the process that draws from it."""

    def sample(self, rng, rows, split="train"):
        sys.exit(3)


def test_a_task_that_ends_its_process_is_caught_at_once():
    failure = check.find_failure(task_laws.another_process_ends_and_draws_the_same_rows, Leaves())
    assert (failure.look_at, failure.hopeless) == ("sample", True)
    assert "ended the process" in failure.why


def test_a_sound_task_passes_the_check():
    check_task(Parity(lengths=(4, 7)))


# What is told --------------------------------------------------------------------------------------------------------


def test_the_check_tells_the_law_the_field_and_the_smallest_example():
    with pytest.raises(BrokenLawsError) as caught:
        check_task(Mutant(task=Parity(lengths=(4, 7)), fault="link to the future"))
    told = str(caught.value)
    assert "breaks 1 of" in told
    assert "broken: links stay inside their row and read no future\n  look at links['" in told
    table = told[told.index("position") :].splitlines()
    assert table[1].split()[:3] == ["token", "parity", "0"], "the example was not made small"
    assert len(caught.value.failures) == 1


class KeyIsMissing(Parity):
    def sample(self, rng, rows, split="train", **others):
        return super().sample(rng, {"rows": rows}["row"], split, **others)


class BugInOneSplit(Parity):
    """A mistake that is a `ValueError` does not say that a split is empty."""

    def sample(self, rng, rows, split="train", **others):
        if split == "test":
            np.zeros(rows + 1) + np.zeros(rows + 2)
        return super().sample(rng, rows, split, **others)


class NeverForTraining(Parity):
    def sample(self, rng, rows, split="train", **others):
        if split == "train":
            raise ToylabError("split='train': holds nothing")
        return super().sample(rng, rows, split, **others)


@pytest.mark.parametrize(
    ("kind", "look_at", "why"),
    [
        (KeyIsMissing, r"^sample \(.*test_check.py:", "KeyError: 'row'"),
        (BugInOneSplit, r"^sample \(.*test_check.py:", "ValueError: operands could not be broadcast"),
        (NeverForTraining, "^sample$", "the training split holds no prompt"),
    ],
)
def test_the_check_tells_one_cause_once(kind, look_at, why):
    found = [failure for _, failure in check.try_laws(kind(lengths=(4, 7)), examples=3) if failure]
    with pytest.raises(BrokenLawsError) as caught:
        check_task(kind(lengths=(4, 7)), examples=3)
    (told,) = caught.value.failures
    assert re.search(look_at, told.look_at)
    assert why in told.why
    assert [failure.again for failure in found] == [False, *[True] * (len(found) - 1)]
    assert len(found) > 5 or kind in (NeverForTraining, BugInOneSplit)


def test_an_error_of_the_task_is_an_answer_with_its_place():
    class Failing(Parity):
        def solve(self, prompt):
            raise KeyError("no such thing")

    failure = check.find_failure(laws.the_oracle_continues_every_prompt_with_the_targets, Failing(lengths=3))
    assert failure.look_at.startswith("solve (")
    assert "KeyError: 'no such thing'" in failure.why


# Scripts -------------------------------------------------------------------------------------------------------------


SCRIPT = """
from toylab.tasks import Parity, check_task

class Mine(Parity):
    pass

{call}
print("checked")
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_is_told_to_guard_what_it_does(tmp_path, guarded):
    call = "check_task(Mine(lengths=(4, 7)), examples=2)"
    text = SCRIPT.format(call=f"if __name__ == '__main__': {call}" if guarded else call)
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if guarded:
        assert done.stdout.splitlines()[-1] == "checked", done.stderr
    else:
        assert done.returncode == 1
        last = done.stderr[done.stderr.rindex("BrokenLawsError") :]
        assert "look at the script: " in last
        assert '`if __name__ == "__main__":`' in last
