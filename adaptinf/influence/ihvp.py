"""Inverse-Hessian-vector products ``x = (H + damping I)^-1 b``, by six methods that share one convention.

Right-hand sides are rows: ``b`` is [d] or [m, d], float32 or float64, and ``x`` comes back in its shape, dtype and
device. ``H`` [d, d] is symmetric; H + damping I must be positive definite, and every method that can notice says so
when it is not. Which method is for what: docs/influence.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptinf.errors import ConfigError, NonFiniteError, SolverError

Product = Callable[[Tensor], Tensor]
"""``rows [m, d] -> rows [m, d]``, each multiplied by H."""

MAX_DENSE = 8192
"""Largest d (of ``ridge``: smaller of n and d) of a dense factorisation: 512 MB in float64."""

POWER_ITERATIONS = 8


@dataclass(frozen=True)
class Solution:
    """What an iterative method found.

    ``x`` in the shape of ``b``; ``iterations`` of ``cg``, epochs of ``minibatch``; ``residual``: the largest
    ``|b - (H + damping I) x| / |b|`` of the right-hand sides, measured, not updated along the way.
    """

    x: Tensor
    iterations: int
    residual: float


def hvp(loss: Callable[[], Tensor], parameters: Sequence[Tensor], *, keep_graph: bool = False) -> Product:
    """The product with the Hessian of ``loss()`` over ``parameters``, flattened and put together in their order.

    ``H v = d<dL/dp, v>/dp``: the gradient is differentiable (it has a graph of its own), so no factor is lost or won. A
    call runs the loss and its gradient once and one backward pass a row. With ``keep_graph`` only the first call runs
    the loss; its graph stays in memory as long as the product does, and the parameters must stay as they are (autograd
    raises RuntimeError where they do not). What the loss does not depend on has rows of zeros.

    Source: Pearlmutter 1994.
    """
    kept: list[Tensor] = []

    def slope() -> Tensor:
        if kept:
            return kept[0]
        with torch.enable_grad():
            gradient = flat(torch.autograd.grad(loss(), parameters, create_graph=True, materialize_grads=True))
        if keep_graph:
            kept.append(gradient)
        return gradient

    def product(rows: Tensor) -> Tensor:
        gradient = slope()
        if not gradient.requires_grad:  # a loss that is linear in the parameters
            return torch.zeros_like(rows)
        found = [
            flat(torch.autograd.grad(gradient, parameters, row, retain_graph=True, materialize_grads=True))
            for row in rows.to(gradient.dtype)
        ]
        return torch.stack(found).to(rows.dtype)

    return product


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """[d], the tensors one after the other, each in row-major order."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def exact(hessian: Tensor | Product, b: Tensor, *, damping: float) -> Tensor:
    """Cholesky factorisation in float64 of ``H + damping I``, given as a matrix [d, d] or as a product.

    A product is called once, with the d unit vectors; its result is made symmetric, as rounding leaves it almost so.
    Raises ConfigError where d is over ``MAX_DENSE``, SolverError where the matrix is not positive definite.
    """
    rows = _checked(b, damping)
    size = rows.shape[1]
    _check_dense(size, "d")
    matrix = hessian if isinstance(hessian, Tensor) else hessian(torch.eye(size, dtype=rows.dtype, device=rows.device))
    if matrix.shape != (size, size):
        raise ConfigError(f"is {list(matrix.shape)}, not [{size}, {size}]", item="hessian", remedy="b has [.., d]")
    matrix = matrix.double()
    matrix = (matrix + matrix.T) / 2
    matrix.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise SolverError(
            f"H + {damping:g} I is not positive definite", item="exact", remedy="raise damping, or check H for NaN"
        )
    return torch.cholesky_solve(rows.double().T, factor).T.to(b.dtype).reshape(b.shape)


