"""Inner products of per-sample gradients from their definition, and shapes worth trying."""

from __future__ import annotations

import torch
from torch import Tensor

Samples = tuple[Tensor, Tensor, Tensor]

LENGTHS = [(5,), (0,), (), (1, 0, 63, 64, 65), (0, 0, 3, 130, 0), (500, 1, 200)]
WIDTHS = [(1, 1), (17, 5), (64, 64), (130, 96)]


def samples(lengths: tuple[int, ...], widths: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(sum(lengths), width, generator=generator).to(dtype) for width in widths)
    return x, g, torch.tensor([0, *lengths]).cumsum(0)


def split(samples: Samples) -> list[tuple[Tensor, Tensor]]:
    x, g, cu = samples
    return [(x[first:last], g[first:last]) for first, last in zip(cu.tolist()[:-1], cu.tolist()[1:], strict=True)]


def exact(ours: Samples, others: Samples) -> Tensor:
    """The gradients themselves, in float64."""
    rows, columns = ([(g.double().T @ x.double()).flatten() for x, g in split(each)] for each in (ours, others))
    table = [[float(row @ column) for column in columns] for row in rows]
    return torch.tensor(table, dtype=torch.float64).view(len(rows), len(columns))


def plain(ours: Samples, others: Samples, generator: torch.Generator) -> Tensor:
    """The sum over pairs of tokens in float32, by torch, its terms in a random order."""
    width_orders = [torch.randperm(tensor.shape[1], generator=generator) for tensor in ours[:2]]
    table = []
    for row in split(ours):
        x, g = (tensor.float()[:, order] for tensor, order in zip(row, width_orders, strict=True))
        tokens = torch.randperm(len(x), generator=generator)
        for column in split(others):
            y, h = (tensor.float()[:, order] for tensor, order in zip(column, width_orders, strict=True))
            table.append(((x[tokens] @ y.T) * (g[tokens] @ h.T)).sum())
    return torch.tensor(table).view(len(ours[2]) - 1, len(others[2]) - 1)


def check(found: Tensor, ours: Samples, others: Samples) -> None:
    """Within twice the largest error of eight plain computations, and one rounding."""
    truth = exact(ours, others)
    assert found.dtype == torch.float32
    assert found.shape == truth.shape
    if truth.numel():
        generator = torch.Generator().manual_seed(0)
        error = max((plain(ours, others, generator) - truth).abs().max() for _ in range(8))
        assert (found - truth).abs().max() <= 2 * error + truth.abs().max() * 2**-24
