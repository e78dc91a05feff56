"""Taking times: contenders take turns in random order, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

LEAST_SAMPLE = 0.005
"""Seconds that one CPU sample lasts at least; shorter functions are called several times for one sample."""

LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Times:
    """Seconds of one call."""

    median: float
    q25: float
    q75: float
    minimum: float
    rounds: int

    @classmethod
    def of(cls, samples: list[float]) -> Times:
        if not samples:
            raise ValueError("there is no sample to summarise")
        quartiles = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        return cls(quartiles[1], quartiles[0], quartiles[2], min(samples), len(samples))


class CpuClock:
    """Wall time; the garbage collector waits while a sample is taken."""

    def sampler(self, run: Callable[[], Any], *, first: float, graph: bool) -> tuple[Callable[[], float], str]:
        """A function that takes one sample, and a note for the report. ``first``: seconds of the very first call."""
        # The first call may have been slow for its own reasons; a long one is not repeated to find out.
        once = first if first > 1 else self._sample(run, 1)
        calls = max(1, math.ceil(LEAST_SAMPLE / max(once, 1e-9)))
        return lambda: self._sample(run, calls), ""

    def _sample(self, run: Callable[[], Any], calls: int) -> float:
        collecting = gc.isenabled()
        gc.disable()
        try:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            return (time.perf_counter() - start) / calls
        finally:
            if collecting:
                gc.enable()


class CudaClock:
    """Device time between two events, with a cold L2: a buffer twice as large is overwritten before every sample.

    The overwriting also keeps the device busy while the host enqueues, so that a launch costs what it costs in a
    program that runs ahead of the device.
    """

    def __init__(self, device: torch.device) -> None:
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(size, 1 << 26), dtype=torch.int8, device=device)

    def sampler(self, run: Callable[[], Any], *, first: float, graph: bool) -> tuple[Callable[[], float], str]:
        if not graph:
            return lambda: self._sample(run), ""
        try:
            return self._graphed(run), "graph"
        except RuntimeError as error:
            torch.cuda.synchronize()
            return lambda: self._sample(run), f"no graph: {str(error).strip().splitlines()[0][:160]}"

    def _graphed(self, run: Callable[[], Any]) -> Callable[[], float]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run()
        return lambda: self._sample(captured.replay)

    def _sample(self, run: Callable[[], Any]) -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3


def clock_for(device: torch.device) -> CpuClock | CudaClock:
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def interleave(
    samplers: Mapping[str, Callable[[], float]], *, rounds: int, seconds: float, seed: int = 0
) -> dict[str, list[float]]:
    """Samples of each: in every round each takes one, in a random order.

    One that has used up its ``seconds`` rests after ``LEAST_ROUNDS`` rounds, so that slow peers cost minutes, not
    hours.
    """
    order, taken = random.Random(seed), {name: [] for name in samplers}
    spent = dict.fromkeys(samplers, 0.0)
    for turn in range(rounds):
        names = [name for name in samplers if turn < LEAST_ROUNDS or spent[name] < seconds]
        order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            taken[name].append(samplers[name]())
            spent[name] += time.perf_counter() - start
    return taken
