"""A case whose contenders can be made wrong, slow, absent or broken at will."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.case import Case, Contender, Cost, Setting, Workload
from benchmarks.gate import Close

SETTING = Setting("cpu", "tiny", torch.device("cpu"))


@pytest.fixture
def setting() -> Setting:
    return SETTING


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """``make_case(ours, peer=...)``: a matrix product; each argument is ``(a, b) -> result``."""

    def make(ours: Callable[[Tensor, Tensor], Any], **peers: Callable[[Tensor, Tensor], Any]) -> Case:
        def build(_: Setting) -> Workload:
            generator = torch.Generator().manual_seed(0)
            a, b = torch.randn(20, 30, generator=generator), torch.randn(30, 40, generator=generator)
            gate = Close(
                lambda: {"value": a.double() @ b.double()},
                lambda: {"value": torch.stack([(row[:, None] * b).sum(0) for row in a])},
                required=["value"],
            )
            work = Cost(2.0 * 20 * 30 * 40, 4.0 * (a.numel() + b.numel() + 800))
            contenders = [Contender("ours", lambda: lambda: ours(a, b), gate, ours=True, cost=work)]
            contenders += [Contender(name, lambda f=f: lambda: f(a, b), gate) for name, f in peers.items()]
            return Workload({"n": 20}, tuple(contenders))

        return Case("product", build, "ours", 0)

    return make
