"""The choice of an implementation, and what the folder of an op holds."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType

import adaptinf_kernels
import pytest
from adaptinf_kernels import NotSupportedError
from adaptinf_kernels import _dispatch as dispatch

OPS = (
    "philox",
    "signs",
    "project",
    "grad_gram",
    "grad_sketch_linear",
    "grad_sketch_lora",
    "grad_sketch_embedding",
    "grad_sketch_vector",
    "token_scores",
    "kmeans",
    "semdedup",
    "attention",
    "rms_norm",
    "swiglu",
    "rotary",
)
PACKAGE = Path(adaptinf_kernels.__file__).parent


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> dispatch.Op:
    """An op whose native part takes only small numbers, and whose Triton part is never ready."""

    def implementation(name: str, reasons) -> None:
        module = ModuleType(f"adaptinf_kernels.made_up.{name}")
        module.run = lambda number: f"{name} {number}"  # type: ignore[attr-defined]
        module.not_supported_reasons = reasons  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    monkeypatch.setitem(sys.modules, "adaptinf_kernels.made_up", ModuleType("adaptinf_kernels.made_up"))
    implementation("triton", lambda number: ["there is no GPU", "triton is not installed"])
    implementation("native", lambda number: [] if number < 10 else [f"{number} is too large"])
    implementation("reference", lambda number: [])
    return dispatch.Op("made_up", "triton", "native", "reference")


def test_auto_takes_the_best_that_can_run(op: dispatch.Op) -> None:
    assert op("auto", 3) == "native 3"
    assert op("auto", 30) == "reference 30"


def test_auto_says_what_it_took_once(op: dispatch.Op, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="adaptinf_kernels")
    for number in (1, 2, 30, 40):
        op("auto", number)
    assert [record.message for record in caplog.records] == [
        "made_up: runs native; not triton (there is no GPU, triton is not installed)",
        "made_up: runs reference; not triton (there is no GPU, triton is not installed); not native (30 is too large)",
    ]


def test_an_explicit_choice_never_falls_back(op: dispatch.Op) -> None:
    assert op("reference", 3) == "reference 3"
    with pytest.raises(NotSupportedError) as caught:
        op("triton", 3)
    assert caught.value.reasons == ["there is no GPU", "triton is not installed"]
    assert "there is no GPU" in str(caught.value)
    assert "triton is not installed" in str(caught.value)
    with pytest.raises(NotSupportedError, match="30 is too large"):
        op("native", 30)


def test_where_nothing_can_run(op: dispatch.Op) -> None:
    with pytest.raises(NotSupportedError, match="nothing can run"):
        dispatch.Op("made_up", "triton", "native")("auto", 30)
    with pytest.raises(ValueError, match="choose from auto"):
        op("cuda", 1)


@pytest.mark.parametrize("name", OPS)
def test_anatomy_of_an_op(name: str) -> None:
    folder = PACKAGE / name
    for part in ("__init__.py", "api.py", "reference.py", "README.md"):
        assert (folder / part).exists(), part
    for implementation in ("native", "triton"):
        if (folder / f"{implementation}.py").exists():
            assert "reference" not in (folder / f"{implementation}.py").read_text().replace("not_supported_reasons", "")


@pytest.mark.parametrize("name", OPS)
def test_an_op_tries_all_its_implementations_best_first(name: str) -> None:
    """What lies in the folder is registered: Triton, then native, then the reference, which runs everywhere."""
    homes = [importlib.import_module(f"adaptinf_kernels.{name}.api")]
    if (PACKAGE / name / "ops.py").exists():
        homes.append(importlib.import_module(f"adaptinf_kernels.{name}.ops"))
    registered = {value.implementations for home in homes for value in vars(home).values() if is_op_of(value, name)}
    present = tuple(impl for impl in ("triton", "native", "reference") if (PACKAGE / name / f"{impl}.py").exists())
    assert registered == {present}


def is_op_of(value: object, folder: str) -> bool:
    return isinstance(value, dispatch.Op) and value.folder == folder


def test_op_folders_are_all_here() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/reference.py")} == set(OPS)


def test_public_names_stay_functions_beside_folders_of_their_name() -> None:
    for name in set(OPS) & set(adaptinf_kernels.__all__):
        assert isinstance(importlib.import_module(f"adaptinf_kernels.{name}"), ModuleType)
        assert callable(getattr(adaptinf_kernels, name))
    for name in adaptinf_kernels.__all__:
        assert name in dir(adaptinf_kernels)
        assert getattr(adaptinf_kernels, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        adaptinf_kernels.no_such_name  # noqa: B018
