"""Numbers as a reader wants them. A number that was not measured (NaN, None) is an en dash."""

from __future__ import annotations

import math

MISSING = "–"
_SPACE = "\u00a0"  # a unit stays with its number


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.7123 as ``71.2 %``."""
    return MISSING if fraction is None or math.isnan(fraction) else f"{bare_percent(fraction, digits)}{_SPACE}%"


def bare_percent(fraction: float | None, digits: int = 1) -> str:
    """0.7123 as ``71.2``: for cells whose unit stands above them."""
    return MISSING if fraction is None or math.isnan(fraction) else _unsigned_zero(f"{100 * fraction:.{digits}f}")


def points(fraction: float | None) -> str:
    """A difference of two shares: 0.031 as ``+3.1``."""
    return MISSING if fraction is None or math.isnan(fraction) else _unsigned_zero(f"{100 * fraction:+.1f}")


def decimal(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None or math.isnan(value) else _unsigned_zero(f"{value:.{digits}f}")


def count(value: float | None) -> str:
    """12345 as ``12,345``."""
    return MISSING if value is None or math.isnan(value) else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """``0.42 s``, ``42.3 s``, ``5 min 12 s``, ``1 h 03 min``."""
    if seconds is None or math.isnan(seconds):
        return MISSING
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds < 9.995:
        return f"{seconds:.2f}{_SPACE}s"
    if seconds < 99.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min{_SPACE}{whole % 60:02d}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h{_SPACE}{minutes % 60:02d}{_SPACE}min"


def flops(value: float | None) -> str:
    """3.21e12 as ``3.21 TFLOP``."""
    if value is None or math.isnan(value):
        return MISSING
    if value < 0:
        return f"−{flops(-value)}"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{_SPACE}{prefix}FLOP"
    return f"{value:.0f}{_SPACE}FLOP"


def _unsigned_zero(text: str) -> str:
    """Rounded to nothing is neither gain nor loss; a true minus sign otherwise."""
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")
