"""Reading and writing JSON, Parquet and safetensors: deterministic bytes, errors that name the file, no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from adaptinf.errors import ArtefactError
from adaptinf.store import fault


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``: the identity of a configuration or of a set of inputs."""
    return hashlib.sha256(_json(value, indent=None).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, two-space indent, NaN and infinities as null (JSON has none)."""
    path.write_text(_json(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(f"cannot be read as JSON ({error})", item=str(path), remedy=_REMEDY) from error


def write_table(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")


def read_table(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
        table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise ArtefactError(f"cannot be read as Parquet ({error})", item=str(path), remedy=_REMEDY) from error
    return table


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}, path)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"cannot be read as safetensors ({error})", item=str(path), remedy=_REMEDY) from error


def replace_file(path: Path, content: bytes) -> None:
    """Durably replace one file: whoever reads it sees the old bytes or the new ones, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fault.point(f"{path.name}:staged")
    os.replace(partial, path)
    sync(path.parent)
    fault.point(f"{path.name}:committed")


def json_bytes(value: Any) -> bytes:
    """What :func:`write_json` writes."""
    return (_json(value, indent=2) + "\n").encode()


def sync(path: Path) -> None:
    """Make the content of a file, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDY = "delete the file's folder and run again: it is computed anew"


def _json(value: Any, *, indent: int | None) -> str:
    return json.dumps(_plain(value), sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
