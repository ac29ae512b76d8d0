"""Run-time type checks of some calls: in a quarter of the tests, the first one of each function and every twentieth.

Checks of all calls take a third of the time of all tests. Slow tests and `make soak` have them at every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, partial, wraps
from types import CodeType, FunctionType
from typing import Any
from zlib import crc32

import jaxtyping

EVERY, TESTS = 20, 4
calls: Counter[CodeType] = Counter()
"""In this test, by function, while only some are checked."""
every_call = some_calls = False


def begin(test: str, every: bool) -> None:
    """A test begins, in which every call is checked, or some are, or none."""
    global every_call, some_calls
    every_call, some_calls = every, crc32(test.encode()) % TESTS == 0
    calls.clear()


def install() -> None:
    """The decorator that the import hook puts on all functions checks some of their calls; call it before the hook."""
    jaxtyping.jaxtyped = partial(_some_calls, jaxtyping.jaxtyped)


def _some_calls(decorate: Callable, fn: Any = None, **how: Any) -> Any:
    """What `jaxtyping.jaxtyped` does, of functions and of what dataclasses are made with."""
    if fn is None:
        return partial(_some_calls, decorate, **how)
    if isinstance(fn, FunctionType):
        return _called(fn, cache(lambda: decorate(fn, **how)))
    if isinstance(fn, classmethod | staticmethod):
        return type(fn)(_some_calls(decorate, fn.__func__, **how))
    if isinstance(fn, property):
        return property(*(one and _some_calls(decorate, one, **how) for one in (fn.fget, fn.fset, fn.fdel)))
    if isinstance(fn, type) and isinstance(plain := fn.__init__, FunctionType) and not hasattr(plain, "checked"):
        decorate(fn, **how)
        if (checked := fn.__init__) is not plain:
            fn.__init__ = _called(plain, lambda: checked)
    return fn


def _is_due(code: CodeType) -> bool:
    calls[code] += 1
    return calls[code] % EVERY == 1


def _called(plain: FunctionType, checked: Callable[[], Callable]) -> FunctionType:
    code = plain.__code__

    @wraps(plain)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if every_call or (some_calls and _is_due(code)):
            return checked()(*args, **kwargs)
        return plain(*args, **kwargs)

    called.checked = checked
    return called
