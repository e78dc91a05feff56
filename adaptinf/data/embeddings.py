"""Plain files of embeddings (npy, Parquet, safetensors) as one matrix, in the precision they were written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from adaptinf.errors import DataError
from adaptinf.progress import progress

ROWS_AT_ONCE = 16_384
"""Of a Parquet file or a tensor, on their way into the matrix."""

_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Row-aligned.

    Attributes:
        rows: float16, float32 or float64 [N, d]; a memory map where there is only one npy file.
        ids: string [N]: the column ``id`` of Parquet files, else "file name:row".
    """

    rows: NDArray[np.floating[Any]]
    ids: pa.Array


def read_embeddings(paths: Sequence[Path], name: str = "embedding") -> Embeddings:
    """All rows of the files, in their order.

    Beside the matrix a part of a file is in memory, and of a npy file nothing.

    Args:
        paths: ``.npy`` [N, d], ``.parquet`` with a column of lists of one length, or ``.safetensors`` with a tensor
            [N, d]. float16, float32 or float64, the same in all files.
        name: of the column, or of the tensor; a safetensors file with only one tensor needs none.

    Raises:
        DataError: a file cannot be read, has no such column or tensor, is no matrix of floats, has missing values, or
            differs from the first file in its width or precision; two rows have the same id.
    """
    if not paths:
        raise DataError("no file was given", item="embeddings", remedy="give at least one file of embeddings")
    readers = [_reader(path, name) for path in paths]
    first = readers[0]
    for reader in readers:
        if (reader.columns, reader.dtype) != (first.columns, first.dtype):
            raise DataError(
                f"holds {reader.dtype} [., {reader.columns}], but {first.path.name} {first.dtype} [., {first.columns}]",
                item=str(reader.path),
                remedy="give files of one width and precision",
            )
    if len(readers) == 1 and isinstance(first, _Npy):
        rows: NDArray[np.floating[Any]] = first.matrix
    else:
        total = sum(reader.count for reader in readers)
        rows = np.empty((total, first.columns), first.dtype)
        with progress(description="read", total=total, unit="row") as bar:
            at = 0
            for reader in readers:
                for part in reader.parts():
                    rows[at : at + len(part)] = part
                    at += len(part)
                    bar.update(len(part))
    ids = pa.concat_arrays([reader.ids() for reader in readers])
    if len(ids.unique()) != len(ids):
        raise DataError("two rows have one id", item="embeddings", remedy="give files of different names and ids")
    return Embeddings(rows, ids)


class _Npy:
    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        try:  # copy on write: nothing writes, but torch wants memory that could be written
            self.matrix = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        _check_matrix(path, self.matrix.shape, self.matrix.dtype)
        self.count, self.columns, self.dtype = *self.matrix.shape, self.matrix.dtype

    def parts(self) -> Any:
        return (self.matrix[at : at + ROWS_AT_ONCE] for at in range(0, self.count, ROWS_AT_ONCE))

    def ids(self) -> pa.Array:
        return _numbered(self.path, self.count)


class _Safetensors:
    def __init__(self, path: Path, name: str) -> None:
        import safetensors

        self.path = path
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                names = list(file.keys())
                self.name = names[0] if len(names) == 1 else name
                if self.name not in names:
                    raise _missing(path, "tensor", name, names)
                part = file.get_slice(self.name)
                shape, dtype = tuple(part.get_shape()), part.get_dtype()
        except (OSError, safetensors.SafetensorError) as error:
            raise _unreadable(path, error) from error
        known = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
        _check_matrix(path, shape, known.get(dtype, dtype))
        self.count, self.columns = shape
        self.dtype = np.dtype(known[dtype])

    def parts(self) -> Any:
        import safetensors

        with safetensors.safe_open(self.path, framework="numpy") as file:
            matrix = file.get_slice(self.name)
            for at in range(0, self.count, ROWS_AT_ONCE):
                yield matrix[at : min(at + ROWS_AT_ONCE, self.count)]

    def ids(self) -> pa.Array:
        return _numbered(self.path, self.count)


class _Parquet:
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with pq.ParquetFile(path) as file:
                self.count, self.schema = file.metadata.num_rows, file.schema_arrow
                if name not in self.schema.names:
                    raise _missing(path, "column", name, self.schema.names)
                kind = self.schema.field(name).type
                if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
                    raise DataError(f"column {name!r} holds {kind}", item=str(path), remedy="write lists of floats")
                first = next(file.iter_batches(1, columns=[name]), None)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
        self.columns = 0 if first is None else len(first[0][0])
        self.dtype = np.dtype(kind.value_type.to_pandas_dtype())
        _check_matrix(path, (self.count, self.columns), self.dtype)

    def parts(self) -> Any:
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=[self.name]):
                    lists = batch[0]
                    values = lists.flatten()
                    if lists.null_count or values.null_count or len(values) != len(lists) * self.columns:
                        raise DataError(
                            f"column {self.name!r} has missing values, or rows that are not of {self.columns} numbers",
                            item=str(self.path),
                            remedy="write one list of that length in every row",
                        )
                    yield values.to_numpy(zero_copy_only=False).reshape(len(lists), self.columns)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.path, error) from error

    def ids(self) -> pa.Array:
        if "id" not in self.schema.names:
            return _numbered(self.path, self.count)
        ids = pq.read_table(self.path, columns=["id"])["id"].combine_chunks().cast(pa.string())
        if ids.null_count:
            raise DataError(f"{ids.null_count} ids are missing", item=str(self.path), remedy="give every row an id")
        return ids


_READERS = {".npy": _Npy, ".parquet": _Parquet, ".safetensors": _Safetensors}


def _reader(path: Path, name: str) -> _Npy | _Parquet | _Safetensors:
    if path.suffix not in _READERS:
        raise DataError(
            f"has the ending {path.suffix!r}", item=str(path), remedy=f"give files that end in {', '.join(_READERS)}"
        )
    return _READERS[path.suffix](path, name)


def _check_matrix(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    if dtype not in _FLOATS or len(shape) != 2 or shape[1] == 0:
        raise DataError(
            f"holds {np.dtype(dtype).name if not isinstance(dtype, str) else dtype} {list(shape)}",
            item=str(path),
            remedy="write a matrix [N, d] of float16, float32 or float64",
        )


def _numbered(path: Path, count: int) -> pa.Array:
    return pa.array((f"{path.name}:{row}" for row in range(count)), pa.string(), size=count)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read ({error})", item=str(path), remedy="write the file again")


def _missing(path: Path, what: str, name: str, names: Sequence[str]) -> DataError:
    return DataError(f"has no {what} {name!r}", item=str(path), remedy=f"--name one of {', '.join(names)}")
