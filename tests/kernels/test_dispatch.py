"""The choice of an implementation, and that each op is a well-behaved PyTorch operator."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType

import adaptinf_kernels
import pytest
import torch
from adaptinf_kernels import NotSupportedError, Sketch, grad_sketch_linear, project, signs, token_scores
from adaptinf_kernels import _dispatch as dispatch

OPS = ("philox", "signs", "project", "grad_gram", "grad_sketch", "token_scores", "kmeans", "semdedup")
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


def test_op_folders_are_all_here() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/reference.py")} == set(OPS)


def test_public_names_stay_functions_beside_folders_of_their_name() -> None:
    import importlib

    for name in ("kmeans", "project", "semdedup", "signs", "token_scores"):
        assert isinstance(importlib.import_module(f"adaptinf_kernels.{name}"), ModuleType)
        assert callable(getattr(adaptinf_kernels, name))
    for name in adaptinf_kernels.__all__:
        assert name in dir(adaptinf_kernels)
        assert getattr(adaptinf_kernels, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        adaptinf_kernels.no_such_name  # noqa: B018


# torch.library: schemas, fakes and full graphs. opcheck does not check numbers, so layouts are permuted here.

SKETCH = Sketch("sjlt", 16)
X, G = torch.randn(5, 9).T, torch.randn(4, 9).T
CU = torch.tensor([0, 3, 3, 9])
LABELS = torch.tensor([0, 1, -100, 2, 3, 0, 1, 2, 3])


def check(name: str, *arguments: object) -> None:
    torch.library.opcheck(getattr(torch.ops.adaptinf_kernels, name).default, arguments)


def test_opcheck() -> None:
    check("signs", 0, "w", 0, 0, 3, 5, 130, torch.device("cpu"), "auto")
    for norms in (False, True):
        check("grad_sketch_linear", X, G, CU, *SKETCH.arguments, "w", norms, "auto")
    check("project", torch.randn(12, 3).T, [3, 4], *Sketch("xorts", 8).arguments, "w", True, "auto")
    for grad in (False, True):
        check("token_scores", X, torch.randn(5, 4).T, LABELS, None, grad, "auto")
        check("token_scores", X, torch.randn(5, 4).T, LABELS, torch.zeros(4), grad, "auto")
    check("token_scores", X.bfloat16(), None, LABELS, None, True, "auto")


@pytest.mark.slow
def test_full_graph() -> None:
    def everything(x: torch.Tensor, g: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z, norms = grad_sketch_linear(x, g, CU, SKETCH, name="w", return_norms=True)
        scores = token_scores(x, weight, LABELS, grad=True)
        assert scores.grad_hidden is not None
        return z + project(g[:3] * 2, SKETCH, name="b"), norms, scores.nll, scores.grad_hidden, signs(0, "w", 2, 3)

    weight = torch.randn(4, 5)
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    for value, expected in zip(compiled(X, G, weight), everything(X, G, weight), strict=True):
        torch.testing.assert_close(value, expected)
