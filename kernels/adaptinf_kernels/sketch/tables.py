"""The entries of a sketch matrix as tables, made from Philox words and kept while they fit.

A *code* in [0, 2k) is a row of the matrix plus k where the entry is negative. Codes of xorts combine by XOR.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from adaptinf_kernels.philox.api import philox
from adaptinf_kernels.signs.ops import OP as SIGNS
from adaptinf_kernels.sketch.definition import Sketch, philox_key
from torch import Tensor

_SIGNS, _XORTS, _KRON_OUT, _KRON_IN, _TILE, _TILE_SIGN = 0, 2, 3, 4, 256, 512
"""The last counter word: what the words are for. The last two are of sjlt, one for each of up to 256 slices."""

_CACHE_BYTES = 256 << 20


class _Cache:
    """Least recently used tables, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._tables: OrderedDict[tuple, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple, make: Callable[[], Tensor]) -> Tensor:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        table = make()
        if table.nbytes <= self.limit:
            with self._lock:
                replaced = self._tables.pop(key, None)
                self.bytes += table.nbytes - (0 if replaced is None else replaced.nbytes)
                self._tables[key] = table
                while self.bytes > self.limit:
                    self.bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


_cache = _Cache(_CACHE_BYTES)


def sjlt_codes(sketch: Sketch, name: str, rows: range, columns: range, device: torch.device) -> Tensor:
    """int64 [s, len(rows) * len(columns)]: the nonzeros of a block of a weight's entries.

    With (p, q) = ``sketch.tile``, entry (r, c) lies in tile (r div p, c div q). Words 0 and 1 of Philox at counter
    ``(c div q, r div p, 256 + t)`` (64 + 32 + 32 bits) rotate that tile in slice t: by ``a = w_0 p >> 32`` rows and
    ``b = w_1 q >> 32`` columns. The entry's row of the sketch matrix is
    ``t p q + ((r + a) mod p) q + (c + b) mod q``, its sign entry (r, c) of the sign matrix of domain ``512 + t``.
    """

    def make() -> Tensor:
        key, (p, q) = philox_key(sketch.seed, name), sketch.tile
        r = torch.arange(rows.start, rows.stop, device=device)[:, None]
        c = torch.arange(columns.start, columns.stop, device=device)[None, :]
        first, count = columns.start // q, (columns.stop - 1) // q - columns.start // q + 1
        codes = torch.empty(sketch.nonzeros, len(rows), len(columns), dtype=torch.int64, device=device)
        for t in range(sketch.nonzeros):
            turns = [
                philox(key, first, count, word2=tile, word3=_TILE + t, device=device)[:, :2]
                for tile in range(rows.start // p, (rows.stop - 1) // p + 1)
            ]
            turn = torch.stack(turns)[r // p - rows.start // p, c // q - first]  # [rows, columns, 2]
            row, column = (r + (turn[..., 0] * p >> 32)) % p, (c + (turn[..., 1] * q >> 32)) % q
            signs = SIGNS("auto", key, _TILE_SIGN + t, rows.start, len(rows), columns.start, len(columns), device)
            codes[t] = t * p * q + row * q + column + sketch.k * (signs < 0)
        return codes.flatten(1)

    return _cache.get((sketch, name, rows, columns, device), make)


def xorts_codes(sketch: Sketch, name: str, side: int, size: int, device: torch.device) -> Tensor:
    """int64 [R, size]: code of every row id (``side`` 0) or column id (``side`` 1) of a weight, per repetition.

    Among each k consecutive ids the buckets are a permutation: an id's bucket is its rank by word 0 of Philox at
    counter ``(id, 2 repetition + side, 2)``, ties by id. The sign is negative where word 1 is odd. Neither depends on
    how many ids the weight has.
    """

    def make() -> Tensor:
        key, k = philox_key(sketch.seed, name), sketch.k
        codes = torch.empty(sketch.repetitions, size, dtype=torch.int64, device=device)
        for repetition in range(sketch.repetitions):
            for first in range(0, size, k):
                words = philox(key, first, k, word2=2 * repetition + side, word3=_XORTS, device=device)
                bucket = torch.empty(k, dtype=torch.int64, device=device)
                bucket[words[:, 0].argsort(stable=True)] = torch.arange(k, device=device)
                code = bucket + k * (words[:, 1] & 1)
                codes[repetition, first : first + k] = code[: size - first]
        return codes

    return _cache.get((sketch, name, side, size, device), make)


def xorts_sources(sketch: Sketch, name: str, side: int, size: int, device: torch.device) -> Tensor:
    """int16 [R, size rounded up to k], k up to 32768: :func:`xorts_codes` turned about, for reading.

    Number ``c k + j`` says what bucket j takes of ids ``c k`` to ``c k + k - 1``: the low 15 bits which of them, the
    highest whether negated.
    """

    def make() -> Tensor:
        k, ids = sketch.k, -(-size // sketch.k) * sketch.k
        codes = xorts_codes(sketch, name, side, ids, device).view(sketch.repetitions, -1, k)
        sources = torch.arange(k, device=device) - 0x8000 * (codes >= k)
        return torch.empty_like(codes).scatter_(2, codes & (k - 1), sources).to(torch.int16).flatten(1)

    return _cache.get(("sources", sketch, name, side, size, device), make)


def rademacher_block(sketch: Sketch, name: str, start: int, stop: int, device: torch.device) -> Tensor:
    """int8 [k, stop - start]: columns start to stop."""
    return _cache.get(
        (sketch, name, start, stop, device),
        lambda: SIGNS("auto", philox_key(sketch.seed, name), _SIGNS, 0, sketch.k, start, stop - start, device),
    )


def kron_factors(sketch: Sketch, name: str, shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """int8 ``P_out`` [p_out, rows of the weight] and ``P_in`` [p_in, its columns]."""
    key = philox_key(sketch.seed, name)

    def factor(domain: int, side: int, size: int) -> Tensor:
        return _cache.get(
            (sketch, name, domain, size, device), lambda: SIGNS("auto", key, domain, 0, side, 0, size, device)
        )

    p_out, p_in = sketch.sides
    return factor(_KRON_OUT, p_out, shape[0]), factor(_KRON_IN, p_in, shape[1])
