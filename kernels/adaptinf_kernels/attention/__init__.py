"""Attention of short rows; see README.md."""

from __future__ import annotations
