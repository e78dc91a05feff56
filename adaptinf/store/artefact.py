"""Artefact directories.

An artefact is written beside its final place, every file is flushed to disk and hashed, ``_SUCCESS`` (the manifest) is
written last, and one rename makes it visible. A directory without ``_SUCCESS`` therefore never stands at its final
place, and a kill at any moment loses at most the artefact being written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptinf.errors import ArtefactError, IdentityError
from adaptinf.store import fault
from adaptinf.store.io import read_json, sync, write_json

SUCCESS = "_SUCCESS"
UNHASHED = frozenset({"timing.json"})
"""Files whose bytes may differ between two runs of one configuration; the manifest leaves them out."""


@contextmanager
def create(path: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Write an artefact: yields the staging directory, commits it on a clean exit, leaves nothing on an exception.

    ``identity`` says what produced it and is kept in the manifest; see :func:`is_complete`.
    """
    staging = _staging(path)
    remove_partial(path)
    staging.mkdir(parents=True)
    name = f"{path.parent.name}/{path.name}"
    fault.point(f"{name}:started")
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fault.point(f"{name}:written")
    files = sorted(file for file in staging.rglob("*") if file.is_file())
    for file in files:
        sync(file)
    hashes = {
        file.relative_to(staging).as_posix(): {"sha256": _sha256(file), "bytes": file.stat().st_size}
        for file in files
        if file.name not in UNHASHED
    }
    write_json(staging / SUCCESS, {"schema": 1, "identity": identity, "files": hashes})
    sync(staging / SUCCESS)
    for folder in (*(folder for folder in staging.rglob("*") if folder.is_dir()), staging):
        sync(folder)
    fault.point(f"{name}:staged")
    os.replace(staging, path)
    sync(path.parent)
    fault.point(f"{name}:committed")


def is_complete(path: Path, identity: dict[str, Any] | None = None) -> bool:
    """Whether the artefact is there. With ``identity``, one that something else produced raises IdentityError."""
    if not (path / SUCCESS).exists():
        return False
    if identity is not None:
        found = manifest(path)["identity"]
        if found != identity:
            differing = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
            raise IdentityError(
                f"was made from other inputs (they differ in: {', '.join(differing)})",
                item=str(path),
                remedy="choose another output directory, or delete this one to compute it anew",
            )
    return True


def manifest(path: Path) -> dict[str, Any]:
    """The content of ``_SUCCESS``: schema, identity, and sha256 and size of every file."""
    return read_json(path / SUCCESS)


def verify(path: Path) -> None:
    """Compare every file with the manifest; ArtefactError names the first that differs."""
    if not is_complete(path):
        raise ArtefactError("is incomplete", item=str(path), remedy="run again: it is computed anew")
    for name, expected in manifest(path)["files"].items():
        file = path / name
        if not file.exists() or file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
            raise ArtefactError(
                "does not match its hash", item=str(file), remedy=f"delete {path} and run again: it is computed anew"
            )


def remove_partial(path: Path) -> None:
    """Clear what a killed process left of an artefact."""
    shutil.rmtree(_staging(path), ignore_errors=True)


def _staging(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
