"""Over independent matrices the inner product of sketches has the true mean and the variance that is claimed."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from adaptinf_kernels import Sketch, project

from tests.statistics.variances import variance

SKETCHES = [
    Sketch("rademacher", 64),
    Sketch("sjlt", 64),
    Sketch("sjlt", 64, nonzeros=4),
    Sketch("xorts", 64),
    Sketch("xorts", 64, repetitions=3),
    Sketch("kron", 64, min_side=1),
]
SHAPES = {
    "attention": (24, 24),
    "wide": (12, 40),
    "tall": (40, 12),
    "LoRA A": (4, 48),
    "LoRA B": (48, 4),
    "vector": (1, 150),
    "embedding": (60, 8),
}
SAMPLES = 16


def ident(sketch: Sketch) -> str:
    return f"{sketch.kind}-{sketch.nonzeros}-{sketch.repetitions}"


@functools.cache
def gradients(shape: tuple[int, int]) -> torch.Tensor:
    """[SAMPLES, d_out, d_in]: sums of a few outer products with a common part and some entries that stand out."""
    d_out, d_in = shape
    generator = torch.Generator().manual_seed(d_out)
    g, x = (torch.randn(SAMPLES, 3, size, generator=generator) for size in shape)
    g += 0.7 * torch.randn(1, 3, d_out, generator=generator)
    x += 0.7 * torch.randn(1, 3, d_in, generator=generator)
    found = g.transpose(1, 2) @ x
    if shape == SHAPES["embedding"]:  # a sample touches few rows
        found *= torch.rand(SAMPLES, d_out, 1, generator=generator) < 0.1
    found.view(SAMPLES, -1)[:, :: d_out * d_in // 5] *= 4
    return found


@functools.cache
def estimates(sketch: Sketch, shape: tuple[int, int]) -> np.ndarray:
    """[trials, SAMPLES, SAMPLES]: inner products of sketches by as many matrices."""
    trials = 2000 if sketch.kind == "kron" else 600  # its errors have long tails
    z = [project(gradients(shape), replace(sketch, seed=seed), name="w").double() for seed in range(trials)]
    return torch.stack([rows @ rows.T for rows in z]).numpy()


@functools.cache
def expected(sketch: Sketch, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """True inner products, and the variances in closed form; [SAMPLES, SAMPLES]."""
    rows = gradients(shape).double().numpy()
    pairs = [[variance(sketch, rows[i], rows[j]) if i <= j else 0.0 for j in range(SAMPLES)] for i in range(SAMPLES)]
    upper = np.array(pairs)
    return np.einsum("iab,jab->ij", rows, rows), upper + np.triu(upper, 1).T


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
def test_unbiased(sketch: Sketch, shape: tuple[int, int]) -> None:
    """Inner products and squared norms, for every shape: no module weighs more than it should."""
    truth, variances = expected(sketch, shape)
    found = estimates(sketch, shape)
    error = (found.mean(0) - truth) / np.sqrt(variances / len(found) + 1e-12 * truth**2)
    upper = np.triu_indices(SAMPLES)
    assert np.abs(error[upper]).max() < 5
    assert abs(np.diagonal(error).mean()) < 4  # their errors are correlated, so no division by sqrt(SAMPLES)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
def test_variance_is_the_closed_form(sketch: Sketch, shape: tuple[int, int]) -> None:
    truth, variances = expected(sketch, shape)
    upper = np.triu_indices(SAMPLES, 1)
    squares = (estimates(sketch, shape) - truth)[:, upper[0], upper[1]] ** 2
    ratios = (squares / variances[upper]).mean(1)
    standard_error = ratios.std() / len(ratios) ** 0.5
    assert standard_error < 0.025, "too few trials to tell 5 %"
    assert abs(ratios.mean() - 1) < 0.05


@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
def test_matrices_of_two_names_are_independent(sketch: Sketch) -> None:
    """``<S_a u, S_b v>`` has mean 0 and, for every kind, variance ``|u|^2 |v|^2 / k``: sketches of modules add up."""
    rows = gradients(SHAPES["attention"])
    products = []
    for seed in range(600):
        one, other = (project(rows, replace(sketch, seed=seed), name=name).double() for name in "ab")
        products.append((one @ other.T).numpy())
    norms = rows.flatten(1).double().norm(dim=1).numpy()
    found = np.array(products) / np.outer(norms, norms) * sketch.k**0.5
    assert np.abs(found.mean(0)).max() < 5 / 600**0.5
    squares = (found**2).mean((1, 2))
    assert squares.std() / 600**0.5 < 0.025, "too few trials to tell 5 %"
    assert abs(squares.mean() - 1) < 0.05


@pytest.mark.parametrize(("seed", "name"), [(1, "w"), (0, "w2")])
@pytest.mark.parametrize("sketch", SKETCHES, ids=ident)
def test_another_seed_or_name_is_another_matrix(sketch: Sketch, seed: int, name: str) -> None:
    rows = gradients(SHAPES["attention"])
    assert not torch.equal(project(rows, sketch, name="w"), project(rows, replace(sketch, seed=seed), name=name))


@pytest.mark.parametrize("sketch", [Sketch("rademacher", 256), Sketch("sjlt", 256), Sketch("sjlt", 256, nonzeros=4)])
def test_cosines(sketch: Sketch) -> None:
    """The cosine of two sketches is off by O(1/k), with variance ``(1 - cos^2)^2 / k`` where no entry stands out, times
    the share of pairs that can meet."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(SAMPLES, 40, 80, generator=generator) + 0.8 * torch.randn(1, 40, 80, generator=generator)
    unit = torch.nn.functional.normalize(rows.flatten(1).double())
    truth = (unit @ unit.T).numpy()
    assert np.triu(truth, 1).max() > 0.35
    found = []
    for seed in range(400):
        z = torch.nn.functional.normalize(project(rows, replace(sketch, seed=seed), name="w").double())
        found.append((z @ z.T).numpy())
    error, upper = np.array(found) - truth, np.triu_indices(SAMPLES, 1)
    assert np.abs(error.mean(0)).max() < 3 / sketch.k + 5 / (400 * sketch.k) ** 0.5
    ratio = (error**2).mean(0)[upper] / (1 - truth[upper] ** 2) ** 2 * sketch.k
    meeting = 1 - sketch.k // sketch.nonzeros / (40 * 80) if sketch.kind == "sjlt" else 1
    assert abs(ratio.mean() / meeting - 1) < 0.05
