"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests go to workers one by one, but those of ``TOGETHER`` file by file.

    (`xdist_group` would do, but xdist 3.8 does not see the mark under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if any(place in file for place in TOGETHER) else nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker is left with one at the end while the others wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


REPOSITORY = Path(__file__).resolve().parent.parent
TOGETHER = (
    "kernels/triton/",
    "kernels/test_cuda_kmeans",
    "kernels/test_cuda_python",
    "kernels/test_cuda_semdedup",
    "cli/test_pipeline",
)
"""Files whose tests share what takes long: a process that interprets, a build with sanitizers, the features of a run.
xdist begins with the largest of them."""
UNMEASURED = ("benchmarks", "kernels")
"""Folders whose tests, and the processes that those start, run without the tracer of coverage, which is measured of
adaptinf: the kernels never import it, and interpreted ones would take twice as long."""


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.is_relative_to(REPOSITORY / "tests") and item.path.parts[len(REPOSITORY.parts) + 1] in UNMEASURED:
        item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("no_cover"):
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        return (yield)


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
