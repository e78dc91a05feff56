"""Every op of ``adaptinf_kernels`` run on a few numbers by each of its implementations."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Impl = Literal["native", "triton", "reference"]
IMPLEMENTATIONS: tuple[Impl, ...] = ("native", "triton", "reference")


def probe_ops(device: torch.device) -> Iterator[tuple[str, str, str]]:
    """(op, implementation, why it cannot run on ``device``, or ""), for the implementations that an op has."""
    for folder, call in _calls(device).items():
        for impl in IMPLEMENTATIONS:
            if importlib.util.find_spec(f"adaptinf_kernels.{folder}.{impl}") is not None:
                yield folder, impl, _reason(call, impl)


def _reason(call: Callable[[Impl], Any], impl: Impl) -> str:
    from adaptinf_kernels import NotSupportedError

    try:
        call(impl)
    except NotSupportedError as error:
        return "; ".join(error.reasons)
    except Exception as error:  # noqa: BLE001 - an implementation that breaks is the finding
        return f"{type(error).__name__}: {error}"
    return ""


def _calls(device: torch.device) -> dict[str, Callable[[Impl], Any]]:
    """Folder of the op -> a call by ``impl``; nothing of an op is imported before its call."""
    import adaptinf_kernels as kernels
    import torch

    rows = torch.eye(64, device=device)
    starts = torch.tensor([0, 24, 64], dtype=torch.int32, device=device)
    labels = torch.arange(64, device=device)
    sketch = kernels.Sketch(kind="sjlt", k=64, seed=0)
    samples = {"cu_seqlens": starts, "sketch": sketch}
    return {
        "signs": lambda impl: kernels.signs(0, "probe", 4, 256, device=device, impl=impl),
        "project": lambda impl: kernels.project(rows, sketch, impl=impl),
        "grad_sketch_linear": lambda impl: kernels.grad_sketch_linear(rows, rows, **samples, name="probe", impl=impl),
        "grad_sketch_lora": lambda impl: kernels.grad_sketch_lora(
            rows, rows, rows[:8], rows[:, :8], **samples, names=("probe.A", "probe.B"), scaling=1.0, impl=impl
        ),
        "grad_sketch_embedding": lambda impl: kernels.grad_sketch_embedding(
            labels, rows, **samples, name="probe", vocabulary=64, impl=impl
        ),
        "grad_sketch_vector": lambda impl: kernels.grad_sketch_norm(rows, rows, **samples, name="probe", impl=impl),
        "token_scores": lambda impl: kernels.token_scores(rows, rows, labels, impl=impl),
        "kmeans": lambda impl: kernels.kmeans(rows, 4, seed=0, impl=impl),
        "semdedup": lambda impl: kernels.semdedup(rows, budget=32, impl=impl),
    }
