"""The gate of a gated feed-forward layer; see README.md."""

from __future__ import annotations
