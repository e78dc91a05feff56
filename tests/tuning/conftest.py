"""A whole run small enough for a test: three demo tasks, the small-vlm preset pre-trained for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptinf.config import RunConfig, from_dict
from adaptinf.tuning import run


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_config(tiny_cache: Path) -> Callable[..., RunConfig]:
    """``tiny_config(strategy="paper", training={"steps": 3}, ...)``: sections are merged over the tiny defaults."""

    def make(**changes: object) -> RunConfig:
        base: dict = {
            "strategy": "paper",
            "budget": 0.5,
            "cache": str(tiny_cache),
            "data": {
                "source": "demo",
                "order": ["shapes_vqa", "digit_compare", "country_language"],
                "train_limit": 24,
                "test_limit": 6,
            },
            "model": {"pretrain": {"steps": 3, "batch_size": 8}},
            "lora": {"r": 4, "alpha": 8},
            "features": {"k": 32},
            "selection": {"n_clusters": 3},
            "training": {"steps": 3, "batch_size": 4, "learning_rate": 1e-3},
            "evaluation": {"batch_size": 8},
        }
        for key, value in changes.items():
            base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
        return from_dict(RunConfig, base)

    return make


@pytest.fixture(scope="session")
def switched(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of strategy switch."""
    return run(tiny_config(strategy="switch"), tmp_path_factory.mktemp("switch") / "run")
