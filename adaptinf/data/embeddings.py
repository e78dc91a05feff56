"""Plain files of embeddings (npy, Parquet, safetensors) as one matrix, in the precision they were written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adaptinf.errors import DataError
from adaptinf.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 4096
"""Of a file, on their way into the matrix."""

BUFFER_BYTES = 1 << 18
"""Of a Parquet column are read ahead; otherwise a whole row group is, which may be the whole file."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Row-aligned.

    Attributes:
        rows: float16, bfloat16, float32 or float64 [N, d]; mapped from the file where there is only one, npy or
            safetensors.
        ids: string [N]: the column ``id`` of Parquet files, else "file name:row".
    """

    rows: Tensor
    ids: pa.Array


def read_embeddings(paths: Sequence[Path], name: str = "embedding") -> Embeddings:
    """All rows of the files, in their order.

    Beside the matrix only a small part of a file is in memory.

    Args:
        paths: ``.npy`` [N, d], ``.parquet`` with a column of lists of one length, or ``.safetensors`` with a tensor
            [N, d]. float16, bfloat16 (safetensors), float32 or float64, the same in all files.
        name: of the column, or of the tensor; a safetensors file with only one tensor needs none.

    Raises:
        DataError: a file cannot be read, has no such column or tensor, is no matrix of floats, has missing values, or
            differs from the first file in its width or precision; two rows have the same id.
    """
    import torch

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
    if len(readers) == 1 and isinstance(first, _Mapped):
        rows = first.matrix
    else:
        total = sum(reader.count for reader in readers)
        rows = torch.empty(total, first.columns, dtype=getattr(torch, first.dtype))
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


class _Mapped:
    """A matrix whose file is mapped into memory."""

    def __init__(self, path: Path, matrix: Tensor) -> None:
        self.path, self.matrix = path, matrix
        self.count, self.columns = matrix.shape
        self.dtype = str(matrix.dtype).removeprefix("torch.")

    def parts(self) -> Iterator[Tensor]:
        return (self.matrix[at : at + ROWS_AT_ONCE] for at in range(0, self.count, ROWS_AT_ONCE))

    def ids(self) -> pa.Array:
        return _numbered(self.path, self.count)


def _map_npy(path: Path, name: str) -> _Mapped:
    import torch

    try:  # copy on write: nothing writes, but torch wants memory that could be written
        matrix = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    _check_matrix(path, matrix.shape, str(matrix.dtype))
    return _Mapped(path, torch.from_numpy(matrix))


def _map_safetensors(path: Path, name: str) -> _Mapped:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            chosen = names[0] if len(names) == 1 else name
            if chosen not in names:
                raise _missing(path, "tensor", name, names)
            matrix = file.get_tensor(chosen)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    _check_matrix(path, tuple(matrix.shape), str(matrix.dtype).removeprefix("torch."))
    return _Mapped(path, matrix)


class _Parquet:
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with self._open() as file:
                self.count, self.schema = file.metadata.num_rows, file.schema_arrow
                if name not in self.schema.names:
                    raise _missing(path, "column", name, self.schema.names)
                kind = self.schema.field(name).type
                if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
                    raise DataError(f"column {name!r} holds {kind}", item=str(path), remedy="write lists of floats")
                first = next(file.iter_batches(1, columns=[name]), None)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error
        self.columns = 0 if first is None else len(first[0].flatten())
        self.dtype = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(
            str(kind.value_type), str(kind.value_type)
        )
        _check_matrix(path, (self.count, self.columns), self.dtype)

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, buffer_size=BUFFER_BYTES, pre_buffer=False)

    def parts(self) -> Iterator[Tensor]:
        import torch

        try:
            with self._open() as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=[self.name]):
                    lists = batch[0]
                    values, lengths = lists.flatten(), lists.value_lengths().unique().to_pylist()
                    if lists.null_count or values.null_count or lengths != [self.columns]:
                        raise DataError(
                            f"column {self.name!r} has missing values, or rows that are not of {self.columns} numbers",
                            item=str(self.path),
                            remedy="write one list of that length in every row",
                        )
                    yield torch.from_dlpack(values).view(len(lists), self.columns)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.path, error) from error

    def ids(self) -> pa.Array:
        if "id" not in self.schema.names:
            return _numbered(self.path, self.count)
        ids = pq.read_table(self.path, columns=["id"])["id"].combine_chunks().cast(pa.string())
        if ids.null_count:
            raise DataError(f"{ids.null_count} ids are missing", item=str(self.path), remedy="give every row an id")
        return ids


_READERS = {".npy": _map_npy, ".parquet": _Parquet, ".safetensors": _map_safetensors}


def _reader(path: Path, name: str) -> _Mapped | _Parquet:
    if path.suffix not in _READERS:
        raise DataError(
            f"has the ending {path.suffix!r}", item=str(path), remedy=f"give files that end in {', '.join(_READERS)}"
        )
    return _READERS[path.suffix](path, name)


def _check_matrix(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    if dtype not in _FLOATS or len(shape) != 2 or shape[1] == 0:
        raise DataError(
            f"holds {dtype} {list(shape)}", item=str(path), remedy=f"write a matrix [N, d] of {', '.join(_FLOATS)}"
        )


def _numbered(path: Path, count: int) -> pa.Array:
    return pa.array((f"{path.name}:{row}" for row in range(count)), pa.string(), size=count)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read ({error})", item=str(path), remedy="write the file again")


def _missing(path: Path, what: str, name: str, names: Sequence[str]) -> DataError:
    return DataError(f"has no {what} {name!r}", item=str(path), remedy=f"--name one of {', '.join(names)}")
