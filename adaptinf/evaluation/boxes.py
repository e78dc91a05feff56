"""Bounding boxes in answers, and their overlap."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(r"[\[(]\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 4) + r"\s*[\])]")


class Box(NamedTuple):
    """Corners in any one unit; x1 < x2 and y1 < y2."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        return (self.x2 - self.x1) * (self.y2 - self.y1)


def parse_box(text: str) -> Box | None:
    """The first ``[x1, y1, x2, y2]`` (or in round brackets) of a text; None if there is none or it has no area."""
    found = _BOX.search(text)
    if found is None:
        return None
    box = Box(*(float(number) for number in found.groups()))
    valid = all(map(math.isfinite, box)) and box.x1 < box.x2 and box.y1 < box.y2 and math.isfinite(box.area)
    return box if valid and box.area > 0 else None


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return min(1.0, shared / (a.area + b.area - shared))
