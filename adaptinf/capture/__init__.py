"""One pass over a model: per-sample gradient sketches, token scores and hidden means together."""

from __future__ import annotations

from adaptinf.capture.configured import extract_as
from adaptinf.capture.context import Capture, Captured, capture
from adaptinf.capture.extract import SCORES, extract
from adaptinf.capture.features import Features
from adaptinf.capture.parameters import Targets
from adaptinf.capture.segments import Segments
from adaptinf.capture.targets import find_targets, layer_indices
from adaptinf.capture.training import TrainingFeatures, collate_with_ids

__all__ = [
    "SCORES",
    "Capture",
    "Captured",
    "Features",
    "Segments",
    "Targets",
    "TrainingFeatures",
    "capture",
    "collate_with_ids",
    "extract",
    "extract_as",
    "find_targets",
    "layer_indices",
]
