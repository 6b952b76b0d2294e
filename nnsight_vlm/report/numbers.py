"""Numbers of a report as people read them: to as many digits as tell the ends of an interval apart."""

from __future__ import annotations

import math

NO_BOUND = "no bound"
"""An end of an interval on whose side the images put no bound: too few of them, or too much alike."""


def number(value: float, digits: int = 2) -> str:
    """A finite number of the table; empty where there is none."""
    return "" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


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


def with_interval(
    value: float, low: float, high: float, threshold: float = math.nan, *, digits: int | None = None
) -> str:
    """A number with its interval, `0.62 [0.55, 0.70]`, to as many digits as `digits_of` says unless told otherwise.

    What is infinite is said in words: an end on whose side there is no bound, and a mean in which some image's share is
    of a difference of 0.

    >>> with_interval(0.00016, -0.00024, 0.00219)
    '0.0002 [-0.0002, 0.0022]'
    >>> with_interval(3.5, 3.25, float("inf"))
    '3.50 [3.25, no bound]'
    >>> with_interval(3.5, float("-inf"), float("inf"))
    '3.50 (no bound on either side)'
    """
    if math.isinf(value):
        return "no finite mean"
    if math.isnan(low) and math.isnan(high):
        return f"{number(value)} (no interval)"
    digits = digits_of(low, high, threshold) if digits is None else digits
    if math.isinf(low) and math.isinf(high):
        return f"{number(value, digits)} ({NO_BOUND} on either side)"
    ends = (NO_BOUND if math.isinf(end) else number(end, digits) for end in (low, high))
    return f"{number(value, digits)} [{', '.join(ends)}]"
