"""The length of a row is the same number on every machine: its root is correctly rounded."""

from __future__ import annotations

import math

import torch
from adaptinf_kernels.kmeans.arithmetic import square_root


def test_correctly_rounded_for_any_number_of_values() -> None:
    values = torch.rand(3, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[math.sqrt(v) for v in row] for row in values.tolist()], dtype=torch.float64)
    assert torch.equal(square_root(values), expected)
    assert torch.equal(square_root(values[0, :3]), expected[0, :3])
    assert square_root(values[0, 0]) == expected[0, 0]
    assert square_root(values[:, :0]).shape == (3, 0)
