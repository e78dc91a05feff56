"""Rounds, medians and the clock."""

from __future__ import annotations

import gc

import pytest

from benchmarks import timing
from benchmarks.timing import LEAST_ROUNDS, CpuClock, Times, interleave


def test_quartiles_against_hand_computed_ones() -> None:
    times = Times.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (times.minimum, times.q25, times.median, times.q75, times.rounds) == (1, 2, 3, 4, 5)
    assert Times.of([7.0]) == Times(7, 7, 7, 7, 1)
    assert Times.of([1.0, 2.0]).median == 1.5
    with pytest.raises(ValueError, match="no sample"):
        Times.of([])


def test_every_round_has_everyone_once_in_changing_order() -> None:
    seen: list[str] = []
    samplers = {name: lambda name=name: seen.append(name) or 0.001 for name in "abc"}
    taken = interleave(samplers, rounds=40, seconds=1e9)
    assert {name: len(values) for name, values in taken.items()} == dict.fromkeys("abc", 40)
    rounds = [tuple(seen[i : i + 3]) for i in range(0, 120, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6
    again: list[str] = []
    interleave({name: lambda name=name: again.append(name) or 0.0 for name in "abc"}, rounds=40, seconds=1e9)
    assert again == seen


def test_a_slow_one_rests_after_the_least_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def take(seconds: float) -> float:
        now[0] += seconds
        return seconds

    taken = interleave({"slow": lambda: take(30.0), "fast": lambda: take(0.1)}, rounds=20, seconds=60.0)
    assert len(taken["slow"]) == LEAST_ROUNDS
    assert len(taken["fast"]) == 20


def test_cpu_samples_are_seconds_of_one_call_and_short_functions_are_called_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, collecting = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run() -> None:
        collecting.append(gc.isenabled())
        now[0] += 0.001

    sample, note = CpuClock().sampler(run, first=0.9, graph=False)
    collecting.clear()
    assert sample() == pytest.approx(0.001)
    assert len(collecting) == round(timing.LEAST_SAMPLE / 0.001)
    assert not any(collecting)
    assert gc.isenabled()
    assert note == ""


def test_a_long_first_call_is_not_repeated_to_calibrate() -> None:
    def run() -> None:
        raise AssertionError("called")

    CpuClock().sampler(run, first=2.0, graph=False)


def test_the_collector_is_back_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        CpuClock().sampler(fail, first=0.1, graph=False)
    assert gc.isenabled()
