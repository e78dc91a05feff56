"""Durable, identified artefacts: a directory is visible only when it is complete and hashed."""

from __future__ import annotations

from adaptinf.store.artefact import create, is_complete, manifest, remove_partial, verify
from adaptinf.store.io import (
    digest,
    read_json,
    read_table,
    read_tensors,
    replace_file,
    write_json,
    write_table,
    write_tensors,
)
from adaptinf.store.publish import publish

__all__ = [
    "create",
    "digest",
    "is_complete",
    "manifest",
    "publish",
    "read_json",
    "read_table",
    "read_tensors",
    "remove_partial",
    "replace_file",
    "verify",
    "write_json",
    "write_table",
    "write_tensors",
]