def cg(product: Product, b: Tensor, *, damping: float, tolerance: float = 1e-5, max_iterations: int = 200) -> Solution:
    """Conjugate gradients on ``H + damping I``, all right-hand sides in step, until ``|b - A x| <= tolerance |b|``.

    A right-hand side that seems to have converged is checked with one more product and goes on from its true residual
    if it has not (the recurrence drifts). Its arithmetic does not depend on the other rows, as far as ``product``'s
    does not.

    Raises SolverError where a direction of no or negative curvature turns up (with the curvature: a damping above its
    negative helps), or where ``max_iterations`` were not enough (with the residual).

    Source: Hestenes and Stiefel 1952.
    """
    right = _checked(b, damping)
    _check_positive(tolerance=tolerance, max_iterations=max_iterations)
    norms = right.norm(dim=1)
    x, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
    square = residual.square().sum(1)
    limit = (tolerance * norms).square()
    active = square > limit
    iterations = 0
    while bool(active.any()):
        if iterations == max_iterations:
            raise SolverError(
                f"did not converge in {max_iterations} iterations: the relative residual is "
                f"{float((square[active].sqrt() / norms[active]).max()):.2g}, the tolerance {tolerance:g}",
                item="cg",
                remedy="raise damping, max_iterations or tolerance, or use float64",
            )
        iterations += 1
        rows = active.nonzero()[:, 0]
        along = direction[rows]
        image = product(along) + damping * along
        curvature = (along * image).sum(1)
        _check_curvature(curvature / along.square().sum(1), damping)
        step = (square[rows] / curvature)[:, None]
        x[rows] += step * along
        residual[rows] -= step * image
        updated = residual[rows].square().sum(1)
        direction[rows] = residual[rows] + (updated / square[rows])[:, None] * along
        square[rows] = updated
        reached = rows[updated <= limit[rows]]
        if len(reached):
            true = right[reached] - product(x[reached]) - damping * x[reached]
            residual[reached], direction[reached] = true, true
            square[reached] = true.square().sum(1)
            active[reached] = square[reached] > limit[reached]
    worst = float((square.sqrt() / norms)[norms > 0].max()) if bool((norms > 0).any()) else 0.0
    return Solution(x.reshape(b.shape), iterations, worst)


def minibatch(
    products: Sequence[Product],
    b: Tensor,
    *,
    damping: float,
    weights: Sequence[float] | None = None,
    learning_rate: float | None = None,
    tolerance: float = 1e-3,
    max_epochs: int = 100,
    seed: int = 0,
) -> Solution:
    """Stochastic minimisation of ``1/2 x^T (H + damping I) x - b^T x`` where ``H = sum_j weights_j H_j`` over batches.

    The gradient of one batch, drawn uniformly among J, is ``J weights_j H_j x + damping x - b``, without a half. It is
    taken with variance reduction: an epoch begins with the gradient at an anchor ``a``, which is also the true
    residual, and steps along ``J weights_j H_j (x - a) + damping (x - a) + (H + damping I) a - b``, one product each,
    in an order drawn by ``seed``. A constant step then converges, and the residual tells when to stop.

    ``weights`` (the batches' shares of the samples; they add up to one) are equal if left out. ``learning_rate`` is
    ``1 / (4 L)`` if left out, L the largest curvature of a batch by 8 power iterations, which cost 8 epochs' products.

    Raises SolverError where it diverges or ``max_epochs`` were not enough.

    Source: Johnson and Zhang 2013 (SVRG); the problem is LLMEraser's (arXiv:2412.00383).
    """
    right = _checked(b, damping)
    _check_positive(tolerance=tolerance, max_epochs=max_epochs, batches=len(products))
    shares = [1 / len(products)] * len(products) if weights is None else list(weights)
    if len(shares) != len(products) or min(shares) <= 0 or not math.isclose(sum(shares), 1, rel_tol=1e-6):
        raise ConfigError("are not one positive share a batch that add up to 1", item="weights")
    scales = [len(products) * share for share in shares]
    generator = torch.Generator().manual_seed(seed)
    if learning_rate is None:
        start = torch.randn(right.shape[1], generator=generator, dtype=torch.float64).to(right)
        largest = max(scale * _curvature(one, start) for one, scale in zip(products, scales, strict=True))
        learning_rate = 1 / (4 * max(largest + damping, torch.finfo(right.dtype).tiny))
    _check_positive(learning_rate=learning_rate)
    norms = right.norm(dim=1).clamp_min(torch.finfo(right.dtype).tiny)
    anchor, first, epoch = torch.zeros_like(right), None, 0
    while True:
        image = sum(share * one(anchor) for one, share in zip(products, shares, strict=True))
        slope = image + damping * anchor - right
        error = float((slope.norm(dim=1) / norms).max())
        first = error if first is None else first
        if error <= tolerance:
            return Solution(anchor.reshape(b.shape), epoch, error)
        if not error <= 1e3 * first:
            raise SolverError(
                f"diverged: the relative residual is {error:.2g} after {epoch} epochs at a learning rate of "
                f"{learning_rate:.2g}",
                item="minibatch",
                remedy="raise damping (H may have negative curvature) or lower learning_rate",
            )
        if epoch == max_epochs:
            raise SolverError(
                f"did not converge in {max_epochs} epochs: the relative residual is {error:.2g}, the tolerance "
                f"{tolerance:g}",
                item="minibatch",
                remedy="raise damping, max_epochs or tolerance, or use cg",
            )
        moved = torch.zeros_like(anchor)
        for batch in torch.randperm(len(products), generator=generator).tolist():
            moved = moved - learning_rate * (scales[batch] * products[batch](moved) + damping * moved + slope)
        anchor, epoch = anchor + moved, epoch + 1


