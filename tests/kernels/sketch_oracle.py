"""The sketches from their definition, and the comparison of an op with them.

Written from ``sketch/README.md`` with NumPy integers, and nothing of ``adaptinf_kernels`` but its public names:
``check(problem, sketch, impl)`` holds every implementation of every op against the same matrices. The inputs are in
``sketch_cases.py``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from adaptinf_kernels import GradSketch, NotSupportedError, Preconditioner, Sketch
from scipy import sparse
from torch import Tensor

EPS32 = torch.finfo(torch.float32).eps


# The matrices

_M0, _M1, _W0, _W1, _WORD = (np.uint64(n) for n in (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 0xFFFFFFFF))
_32 = np.uint64(32)


def key_of(sketch: Sketch, name: str) -> int:
    """BLAKE2b-64 of seed and name."""
    digest = hashlib.blake2b(digest_size=8, person=b"adaptinf-sketch1")
    digest.update(sketch.seed.to_bytes(8, "little"))
    digest.update(name.encode())
    return int.from_bytes(digest.digest(), "little")


def words(key: int, n: Any, a: Any, b: Any) -> np.ndarray:
    """uint64 [..., 4]: Philox4x32-10 of counter (n mod 2^32, n div 2^32, a, b)."""
    n, a, b = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, dtype=np.uint64)) for value in (n, a, b)))
    c0, c1, c2, c3 = n & _WORD, n >> _32, a, b
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _WORD, (p0 >> _32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return np.stack([c0, c1, c2, c3], axis=-1)


def sign_matrix(key: int, domain: int, rows: int, columns: int) -> np.ndarray:
    """float64 [rows, columns]: -1 where bit ``j mod 32`` of word ``j mod 128 div 32`` of block ``j div 128`` is set."""
    blocks = words(key, np.arange(-(-columns // 128))[None, :], np.arange(rows)[:, None], domain)
    bits = np.unpackbits(blocks.astype("<u4").view(np.uint8), axis=-1, bitorder="little")
    return 1.0 - 2.0 * bits.reshape(rows, -1)[:, :columns]


@functools.lru_cache(maxsize=4)
def matrix(sketch: Sketch, name: str, shape: tuple[int, int]) -> Any:
    """S [k, d_out d_in] in float64; sparse for sjlt and xorts."""
    make = {"rademacher": _rademacher, "sjlt": _sjlt, "xorts": _xorts, "kron": _kron}[sketch.kind]
    return make(sketch, key_of(sketch, name), *shape)


def dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else matrix


def nearest_factors(product: int) -> tuple[int, int]:
    small = max(p for p in range(1, math.isqrt(product) + 1) if product % p == 0)
    return small, product // small


def _rademacher(sketch: Sketch, key: int, d_out: int, d_in: int) -> np.ndarray:
    return sign_matrix(key, 0, sketch.k, d_out * d_in) / math.sqrt(sketch.k)


def _kron(sketch: Sketch, key: int, d_out: int, d_in: int) -> np.ndarray:
    p_out, p_in = nearest_factors(sketch.k)
    return np.kron(sign_matrix(key, 3, p_out, d_out), sign_matrix(key, 4, p_in, d_in)) / math.sqrt(sketch.k)


def _sjlt(sketch: Sketch, key: int, d_out: int, d_in: int) -> sparse.csr_array:
    s = sketch.nonzeros
    p, q = nearest_factors(sketch.k // s)
    r, c = np.arange(d_out, dtype=np.uint64)[:, None], np.arange(d_in, dtype=np.uint64)[None, :]
    p, q = np.uint64(p), np.uint64(q)
    total = sparse.csr_array((sketch.k, d_out * d_in))
    for t in range(s):
        word = words(key, c // q, r // p, 256 + t)
        a, b = word[..., 0] * p >> _32, word[..., 1] * q >> _32
        row = np.uint64(t) * p * q + ((r + a) % p) * q + (c + b) % q
        total += _scatter(row, sign_matrix(key, 512 + t, d_out, d_in), sketch.k)
    return total / math.sqrt(s)


def _xorts(sketch: Sketch, key: int, d_out: int, d_in: int) -> sparse.csr_array:
    total = sparse.csr_array((sketch.k, d_out * d_in))
    for rho in range(sketch.repetitions):
        (h, a), (h_in, a_in) = (_side(key, sketch.k, rho, side, size) for side, size in ((0, d_out), (1, d_in)))
        total += _scatter(h[:, None] ^ h_in[None, :], a[:, None] * a_in[None, :], sketch.k)
    return total / math.sqrt(sketch.repetitions)


def _side(key: int, k: int, rho: int, side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Buckets and signs of the row ids (side 0) or column ids (side 1) of one repetition of xorts."""
    bucket, sign = [], []
    for first in range(0, size, k):
        word = words(key, np.arange(first, first + k), 2 * rho + side, 2)
        by_word = sorted(range(k), key=lambda i: (int(word[i, 0]), i))
        rank = {i: place for place, i in enumerate(by_word)}
        bucket += [rank[i] for i in range(k)]
        sign += [-1.0 if int(word[i, 1]) & 1 else 1.0 for i in range(k)]
    return np.array(bucket[:size], dtype=np.int64), np.array(sign[:size])


