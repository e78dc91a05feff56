"""The progress bar: on stderr, with items per second, and silent when told so."""

from __future__ import annotations

import pytest

import adaptinf.progress as bars
from adaptinf.progress import progress


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "LOG_INTERVAL", 0.0)


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_shown_on_stderr_unless_switched_off(
    wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTINF_PROGRESS", wanted)
    assert list(progress(range(4), "reading", unit="line")) == [0, 1, 2, 3]
    said = capsys.readouterr()
    assert said.out == ""
    assert ("reading" in said.err and "line" in said.err) == (wanted == "1")


def test_advanced_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ADAPTINF_PROGRESS", "1")
    with progress(description="training", total=10) as bar:
        bar.update(4)
        bar.refresh()
        assert bar.n == 4
    assert "4/10" in capsys.readouterr().err


def test_a_log_file_gets_no_bars_of_quick_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTINF_PROGRESS", "1")
    monkeypatch.setattr(bars, "LOG_INTERVAL", 10.0)
    for _ in progress(range(3), "outer"):
        list(progress(range(3), "inner"))
    assert capsys.readouterr().err == ""
