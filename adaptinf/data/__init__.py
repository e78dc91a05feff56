"""Samples, readers and the stream of tasks."""

from __future__ import annotations

from adaptinf.data.bundle import BUNDLE, BUNDLE_ORDER
from adaptinf.data.embeddings import Embeddings, read_embeddings
from adaptinf.data.hf import read_hf
from adaptinf.data.images import FORMATS, MAX_PIXELS, ImageFolder, encode_png, load_image, resolve_under
from adaptinf.data.jsonl import read_jsonl
from adaptinf.data.llava import read_llava
from adaptinf.data.load import load_stream
from adaptinf.data.parquet import read_parquet
from adaptinf.data.quarantine import Quarantine
from adaptinf.data.sample import Image, Message, Part, Role, Sample
from adaptinf.data.stream import TaskDataset, TaskStream, apart, group_of, split_by_group, split_pretraining, unit_hash

__all__ = [
    "BUNDLE",
    "BUNDLE_ORDER",
    "FORMATS",
    "MAX_PIXELS",
    "Embeddings",
    "Image",
    "ImageFolder",
    "Message",
    "Part",
    "Quarantine",
    "Role",
    "Sample",
    "TaskDataset",
    "TaskStream",
    "apart",
    "encode_png",
    "group_of",
    "load_image",
    "load_stream",
    "read_embeddings",
    "read_hf",
    "read_jsonl",
    "read_llava",
    "read_parquet",
    "resolve_under",
    "split_by_group",
    "split_pretraining",
    "unit_hash",
]
