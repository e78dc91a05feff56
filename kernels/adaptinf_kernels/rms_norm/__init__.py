"""Root-mean-square normalisation; see README.md."""

from __future__ import annotations
