"""The choices of a fit, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from adaptinf_kernels._dispatch import Impl
from adaptinf_kernels.kmeans import ops

Init = Literal["k-means++", "k-means||", "random"]
Metric = Literal["euclidean", "cosine"]
Precision = Literal["exact", "fast"]
Stop = Literal["labels", "shift", "inertia"]
Empty = Literal["farthest", "split", "keep", "error"]
NonFinite = Literal["error", "ignore"]


@dataclass(frozen=True)
class Options:
    """What :func:`adaptinf_kernels.kmeans` takes beside the data, with the same meaning."""

    max_iter: int
    tol: float
    stop: Stop
    metric: Metric
    precision: Precision
    empty: Empty
    non_finite: NonFinite
    seed: int
    impl: Impl
    remember: bool = False

    def __post_init__(self) -> None:
        choose("stop", self.stop, Stop)
        choose("metric", self.metric, Metric)
        choose("precision", self.precision, Precision)
        choose("empty", self.empty, Empty)
        choose("non_finite", self.non_finite, NonFinite)
        if self.max_iter < 0 or not self.tol >= 0 or not 0 <= self.seed < 2**64:
            raise ValueError(
                f"max_iter={self.max_iter} and tol={self.tol} must not be negative, seed={self.seed} must have 64 bits"
            )

    @property
    def spherical(self) -> bool:
        return self.metric == "cosine"

    @property
    def fast(self) -> bool:
        return self.precision == "fast"

    @property
    def refill(self) -> ops.Empty:
        """What Lloyd's iteration does; "error" looks at its end."""
        return "keep" if self.empty == "error" else self.empty


def choose(name: str, value: Any, choices: Any) -> None:
    """Raises ValueError where ``value`` is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r}: choose from {', '.join(get_args(choices))}")
