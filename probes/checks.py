"""What every probe demands of its arguments: finite numbers, masks of booleans, whole numbers. Mistakes raise
`ToylabError` with the name of the argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toylab.console import ToylabError


def check_finite(**arguments: Any) -> None:
    """Refuse NaN and infinity in numbers, arrays and tensors, and in lists and mappings of these."""
    for name, value in _parts(arguments):
        if not bool((sound := value.isfinite()).all()):
            raise _refused(name, value, ~sound, "every entry must be a finite number; leave such cases out")


def check_not_nan(**arguments: Any) -> None:
    """Refuse NaN alone, for arguments in which an infinity has a meaning."""
    for name, value in _parts(arguments):
        if bool((bad := value.isnan()).any()):
            raise _refused(name, value, bad, "this is no number; leave such cases out")


def check_result_finite(names: str, result: Tensor) -> Tensor:
    """Refuse what was made of finite arguments and is none: squares and products leave the range of a type."""
    if not bool(result.isfinite().all()):
        kind = str(result.dtype).removeprefix("torch.")
        raise ToylabError(f"{names}: numbers so large or small leave the range of {kind}; scale them or give float64")
    return result


def check_nonempty(**arguments: Any) -> None:
    """Refuse arguments without any entry."""
    for name, value in _parts(arguments):
        if not value.numel():
            raise ToylabError(f"{name}: shape {tuple(value.shape)} holds nothing to measure; give at least one case")


def check_same_length(**arguments: Any) -> None:
    """Refuse arguments of different lengths."""
    sizes = {name: len(value) for name, value in arguments.items()}
    if len(set(sizes.values())) > 1:
        raise ToylabError(f"{', '.join(f'{name}={size}' for name, size in sizes.items())}: must be as many each")


def as_mask(name: str, value: Any) -> Tensor:
    """A mask as booleans: torch would take integers 0 and 1, as `Batch.labels` holds them, for row numbers."""
    held = as_tensor(value)
    if held.dtype == torch.bool:
        return held
    ones = held == 1
    if not bool((sound := ones | (held == 0)).all()):
        raise _refused(name, held, ~sound, "a mask holds False and True, or 0 and 1")
    return ones


def as_whole(name: str, value: Any, least: int | None = None) -> Tensor:
    """Whole numbers of any type as int64."""
    held = as_tensor(value)
    if held.is_floating_point():
        check_finite(**{name: held})
        if bool((bad := held != held.round()).any()):
            raise _refused(name, held, bad, "every entry must be a whole number")
    held = held.long()
    if least is not None and bool((bad := held < least).any()):
        raise _refused(name, held, bad, f"every entry must be at least {least}; leave such cases out")
    return held


def as_tensor(value: Any) -> Tensor:
    """A number, an array or an iterable of numbers as a tensor; tensors as they are."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(list(value) if isinstance(value, Iterable) and not isinstance(value, np.ndarray) else value)


def _parts(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the arguments with its place: `masses['zeros']`, `patterns[4][0]`."""
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _parts({f"{name}[{key!r}]": part for key, part in value.items()})
        elif isinstance(value, list | tuple):
            yield from _parts({f"{name}[{at}]": part for at, part in enumerate(value)})
        else:
            yield name, as_tensor(value)


def _refused(name: str, value: Tensor, bad: Tensor, rule: str) -> ToylabError:
    """The error that names the first bad entry."""
    place = bad.nonzero()[0].tolist()
    return ToylabError(f"{name}: holds {value[bad][0].item():g}{f' at {place}' if place else ''}; {rule}")
