"""Files that are whole or not there: written aside, then renamed; read with an error that says what to do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
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


def sweep_aside(folder: Path, processes: Iterable[int]) -> None:
    """Remove the files that processes, ended in the middle of a write, had begun aside."""
    for process in processes:
        for aside in folder.rglob(f".*.{process}"):
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
        raise missing(path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is damaged, not readable as JSON ({error}); {_REMEDY}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Save tensors as safetensors, with what they are about and a checksum as JSON in the header.

    The same content gives the same bytes.
    """
    kept = {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}
    told = json.dumps(about, allow_nan=False)
    header = {"format": FORMAT, "checksum": _checksum(kept, told), "about": told}
    # One key alone: safetensors writes several in random order.
    write_bytes(path, save(kept, {"toylab": json.dumps(header)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file and what they are about.

    Raises:
        ValueError: naming the file, if it is missing, cut short, changed, or of another format version.
    """
    if not path.is_file():
        raise missing(path)
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("toylab", "{}"))
            tensors = {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        version, checksum, told = (header.get(name) for name in ("format", "checksum", "about"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); {_REMEDY}") from None
    if version != FORMAT:
        raise ValueError(
            f"{path}: has format {version!r}, and this one reads {FORMAT!r}; use the version of toylab that wrote it"
        )
    if not isinstance(told, str) or checksum != _checksum(tensors, told):
        raise ValueError(f"{path}: is damaged (its content does not match its checksum); {_REMEDY}")
    return tensors, json.loads(told)


def missing(path: Path) -> ValueError:
    """What to say of a file that should be there."""
    return ValueError(f"{path}: there is no such file; give the folder of a run, or run the study again to make it")


def _checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_REMEDY = "delete this file and run the same command again: what is finished stays, the rest is made anew"
