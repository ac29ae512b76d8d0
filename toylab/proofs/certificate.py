"""Certificates: JSON files with digests of a model, task and property and of the decisions of each block.

`tools/check_certificate.py` verifies a certificate without toylab. A certificate holds digests of decisions, not of
logits, whose last bits differ between machines.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toylab.console import ToylabError
from toylab.files import exists, read_record, tensors_digest, write_record
from toylab.model.checkpoint import stored_tensors
from toylab.model.steering import Steered
from toylab.proofs.proof import ProvedBlock, RestSample
from toylab.settings import as_json, convert_value
from toylab.tasks import Task

BLOCK = 2**14
"""Rows of a block, the unit of work, of resumption and of certificates."""


def header_of(model: nn.Module, task: Task, property: Any, counts: Mapping[int, int]) -> dict[str, Any]:
    """Identity of a proof: the digest of the model's tensors, its settings, the task, the property and the number of
    rows of each length, in the types that JSON has."""
    config = getattr(model.model if isinstance(model, Steered) else model, "config", None)
    permutation = getattr(task, "permutation", None)  # of Reasoning; drawn from a stream that a checker does not have
    header = {
        "block": BLOCK,
        "model": {
            "class": type(model).__name__,
            "digest": tensors_digest(stored_tensors(model)),
            "config": asdict(config) if is_dataclass(config) and not isinstance(config, type) else None,
        },
        "task": {
            "class": type(task).__name__,
            "settings": as_json(task, "task"),
            "vocabulary": len(task.vocabulary),
            "permutation": as_json(permutation, "permutation"),
        },
        "property": {"name": _name(property), "settings": _settings(property)},
        "counts": {str(length): count for length, count in counts.items()},
    }
    return json.loads(json.dumps(as_json(header, "certificate")))


def spans_of(counts: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Length, first and last row (exclusive) of each block, in order."""
    for length, count in counts.items():
        yield from ((length, start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def property_title(value: Any) -> str:
    """A property with its settings."""
    settings = _settings(value)
    if not isinstance(settings, dict):
        return _name(value)
    return f"{_name(value)}({', '.join(f'{name}={one}' for name, one in settings.items())})"


def write_certificate(
    path: Path | str,
    header: Mapping[str, Any],
    blocks: Sequence[ProvedBlock],
    sample: RestSample | None = None,
    counterexample: str | None = None,
) -> None:
    """Write a certificate; one without all blocks can be resumed."""
    content = {
        **header,
        "blocks": [asdict(block) for block in blocks],
        "sample": None if sample is None else asdict(sample) | {"at_most": sample.most},
        "counterexample": counterexample,
        "torch": torch.__version__,
    }
    write_record(path, content)


def read_certificate(path: Path | str, header: Mapping[str, Any]) -> list[ProvedBlock]:
    """The blocks of a certificate with this header; none if there is no such file.

    Raises:
        ToylabError: naming the first part that differs, if the certificate is of another proof, or if it is damaged or
            its blocks are not the first ones in order.
    """
    if not exists(path):
        return []
    record = read_record(path, "delete it, or give another file with --out")
    for name, value in header.items():
        if record.get(name) != value:
            raise ToylabError(f"{path}: is the certificate of another {name}; give another file with --out")
    blocks = convert_value(list[ProvedBlock], record.get("blocks"), f"{path}: blocks")
    listed = [(block.length, block.start, block.start + block.rows) for block in blocks]
    counts = {int(length): count for length, count in header["counts"].items()}
    if listed != list(itertools.islice(spans_of(counts), len(listed))):
        raise ToylabError(f"{path}: its blocks are not the first ones in order; give another file with --out")
    return blocks


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _settings(value: Any) -> Any:
    """The settings of a property in JSON form: models as digests, functions by name."""
    if isinstance(value, nn.Module):
        return tensors_digest(stored_tensors(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _settings(getattr(value, one.name)) for one in fields(value)}
    if callable(value):
        return f"{getattr(value, '__module__', type(value).__module__)}.{_name(value)}"
    return value
