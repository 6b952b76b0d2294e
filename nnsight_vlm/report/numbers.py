"""Numbers of a report as people read them: to as many digits as tell the ends of an interval apart."""

from __future__ import annotations

import math


def number(value: float, digits: int = 2) -> str:
    """A number of the table, empty where there is none."""
    if math.isnan(value):
        return ""
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else f"{value:+.0f}".replace("inf", "∞")


def digits_of(low: float, high: float, threshold: float = math.nan) -> int:
    """How many digits after the point tell the ends of an interval from each other and from a threshold; 2 to 6.

    >>> digits_of(0.55, 0.70), digits_of(-0.00024, 0.00219), digits_of(0.672, 0.866, threshold=2 / 3)
    (2, 4, 3)
    """
    width = high - low
    digits = min(max(2, 1 - math.floor(math.log10(width))), 6) if 0 < width < 0.01 else 2
    apart = [end for end in (low, high) if math.isfinite(end) and end != threshold]
    while digits < 6 and any(round(end, digits) == round(threshold, digits) for end in apart):
        digits += 1
    return digits


def with_interval(value: float, low: float, high: float, threshold: float = math.nan) -> str:
    """A number with its interval, `0.62 [0.55, 0.70]`, to as many digits as `digits_of` says.

    >>> with_interval(0.00016, -0.00024, 0.00219)
    '0.0002 [-0.0002, 0.0022]'
    >>> with_interval(3.5, 3.25, float("inf"))
    '3.50 [3.25, +∞]'
    """
    if math.isnan(low) and math.isnan(high):
        return f"{number(value)} (no interval)"
    digits = digits_of(low, high, threshold)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"
