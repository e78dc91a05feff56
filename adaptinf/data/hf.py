"""Datasets of the Hugging Face ``datasets`` library, in memory or saved to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from adaptinf.data.images import ImageFolder
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.records import COLUMNS, RecordParser, read_records
from adaptinf.data.sample import Sample
from adaptinf.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    import datasets


def read_hf(
    source: datasets.Dataset | Path,
    *,
    quarantine: Quarantine,
    images: ImageFolder,
    task: str,
    skill: str = "",
    columns: Mapping[str, str] | None = None,
    ids: set[str] | None = None,
) -> Iterator[Sample]:
    """One sample a row of a ``Dataset``, or of the folder that ``Dataset.save_to_disk`` wrote.

    Columns as in ``read_parquet``. ``Image`` features keep their encoded bytes; PIL pictures become PNG.

    Raises:
        MissingDependencyError: ``datasets`` is not installed.
        DataError: the folder cannot be loaded, or holds a ``DatasetDict``.
    """
    name = str(source) if isinstance(source, Path) else f"dataset of task {task}"
    dataset = _undecoded(_load(source) if isinstance(source, Path) else source)
    parser = RecordParser(images, task, skill, columns or {}, need_id=False)
    wanted = [column for column in (parser.columns.get(key, key) for key in COLUMNS) if column in dataset.column_names]
    rows = enumerate(dataset.select_columns(wanted), start=1)
    return read_records(rows, name, parser, quarantine, ids)


def _load(folder: Path) -> datasets.Dataset:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "reading it needs the datasets library", item=str(folder), remedy="pip install 'adaptinf[datasets]'"
        ) from error
    try:
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.Dataset):
            loaded.data.validate(full=True)
            return loaded
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"cannot be loaded ({error})", item=str(folder), remedy="save the dataset again") from error
    raise DataError(
        f"holds the splits {', '.join(map(str, loaded))}, not one dataset",
        item=str(folder),
        remedy="name the split's folder",
    )


def _undecoded(dataset: datasets.Dataset) -> datasets.Dataset:
    import datasets

    raw = datasets.Image(decode=False)
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, raw)
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.List(raw))
    return dataset
