"""The gates: an implementation whose output is wrong gets no time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from benchmarks.case import Outputs, Verdict


class Close:
    """Close to ``expected`` (higher precision): the error is at most twice that of ``rough``, plus one rounding.

    ``rough`` is an independent computation in the contender's own precision, so the tolerance is computed, not chosen.
    The error of a matrix is its worst row's ``|out - expected| / |expected|``, that of a vector is taken whole. Every
    name of ``required`` must be among the outputs. Both references are computed when first needed.
    """

    def __init__(
        self,
        expected: Callable[[], Outputs],
        rough: Callable[[], Outputs],
        *,
        required: Iterable[str],
        rounding: torch.dtype = torch.float32,
    ) -> None:
        self._expected, self._rough = functools.cache(expected), functools.cache(rough)
        self._required, self._rounding = tuple(required), torch.finfo(rounding).eps

    def check(self, outputs: Outputs) -> Verdict:
        missing = [name for name in self._required if name not in outputs]
        if missing:
            return Verdict(False, math.inf, 0.0, f"{', '.join(missing)}: missing")
        worst = Verdict(True, 0.0, 0.0, "")
        for name in self._required:
            expected = self._expected()[name]
            if outputs[name].shape != expected.shape:
                shapes = f"{list(outputs[name].shape)} for {list(expected.shape)}"
                return Verdict(False, math.inf, 0.0, f"{name}: {shapes}")
            error = relative_error(outputs[name], expected)
            tolerance = 2 * relative_error(self._rough()[name], expected) + self._rounding
            verdict = Verdict(error <= tolerance, error, tolerance, name)
            if not worst.what or _excess(verdict) > _excess(worst):
                worst = verdict
        return worst


class Equal:
    """The same bits as ``expected``."""

    def __init__(self, expected: Callable[[], Outputs]) -> None:
        self._expected = functools.cache(expected)

    def check(self, outputs: Outputs) -> Verdict:
        for name, value in self._expected().items():
            same = name in outputs and torch.equal(outputs[name].cpu(), value.cpu())
            if not same:
                return Verdict(False, math.inf, 0.0, name)
        return Verdict(True, 0.0, 0.0, ", ".join(self._expected()))


class Unbiased:
    """Inner products of the sketches estimate those of the gradients, as a Johnson-Lindenstrauss projection's must.

    For peers that draw a random matrix of their own; ``gram`` are the gradients' inner products, ``scale`` what the
    sketches are multiplied by. The error is the largest deviation over all pairs of samples in
    units of a dense sign matrix's standard deviation ``sqrt((|u|^2 |v|^2 + <u, v>^2) / k)``; a sketch of zeros deviates
    by ``sqrt(k / 2)``, which must stay above the tolerance of 6: k > 72.
    """

    def __init__(self, gram: Callable[[], Tensor], *, scale: float = 1.0) -> None:
        self._gram, self._scale = functools.cache(gram), scale

    def check(self, outputs: Outputs) -> Verdict:
        sketches = outputs["features"].double() * self._scale
        exact = self._gram()
        found = (sketches @ sketches.T).to(exact.device)
        if found.shape != exact.shape:
            return Verdict(False, math.inf, 6.0, f"features: {list(sketches.shape)}")
        squares = exact.diagonal()
        deviation = ((squares[:, None] * squares + exact**2) / sketches.shape[1]).sqrt()
        error = float(((found - exact).abs() / deviation).max())
        return Verdict(error <= 6.0, error, 6.0, "inner products")


def gram(gradients: Iterable[Tensor]) -> Tensor:
    """Inner products [B, B] in float64 of per-sample gradients, given parameter by parameter, [B, ...] each."""
    parts = (gradient.flatten(1).double() for gradient in gradients)
    return torch.stack([part @ part.T for part in parts]).sum(0)


def relative_error(value: Tensor, expected: Tensor) -> float:
    """See :class:`Close`; infinite where a number is not finite although it should be."""
    value, expected = value.detach().to(expected.device, torch.float64), expected.detach().double()
    if value.dim() < 2:
        value, expected = value.reshape(1, -1), expected.reshape(1, -1)
    difference = (value - expected).flatten(1).norm(dim=1)
    size = expected.flatten(1).norm(dim=1)
    error = torch.where(difference == 0, 0.0, difference / size)  # 0 / 0: an empty sample
    if not bool(error.isfinite().all()):
        return math.inf
    return float(error.max()) if error.numel() else 0.0


def _excess(verdict: Verdict) -> float:
    return verdict.error / verdict.tolerance if verdict.tolerance else math.inf
