"""Per-token scores from hidden states, a head and labels; see README.md."""

from __future__ import annotations
