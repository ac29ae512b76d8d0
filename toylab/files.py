"""Files that are whole or not there: written aside, then renamed; read with an error that says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "1"
"""Version of the layout of saved tensors; files of another version are refused."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, meets the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; numbers that JSON does not know (NaN) raise `ValueError`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises `ValueError` naming the file if it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is damaged, not readable as JSON ({error}); {_REMEDY}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Save tensors as safetensors, with what they are about as JSON in the header."""
    header = {"format": FORMAT, "about": json.dumps(about, allow_nan=False)}
    write_bytes(path, save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file and what they are about.

    Raises:
        ValueError: naming the file, if it is missing, cut short, changed, or of another format version.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        about = json.loads(header.get("about", "null"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); {_REMEDY}") from None
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path}: has format {header.get('format')!r}, and this version reads {FORMAT!r}; use the version of "
            "toylab that wrote it"
        )
    return tensors, about


_REMEDY = "delete this file and run the same command again: what is finished stays, the rest is made anew"
