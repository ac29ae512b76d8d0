"""Rows of a task as JSON lines or Parquet, as read by `datasets.load_dataset("json", data_files=FILE)`.

Each row has `tokens` and `targets` (padded to the width of the batch), `words` (without padding), `length`, and, if the
task has them, `links` ([query, key] pairs by name) and `labels`. The header is a file of its own beside the rows,
`FILE.meta.json`, for both formats: task, settings, seed, split, names of links, and the digest (SHA-256) of the rows.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from toylab.console import ToylabError
from toylab.files import file_errors, parse_json, read_bytes, read_record, sha256_of, write_bytes, write_record
from toylab.settings import as_json, check_option, check_range, convert_value
from toylab.tasks import Batch, Split, Task, decode, stream

Format = Literal["jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)


def export_rows(
    path: Path | str, task: Task, *, rows: int, seed: int = 0, split: Split = "train", form: Format = "jsonl"
) -> None:
    """Write rows `task.sample(stream(seed, "export"), rows, split)` to a file, and their header to `FILE.meta.json`.

    Raises:
        ToylabError: if one of the files exists, for labels that the format cannot hold, for a task that samples
            another number of rows, or for Parquet without the library pyarrow.
    """
    check_option("format", form, FORMATS)
    check_range(rows=convert_value(int, rows, "rows"), least=1)
    for file in (Path(path), header_path(path)):
        with file_errors(file):
            if file.exists():
                raise ToylabError(f"out={file}: already exists; give another file, or delete it")
    parquet = _parquet() if form == "parquet" else None
    batch = task.sample(stream(seed, "export"), rows, split)
    _check_batch(batch, rows, form)
    records = _as_records(task, batch)
    if parquet is None:
        content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    else:
        import pyarrow

        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(records), buffer)
        content = buffer.getvalue()
    write_bytes(path, content)
    header = {
        "task": type(task).__name__,
        "settings": as_json(task, "settings"),
        "seed": seed,
        "split": split,
        "rows": rows,
        "format of rows": form,
        "vocabulary": list(task.vocabulary),
        "links": list(batch.links),
        "labels": {name: _dtype_name(values) for name, values in batch.labels.items()},
        "digest": sha256_of(content),
    }
    write_record(header_path(path), header)


def read_rows(path: Path | str) -> tuple[Batch, dict[str, Any]]:
    """The batch in a file written by `export_rows`, and its header.

    Raises:
        ToylabError: if the rows or the header are missing or were modified, or for Parquet without pyarrow.
    """
    header, content = read_record(header_path(path), _REMEDY), read_bytes(path)
    if sha256_of(content) != header.get("digest"):
        raise ToylabError(f"{path}: was modified (its rows do not match the digest in {header_path(path)}); {_REMEDY}")
    if header["format of rows"] == "parquet":
        records = _parquet().read_table(io.BytesIO(content)).to_pylist()
    else:
        records = [parse_json(line) for line in content.decode().removesuffix("\n").split("\n")]
    tokens, targets, sizes = (
        np.array([record[name] for record in records], dtype=np.int64) for name in ("tokens", "targets", "length")
    )
    links = {
        name: np.array(
            [(row, *edge) for row, record in enumerate(records) for edge in record["links"][name]], dtype=np.int64
        ).reshape(-1, 3)
        for name in header["links"]
    }
    labels = {
        name: np.array([record["labels"][name] for record in records], dtype=dtype)
        for name, dtype in header["labels"].items()
    }
    return Batch(tokens, targets, sizes, links, labels), header


def header_path(path: Path | str) -> Path:
    """The file of the header."""
    return Path(f"{path}.meta.json")


_REMEDY = "export the rows again"


def _check_batch(batch: Batch, rows: int, form: Format) -> None:
    if len(batch) != rows:
        raise ToylabError(f"task: sample gives {len(batch)} rows where {rows} are asked for; it must give that number")
    for name, values in batch.labels.items():
        if values.dtype.kind not in "biufU":
            raise ToylabError(f"labels: {name!r} is {values.dtype}, which has no column; give numbers, bool or text")
        if form == "jsonl" and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ToylabError(f"labels: {name!r} has nan or infinity, which JSON lacks; give --format parquet")


def _dtype_name(values: np.ndarray) -> str:
    """The name of a type, of text without its longest length, which numpy cannot read back."""
    return "str" if values.dtype.kind == "U" else values.dtype.name


def _as_records(task: Task, batch: Batch) -> list[dict[str, Any]]:
    edges = {name: [[] for _ in range(len(batch))] for name in batch.links}
    for name, links in batch.links.items():
        for row, query, key in links.tolist():
            edges[name][row].append([query, key])
    records = []
    for row, size in enumerate(batch.sizes.tolist()):
        record: dict[str, Any] = {
            "tokens": batch.tokens[row].tolist(),
            "words": decode(task, batch.tokens[row, :size].tolist()),
            "targets": batch.targets[row].tolist(),
            "length": size,
        }
        if edges:
            record["links"] = {name: of_row[row] for name, of_row in edges.items()}
        if batch.labels:
            record["labels"] = {name: values[row].tolist() for name, values in batch.labels.items()}
        records.append(record)
    return records


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ToylabError("format=parquet: needs pyarrow; pip install 'toylab[export]', or give jsonl") from None
    return parquet
