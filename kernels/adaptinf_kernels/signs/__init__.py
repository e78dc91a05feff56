"""Random signs as a function of (seed, name, row, column); see README.md."""

from __future__ import annotations
