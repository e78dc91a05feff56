"""Var of ``<Su, Sv>`` for each kind of sketch, in closed form, for two weights U and V [d_out, d_in] (float64).

Derived from the definitions in ``sketch/README.md``; signs are +-1, so fourth moments are 1 where Gaussian ones are 3.
"""

from __future__ import annotations

import numpy as np
from adaptinf_kernels import Sketch


def variance(sketch: Sketch, u: np.ndarray, v: np.ndarray) -> float:
    return {"rademacher": rademacher, "sjlt": sjlt, "xorts": xorts, "kron": kron}[sketch.kind](sketch, u, v)


def _pairs(u: np.ndarray, v: np.ndarray) -> float:
    """``sum_{i<j} (u_i v_j + u_j v_i)^2``."""
    return (u**2).sum() * (v**2).sum() + (u * v).sum() ** 2 - 2 * (u**2 * v**2).sum()


def rademacher(sketch: Sketch, u: np.ndarray, v: np.ndarray) -> float:
    """Entries i and j of a row meet in the product once for each row, with a random sign."""
    return _pairs(u, v) / sketch.k


def sjlt(sketch: Sketch, u: np.ndarray, v: np.ndarray) -> float:
    """Two entries of different tiles share a slice's row with probability s/k, of one tile never."""
    p, q = sketch.tile
    tiles = [(slice(r, r + p), slice(c, c + q)) for r in range(0, u.shape[0], p) for c in range(0, u.shape[1], q)]
    return (_pairs(u, v) - sum(_pairs(u[tile], v[tile]) for tile in tiles)) / sketch.k


def xorts(sketch: Sketch, u: np.ndarray, v: np.ndarray) -> float:
    """``V_1 / R + (R - 1) / R (|u|^2 |v|^2 + <u, v>^2) / k``.

    V_1 is of one repetition. A term ``u_rc v_r'c'`` has the sign ``a(r) a(r') a'(c) a'(c')``, so terms of equal row
    and column pairs add before they are squared; it is there where ``h(r) ^ h(r') = h'(c) ^ h'(c')``. Terms of two
    different repetitions have signs of their own and meet with probability 1/k.
    """
    k, repetitions = sketch.k, sketch.repetitions
    rows, columns = (np.triu_indices(size, 1) for size in u.shape)
    same_row, same_column = rows[0] // k == rows[1] // k, columns[0] // k == columns[1] // k
    (r, r2), (c, c2) = (tuple(side[:, None] for side in rows), tuple(side[None, :] for side in columns))
    terms = u[r, c] * v[r2, c2] + u[r2, c2] * v[r, c] + u[r, c2] * v[r2, c] + u[r2, c] * v[r, c2]
    # among k consecutive ids h is a permutation: the XOR of two is uniform over the k - 1 numbers that are not 0
    meet = np.where(same_row[:, None] & same_column[None, :], 1 / max(k - 1, 1), 1 / k)
    one = (meet * terms**2).sum()
    across, along = u @ v.T, u.T @ v
    for product, (i, j), same in ((across, rows, same_row), (along, columns, same_column)):
        one += ((product[i, j] + product[j, i]) ** 2 * np.where(same, 0, 1 / k)).sum()
    crossed = ((u**2).sum() * (v**2).sum() + (u * v).sum() ** 2) / k
    return one / repetitions + (repetitions - 1) / repetitions * crossed


def kron(sketch: Sketch, u: np.ndarray, v: np.ndarray) -> float:
    """With ``f = (p . U q)(p . V q)``: ``(Var f + (p_in - 1) Var_p E_q f + (p_out - 1) Var_q E_p f) / k``."""
    p_out, p_in = sketch.sides
    s, r, across, along = u.T @ u, v.T @ v, u @ v.T, u.T @ v

    def quadratic(m: np.ndarray) -> float:
        """Var of ``p . M p`` over signs p."""
        return (m**2).sum() + (m * m.T).sum() - 2 * (np.diagonal(m) ** 2).sum()

    both = np.trace(s) * np.trace(r) + 2 * ((s * r).sum() - (np.diagonal(s) * np.diagonal(r)).sum())
    inner = np.trace(along) ** 2 + quadratic(along)
    by_row = (u**2).sum(1) * (v**2).sum(1) + 2 * (u * v).sum(1) ** 2 - 2 * (u**2 * v**2).sum(1)
    of_f = both + 2 * inner - 2 * by_row.sum() - (u * v).sum() ** 2
    return (of_f + (p_in - 1) * quadratic(across) + (p_out - 1) * quadratic(along)) / sketch.k
