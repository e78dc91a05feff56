"""Sketches of per-sample weight gradients that are never formed whole; see README.md."""

from __future__ import annotations
