"""The sketch matrices: what they are (``definition``), and their entries as tables (``tables``)."""

from __future__ import annotations
