"""Times and memory of the library and of its peers, each behind a correctness gate; see README.md."""

from __future__ import annotations
