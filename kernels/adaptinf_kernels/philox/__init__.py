"""Philox4x32-10 words; see README.md."""

from __future__ import annotations
