"""What an interval says about a threshold."""

from __future__ import annotations

from typing import Final, Literal

from ..arguments import instance, number, whole_number
from .intervals import Estimate
from .resampling import FEWEST

Verdict = Literal["holds", "does not hold", "not decided at this sample size"]
"""What an interval says about "the value lies above the threshold".

- `holds`: the whole interval lies above the threshold.
- `does not hold`: the whole interval lies below it.
- `not decided at this sample size`: anything else; always with fewer than `FEWEST` images, and where every image gave
  exactly 0: what changes nothing in a few images may change much in a rare one.
"""
HOLDS: Final = "holds"
"""The verdict on a claim whose whole interval lies beyond the criterion."""
FAILS: Final = "does not hold"
"""The verdict on a claim whose interval lies on the other side of the criterion."""
OPEN: Final = "not decided at this sample size"
"""The verdict where the interval lies on both sides of the criterion, or images are too few."""


def verdict(estimate: Estimate, threshold: float, images: int) -> Verdict:
    """Whether an interval over so many images lies above a threshold, below it, or neither.

    In simulations at 8, 24 and 100 images, with the true value at the threshold, fewer than 5.5 % of samples gave a
    verdict, whatever the data: normal, skewed, heavy-tailed, shares (docs/intervals.md).

    >>> verdict(Estimate(0.7, 0.6, 0.8), threshold=0.5, images=20)
    'holds'
    """
    instance("estimate", estimate, Estimate, "estimate=Estimate(0.7, 0.6, 0.8)")
    threshold = number("threshold", threshold)
    images = whole_number("images", images, least=0, kind="number of images")
    if images < FEWEST or estimate.low == estimate.high == 0:
        return OPEN
    if estimate.low > threshold:
        return HOLDS
    return FAILS if estimate.high < threshold else OPEN