def _scatter(row: np.ndarray, sign: np.ndarray, k: int) -> sparse.csr_array:
    place = (row.astype(np.int64).ravel(), np.arange(row.size))
    return sparse.csr_array(sparse.coo_array((sign.ravel(), place), shape=(k, row.size)))


@contextlib.contextmanager
def skip_unsupported() -> Iterator[None]:
    """Skips the test, with the reasons, where an implementation cannot run on these inputs."""
    try:
        yield
    except NotSupportedError as refusal:
        pytest.skip("; ".join(refusal.reasons))


# Exact gradients


@dataclass(frozen=True)
class Problem:
    """Samples and an op to call on them: ``tokens`` are the op's tensors with one row a token, ``call`` is the op with
    everything else in place, ``gradients`` maps the tokens of one sample to {parameter: its gradient}."""

    op: str
    lengths: Sequence[int]
    tokens: Mapping[str, Tensor]
    call: Callable[..., Any]
    gradients: Callable[..., dict[str, Tensor]]
    preconditioners: Mapping[str, Preconditioner] = field(default_factory=dict)

    def run(self, sketch: Sketch, impl: str, **options: Any) -> GradSketch:
        """The op by ``impl``; a test is skipped, with the reasons, where that cannot run on these inputs."""
        device = next(iter(self.tokens.values())).device
        bounds = torch.tensor([0, *np.cumsum(self.lengths, dtype=np.int64)], dtype=torch.int32, device=device)
        with skip_unsupported():
            return self.call(**self.tokens, cu_seqlens=bounds, sketch=sketch, impl=impl, **options)

    def only(self, order: Sequence[int]) -> Problem:
        """These samples, in this order."""
        starts = [0, *np.cumsum(self.lengths).tolist()]
        rows = torch.tensor([t for i in order for t in range(starts[i], starts[i + 1])], dtype=torch.int64)
        tokens = {name: tensor[rows.to(tensor.device)] for name, tensor in self.tokens.items()}
        return replace(self, lengths=[self.lengths[i] for i in order], tokens=tokens)

    def cast(self, dtype: torch.dtype) -> Problem:
        """With floating-point tokens of another dtype."""
        return replace(self, tokens={n: t.to(dtype) if t.is_floating_point() else t for n, t in self.tokens.items()})

    def to(self, device: str) -> Problem:
        """With the tokens on a device; an op's other tensors follow its tokens."""
        return replace(self, tokens={name: tensor.to(device) for name, tensor in self.tokens.items()})

    def samples(self, dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
        """The tokens of each sample, on the CPU, in ``dtype``."""
        starts = [0, *np.cumsum(self.lengths).tolist()]
        for start, stop in itertools.pairwise(starts):
            parts = {name: tensor[start:stop].cpu() for name, tensor in self.tokens.items()}
            yield {name: part.to(dtype) if part.is_floating_point() else part for name, part in parts.items()}

    def exact(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Per parameter the samples' gradients [B, d_out, d_in], after the preconditioner, computed in ``dtype``."""
        rows = [self._directions(sample) for sample in self.samples(dtype)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def _directions(self, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
        empty = not len(next(iter(sample.values())))
        return {
            name: direction(None if empty else self.preconditioners.get(name), gradient)
            for name, gradient in self.gradients(**sample).items()
        }

    def magnitudes(self) -> dict[str, Tensor]:
        """[B] per parameter: the sum over a sample's tokens of their gradients' norms, through the preconditioner."""
        found: dict[str, list[Tensor]] = {}
        for sample in self.samples(torch.float64):
            whole = self.gradients(**sample)
            sums = {name: torch.zeros((), dtype=torch.float64) for name in whole}
            for t in range(len(next(iter(sample.values())))):
                for name, one in self.gradients(**{n: tensor[t : t + 1] for n, tensor in sample.items()}).items():
                    sums[name] = sums[name] + one.norm()
            for name, gradient in whole.items():
                if name in self.preconditioners:
                    at = gradient.clone().requires_grad_()
                    value = direction(self.preconditioners[name], at)
                    slope = torch.autograd.grad(value.sum(), at)[0].abs().max()
                    sums[name] = sums[name] * slope + value.norm().detach()
                found.setdefault(name, []).append(sums[name])
        return {name: torch.stack(values) for name, values in found.items()}


def direction(preconditioner: Preconditioner | None, gradient: Tensor) -> Tensor:
    """The formulas of the docstring, term by term, in the gradient's dtype."""
    if preconditioner is None:
        return gradient
    form, second = preconditioner.form, preconditioner.second.cpu().to(gradient.dtype)
    if form == "diagonal":
        return second * gradient
    assert preconditioner.first is not None
    b1, b2, eps, n = preconditioner.beta1, preconditioner.beta2, preconditioner.eps, preconditioner.step
    m = b1 * preconditioner.first.cpu().to(gradient.dtype) + (1 - b1) * gradient
    v = b2 * second + (1 - b2) * gradient * gradient
    if form == "less":
        return m / torch.sqrt(v + eps)
    return (m / (1 - b1**n)) / (torch.sqrt(v / (1 - b2**n)) + eps)


def check(problem: Problem, sketch: Sketch, impl: str) -> GradSketch:
    """Sketch and norms equal those of the exact gradients, within twice the error of an independent float32 computation
    (the gradient, then its product with the matrix) and four roundings of the terms that are summed, for xorts once
    more in each stage of the transforms."""
    stages = math.log2(sketch.k) if sketch.kind == "xorts" else 0
    samples = len(problem.lengths)
    exact, rough, slack = np.zeros((samples, sketch.k)), np.zeros((samples, sketch.k)), np.zeros((samples, sketch.k))
    squares, rough_squares, slack_squares = np.zeros(samples), np.zeros(samples), np.zeros(samples)
    wide, narrow, magnitudes = problem.exact(), problem.exact(torch.float32), problem.magnitudes()
    for name, gradients in wide.items():
        S = matrix(sketch, name, (gradients.shape[1], gradients.shape[2]))
        exact += (S @ gradients.flatten(1).numpy().T).T
        rough += (S.astype(np.float32) @ narrow[name].flatten(1).numpy().T).T.astype(np.float64)
        squared_entries = S.multiply(S) if sparse.issparse(S) else S * S
        magnitude, norms = magnitudes[name].numpy(), gradients.flatten(1).norm(dim=1).numpy()
        rows = np.sqrt(np.asarray(squared_entries.sum(axis=1))).reshape(1, -1)
        slack += (rows + stages) * magnitude[:, None]
        squares += norms**2
        rough_squares += narrow[name].flatten(1).square().sum(1).double().numpy()
        slack_squares += norms * (magnitude + norms)
    found = problem.run(sketch, impl, return_norms=True)
    assert found.sketch.dtype == torch.float32
    assert found.sketch.shape == (samples, sketch.k)
    near(found.sketch, exact, 2 * np.abs(rough - exact).max(1, keepdims=True, initial=0) + 4 * EPS32 * slack)
    if found.squared_norms is not None:
        assert found.squared_norms.dtype == torch.float32
        near(found.squared_norms, squares, 2 * np.abs(rough_squares - squares) + 4 * EPS32 * slack_squares)
    return found


def near(found: Tensor, exact: np.ndarray, bound: np.ndarray) -> None:
    """Every number within its own bound."""
    assert found.shape == exact.shape
    error = np.abs(found.cpu().double().numpy() - exact)
    assert (error <= bound + 1e-35).all(), f"off by {error.max()}, {(error - bound).max()} too much"
