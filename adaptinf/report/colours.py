"""The palette: told apart with any colour vision, readable on light and on dark paper."""

from __future__ import annotations

SERIES = ("#1f68ad", "#c8a50c", "#169449", "#eb8fb3", "#96790a", "#82a6f2", "#a5331d", "#6f4fd6", "#6f535c", "#a17ab0")
"""Colours without an order (clusters, runs, stages), chosen so that any two differ for the colour-blind as well."""

_RAMP = ("#3b3f8f", "#2f6f9f", "#2a9088", "#57ab64", "#a3bd4b", "#e8c84c")
_HEAT = {"light": ("#f1f5fa", "#8db9de", "#124f8c"), "dark": ("#1d2733", "#2f6ea8", "#a9d6ff")}
HEAT_LEVELS = 11


def categorical(n: int) -> list[str]:
    """``n`` colours for things in an order: distinct ones up to ten, beyond that a ramp from first to last."""
    if n <= len(SERIES):
        return list(SERIES[:n])
    return [_along(_RAMP, i / (n - 1)) for i in range(n)]


def cycled(i: int) -> str:
    """The colour of number ``i``; they repeat after ten, so the number is always printed as well."""
    return SERIES[i % len(SERIES)]


def heat(theme: str) -> list[tuple[str, str]]:
    """Background and text colour of each level of a heat map, for the theme ``light`` or ``dark``."""
    backgrounds = [_along(_HEAT[theme], i / (HEAT_LEVELS - 1)) for i in range(HEAT_LEVELS)]
    return [(background, ink_on(background)) for background in backgrounds]


def ink_on(background: str) -> str:
    """Near-black or white: whichever contrasts more with the background (WCAG 2 relative luminance)."""
    light = _luminance(background)
    return "#ffffff" if 1.05 / (light + 0.05) > (light + 0.05) / (_luminance("#10161d") + 0.05) else "#10161d"


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two colours, 1 to 21."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _along(stops: tuple[str, ...], position: float) -> str:
    place = position * (len(stops) - 1)
    left = min(int(place), len(stops) - 2)
    part = place - left
    mixed = (a + (b - a) * part for a, b in zip(_rgb(stops[left]), _rgb(stops[left + 1]), strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in _rgb(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
