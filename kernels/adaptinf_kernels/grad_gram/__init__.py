"""Inner products of per-sample weight gradients that are never formed; see README.md."""

from __future__ import annotations
