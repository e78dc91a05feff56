"""What is measured: a case is one piece of work, and its contenders are the ways of doing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Outputs = Mapping[str, Tensor]
Scale = Literal["full", "tiny"]
Suite = Literal["cpu", "gpu"]


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why and is reported."""


@dataclass(frozen=True)
class Setting:
    """Which variant of the cases is built, and where.

    ``suite`` chooses shapes and dtypes, ``scale`` "tiny" shrinks them so that every line of the suite runs in seconds
    on any machine; ``device`` is where the work is done (the dry run of the GPU suite is tiny and on the CPU).
    """

    suite: Suite
    scale: Scale
    device: torch.device

    @property
    def tiny(self) -> bool:
        return self.scale == "tiny"

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations, unless a case says otherwise."""
        return torch.bfloat16 if self.suite == "gpu" else torch.float32


@dataclass(frozen=True)
class Verdict:
    """``error`` against ``tolerance``, both in the gate's own unit; ``what`` names the worst output."""

    passed: bool
    error: float
    tolerance: float
    what: str


class Gate(Protocol):
    """Decides whether outputs are right. Nothing is timed before its gate passed."""

    def check(self, outputs: Outputs) -> Verdict: ...


@dataclass(frozen=True)
class Cost:
    """The least work of a contender by counting: operations, and bytes that must cross to or from memory.

    Every input is read once and every result written once; ``dtype`` is that of the matrix unit the operations run on.
    """

    flops: float
    bytes: float
    dtype: str = "float32"


@dataclass(frozen=True)
class Contender:
    """One way of doing a case's work.

    ``prepare`` imports and builds what is needed, untimed, and returns the function that is timed. It raises
    UnavailableError (or NotSupportedError of the kernels) where it cannot run. ``outputs`` turns what the timed
    function returns into what ``gate`` reads, untimed. ``graph``: a CUDA graph of it is tried.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    gate: Gate
    outputs: Callable[[Any], Outputs] = lambda value: {"value": value}
    ours: bool = False
    cost: Cost | None = None
    graph: bool = False


@dataclass(frozen=True)
class Workload:
    """A case with its inputs made; ``samples``: how many a call works through, for a rate in the report."""

    shape: dict[str, Any]
    contenders: tuple[Contender, ...]
    samples: int | None = None


@dataclass(frozen=True)
class Case:
    """``baseline`` names the contender that the others are divided by; ``footprints`` those whose memory is taken.

    A GPU with little time runs the cases of low ``rank`` first.
    """

    name: str
    build: Callable[[Setting], Workload]
    baseline: str
    rank: int
    suites: tuple[Suite, ...] = ("cpu", "gpu")
    footprints: tuple[str, ...] = field(default=())
