"""Every setting of a run: YAML in, frozen dataclasses out."""

from __future__ import annotations

from adaptinf.config.reading import Key, describe, from_dict, load_config, to_dict, to_yaml
from adaptinf.config.schema import (
    UNBUDGETED,
    DataConfig,
    EvalConfig,
    FeatureConfig,
    LoraConfig,
    ModelConfig,
    PretrainConfig,
    PruneConfig,
    ReportConfig,
    RoutingConfig,
    RunConfig,
    SelectionConfig,
    TaskSpec,
    TrainConfig,
)

__all__ = [
    "UNBUDGETED",
    "DataConfig",
    "EvalConfig",
    "FeatureConfig",
    "Key",
    "LoraConfig",
    "ModelConfig",
    "PretrainConfig",
    "PruneConfig",
    "ReportConfig",
    "RoutingConfig",
    "RunConfig",
    "SelectionConfig",
    "TaskSpec",
    "TrainConfig",
    "describe",
    "from_dict",
    "load_config",
    "to_dict",
    "to_yaml",
]
