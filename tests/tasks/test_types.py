"""Types of all that tasks take and give, checked while they run.

The checks slow samplers sixfold, so the other tests leave `toylab.tasks` out of them. Here one process checks every
task once, and the slow lane runs all tests of tasks again under the checks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toylab.tasks import TASKS

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
from jaxtyping import TypeCheckError, install_import_hook

install_import_hook(["toylab.tasks"], "beartype.beartype")
from toylab.tasks import SPLITS, TASKS, decode, encode, laws, render, stream

found = {}
for kind in TASKS:
    task = kind()
    try:
        for split in SPLITS:
            batch = task.sample(stream(0), 3, split)
            for law in laws.BATCH_LAWS:  # they ask the oracle, and look at links and labels
                law(task, batch)
        for prompt in laws.prompts_of(batch):
            encode(task, decode(task, task.solve(list(prompt))))
        render(task, batch, 0)
        said = "passed"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    try:
        task.sample(stream(0), "three")
        refused = "nothing"
    except TypeCheckError:
        refused = "three rows in words"
    found[kind.__name__] = said, refused
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each task says under the checks, and whether they refuse a wrong type."""
    # The hook of another process may have kept the bytecode of a task without checks where this one would look for it.
    command = [sys.executable, "-X", f"pycache_prefix={tmp_path_factory.mktemp('bytecode')}", "-c", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_what_a_task_takes_and_gives_has_the_types_that_it_states(kind, found):
    said, refused = found[kind.__name__]
    assert said == "passed"
    assert refused == "three rows in words", "the checks are not at work"


@pytest.mark.slow
def test_all_tests_of_tasks_pass_with_types_checked():
    command = [sys.executable, "-m", "pytest", "tests/tasks", "tests/test_all_tasks.py", "-q", "-p", "no:cacheprovider"]
    options = ["-o", "addopts=", "-m", "not slow", "--jaxtyping-packages=toylab.tasks,beartype.beartype"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, *options, f"--ignore={__file__}"], cwd=ROOT, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
