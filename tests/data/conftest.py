"""A data folder."""

from __future__ import annotations

import pytest

from .reading import PNGS


@pytest.fixture
def root(tmp_path):
    for index, data in enumerate(PNGS):
        (tmp_path / f"{index}.png").write_bytes(data)
    return tmp_path
