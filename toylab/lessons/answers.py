"""Validation of answers: execution, shape, and comparison with an oracle, up to the first wrong case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from toylab.tasks import stream


class WaitingError(Exception):
    """The answer is still the placeholder (three dots)."""


class UnfitError(Exception):
    """The answer raises an exception, or has the wrong type or shape."""


class WrongError(Exception):
    """The answer has the correct type and is wrong; the message names the case and the violated property."""


def require_answer(answer: Any) -> Any:
    """The answer, unless it is or contains the placeholder.

    Raises:
        WaitingError: for the placeholder.
    """
    if answer is ... or (isinstance(answer, tuple | list) and any(part is ... for part in answer)):
        raise WaitingError
    return answer


def _call(answer: Any, **case: Any) -> Any:
    """The result of an answer on one case. The arguments are copied, because the answer may modify them."""
    if not callable(answer):
        raise UnfitError(f"expected a function, but this is {_type(answer)}.")
    return _try(lambda: answer(*deepcopy(list(case.values()))), f"for {_in_words(case)} it")


def _try(call: Callable[[], Any], subject: str) -> Any:
    try:
        return require_answer(call())
    except (WaitingError, UnfitError, WrongError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UnfitError(f"{subject} raises {type(error).__name__}: {words}") from None


def _numbers(result: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    """The result as an array of floats of the given shape; () is one number."""
    expected = f"numbers of shape {shape}" if shape else "one number"
    try:
        numbers = np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)
    except Exception:
        raise UnfitError(f"{expected} should be returned, but this is {_type(result)}.") from None
    if numbers.dtype.kind not in "biuf" or numbers.shape != shape:
        actual = f"of shape {numbers.shape}" if numbers.dtype.kind in "biuf" else _type(result)
        raise UnfitError(f"{expected} should be returned, but this is {actual}.")
    return numbers.astype(float)


def _compare(
    answer: Any,
    cases: Sequence[Mapping[str, Any]],
    oracle: Callable[..., Any],
    breaks: Callable[[Mapping[str, Any], np.ndarray], str],
) -> None:
    """Compare an answer with an oracle on every case; `breaks` maps a case and its result to the violated property."""
    for case in cases:
        expected = np.asarray(oracle(**case), dtype=float)
        result = _numbers(_call(answer, **case), expected.shape)
        if not np.allclose(result, expected, rtol=1e-5, atol=1e-7):
            raise WrongError(f"For {_in_words(case)} your answer is {_short(result)}: {breaks(case, result)}.")


def _in_words(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in case.items())


def _short(value: Any) -> str:
    """A value on one line: large arrays as their shape, mappings as their keys."""
    if isinstance(value, Mapping):
        return f"({', '.join(value)})"
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        if array.size > 12:
            return f"(array of shape {array.shape})"
        return str(np.round(array, 4).tolist())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _type(value: Any) -> str:
    return "nothing (None)" if value is None else f"of type {type(value).__name__}"


def _rng(name: str) -> np.random.Generator:
    return stream(0, f"exercise {name}")


def _row(length: int) -> list[str]:
    """Names of the tokens of a row of an iterated task, by position."""
    numbers = range(1, length + 1)
    return ["the task's token", *(f"x_{t}" for t in numbers), "EoI", *(f"s_{t}" for t in numbers)]


def _token_at(row: Sequence[str], position: float) -> str:
    inside = position in range(len(row))
    return f"position {position:g} holds {row[int(position)]}" if inside else f"there is no position {position:g}"
