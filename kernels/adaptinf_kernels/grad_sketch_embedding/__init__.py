"""Sketches of the per-sample gradients of an embedding table; see README.md."""

from __future__ import annotations
