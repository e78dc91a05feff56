"""What merging several LoRA adapters of one module means, operator by operator.

Adapter i adds ``s_i B_i A_i`` to the module's weight [out, in], with B_i [out, r_i], A_i [r_i, in] and s_i its scaling.
``w_i`` are the weights that the caller gives. All arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from peft.utils import merge_utils
from torch import Tensor

from adaptinf.routing.saved_adapter import LowRank


def cat(adapters: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """``sum_i w_i s_i B_i A_i`` exactly: ``[w_1 s_1 B_1 | w_2 s_2 B_2 ...] [A_1; A_2; ...]``, of rank ``sum_i r_i``."""
    a = torch.cat([one.a.double() for one in adapters], 0)
    b = torch.cat([one.b.double() * (weight * one.scaling) for one, weight in zip(adapters, weights, strict=True)], 1)
    return LowRank(a, b, 1.0)


def sum_of_products(adapters: Sequence[LowRank], weights: Sequence[float]) -> Tensor:
    """``sum_i w_i s_i B_i A_i`` as one dense matrix [out, in], float64: what :func:`cat` stands for."""
    both = cat(adapters, weights)
    return both.b @ both.a


def svd(adapters: Sequence[LowRank], weights: Sequence[float], rank: int) -> LowRank:
    """The nearest matrix of rank ``rank`` to ``M = sum_i w_i s_i B_i A_i`` in the Frobenius norm (Eckart-Young).

    With ``M = U S V^T``: ``B = U_r S_r^(1/2)``, ``A = S_r^(1/2) V_r^T``. The error is the root of the sum of the
    squares of the singular values left out. M is never formed: the QR decompositions of cat's factors leave a small
    matrix. The result's rank is ``min(rank, out, in, sum_i r_i)``.
    """
    both = cat(adapters, weights)
    qb, rb = torch.linalg.qr(both.b)
    qa, ra = torch.linalg.qr(both.a.T)
    u, s, vh = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    root = s[:rank].sqrt()
    return LowRank(root[:, None] * (vh[:rank] @ qa.T), qb @ u[:, :rank] * root, 1.0)


def product_of_sums(adapters: Sequence[LowRank]) -> LowRank:
    """``s (sum_i B_i) (sum_i A_i)``, what the released code of HiDe-LLaVA computes. Equal ranks and scalings.

    It is not the sum of the adapters: the cross terms ``B_i A_j`` come on top. HiDe's paper writes the sum.
    """
    a = torch.stack([one.a.double() for one in adapters]).sum(0)
    b = torch.stack([one.b.double() for one in adapters]).sum(0)
    return LowRank(a, b, adapters[0].scaling)


def linear(adapters: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """``(sum_i q_i B_i) (sum_i z_i q_i A_i)`` with ``q_i = sqrt(|w_i s_i|)`` and ``z_i`` the sign of ``w_i s_i``.

    Equal ranks. With cross terms, as :func:`product_of_sums`, whose weighted form it is. peft's ``linear``.
    """
    return _each_factor(merge_utils.task_arithmetic, adapters, weights)


def ties(adapters: Sequence[LowRank], weights: Sequence[float], density: float) -> LowRank:
    """TIES (Yadav et al. 2023) on the A's and on the B's, weighted as :func:`linear` does. Equal ranks.

    Of every A_i the ``density`` share of entries of largest magnitude stays (trim); each entry's sign is that of the
    trimmed values' sum (elect); the weighted values of that sign are averaged (disjoint mean). peft's ``ties``.
    """
    return _each_factor(partial(merge_utils.ties, density=density), adapters, weights)


def dare_linear(adapters: Sequence[LowRank], weights: Sequence[float], density: float, seed: int) -> LowRank:
    """DARE (Yu et al. 2024): each entry of A_i and B_i stays with probability ``density``, divided by it, or becomes 0;
    then :func:`linear`. Equal ranks; ``seed`` decides the entries. peft's ``dare_linear``.
    """
    return _seeded(merge_utils.dare_linear, adapters, weights, density, seed)


def dare_ties(adapters: Sequence[LowRank], weights: Sequence[float], density: float, seed: int) -> LowRank:
    """DARE's random entries instead of TIES' largest, then TIES' signs and mean. Equal ranks. peft's ``dare_ties``."""
    return _seeded(merge_utils.dare_ties, adapters, weights, density, seed)


def norm(factors: LowRank) -> float:
    """Frobenius norm of ``scaling * b @ a``, which is not formed."""
    rb, ra = (torch.linalg.qr(side.double(), mode="r").R for side in (factors.b, factors.a.T))
    return abs(factors.scaling) * float(torch.linalg.matrix_norm(rb @ ra.T))


_OfTensors = Callable[[list[Tensor], Tensor], Tensor]


def _each_factor(function: _OfTensors, adapters: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The A's and the B's merged apart, as peft does: each with the root of its weight, the sign on the A's."""
    scaled = [weight * one.scaling for one, weight in zip(adapters, weights, strict=True)]
    root = torch.tensor([math.sqrt(abs(value)) for value in scaled], dtype=torch.float64)
    sign = torch.tensor([math.copysign(1.0, value) for value in scaled], dtype=torch.float64)
    a = function([one.a.double() for one in adapters], root * sign)
    return LowRank(a, function([one.b.double() for one in adapters], root), 1.0)


def _seeded(
    function: Callable[[list[Tensor], Tensor, float], Tensor],
    adapters: Sequence[LowRank],
    weights: Sequence[float],
    density: float,
    seed: int,
) -> LowRank:
    """Its function draws from torch's global state, which is seeded for the call and restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _each_factor(lambda tensors, roots: function(tensors, roots, density), adapters, weights)