def ridge(rows: Tensor, b: Tensor, *, damping: float) -> Tensor:
    """``(X^T X + damping I)^-1 b`` for X = ``rows`` [n, d], by the thin singular value decomposition in float64.

    With ``X = U S V^T`` it is ``V (S^2 + damping)^-1 V^T b + (b - V V^T b) / damping``: the cost is that of the smaller
    of n and d squared, and damping far below the rounding of ``X^T X`` does no harm in the span of the rows.
    Raises ConfigError where the smaller of n and d is over ``MAX_DENSE``, or damping is 0 and X has no full column
    rank.
    """
    right = _checked(b, damping)
    _check_rows(rows, right.shape[1])
    _check_dense(min(rows.shape), "min(n, d)")
    wide, target = rows.double(), right.double()
    _, singular, basis = torch.linalg.svd(wide, full_matrices=False)
    span = target @ basis.T
    rounding = max(rows.shape) * torch.finfo(torch.float64).eps * float(singular.max()) if len(singular) else 0.0
    if damping == 0 and (len(wide) < wide.shape[1] or float(singular.min()) <= rounding):
        raise ConfigError("is 0 and X^T X has no inverse", item="damping", remedy="give a positive damping")
    x = (span / (singular.square() + damping)) @ basis
    if len(singular) < wide.shape[1]:
        rest = target - span @ basis
        rest = rest - rest @ basis.T @ basis  # again: what rounding left in the span would be divided by damping
        x = x + rest / damping
    return x.to(b.dtype).reshape(b.shape)


def datainf(
    gradients: Tensor, b: Tensor, *, layers: Sequence[int] | None = None, relative_damping: float = 0.1
) -> Tensor:
    """DataInf: the mean of the samples' inverses instead of the inverse of their mean, layer by layer.

    With g_i the layer's part of row i of ``gradients`` [n, d], by Sherman and Morrison::

        x = 1/n sum_i (g_i g_i^T + lambda I)^-1 b = (b - 1/n sum_i <g_i, b> / (lambda + |g_i|^2) g_i) / lambda
        lambda = relative_damping * mean of the squared entries of the layer's gradients

    ``layers`` are the widths of consecutive blocks of columns (left out: one block). Exact for n = 1; its error
    grows with the width of a layer. Raises SolverError where a layer's gradients are all zero.

    Source: Kwon et al. 2024 (ICLR, arXiv:2310.00902), section 3.
    """
    right = _checked(b, 0.0)
    _check_positive(relative_damping=relative_damping)
    _check_rows(gradients, right.shape[1])
    widths = [right.shape[1]] if layers is None else list(layers)
    if sum(widths) != right.shape[1] or min(widths) < 1:
        raise ConfigError(f"do not add up to the {right.shape[1]} columns", item=f"layers={widths}")
    parts = []
    for number, (block, part) in enumerate(zip(gradients.split(widths, 1), right.split(widths, 1), strict=True)):
        rows, target = block.double(), part.double()
        squares = rows.square().sum(1)
        damping = relative_damping * float(squares.mean()) / rows.shape[1]
        if not damping > 0:
            raise SolverError("all gradients of the layer are zero", item=f"datainf, layer {number}")
        coefficients = (target @ rows.T) / (damping + squares)
        parts.append((target - coefficients @ rows / len(rows)) / damping)
    return torch.cat(parts, 1).to(b.dtype).reshape(b.shape)


