"""Sketches of gradients that exist; see README.md."""

from __future__ import annotations
