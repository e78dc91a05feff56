"""Inverse-Hessian products against dense float64 solves, on convex problems of known conditioning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptinf.errors import ConfigError, NonFiniteError, SolverError
from adaptinf.influence import ihvp

EPS64 = float(np.finfo(np.float64).eps)
N, D = 40, 7
DAMPING = 0.05


class Logistic:
    """Mean logistic loss of rows ``x`` with labels of +-1; its Hessian in closed form."""

    def __init__(self, seed: int = 0, n: int = N, d: int = D) -> None:
        rng = np.random.default_rng(seed)
        self.x = torch.from_numpy(rng.normal(size=(n, d)) * np.linspace(0.3, 2, d))
        self.y = torch.from_numpy(np.sign(rng.normal(size=n)))
        self.w = torch.from_numpy(rng.normal(size=d)).requires_grad_()

    def loss(self, rows: slice = slice(None)) -> Tensor:
        return F.softplus(-self.y[rows] * (self.x[rows] @ self.w)).mean()

    def hessian(self) -> np.ndarray:
        x = self.x.numpy()
        p = 1 / (1 + np.exp(-(x @ self.w.detach().numpy())))
        return x.T @ (x * (p * (1 - p))[:, None]) / len(x)


def solve(hessian: np.ndarray, b: Tensor, damping: float) -> tuple[np.ndarray, float]:
    """The oracle and the condition number."""
    matrix = hessian + damping * np.eye(len(hessian))
    return np.linalg.solve(matrix, b.double().numpy().T).T, float(np.linalg.cond(matrix))


def error(found: Tensor, wanted: np.ndarray) -> float:
    """The largest relative error of a right-hand side."""
    found = np.atleast_2d(found.double().numpy())
    wanted = np.atleast_2d(wanted)
    return float((np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())


@pytest.fixture
def problem() -> Logistic:
    return Logistic()


@pytest.fixture
def b() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(3, D)))


def test_pearlmutters_product_is_the_hessians(problem: Logistic, b: Tensor) -> None:
    product = ihvp.hvp(problem.loss, [problem.w])
    wanted = b.numpy() @ problem.hessian()
    assert error(product(b), wanted) < 100 * EPS64
    with torch.no_grad():  # also where a caller has switched gradients off
        assert torch.equal(product(b), product(b))
    assert not product(b).requires_grad


def test_the_product_joins_parameters_in_their_order_and_gives_zeros_where_there_is_no_curvature() -> None:
    u, v, unused = (
        torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in ([1.0, 2], [3.0], [4.0])
    )
    product = ihvp.hvp(lambda: (u[0] * v[0] ** 2) + u[1] ** 3, [u, unused, v])
    # d2/du0dv = 2v = 6, d2/dv2 = 2 u0 = 2, d2/du1^2 = 6 u1 = 12
    assert product(torch.eye(4, dtype=torch.float64)).tolist() == [
        [0, 0, 0, 6],
        [0, 12, 0, 0],
        [0, 0, 0, 0],
        [6, 0, 0, 2],
    ]
    assert not ihvp.hvp(lambda: 2 * u.sum(), [u])(torch.ones(1, 2, dtype=torch.float64)).any()


@pytest.mark.parametrize("given", ["matrix", "product"])
def test_exact(problem: Logistic, b: Tensor, given: str) -> None:
    hessian = problem.hessian()
    wanted, condition = solve(hessian, b, DAMPING)
    source = torch.from_numpy(hessian) if given == "matrix" else ihvp.hvp(problem.loss, [problem.w])
    before = torch.from_numpy(hessian.copy())
    assert error(ihvp.exact(source, b, damping=DAMPING), wanted) < 100 * condition * EPS64
    assert error(ihvp.exact(source, b[1], damping=DAMPING), wanted[1]) < 100 * condition * EPS64
    assert torch.equal(torch.from_numpy(hessian), before)  # the damping is not added to what was handed in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_gradients(problem: Logistic, b: Tensor, dtype: torch.dtype) -> None:
    hessian = problem.hessian()
    wanted, condition = solve(hessian, b, DAMPING)
    matrix = torch.from_numpy(hessian).to(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    solution = ihvp.cg(lambda rows: rows @ matrix, b.to(dtype), damping=DAMPING, tolerance=tolerance)
    assert solution.x.dtype == dtype
    # |x - x*| <= |A^-1| |r| and |b| <= |A| |x*|
    assert solution.residual <= tolerance
    assert error(solution.x, wanted) <= condition * (tolerance + 100 * torch.finfo(dtype).eps)
    assert 0 < solution.iterations <= 2 * D  # d in exact arithmetic
    reported = (b.to(dtype) - solution.x @ matrix - DAMPING * solution.x).norm(dim=1) / b.norm(dim=1)
    assert solution.residual == pytest.approx(float(reported.max()), rel=0.5, abs=100 * torch.finfo(dtype).eps)


def test_conjugate_gradients_on_one_side_are_those_on_many(problem: Logistic, b: Tensor) -> None:
    product = ihvp.hvp(problem.loss, [problem.w])
    many = ihvp.cg(product, torch.cat([b, torch.zeros(1, D), 1e6 * b[:1]]), damping=DAMPING, tolerance=1e-10)
    for row in range(3):
        assert torch.equal(ihvp.cg(product, b[row], damping=DAMPING, tolerance=1e-10).x, many.x[row])
    assert not many.x[3].any()
    assert ihvp.cg(product, torch.zeros(D, dtype=torch.float64), damping=DAMPING) == ihvp.Solution(
        pytest.approx(torch.zeros(D, dtype=torch.float64)), 0, 0.0
    )


def test_conjugate_gradients_say_when_they_do_not_converge(b: Tensor) -> None:
    stiff = torch.logspace(0, 6, D, dtype=torch.float64)
    with pytest.raises(SolverError, match=r"in 2 iterations: the relative residual is [0-9.e+-]+, the tolerance 1e-08"):
        ihvp.cg(lambda rows: rows * stiff, b, damping=0, tolerance=1e-8, max_iterations=2)
    with pytest.raises(SolverError, match="max_iterations"):  # float32 cannot reach it; no endless loop
        ihvp.cg(lambda rows: rows * stiff.float(), b.float(), damping=0, tolerance=1e-12, max_iterations=300)


def test_conjugate_gradients_name_a_negative_curvature_and_the_damping_that_helps() -> None:
    saddle = torch.tensor([-0.5, 1.0], dtype=torch.float64)
    b = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.raises(SolverError, match=r"curvature of -0.5[\s\S]*damping above 0.5"):
        ihvp.cg(lambda rows: rows * saddle, b, damping=0.1)
    assert ihvp.cg(lambda rows: rows * saddle, b, damping=0.6).x.tolist() == pytest.approx([10.0, 0.0])
    with pytest.raises(SolverError, match="not positive definite"):
        ihvp.exact(torch.diag(saddle), b, damping=0.1)
    with pytest.raises(NonFiniteError):
        ihvp.cg(lambda rows: rows * math.nan, b, damping=0.1)


def batches(problem: Logistic, sizes: list[int]) -> tuple[list[ihvp.Product], list[float]]:
    ends = np.cumsum([0, *sizes])
    parts = [slice(a, e) for a, e in itertools.pairwise(ends)]
    products = [ihvp.hvp(lambda part=part: problem.loss(part), [problem.w]) for part in parts]
    return products, [size / sum(sizes) for size in sizes]


@pytest.mark.parametrize("seed", [0, 1])
def test_minibatches_of_unequal_size_solve_the_whole_problem(problem: Logistic, b: Tensor, seed: int) -> None:
    wanted, condition = solve(problem.hessian(), b, DAMPING)
    products, weights = batches(problem, [20, 4, 1, 15])
    found = ihvp.minibatch(products, b, damping=DAMPING, weights=weights, tolerance=1e-6, max_epochs=2000, seed=seed)
    assert found.residual <= 1e-6
    assert error(found.x, wanted) <= condition * 1.01e-6
    again = ihvp.minibatch(products, b, damping=DAMPING, weights=weights, tolerance=1e-6, max_epochs=2000, seed=seed)
    assert torch.equal(again.x, found.x)


def test_a_step_follows_the_whole_gradient_of_one_batch(problem: Logistic, b: Tensor) -> None:
    """By hand for one epoch over two batches: the batch's share is undone by their number, and there is no half."""
    products, weights = batches(problem, [30, 10])
    hessians = [product(torch.eye(D, dtype=torch.float64)) for product in products]
    rate = 0.05
    ends = []
    for order in ((0, 1), (1, 0)):
        x = torch.zeros(D, dtype=torch.float64)
        for batch in order:
            x = x - rate * (2 * weights[batch] * hessians[batch] @ x + DAMPING * x - b[0])
        ends.append(x)
    found = ihvp.minibatch(products, b[0], damping=DAMPING, weights=weights, learning_rate=rate, tolerance=0.99)
    assert found.iterations == 1
    assert min(error(found.x, end.numpy()) for end in ends) < 100 * EPS64


