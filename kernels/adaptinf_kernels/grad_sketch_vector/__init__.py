"""Sketches of the per-sample gradients of biases and norm weights; see README.md."""

from __future__ import annotations
