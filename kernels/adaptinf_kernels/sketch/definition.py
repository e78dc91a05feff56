"""The definition of a sketch: which random matrix, of how many rows, from which seed."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["sjlt", "rademacher", "xorts", "kron"]

LAYOUT = 2
"""Version of the map from (seed, name, row, column) to an entry. Any change of an entry changes this number."""

MAX_REPETITIONS = 4

MAX_NONZEROS = 256


@dataclass(frozen=True)
class Sketch:
    """A random matrix S [k, D] per parameter, with ``E[<S u, S v>] = <u, v>`` for every parameter shape.

    S is a function of (seed, parameter name, row, column) alone, through Philox4x32-10: the same on every device, for
    every batch, block and dtype. Different names give independent matrices, so the sketch of a model is the sum over
    its parameters of their sketches, in one space of ``k`` numbers. Entries, before the factor in brackets, are +-1:

    * ``sjlt`` [1/sqrt(s)]: ``s = nonzeros`` nonzeros per column, one in each of s equal slices of the rows. Any k that
      s divides. A weight is cut into tiles of p x q entries, p q = k/s (``tile``); a tile is rotated by a random number
      of rows and columns and laid onto the slice with independent signs, so entries of one tile never meet.
    * ``rademacher`` [1/sqrt(k)]: dense independent signs; what TRAK and LESS use. Any k.
    * ``xorts`` [1/sqrt(R)]: ``R = repetitions`` XOR TensorSketches; entry (r, c) of a weight goes to bucket
      ``h(r) XOR h'(c)`` with sign ``a(r) b(c)``. k a power of two. Sketches ``G^T X`` without forming it.
    * ``kron`` [1/sqrt(k)]: ``P_out (x) P_in``, dense signs on both sides (LoGra, bergson); k = p_out * p_in, the most
      nearly square split. Its error falls with 1/sqrt(p), not with 1/sqrt(k), so a side under ``min_side`` is refused.

    Var<Su, Sv> = sum_{i<j} (u_i v_j + u_j v_i)^2 / k, over all pairs of entries for rademacher, which is
    ``(|u|^2 |v|^2 + <u,v>^2 - 2 sum u_i^2 v_i^2) / k``, and over the pairs of different tiles for sjlt, whatever s.

    Args:
        kind: "sjlt", "rademacher", "xorts" or "kron".
        k: numbers per sample.
        seed: 0 <= seed < 2^63.
        nonzeros: s of sjlt, a divisor of k up to 256. The variance is that of s = 1, the tails are thinner, the cost is
            s times that of s = 1. For the other kinds it must be left alone.
        repetitions: R of xorts, 1 to 4; for the other kinds it must be left alone.
        min_side: smallest side of kron that is accepted; no part of the identity.

    Raises:
        ValueError: a value is impossible; the message says which and what to do.

    Source: Kane & Nelson 2014 (sjlt, the block construction), Achlioptas 2003 (rademacher), Pham & Pagh 2013
    (TensorSketch), Choe et al. 2024 (kron).
    """

    kind: Kind = "sjlt"
    k: int = 4096
    seed: int = 0
    nonzeros: int = 1
    repetitions: int = 1
    min_side: int = 64

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"Sketch.kind={self.kind!r}: choose from {', '.join(get_args(Kind))}")
        for name in ("k", "seed", "nonzeros", "repetitions", "min_side"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Sketch.{name}={value!r} must be an int")
        if not 1 <= self.k < 2**31:
            raise ValueError(f"Sketch.k={self.k} must be from 1 to 2^31 - 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"Sketch.seed={self.seed} must be from 0 to 2^63 - 1")
        if self.kind != "sjlt" and self.nonzeros != 1:
            raise ValueError(f"Sketch.nonzeros is of kind 'sjlt' alone; kind {self.kind!r} has none")
        if self.kind != "xorts" and self.repetitions != 1:
            raise ValueError(f"Sketch.repetitions is of kind 'xorts' alone; kind {self.kind!r} has none")
        if self.kind == "sjlt":
            self._check_sjlt()
        elif self.kind == "xorts":
            self._check_xorts()
        elif self.kind == "kron":
            self._check_kron()

    def _check_sjlt(self) -> None:
        most = min(self.k, MAX_NONZEROS)
        if not 1 <= self.nonzeros <= most:
            raise ValueError(f"Sketch.nonzeros={self.nonzeros} must be from 1 to {most}")
        if self.k % self.nonzeros:
            near = self.k - self.k % self.nonzeros
            raise ValueError(
                f"Sketch.nonzeros={self.nonzeros} must divide k={self.k}; take k={near} or {near + self.nonzeros}"
            )

    def _check_xorts(self) -> None:
        if self.k & (self.k - 1):
            raise ValueError(f"Sketch.k={self.k} must be a power of two for kind 'xorts'; take {_powers(self.k)}")
        if not 1 <= self.repetitions <= MAX_REPETITIONS:
            raise ValueError(f"Sketch.repetitions={self.repetitions} must be from 1 to {MAX_REPETITIONS}")

    def _check_kron(self) -> None:
        if min(self.sides) < self.min_side:
            sides = f"{self.sides[0]} x {self.sides[1]}"
            raise ValueError(
                f"Sketch.k={self.k} gives kind 'kron' sides of {sides}; under {self.min_side} its error is a multiple "
                "of that of other kinds: take k >= 4096, another kind, or a lower min_side"
            )

    @property
    def sides(self) -> tuple[int, int]:
        """(p_out, p_in) of kron: the factors of k that differ least, the smaller first."""
        return _nearest_factors(self.k)

    @property
    def tile(self) -> tuple[int, int]:
        """(p, q) of sjlt: the factors of k/s that differ least, the smaller first."""
        return _nearest_factors(self.k // self.nonzeros)

    @property
    def scale(self) -> float:
        """What the +-1 entries are multiplied by."""
        squared = {"sjlt": self.nonzeros, "rademacher": self.k, "xorts": self.repetitions, "kron": self.k}[self.kind]
        return squared**-0.5

    @property
    def arguments(self) -> tuple[str, int, int, int, int, int]:
        """The fields as plain numbers, for the schemas of the ops; ``Sketch(*arguments)`` is this sketch."""
        return self.kind, self.k, self.seed, self.nonzeros, self.repetitions, self.min_side

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the matrix, as JSON-able values. Sketches of unequal identity must not be mixed."""
        identity: dict[str, Any] = {"layout": LAYOUT, "kind": self.kind, "k": self.k, "seed": self.seed}
        if self.kind == "sjlt":
            identity["nonzeros"] = self.nonzeros
        elif self.kind == "xorts":
            identity["repetitions"] = self.repetitions
        return identity

    @property
    def digest(self) -> str:
        """SHA-256 of the identity's canonical JSON, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _nearest_factors(product: int) -> tuple[int, int]:
    small = next(p for p in range(math.isqrt(product), 0, -1) if product % p == 0)
    return small, product // small


def _powers(k: int) -> str:
    below = 1 << (k.bit_length() - 1)
    return f"{below} or {2 * below}"


@functools.lru_cache(maxsize=4096)
def philox_key(seed: int, name: str) -> int:
    """The 64-bit Philox key of a parameter: BLAKE2b-64 of the seed (8 bytes, little-endian) and the name (UTF-8)."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little") + name.encode(), digest_size=8, person=b"adaptinf-sketch1")
    return int.from_bytes(digest.digest(), "little")
