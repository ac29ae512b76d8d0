"""Check a task against all laws, with counterexamples shrunk by hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toylab.console import refuse_while_importing
from toylab.tasks.base import Task, render
from toylab.tasks.laws import BATCH_LAWS, SEED_LAWS, BrokenLawError, _error_location, _error_text
from toylab.tasks.task_laws import TASK_LAWS


@dataclass(frozen=True)
class LawFailure:
    """A law that a task breaks, with the smallest counterexample found.

    Attributes:
        law: the law, as a sentence.
        look_at: the field or member of the task at fault.
        why: what is wrong with it.
        example: the counterexample: the task, with a seed or a rendered row.
    """

    law: str
    look_at: str
    why: str
    example: str
    hopeless: bool = False
    """Whether the remaining laws cannot be checked."""
    again: bool = False
    """Whether an earlier law failed for the same reason."""

    def __str__(self) -> str:
        indented = "\n".join(f"    {line}" for line in self.example.splitlines())
        return f"broken: {self.law}\n  look at {self.look_at}: {self.why}\n{indented}"


class BrokenLawsError(AssertionError):
    """A task breaks at least one law; see `failures`."""

    def __init__(self, task: Any, failures: Sequence[LawFailure]) -> None:
        count = f"{len(failures)} of {len(LAWS)} laws"
        super().__init__("\n\n".join([f"{task} breaks {count}", *map(str, failures)]))
        self.failures = list(failures)


@dataclass(frozen=True, repr=False)
class LawCase:
    """A law of a task as one test: a call raises `AssertionError` with the smallest counterexample found, if any.

    Attributes:
        hopeless: failures after which no other law can be checked; all cases of the task share this list, and a case
            then skips its test.
    """

    law: Callable
    task: Any
    examples: int
    hopeless: list[LawFailure]

    def __repr__(self) -> str:
        return f"{self.task}: {law_in_words(self.law)}"

    def __call__(self) -> None:
        __tracebackhide__ = True  # pytest then shows the message alone
        if self.hopeless:
            import pytest

            pytest.skip(f"cannot be checked after: {self.hopeless[0].law}")
        failure = find_failure(self.law, self.task, self.examples)
        if failure is None:
            return
        if failure.hopeless:
            self.hopeless.append(failure)
        raise AssertionError(failure)


LAWS: tuple[Callable, ...] = (*TASK_LAWS, *SEED_LAWS, *BATCH_LAWS)
"""All laws, in order of checking."""


def law_in_words(law: Callable) -> str:
    """The function name of a law as a sentence."""
    return law.__name__.replace("_", " ")


def law_cases(task: Any, *, examples: int = 30) -> list[LawCase]:
    """One test per law of a task, in the order of checking."""
    hopeless: list[LawFailure] = []
    return [LawCase(law, task, examples, hopeless) for law in LAWS]


def check_cases(*tasks: Any, examples: int = 30) -> Any:
    """A decorator of a pytest function that runs once per law of each task, with the argument `case`:

        @check_cases(MyTask())
        def test_my_task(case):
            case()

    Args:
        tasks: instances of tasks.
        examples: number of batches or seeds per law.
    """
    import pytest

    cases = [case for task in tasks for case in law_cases(task, examples=examples)]
    names = [f"{type(case.task).__name__}-{case.law.__name__}" for case in cases]
    return pytest.mark.parametrize("case", cases, ids=names)


def check_task(task: Any, *, examples: int = 30) -> None:
    """Check a task against every law.

    Args:
        task: an instance of the task.
        examples: number of batches or seeds per law; counterexamples are shrunk.

    Raises:
        BrokenLawsError: lists, for each distinct cause, the law, the field at fault and the smallest counterexample.
    """
    failures = [failure for _, failure in try_laws(task, examples=examples) if failure and not failure.again]
    if failures:
        raise BrokenLawsError(task, failures)


def try_laws(task: Any, *, examples: int = 30) -> Iterator[tuple[Callable, LawFailure | None]]:
    """Yields each law with its failure, or None.

    Stops after a failure that prevents further checks: a missing member, a timeout, or an empty training split.
    """
    refuse_while_importing()
    causes = set()
    for law in LAWS:
        failure = find_failure(law, task, examples)
        if failure:
            cause = failure.look_at, failure.why.partition(": ")[0]  # without details of the example
            failure = dataclasses.replace(failure, again=cause in causes)
            causes.add(cause)
        yield law, failure
        if failure and failure.hopeless:
            return


def find_failure(law: Callable, task: Any, examples: int = 30) -> LawFailure | None:
    """The failure of one law with the smallest counterexample of hypothesis, or None."""
    case: dict[str, Any] = {}
    try:
        if law in TASK_LAWS:
            law(task)
        else:
            _search(law, task, examples, case)
    except BrokenLawError as error:
        return LawFailure(
            law_in_words(law), error.look_at, error.why, _counterexample_text(task, case, error.row), error.hopeless
        )
    except Exception as error:  # user code may raise anything: report it as a failure
        return LawFailure(
            law_in_words(law), _error_location(error), _error_text(error), _counterexample_text(task, case, None)
        )
    return None


def _search(law: Callable, task: Task, examples: int, case: dict[str, Any]) -> None:
    """Run a law on random batches or seeds, and shrink a failing case to the smallest one that fails.

    Args:
        law: function of (task, batch) or (task, seed); it raises if the law is broken.
        examples: number of random cases.
        case: receives the last case tried, which is the smallest failing one if the law is broken.

    Raises:
        Exception: the error of the law on the smallest failing case.
    """
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from toylab.tasks.strategies import batches

    all_checks: list[Any] = list(HealthCheck)
    repeatable = settings(
        max_examples=int(examples),
        database=None,
        deadline=None,
        derandomize=True,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=all_checks,
        phases=(Phase.generate, Phase.shrink),
    )
    takes_batches = law in BATCH_LAWS

    @repeatable
    @given(batches(task) if takes_batches else st.integers(0, 2**31))
    def check_case(sampled: Any) -> None:
        case.clear()
        case["batch" if takes_batches else "seed"] = sampled
        law(task, sampled)

    check_case()


def _counterexample_text(task: Any, case: dict[str, Any], row: int | None) -> str:
    """The counterexample as text: the task, with the seed or with one rendered row of the batch."""
    if "seed" in case:
        return f"{task}, seed {case['seed']}"
    if "batch" not in case:
        return str(task)
    batch = case["batch"]
    try:
        return f"{task}\n{render(task, batch, row or 0)}"
    except Exception:  # `render` may fail on an invalid batch
        return f"{task}\ntokens {batch.tokens.tolist()}\ntargets {batch.targets.tolist()}\nsizes {batch.sizes.tolist()}"
