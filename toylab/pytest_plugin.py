"""pytest plug-in: `pytest --toylab-task module:Task` runs every law of a task as one test.

Each pytest start imports this module, so toylab itself is imported only if the option is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from toylab.tasks.check import LawCase


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    text = "check the laws of this task too: module:Class, module:instance, or a name from `toylab list` (repeatable)"
    parser.getgroup("toylab").addoption("--toylab-task", action="append", default=[], metavar="TASK", help=text)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    """Collects the tasks after the files of the session."""
    report = yield
    if isinstance(collector, pytest.Session) and report.result is not None:
        names = collector.config.getoption("--toylab-task") or []
        report.result += [TaskLaws.from_parent(collector, name=name, nodeid=name) for name in names]
    return report


class TaskLaws(pytest.Collector):
    """The laws of one task."""

    def collect(self) -> Iterator[pytest.Item]:
        from toylab.console import ToylabError
        from toylab.tasks.check import law_cases

        try:
            task = _load_task(self.name)
        except ToylabError as error:
            raise self.CollectError(str(error)) from None
        for case in law_cases(task):
            yield LawItem.from_parent(self, name=case.law.__name__, case=case)


class LawItem(pytest.Item):
    """One law of a task."""

    def __init__(self, case: LawCase, **node: Any) -> None:
        super().__init__(**node)
        self.case = case

    def runtest(self) -> None:
        self.case()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *rest: Any, **more: Any) -> Any:
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *rest, **more)

    def reportinfo(self) -> tuple[str, None, str]:
        task = self.nodeid.removesuffix(f"::{self.name}")
        return task, None, f"{task}: {self.name.replace('_', ' ')}"


def _load_task(name: str) -> Any:
    """The task of a name; a class with its default settings."""
    from toylab.commands.flags import known_tasks, packaged
    from toylab.console import ToylabError, unknown_name
    from toylab.runs.registry import load_object, refuse_incomplete

    known = known_tasks()
    path = name if ":" in name or name in known else packaged("task").get(name, name)
    if ":" not in path and name not in known:
        raise unknown_name("task", name, known)
    found = known[name] if name in known else load_object("task", path)
    refuse_incomplete("task", name, found, ("sample", "solve"))
    if not isinstance(found, type):
        return found
    if missing := [one.name for one in fields(found) if one.init and one.default is one.default_factory]:
        raise ToylabError(
            f"task {name!r}: has no default for {', '.join(missing)}; name an instance in its module instead"
        )
    return found()
