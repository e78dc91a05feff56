"""Seeds that do not depend on what ran before: every stage of every step draws from its own."""

from __future__ import annotations

import hashlib


def stage_seed(seed: int, step: int, stage: str) -> int:
    """31 bits of sha256 over ``seed/step/stage``: a resumed run draws what the uninterrupted one would have drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{stage}".encode()).digest()[:4], "big") >> 1
