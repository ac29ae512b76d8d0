"""Argument checks of the probes: finite values, boolean masks, integers. Failures raise `ToylabError` with the name of
the argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toylab.console import ToylabError


def check_finite(**arguments: Any) -> None:
    """Reject NaN and infinity in numbers, arrays and tensors, and in lists and mappings of these."""
    for name, value in _parts(arguments):
        if not bool((sound := value.isfinite()).all()):
            raise _refused(name, value, ~sound, "every entry must be a finite number; remove such cases")


def check_not_nan(**arguments: Any) -> None:
    """Reject NaN but not infinity, for arguments in which infinity is meaningful."""
    for name, value in _parts(arguments):
        if bool((bad := value.isnan()).any()):
            raise _refused(name, value, bad, "NaN is not allowed; remove such cases")


def check_result_finite(names: str, result: Tensor) -> Tensor:
    """Reject overflow: a non-finite result of finite arguments."""
    if not bool(result.isfinite().all()):
        kind = str(result.dtype).removeprefix("torch.")
        raise ToylabError(f"{names}: values overflow or underflow {kind}; rescale them or give float64")
    return result


def check_nonempty(**arguments: Any) -> None:
    """Reject empty arguments."""
    for name, value in _parts(arguments):
        if not value.numel():
            raise ToylabError(f"{name}: shape {tuple(value.shape)} holds nothing to measure; give at least one case")


def check_same_length(**arguments: Any) -> None:
    """Reject arguments of different lengths."""
    sizes = {name: len(value) for name, value in arguments.items()}
    if len(set(sizes.values())) > 1:
        raise ToylabError(f"{', '.join(f'{name}={size}' for name, size in sizes.items())}: must have the same length")


def as_mask(name: str, value: Any) -> Tensor:
    """A mask as booleans; torch would index with integer masks of 0 and 1, as in `Batch.labels`."""
    held = as_tensor(value)
    if held.dtype == torch.bool:
        return held
    ones = held == 1
    if not bool((sound := ones | (held == 0)).all()):
        raise _refused(name, held, ~sound, "a mask holds False and True, or 0 and 1")
    return ones


def as_whole(name: str, value: Any, least: int | None = None) -> Tensor:
    """Integers of any dtype as int64."""
    held = as_tensor(value)
    if held.is_floating_point():
        check_finite(**{name: held})
        if bool((bad := held != held.round()).any()):
            raise _refused(name, held, bad, "every entry must be a whole number")
    held = held.long()
    if least is not None and bool((bad := held < least).any()):
        raise _refused(name, held, bad, f"every entry must be at least {least}; remove such cases")
    return held


def as_tensor(value: Any) -> Tensor:
    """Convert a number, an array or an iterable of numbers to a tensor; tensors are returned unchanged."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(list(value) if isinstance(value, Iterable) and not isinstance(value, np.ndarray) else value)


def _parts(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in the arguments with its path, such as `masses['zeros']` or `patterns[4][0]`."""
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _parts({f"{name}[{key!r}]": part for key, part in value.items()})
        elif isinstance(value, list | tuple):
            yield from _parts({f"{name}[{at}]": part for at, part in enumerate(value)})
        else:
            yield name, as_tensor(value)


def _refused(name: str, value: Tensor, bad: Tensor, rule: str) -> ToylabError:
    """An error that names the first invalid entry."""
    place = bad.nonzero()[0].tolist()
    return ToylabError(f"{name}: holds {value[bad][0].item():g}{f' at {place}' if place else ''}; {rule}")
