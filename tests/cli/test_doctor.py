"""What `adaptinf doctor` finds, also on machines unlike this one."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptinf.cli import doctor
from adaptinf.cli.main import main


def test_this_machine_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch", "gpu", "cache", "easy_vqa", "bitsandbytes", "shared memory", "native"):
        assert word in shown
    assert "Traceback" not in shown


def test_a_broken_required_package_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The torchvision of another torch breaks in ways that are no ImportError."""
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name == "peft":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "NO  peft" in shown
    assert "RuntimeError: operator torchvision::nms does not exist; pip install adaptinf" in shown


def test_an_absent_optional_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycountry", None)
    found = {finding.name: finding for finding in doctor.check_optional()}
    assert not found["pycountry"].works
    assert not found["pycountry"].required
    assert "pip install 'adaptinf[demo]'" in found["pycountry"].detail


def test_little_space_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    finding = doctor.check_space("cache", tmp_path / "not" / "yet", 1 << 30, "set ADAPTINF_CACHE")
    assert not finding.works
    assert finding.detail.endswith("; set ADAPTINF_CACHE")


def test_a_cpu_build_of_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    [finding] = doctor.check_gpu()
    assert not finding.works
    assert "build without CUDA" in finding.detail


def test_a_missing_device_is_told_from_a_missing_build(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [finding] = doctor.check_gpu()
    assert "finds no device" in finding.detail
