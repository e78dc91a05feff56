"""Rotary position embedding; see README.md."""

from __future__ import annotations
