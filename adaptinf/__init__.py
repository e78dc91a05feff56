"""adaptinf: lifelong multimodal instruction tuning with selection that costs less than the training it saves.

Public names are imported on first use, so that ``import adaptinf`` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptinf import errors, evaluation, selection
    from adaptinf.capture import Features, extract
    from adaptinf.config import RunConfig, load_config
    from adaptinf.data import Image, Message, Sample, TaskDataset, TaskStream, load_stream
    from adaptinf.models import add_lora, load_model

__version__ = "0.1.0"

__all__ = [
    "Features",
    "Image",
    "Message",
    "RunConfig",
    "Sample",
    "TaskDataset",
    "TaskStream",
    "__version__",
    "add_lora",
    "errors",
    "evaluation",
    "extract",
    "load_config",
    "load_model",
    "load_stream",
    "run",
    "selection",
]

_MODULES = {"errors", "evaluation", "selection"}
_HOMES = {
    "Features": "adaptinf.capture",
    "Image": "adaptinf.data",
    "Message": "adaptinf.data",
    "RunConfig": "adaptinf.config",
    "Sample": "adaptinf.data",
    "TaskDataset": "adaptinf.data",
    "TaskStream": "adaptinf.data",
    "add_lora": "adaptinf.models",
    "extract": "adaptinf.capture",
    "load_config": "adaptinf.config",
    "load_model": "adaptinf.models",
    "load_stream": "adaptinf.data",
}


def run(config: RunConfig | Mapping[str, Any] | Path | str, *, out: Path | str | None = None) -> Path:
    """Run one strategy over one stream, write its report and return its directory; an unfinished run is continued.

    Args:
        config: a ``RunConfig``, its keys and values, or a YAML file.
        out: the run directory; replaces ``config.out``. Without both it is ``runs/<strategy>``.

    Raises:
        ConfigError: a setting is unknown or impossible.
        AdaptinfError: see ``adaptinf.errors``; what was computed until then stays in the directory.
    """
    from adaptinf.config import load_config, to_dict
    from adaptinf.report import build_report
    from adaptinf.tuning import run as run_strategy

    settings = load_config(config if isinstance(config, (Mapping, Path, str)) else to_dict(config))
    directory = run_strategy(settings, Path(out or settings.out or Path("runs") / settings.strategy))
    build_report(directory)
    return directory


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"adaptinf.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'adaptinf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