def sketched(
    sketches: Tensor, b: Tensor, *, basis: Tensor | None = None, relative_damping: float = 0.1, chunk: int = 4096
) -> Tensor:
    """A diagonal in the eigenbasis of the sketches: ``Q (diag(e) + damping I)^-1 Q^T b``.

    Q are the eigenvectors of the second moment of ``basis`` [r, k] (some rows to find directions from; left out: all
    of ``sketches``); ``e_j = mean_i <q_j, z_i>^2`` over all rows of ``sketches`` [n, k], so that the eigenvalues are
    right even where the directions came from few; ``damping = relative_damping * mean(e)``. Inner products of sketches
    are those of gradients up to the sketch's error, so this is ``(F + damping I)^-1`` with F the empirical Fisher
    matrix, seen through the sketch. The arithmetic is float64; k is at most ``MAX_DENSE``.

    Source: the re-fitted diagonal is that of George et al. 2018 (EK-FAC, arXiv:1806.03884), in whose place of
    Kronecker factors the sketch stands.
    """
    right = _checked(b, 0.0)
    _check_positive(relative_damping=relative_damping)
    size = right.shape[1]
    _check_dense(size, "k")
    for rows in (sketches, basis):
        if rows is not None:
            _check_rows(rows, size)
    source = sketches if basis is None else basis
    moment = torch.zeros(size, size, dtype=torch.float64, device=right.device)
    for rows in source.split(chunk):
        moment.addmm_(rows.double().T, rows.double())
    _, vectors = torch.linalg.eigh(moment)
    values = torch.zeros(size, dtype=torch.float64, device=right.device)
    for rows in sketches.split(chunk):
        values += (rows.double() @ vectors).square().sum(0)
    values /= len(sketches)
    damping = relative_damping * float(values.mean())
    if not damping > 0:
        raise SolverError("all sketches are zero", item="sketched", remedy="check the features' layers and parameters")
    return ((right.double() @ vectors) / (values + damping) @ vectors.T).to(b.dtype).reshape(b.shape)


def _curvature(product: Product, start: Tensor) -> float:
    """The largest |eigenvalue| by power iteration, from below."""
    vector, value = start / start.norm(), 0.0
    for _ in range(POWER_ITERATIONS):
        image = product(vector[None])[0]
        value = float(image.norm())
        if value == 0:
            break
        vector = image / value
    return value


def _checked(b: Tensor, damping: float) -> Tensor:
    """``b`` as rows."""
    if b.dim() not in (1, 2) or b.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"is {b.dtype} {list(b.shape)}", item="b", remedy="give float32 or float64, [d] or [m, d]")
    if not bool(torch.isfinite(b).all()):
        raise NonFiniteError("has a NaN or an infinity", item="b", remedy="find the sample whose gradient has it")
    if not (math.isfinite(damping) and damping >= 0):
        raise ConfigError("is negative or not finite", item=f"damping={damping}", remedy="give 0 or more")
    return b.detach().reshape(-1, b.shape[-1])


def _check_rows(rows: Tensor, width: int) -> None:
    if rows.dim() != 2 or rows.shape[1] != width or not len(rows):
        raise ConfigError(f"are {list(rows.shape)}, b has {width} columns", item="rows", remedy="give [n, d], n >= 1")
    if not bool(torch.isfinite(rows).all()):
        raise NonFiniteError("has a NaN or an infinity", item="rows", remedy="find the sample whose gradient has it")


def _check_dense(size: int, name: str) -> None:
    if size > MAX_DENSE:
        raise ConfigError(
            f"{name} = {size} is too large to factorise (at most {MAX_DENSE})",
            item="ihvp",
            remedy="use cg or minibatch, or sketch the gradients first",
        )


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError("must be positive", item=f"{name}={value}")


def _check_curvature(quotients: Tensor, damping: float) -> None:
    """``quotients`` are Rayleigh quotients of ``H + damping I``."""
    least = float(quotients.min())
    if not bool(torch.isfinite(quotients).all()):
        raise NonFiniteError("a Hessian-vector product is not finite", item="cg", remedy="check the loss's samples")
    if least <= 0:
        raise SolverError(
            f"H has a curvature of {least - damping:.3g}, so that H + {damping:g} I is not positive definite",
            item="cg",
            remedy=f"give a damping above {damping - least:.3g}",
        )
