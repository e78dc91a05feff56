"""Near-duplicates inside clusters; see README.md."""

from __future__ import annotations
