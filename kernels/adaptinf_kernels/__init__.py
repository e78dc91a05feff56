"""Gradient sketches, token scores, k-means and semantic de-duplication for PyTorch, usable on their own.

Public names are imported on first use, so that ``import adaptinf_kernels`` loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptinf_kernels._native import build_info
    from adaptinf_kernels.attention.api import attention
    from adaptinf_kernels.errors import NotSupportedError
    from adaptinf_kernels.grad_gram.api import grad_gram
    from adaptinf_kernels.grad_sketch_embedding.api import grad_sketch_embedding
    from adaptinf_kernels.grad_sketch_linear.api import grad_sketch_linear
    from adaptinf_kernels.grad_sketch_lora.api import grad_sketch_lora
    from adaptinf_kernels.grad_sketch_vector.api import grad_sketch_bias, grad_sketch_norm
    from adaptinf_kernels.kmeans.api import kmeans
    from adaptinf_kernels.kmeans.result import KMeansResult
    from adaptinf_kernels.project.api import project
    from adaptinf_kernels.project.trak import TrakProjector
    from adaptinf_kernels.rms_norm.api import rms_norm
    from adaptinf_kernels.rotary.api import rotary
    from adaptinf_kernels.semdedup.api import SemDedupResult, semdedup
    from adaptinf_kernels.signs.api import signs
    from adaptinf_kernels.sketch.definition import Sketch
    from adaptinf_kernels.sketch.preconditioner import Preconditioner
    from adaptinf_kernels.sketch.samples import GradSketch
    from adaptinf_kernels.swiglu.api import swiglu
    from adaptinf_kernels.token_scores.api import TokenScores, token_scores
    from adaptinf_kernels.token_scores.head import head_sketch
    from adaptinf_kernels.token_scores.samples import SampleScores, sample_scores

__all__ = [
    "GradSketch",
    "KMeansResult",
    "NotSupportedError",
    "Preconditioner",
    "SampleScores",
    "SemDedupResult",
    "Sketch",
    "TokenScores",
    "TrakProjector",
    "attention",
    "build_info",
    "grad_gram",
    "grad_sketch_bias",
    "grad_sketch_embedding",
    "grad_sketch_linear",
    "grad_sketch_lora",
    "grad_sketch_norm",
    "head_sketch",
    "kmeans",
    "project",
    "rms_norm",
    "rotary",
    "sample_scores",
    "semdedup",
    "signs",
    "swiglu",
    "token_scores",
]

_HOMES = {
    "GradSketch": "sketch.samples",
    "KMeansResult": "kmeans.result",
    "NotSupportedError": "errors",
    "Preconditioner": "sketch.preconditioner",
    "SampleScores": "token_scores.samples",
    "SemDedupResult": "semdedup.api",
    "Sketch": "sketch.definition",
    "TokenScores": "token_scores.api",
    "TrakProjector": "project.trak",
    "attention": "attention.api",
    "build_info": "_native",
    "grad_gram": "grad_gram.api",
    "grad_sketch_bias": "grad_sketch_vector.api",
    "grad_sketch_embedding": "grad_sketch_embedding.api",
    "grad_sketch_linear": "grad_sketch_linear.api",
    "grad_sketch_lora": "grad_sketch_lora.api",
    "grad_sketch_norm": "grad_sketch_vector.api",
    "head_sketch": "token_scores.head",
    "kmeans": "kmeans.api",
    "project": "project.api",
    "rms_norm": "rms_norm.api",
    "rotary": "rotary.api",
    "sample_scores": "token_scores.samples",
    "semdedup": "semdedup.api",
    "signs": "signs.api",
    "swiglu": "swiglu.api",
    "token_scores": "token_scores.api",
}


class _Package(ModuleType):
    """Keeps ``adaptinf_kernels.kmeans`` the function.

    Importing the folder of that name would otherwise put the sub-package in its place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'adaptinf_kernels' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"adaptinf_kernels.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Package
