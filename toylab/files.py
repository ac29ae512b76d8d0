"""Files that are whole or not there: written aside, then renamed; read with an error that says what to do."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from toylab.names import ToylabError

FORMAT = "1"
"""Version of the layout of records and saved tensors; files of another version are refused."""


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, meets the old file or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def refuse_unwritable(name: str, path: Path | str) -> None:
    """Raise `ToylabError` for a file that cannot be written, before the work whose result it is to hold.

    Its folder is made. `name` is that of the setting, for the message.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(path)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise ToylabError(f"{name}={path}: cannot be written ({error.strerror}); give another path") from None
    if path.is_dir():
        raise ToylabError(f"{name}={path}: is a folder; give the name of a file in it")


def _aside(path: Path) -> Path:
    """Where a file is written before it takes the place of the old one."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def sweep_aside(folder: Path | str, processes: Iterable[int]) -> None:
    """Remove the files that processes, ended in the middle of a write, had begun aside."""
    for process in processes:
        for aside in Path(folder).rglob(f".*.{process}"):
            aside.unlink(missing_ok=True)


def write_text(path: Path | str, content: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON, whole or not at all; numbers that JSON does not know (NaN) raise `ValueError`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str, remedy: str | None = None) -> Any:
    """Raises `ValueError` naming the file if it is missing or is not JSON."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except ValueError as error:
        raise ToylabError(f"{path}: is damaged, not readable as JSON ({error}); {remedy or _REMEDY}") from None


def parse_json(text: str) -> Any:
    """Raises `ValueError` for what is not JSON, also where Python's own reader gives up otherwise."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_record(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a JSON object with the version of its format and a checksum, so that a change is noticed."""
    held = json.loads(json.dumps(content, allow_nan=False))  # keys of JSON are text
    write_json(path, {**held, "format": FORMAT, "checksum": _checksum({}, _canonical(held))})


def read_record(path: Path | str, remedy: str | None = None) -> dict[str, Any]:
    """What `write_record` was given.

    Args:
        remedy: what to do about a damaged file, if not to delete it and run again.

    Raises:
        ValueError: naming the file, if it is missing, damaged, changed, or of another format version.
    """
    remedy = remedy or _REMEDY
    held = read_json(path, remedy)
    if not isinstance(held, dict) or not {"format", "checksum"} <= held.keys():
        raise ToylabError(f"{path}: is not a record that toylab wrote; {remedy}")
    version, checksum = held.pop("format"), held.pop("checksum")
    if version != FORMAT:
        raise _of_another_format(path, version)
    if checksum != _checksum({}, _canonical(held)):
        raise ToylabError(f"{path}: is damaged (its content does not match its checksum); {remedy}")
    return held


def digest(content: bytes) -> str:
    """SHA-256, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bits of tensors."""
    return _checksum(tensors, "")


@contextmanager
def alone(folder: Path | str, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes into a folder; the lock ends with the process, however it ends.

    Raises:
        ValueError: if another process is writing there, unless this one is to wait for it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise ToylabError(
            f"{folder}: another process is writing there; wait until it has ended, or give another folder with --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Save tensors as safetensors, with what they are about and a checksum as JSON in the header.

    The same content gives the same bytes.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    told = json.dumps(about, allow_nan=False)
    header = {"format": FORMAT, "checksum": _checksum(kept, told), "about": told}
    # One key alone: safetensors writes several in random order.
    write_bytes(path, save(kept, {"toylab": json.dumps(header)}))


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file and what they are about.

    Raises:
        ValueError: naming the file, if it is missing, cut short, changed, or of another format version.
    """
    if not Path(path).is_file():
        raise missing(path)
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("toylab", "{}"))
            tensors = {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        version, checksum, told = (header.get(name) for name in ("format", "checksum", "about"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ToylabError(f"{path}: is damaged ({error}); {_REMEDY}") from None
    if version != FORMAT:
        raise _of_another_format(path, version)
    if not isinstance(told, str) or checksum != _checksum(tensors, told):
        raise ToylabError(f"{path}: is damaged (its content does not match its checksum); {_REMEDY}")
    return tensors, json.loads(told)


def missing(path: Path | str) -> ToylabError:
    """What to say of a file that should be there."""
    return ToylabError(f"{path}: there is no such file; give the folder of a run, or run the study again to make it")


def _of_another_format(path: Path | str, version: Any) -> ToylabError:
    return ToylabError(
        f"{path}: has format {version!r}, and this one reads {FORMAT!r}; use the version of toylab that wrote it"
    )


def _canonical(held: Mapping[str, Any]) -> str:
    return json.dumps(held, sort_keys=True)


def _checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_REMEDY = "delete this file and run the same command again: what is finished stays, the rest is made anew"
