from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.special import softmax as reference

from adaptinf.routing.calibration import fit_temperature, softmax


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_minimises_the_nll(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(800, 5)) * 3
    labels = [rng.choice(5, p=row) for row in reference(logits / true, axis=1)]

    def nll(log_t: float) -> float:
        return -log_softmax(logits / np.exp(log_t), axis=1)[np.arange(800), labels].mean()

    best = minimize_scalar(nll, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)
    assert found == pytest.approx(true, rel=0.15)
    assert fit_temperature(logits + 100, labels) == pytest.approx(found, rel=1e-9)  # a constant a row means nothing


def test_borders() -> None:
    assert fit_temperature([[9.0, 0.0], [0.0, 9.0]], [0, 1]) == 1e-3  # right everywhere: the surer the better
    assert fit_temperature([[9.0, 0.0], [0.0, 9.0]], [1, 0]) == 1e3  # wrong everywhere: the less sure the better


def test_softmax_is_that_of_scipy() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [1.0, 2.0, 3.0]])
    assert softmax(logits) == pytest.approx(reference(logits, axis=1), rel=1e-12)
