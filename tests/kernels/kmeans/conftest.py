"""Every test that takes ``impl`` runs for each implementation of k-means that can run here."""

from __future__ import annotations

import pytest
import torch
from adaptinf_kernels.kmeans import ops


def _able(impl: str) -> str:
    reasons = ops.OP.not_supported_reasons(impl, "extremes", torch.zeros(2, 2), torch.tensor([0, 2]))
    if reasons:
        pytest.skip("; ".join(reasons))
    return impl


@pytest.fixture(params=ops.OP.implementations)
def impl(request: pytest.FixtureRequest) -> str:
    return _able(request.param)


@pytest.fixture(params=[name for name in ops.OP.implementations if name != "reference"])
def optimised(request: pytest.FixtureRequest) -> str:
    """All but the reference, which test_kmeans_definition.py holds to the definition."""
    return _able(request.param)
