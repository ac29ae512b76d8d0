"""Atomic file writes, checksums, locks, and file errors with a remedy."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from toylab.console import ToylabError
from toylab.settings import as_json

FORMAT = "1"
"""Format version of records and saved tensors; other versions are rejected."""
DEEPEST = 100
"""Maximum JSON nesting; deeper text is rejected, since recursive functions would exhaust Python's stack."""


class UnwritableError(ToylabError):
    """A path without write permission, or on a read-only file system."""


@contextmanager
def file_errors(path: Path | str) -> Iterator[None]:
    """Convert an `OSError` to a `ToylabError` with the path and a remedy.

    Use it around system calls only: an `OSError` of a task or study is a bug and keeps its traceback.
    """
    try:
        yield
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        error_class = UnwritableError if error.errno in _UNWRITABLE else ToylabError
        remedy = _REMEDIES.get(error.errno or 0, "give another path")
        raise error_class(f"{path}: {error.strerror or error}; {remedy}") from error


_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, then give the same command again",
    errno.EDQUOT: "your share of the disk is full: free some space, then give the same command again",
    errno.EROFS: "nothing may be written there: give another folder with --out",
    errno.EACCES: "change its permissions, or give another folder with --out",
    errno.EPERM: "change its permissions, or give another folder with --out",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "a part of this path is a file, no folder: give another path",
    errno.EEXIST: "a part of this path is a file, no folder: give another path",
}


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file atomically: readers, also after a kill at any moment, see the old or the new content.

    A symbolic link is kept, and its target is written.
    """
    path = Path(path)
    with file_errors(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():  # a folder, or a device that the rename would replace
            raise ToylabError(f"{path}: is no regular file; give the name of a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_path(target)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def exists(path: Path | str) -> bool:
    """Whether a path exists. Raises `ToylabError` if the system call fails, as for a name that is too long."""
    with file_errors(path):
        return Path(path).exists()


def read_bytes(path: Path | str) -> bytes:
    """Read a file. Raises `ToylabError` if it is missing or cannot be read."""
    path = Path(path)
    with file_errors(path):
        if path.exists() and not path.is_file():
            raise ToylabError(f"{path}: is no regular file; give the name of a file")
        return path.read_bytes()


def is_file_name(name: Any) -> bool:
    """Whether a name is a valid file name: one path component, not hidden, printable, at most 200 bytes."""
    if not isinstance(name, str) or name[:1] in ("", ".") or set(name) & set("/\\"):
        return False
    return name.isprintable() and len(name.encode()) <= 200


def refuse_links(home: Path | str, *paths: Path | str) -> None:
    """Raises `ToylabError` for a path that a symbolic link leads out of a folder."""
    inside = os.path.realpath(home)
    for path in paths:
        if not Path(os.path.realpath(path)).is_relative_to(inside):
            raise ToylabError(f"{path}: a link leads out of {home}, where toylab does not write; delete the link")


def refuse_unwritable(name: str, path: Path | str) -> None:
    """Raise `ToylabError` for an unwritable path before a long computation; creates the parent folder.

    Args:
        name: name of the setting, for the message.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ToylabError(f"{name}={path}: is a folder; give the name of a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_path(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ToylabError(f"{name}={path}: cannot be written ({error.strerror}); give another path") from None


def _temporary_path(path: Path) -> Path:
    """Temporary path of an atomic write."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def remove_partial_files(folder: Path | str, processes: Iterable[int]) -> None:
    """Remove temporary files of processes that were killed during a write."""
    for process in processes:
        for temporary in Path(folder).rglob(f".*.{process}"):
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically. Raises `ToylabError` with the key of NaN or of an unsupported type."""
    write_text(path, json.dumps(as_json(value, Path(path).stem), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path | str, remedy: str | None = None) -> Any:
    """Read JSON. Raises `ToylabError` if the file is missing or is not valid JSON."""
    content = read_bytes(path)
    try:
        return parse_json(content.decode())
    except ValueError as error:
        raise ToylabError(f"{path}: is damaged, not readable as JSON ({error}); {remedy or _REMEDY}") from None


def parse_json(text: str, finite: bool = True) -> Any:
    """Parse JSON strictly. Raises `ValueError` for invalid JSON, duplicate keys, nesting deeper than `DEEPEST` and,
    with `finite`, NaN or infinity."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_values(value, DEEPEST, finite)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return mapping


def _check_values(value: Any, levels: int, finite: bool) -> None:
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError("nested too deeply")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_values(inner, levels - 1, finite)
    elif finite and isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ValueError("a number is NaN" if value != value else "a number is larger than any float")


def write_record(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a JSON object with format version and checksum."""
    record = json.loads(json.dumps(as_json(content, Path(path).stem)))  # JSON keys are strings
    write_json(path, {**record, "format": FORMAT, "checksum": _checksum({}, _canonical(record))})


def read_record(path: Path | str, remedy: str | None = None) -> dict[str, Any]:
    """Read an object written by `write_record`.

    Args:
        remedy: advice for damaged files in the message; by default to delete the file and rerun.

    Raises:
        ToylabError: if the file is missing, damaged, modified, or of another format version.
    """
    remedy = remedy or _REMEDY
    record = read_json(path, remedy)
    if not isinstance(record, dict) or not {"format", "checksum"} <= record.keys():
        raise ToylabError(f"{path}: is not a record that toylab wrote; {remedy}")
    version, checksum = record.pop("format"), record.pop("checksum")
    if version != FORMAT:
        raise _format_error(path, version)
    if checksum != _checksum({}, _canonical(record)):
        raise ToylabError(f"{path}: is damaged (its content does not match its checksum); {remedy}")
    return record


def sha256_of(content: bytes) -> str:
    """SHA-256, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, dtypes, shapes and contents of tensors."""
    return _checksum(tensors, "")


@contextmanager
def folder_lock(folder: Path | str, wait: bool = False) -> Iterator[None]:
    """Exclusive lock on a folder, released when the process ends for any reason.

    Raises:
        ToylabError: if another process holds the lock, unless `wait`.
    """
    folder = Path(folder)
    refuse_links(folder, folder / ".lock")
    lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise ToylabError(
                f"{folder}: another process is writing there; wait until it has ended, or give another folder with "
                "--out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, with JSON metadata `about` and a checksum in the header; byte-reproducible."""
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    metadata = json.dumps(as_json(about, Path(path).stem))
    header = {"format": FORMAT, "checksum": _checksum(arrays, metadata), "about": metadata}
    # A single key, since safetensors writes several in random order.
    write_bytes(path, save(arrays, {"toylab": json.dumps(header)}))


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], Any]:
    """Read the tensors and metadata written by `write_tensors`.

    Raises:
        ToylabError: if the file is missing, truncated, modified, or of another format version.
    """
    if not Path(path).is_file():
        raise missing_file(path)
    try:
        with file_errors(path), safe_open(path, "pt") as file:
            header = parse_json((file.metadata() or {}).get("toylab", "{}"))
            tensors = {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        version, checksum, metadata = (header.get(name) for name in ("format", "checksum", "about"))
        about = parse_json(metadata) if isinstance(metadata, str) else None
    except ToylabError:
        raise
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ToylabError(f"{path}: is damaged ({error}); {_REMEDY}") from None
    if version != FORMAT:
        raise _format_error(path, version)
    if not isinstance(metadata, str) or checksum != _checksum(tensors, metadata):
        raise ToylabError(f"{path}: is damaged (its content does not match its checksum); {_REMEDY}")
    return tensors, about


def missing_file(path: Path | str) -> ToylabError:
    """The error for a missing file."""
    return ToylabError(f"{path}: there is no such file; give the folder of a run, or run the study again to make it")


def _format_error(path: Path | str, version: Any) -> ToylabError:
    return ToylabError(
        f"{path}: has format {version!r}, and this one reads {FORMAT!r}; use the version of toylab that wrote it"
    )


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)


def _checksum(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_REMEDY = "if toylab wrote it, delete it and rerun the command that did; finished parts are kept"
