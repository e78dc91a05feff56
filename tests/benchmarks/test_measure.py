"""Nothing is timed that is wrong; what cannot take part is reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from adaptinf_kernels import NotSupportedError

from benchmarks import measure as measuring
from benchmarks.case import Case, Contender, Setting, UnavailableError
from benchmarks.cases import CASES, grad_sketch, project
from benchmarks.measure import footprint, measure
from benchmarks.results import CaseResult


def run(case: Case, setting: Setting, **more) -> CaseResult:
    return measure(case, setting, rounds=3, seconds=5, **more)


def test_right_ones_are_timed_and_counted(make_case: Callable[..., Case], setting: Setting) -> None:
    result = run(make_case(torch.mm, peer=torch.mm), setting, peaks={"copy": 1e10, "float32": 1e11})
    assert [one.status for one in result.measurements] == ["timed", "timed"]
    ours = result.measurements[0]
    assert ours.times is not None
    assert ours.times["minimum"] <= ours.times["q25"] <= ours.times["median"] <= ours.times["q75"]
    assert ours.flops == 48_000
    assert ours.bytes == 4 * (600 + 1200 + 800)
    floor = max(48_000 / 1e11, 10_400 / 1e10)
    assert ours.roofline == pytest.approx(floor / ours.times["median"])
    assert ours.bandwidth == pytest.approx(1.04e-6 / ours.times["median"])
    assert result.measurements[1].roofline is None  # counts nothing


def test_a_wrong_implementation_gets_no_time(make_case: Callable[..., Case], setting: Setting) -> None:
    calls = []

    def wrong(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return (a @ b) * 1.001

    ours, peer = run(make_case(wrong, peer=torch.mm), setting).measurements
    assert ours.status == "wrong"
    assert ours.times is None
    assert "exceeds" in ours.reason
    assert calls == [1]  # the gate's call alone
    assert peer.status == "timed"


def test_what_raises_or_cannot_run_is_reported(make_case: Callable[..., Case], setting: Setting) -> None:
    def fails(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("an unexpected\n end")

    def absent(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise UnavailableError("not installed")

    def unsupported(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise NotSupportedError("cannot", ["no GPU"])

    result = run(make_case(torch.mm, fails=fails, absent=absent, unsupported=unsupported), setting)
    assert [(one.contender, one.status) for one in result.measurements] == [
        ("ours", "timed"),
        ("fails", "failed"),
        ("absent", "unavailable"),
        ("unsupported", "unavailable"),
    ]
    reasons = {one.contender: one.reason for one in result.measurements}
    assert reasons["fails"] == "RuntimeError: an unexpected end"
    assert reasons["absent"] == "not installed"
    assert "no GPU" in reasons["unsupported"]


def test_a_defect_of_the_suite_is_not_swallowed(make_case: Callable[..., Case], setting: Setting) -> None:
    case = make_case(torch.mm)
    with pytest.raises(ValueError, match="baseline"):
        run(Case("product", case.build, "no such contender", 0), setting)


@pytest.mark.parametrize("spoiled", ["entry", "scale", "sample"])
def test_a_wrong_kernel_of_ours_is_caught(monkeypatch: pytest.MonkeyPatch, setting: Setting, spoiled: str) -> None:
    """The real case with our own op made slightly wrong where it is timed, not where it is the reference."""
    right = grad_sketch.grad_sketch_linear

    def wrong(*arguments, **more):
        found = right(*arguments, **more)
        z = found.sketch.clone()
        if spoiled == "entry":
            z[1, 3] += 1e-4 * z[1].norm()
        elif spoiled == "scale":
            z *= 1 + 1e-4
        else:
            z[[0, 1]] = z[[1, 0]]
        return found._replace(sketch=z)

    monkeypatch.setattr(grad_sketch, "grad_sketch_linear", wrong)
    case = next(case for case in CASES if case.name == "grad-sketch-576x576")
    found = [one for one in run(case, setting).measurements if one.ours and one.status != "unavailable"]
    assert found
    assert {one.status for one in found} == {"wrong"}


def test_a_wrong_peer_is_caught(monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    """What users of a peer met: all features zero."""
    monkeypatch.setattr(project.peers, "trak_basic", lambda columns, k, device, g: lambda: torch.zeros(len(g), k))
    case = next(case for case in CASES if case.name == "project-rademacher")
    assert run(case, setting).find("trak BasicProjector").status == "wrong"


def test_footprint_sees_what_a_call_allocates(make_case: Callable[..., Case], setting: Setting) -> None:
    size = 64 << 20

    def hungry(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        torch.ones(size, dtype=torch.int8)
        return a @ b

    assert size * 0.9 < footprint(make_case(hungry), setting, "ours") < size * 1.5
    assert footprint(make_case(torch.mm), setting, "ours") < size * 0.1


@pytest.mark.parametrize("suite", ["cpu", "gpu"])
def test_cases_have_names_of_their_own_and_their_baselines(suite: str) -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        if suite in case.suites:
            workload = case.build(Setting(suite, "tiny", torch.device("cpu")))
            contenders = [one.name for one in workload.contenders]
            measuring._check_names(case, workload)
            assert any(one.ours for one in workload.contenders)
            assert set(case.footprints) <= set(contenders)
            assert all(isinstance(one, Contender) for one in workload.contenders)
