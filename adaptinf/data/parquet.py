"""Parquet files with the columns of the JSON Lines records; pictures as bytes, ``{bytes, path}`` or paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adaptinf.data.images import ImageFolder
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.records import COLUMNS, RecordParser, read_records
from adaptinf.data.sample import Sample
from adaptinf.errors import DataError

ROWS_AT_ONCE = 256


def read_parquet(
    path: Path,
    *,
    quarantine: Quarantine,
    images: ImageFolder,
    task: str,
    skill: str = "",
    columns: Mapping[str, str] | None = None,
    ids: set[str] | None = None,
) -> Iterator[Sample]:
    """One sample a row, with the columns of ``COLUMNS``; only those are read.

    ``columns`` maps this schema's name to the file's where they differ, e.g. ``{"response": "answer"}``. Ids are
    derived as in ``read_llava``.

    Raises:
        DataError: the file cannot be read, or its contents fail Arrow's full validation.
    """
    parser = RecordParser(images, task, skill, columns or {}, need_id=False)
    return read_records(_rows(path, parser.columns), str(path), parser, quarantine, ids)


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path) as file:
            wanted = [name for name in (columns.get(key, key) for key in COLUMNS) if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read as Parquet ({error})", item=str(path), remedy="write the file again"
        ) from error