def test_minibatches_say_when_they_diverge_or_stop_early(problem: Logistic, b: Tensor) -> None:
    products, weights = batches(problem, [20, 20])
    with pytest.raises(SolverError, match="diverged"):
        ihvp.minibatch(products, b, damping=DAMPING, weights=weights, learning_rate=30.0, max_epochs=500)
    with pytest.raises(SolverError, match="in 1 epochs"):
        ihvp.minibatch(products, b, damping=DAMPING, weights=weights, max_epochs=1, tolerance=1e-9)
    with pytest.raises(ConfigError, match="weights"):
        ihvp.minibatch(products, b, damping=DAMPING, weights=[0.5, 0.6])
    with pytest.raises(ConfigError, match="batches=0"):
        ihvp.minibatch([], b, damping=DAMPING)


def test_the_released_solvers_factor_of_two(problem: Logistic, b: Tensor) -> None:
    """LLMEraser's code differentiates ``1/2 <x, H x> - <b, x>`` with H x a constant: it solves H x = 2 b."""
    right = b[0]
    wanted, condition = solve(problem.hessian(), right, DAMPING)

    def released_slope(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        slope = torch.autograd.grad(problem.loss(), problem.w, create_graph=True)[0]
        (image,) = torch.autograd.grad(slope, problem.w, x.detach())  # no create_graph: a constant of x
        objective = (x @ (image + DAMPING * x.detach())) / 2 - right @ x
        return torch.autograd.grad(objective, x)[0]

    x = torch.zeros(D, dtype=torch.float64)
    rate = 1 / (np.linalg.norm(problem.hessian(), 2) + DAMPING)
    for _ in range(2000):
        x = x - rate * released_slope(x)
    ratios = [error(x / factor, wanted) for factor in (1, 2)]
    assert ratios[0] == pytest.approx(1.0, abs=1e-6)  # twice as far as it should be
    assert ratios[1] < 1e-6
    products, weights = batches(problem, [10, 30])
    ours = ihvp.minibatch(products, right, damping=DAMPING, weights=weights, tolerance=1e-8, max_epochs=2000).x
    exact = ihvp.cg(ihvp.hvp(problem.loss, [problem.w]), right, damping=DAMPING, tolerance=1e-10).x
    for found in (ours, exact):
        assert error(found, wanted) <= condition * 1.01e-8
        assert error(2 * found, x.numpy()) < 1e-6


@pytest.mark.parametrize("shape", [(30, 6), (6, 6), (4, 9), (1, 5), (5, 1)])
@pytest.mark.parametrize("damping", [2.0, 1e-9])
def test_ridge_in_the_smaller_of_n_and_d(shape: tuple[int, int], damping: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    b = rng.normal(size=(2, shape[0])) @ x  # in the span of the rows, where a tiny damping leaves digits
    values = np.linalg.svd(x, compute_uv=False)
    found = ihvp.ridge(torch.from_numpy(x), torch.from_numpy(b), damping=damping).numpy()
    _, singular, right = np.linalg.svd(x, full_matrices=False)
    wanted = (b @ right.T) / (singular**2 + damping) @ right
    condition = (values.max() ** 2 + damping) / (values.min() ** 2 + damping)
    along = found @ right.T @ right  # off the span the rounding of b itself is divided by damping
    assert error(torch.from_numpy(along), wanted) < 100 * condition * EPS64
    if damping > 1:
        direct, condition = solve(x.T @ x, torch.from_numpy(b), damping)
        assert error(torch.from_numpy(found), direct) < 100 * condition * EPS64
        off = rng.normal(size=shape[1])
        wanted, _ = solve(x.T @ x, torch.from_numpy(off), damping)
        assert (
            error(ihvp.ridge(torch.from_numpy(x), torch.from_numpy(off), damping=damping), wanted)
            < 100 * condition * EPS64
        )


def test_ridge_without_damping_needs_full_column_rank() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    with pytest.raises(ConfigError, match="no inverse"):
        ihvp.ridge(x, torch.ones(2), damping=0)
    with pytest.raises(ConfigError, match="no inverse"):
        ihvp.ridge(x[:1], torch.ones(2), damping=0)
    assert ihvp.ridge(2 * torch.eye(2), torch.ones(2), damping=0).tolist() == [0.25, 0.25]


def test_datainf_is_the_mean_of_inverses_by_layer() -> None:
    rng = np.random.default_rng(0)
    gradients, b = rng.normal(size=(5, 7)), rng.normal(size=(2, 7))
    gradients[:, 3:] *= 10  # layers of another scale get another damping
    wanted = []
    for columns in (slice(0, 3), slice(3, 7)):
        g = gradients[:, columns]
        damping = 0.1 * (g**2).mean()
        mean = np.mean([np.linalg.inv(np.outer(row, row) + damping * np.eye(len(row))) for row in g], axis=0)
        wanted.append(b[:, columns] @ mean)
    found = ihvp.datainf(torch.from_numpy(gradients), torch.from_numpy(b), layers=[3, 4])
    assert error(found, np.concatenate(wanted, 1)) < 1e-13
    one = ihvp.datainf(torch.from_numpy(gradients[:1]), torch.from_numpy(b))
    damping = 0.1 * float((gradients[0] ** 2).mean())
    assert error(one, solve(np.outer(gradients[0], gradients[0]), torch.from_numpy(b), damping)[0]) < 1e-12
    with pytest.raises(ConfigError, match="layers"):
        ihvp.datainf(torch.ones(2, 3), torch.ones(3), layers=[1, 1])
    with pytest.raises(SolverError, match="layer 1"):
        ihvp.datainf(torch.tensor([[1.0, 0.0]]), torch.ones(2), layers=[1, 1])


@pytest.mark.parametrize("n", [3, 50])
def test_the_diagonal_in_sketch_space(n: int) -> None:
    rng = np.random.default_rng(0)
    z, b = rng.normal(size=(n, 6)) * np.arange(1, 7), rng.normal(size=(2, 6))
    moment = z.T @ z / n
    wanted, condition = solve(moment, torch.from_numpy(b), 0.1 * np.trace(moment) / 6)
    assert error(ihvp.sketched(torch.from_numpy(z), torch.from_numpy(b)), wanted) < 1000 * condition * EPS64


def test_directions_from_few_sketches_get_the_curvature_of_all() -> None:
    rng = np.random.default_rng(0)
    z, b = rng.normal(size=(50, 6)) * np.arange(1, 7), rng.normal(size=(2, 6))
    few = z[:20]
    _, q = np.linalg.eigh(few.T @ few)
    values = ((z @ q) ** 2).mean(axis=0)
    wanted = (b @ q) / (values + 0.1 * values.mean()) @ q.T
    found = ihvp.sketched(torch.from_numpy(z), torch.from_numpy(b), basis=torch.from_numpy(few), chunk=4)
    assert error(found, wanted) < 1e-10
    assert error(ihvp.sketched(torch.from_numpy(z), torch.from_numpy(b)), wanted) > 1e-3
    assert error(ihvp.sketched(torch.from_numpy(few), torch.from_numpy(b)), wanted) > 1e-3


@pytest.mark.parametrize(
    "call",
    [
        lambda b: ihvp.exact(torch.eye(3), b, damping=1),
        lambda b: ihvp.cg(lambda rows: rows, b, damping=1),
        lambda b: ihvp.minibatch([lambda rows: rows], b, damping=1),
        lambda b: ihvp.ridge(torch.eye(3), b, damping=1),
        lambda b: ihvp.datainf(torch.eye(3), b),
        lambda b: ihvp.sketched(torch.eye(3), b),
    ],
    ids=["exact", "cg", "minibatch", "ridge", "datainf", "sketched"],
)
def test_bad_right_hand_sides(call: Callable[[Tensor], object]) -> None:
    call(torch.ones(3))
    with pytest.raises(NonFiniteError):
        call(torch.tensor([1.0, math.nan, 0.0]))
    for wrong in (torch.ones(3, dtype=torch.float16), torch.ones(3, dtype=torch.int64), torch.ones(1, 1, 3)):
        with pytest.raises(ConfigError, match="float32 or float64"):
            call(wrong)


def test_limits_and_bad_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ihvp, "MAX_DENSE", 4)
    for call in (
        lambda: ihvp.exact(torch.eye(5), torch.ones(5), damping=1),
        lambda: ihvp.ridge(torch.ones(5, 6), torch.ones(6), damping=1),
        lambda: ihvp.sketched(torch.ones(2, 5), torch.ones(5)),
    ):
        with pytest.raises(ConfigError, match="too large"):
            call()
    assert ihvp.ridge(torch.ones(2, 6), torch.ones(6), damping=1).shape == (6,)
    with pytest.raises(ConfigError, match="damping=-1"):
        ihvp.cg(lambda rows: rows, torch.ones(3), damping=-1)
    with pytest.raises(ConfigError, match="tolerance"):
        ihvp.cg(lambda rows: rows, torch.ones(3), damping=1, tolerance=0)
    with pytest.raises(ConfigError, match="hessian"):
        ihvp.exact(torch.eye(4), torch.ones(3), damping=1)
    with pytest.raises(ConfigError, match="columns"):
        ihvp.ridge(torch.ones(2, 4), torch.ones(3), damping=1)
    with pytest.raises(NonFiniteError):
        ihvp.datainf(torch.full((2, 3), math.inf), torch.ones(3))
    with pytest.raises(SolverError, match="zero"):
        ihvp.sketched(torch.zeros(2, 3), torch.ones(3))
