"""Coverage is measured of adaptinf, which the kernels never import: their tests, and the processes that those start,
run without its tracer, which makes interpreted kernels take twice as long."""

from __future__ import annotations

from collections.abc import Generator

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        return (yield)
