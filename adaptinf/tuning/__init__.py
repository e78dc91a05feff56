"""LoRA tuning on selected samples, and the lifelong loop as a resumable state machine."""

from __future__ import annotations

from adaptinf.tuning.fit import FitResult, fit
from adaptinf.tuning.loop import open_stream, run
from adaptinf.tuning.strategy import STRATEGIES, Strategy, make_strategy

__all__ = ["STRATEGIES", "FitResult", "Strategy", "fit", "make_strategy", "open_stream", "run"]
