"""How well each kind of sketch keeps the inner products of real per-sample gradients; see ``__main__``."""

from __future__ import annotations
