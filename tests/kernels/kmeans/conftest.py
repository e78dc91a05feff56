"""Every test that takes ``impl`` runs for each implementation of k-means that can run here."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels.kmeans import ops


@pytest.fixture(params=ops.OP.implementations)
def impl(request: pytest.FixtureRequest) -> str:
    reasons = ops.OP.not_supported_reasons(request.param, "extremes", torch.zeros(2, 2), torch.tensor([0, 2]))
    if reasons:
        pytest.skip("; ".join(reasons))
    return request.param
