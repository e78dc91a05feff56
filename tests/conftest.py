"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch or transformers; `make test` sets the same.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ADAPTINF_PROGRESS", "0")
os.environ["HF_HUB_OFFLINE"] = "1"

# No deadlines: how long an example takes says something about the machine. Examples repeat from run to run, so that a
# red run can be repeated; `pytest --hypothesis-profile explore` looks for new ones.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("repeat")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The bundle of real data: ``$ADAPTINF_SHARED_DATA``, else ``../shared/data`` beside the repository."""
    place = Path(os.environ.get("ADAPTINF_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (place / "instruct").is_dir():
        pytest.skip(f"no data bundle at {place}; set ADAPTINF_SHARED_DATA to its folder")
    return place
