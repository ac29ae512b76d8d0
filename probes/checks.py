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
        if not bool((is_finite := value.isfinite()).all()):
            raise _entry_error(name, value, ~is_finite, "every entry must be a finite number; remove such cases")


def check_not_nan(**arguments: Any) -> None:
    """Reject NaN but not infinity, for arguments in which infinity is meaningful."""
    for name, value in _parts(arguments):
        if bool((is_nan := value.isnan()).any()):
            raise _entry_error(name, value, is_nan, "NaN is not allowed; remove such cases")


def check_result_finite(names: str, result: Tensor) -> Tensor:
    """Reject overflow: a non-finite result of finite arguments."""
    if not bool(result.isfinite().all()):
        dtype = str(result.dtype).removeprefix("torch.")
        raise ToylabError(f"{names}: values overflow or underflow {dtype}; rescale them or give float64")
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
    tensor = as_tensor(value)
    if tensor.dtype == torch.bool:
        return tensor
    ones = tensor == 1
    if not bool((is_valid := ones | (tensor == 0)).all()):
        raise _entry_error(name, tensor, ~is_valid, "a mask holds False and True, or 0 and 1")
    return ones


def as_whole(name: str, value: Any, least: int | None = None) -> Tensor:
    """Integers of any dtype as int64."""
    tensor = as_tensor(value)
    if tensor.is_floating_point():
        check_finite(**{name: tensor})
        if bool((invalid := tensor != tensor.round()).any()):
            raise _entry_error(name, tensor, invalid, "every entry must be a whole number")
    tensor = tensor.long()
    if least is not None and bool((invalid := tensor < least).any()):
        raise _entry_error(name, tensor, invalid, f"every entry must be at least {least}; remove such cases")
    return tensor


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


def _entry_error(name: str, value: Tensor, invalid: Tensor, rule: str) -> ToylabError:
    """An error that names the first invalid entry."""
    index = invalid.nonzero()[0].tolist()
    return ToylabError(f"{name}: holds {value[invalid][0].item():g}{f' at {index}' if index else ''}; {rule}")
