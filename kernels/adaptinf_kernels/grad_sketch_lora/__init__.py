"""Sketches of the per-sample gradients of LoRA's two matrices; see README.md."""

from __future__ import annotations
