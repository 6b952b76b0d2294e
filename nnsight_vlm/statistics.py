"""How certain a number is: means over images, bootstrap intervals over images, and verdicts on thresholds.

All intervals are percentile-bootstrap intervals: the images are drawn again with replacement `RESAMPLES` times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from .arguments import frame_given, function, instance, listed, number, numbers, refuse, text, whole_number

RESAMPLES = 2000
"""How many times the images are drawn again for an interval."""

FEWEST = 8
"""Fewest images on which a verdict is given; with fewer, an interval says little about its own ends."""

Verdict = Literal["holds", "does not hold", "not decided at this sample size"]
"""What an interval says about "the value lies above the threshold".

- `holds`: the whole interval lies above the threshold.
- `does not hold`: the whole interval lies below it.
- `not decided at this sample size`: anything else, and always with fewer than `FEWEST` images.
"""
HOLDS: Final = "holds"
FAILS: Final = "does not hold"
OPEN: Final = "not decided at this sample size"

Means = Mapping[str, np.ndarray]
"""Column means by column name, one entry a resample."""


class Estimate(NamedTuple):
    """A number and its confidence interval.

    Attributes:
        value: the number, NaN where there were no data.
        low, high: ends of the interval, NaN where nothing is known about the spread.
    """

    value: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))
"""The estimate of a number without data."""


def bootstrap(values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean and its percentile-bootstrap interval; NaN values are left out.

    One value says nothing about its spread, so its interval is NaN.

    >>> bootstrap([2.0, 2.0, 2.0])
    Estimate(value=2.0, low=2.0, high=2.0)
    """
    confidence = number("confidence", confidence, above=0, below=1, kind="share")
    seed = whole_number("seed", seed, least=0, kind="seed")
    present = numbers("values", values, least=0)
    present = present[~np.isnan(present)]
    if len(present) == 0:
        return UNKNOWN
    if len(present) == 1:
        return Estimate(float(present[0]), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(len(present), size=(RESAMPLES, len(present)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(present[draws].mean(1), [tail, 1 - tail])
    return Estimate(float(present.mean()), float(low), float(high))


def interval(rows: pd.DataFrame, statistic: Callable[[Means], np.ndarray], seed: int = 0) -> Estimate:
    """A statistic of column means and its 95 % percentile-bootstrap interval.

    Args:
        rows: one row an image, numbers in every column.
        statistic: the number, from the column means; computed for all resamples at once.
        seed: of the resamples.

    Returns:
        The estimate. Its interval is NaN for one image, and where the statistic of any resample is NaN.

    >>> interval(pd.DataFrame({"hit": [1.0, 1.0], "size": [2.0, 2.0]}), lambda means: means["hit"] / means["size"])
    Estimate(value=0.5, low=0.5, high=0.5)
    """
    frame_given("rows", rows)
    function("statistic", statistic, 'statistic=lambda means: means["hit"]')
    seed = whole_number("seed", seed, least=0, kind="seed")
    if rows.empty:
        return UNKNOWN
    if not all(kind.kind in "biuf" for kind in rows.dtypes):
        refuse("rows", rows, "frame of numbers", "rows[[...]] with columns of numbers only, one row an image")
    values = rows.to_numpy(dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))

    def of_means(means: np.ndarray) -> np.ndarray:
        return statistic(dict(zip(rows.columns, means.T, strict=True)))

    value, resampled = float(of_means(values.mean(0)[None])[0]), of_means(values[draws].mean(1))
    if len(values) < 2 or np.isnan(resampled).any():
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def verdict(estimate: Estimate, threshold: float, images: int) -> Verdict:
    """Whether an interval over so many images lies above a threshold, below it, or neither.

    >>> verdict(Estimate(0.7, 0.6, 0.8), threshold=0.5, images=20)
    'holds'
    """
    instance("estimate", estimate, Estimate, "estimate=Estimate(0.7, 0.6, 0.8)")
    threshold = number("threshold", threshold)
    images = whole_number("images", images, least=0, kind="number of images")
    if images >= FEWEST and estimate.low > threshold:
        return HOLDS
    if images >= FEWEST and estimate.high < threshold:
        return FAILS
    return OPEN


def summarise(
    frame: pd.DataFrame, by: Sequence[str], measures: Sequence[str], *, unit: str = "image", confidence: float = 0.95
) -> pd.DataFrame:
    """Means over images with bootstrap intervals: one row for each group and measure.

    Several rows of one image are averaged first, so that the interval is over images.

    Args:
        frame: the rows of all images, with the columns of `by`, `unit` and `measures`.
        by: the columns whose values make a group.
        measures: the columns to average.
        unit: the column that tells images apart.
        confidence: of the intervals.

    Returns:
        The columns of `by`, then `measure, mean, low, high, images`; `images` counts those that have the measure.
    """
    by, measures = (
        listed(name, each, f"{name}=[...]", kind=str) for name, each in (("by", by), ("measures", measures))
    )
    frame_given("frame", frame, [*by, text("unit", unit, 'unit="image"'), *measures])
    if not by or not measures:
        refuse("by" if measures else "measures", by and measures, "list of columns", "names of columns of the frame")
    for measure in measures:
        if frame[measure].dtype.kind not in "biuf":
            refuse("measures", [measure], "column of numbers", "names of columns that hold numbers")
    per_unit = frame.groupby([*by, unit], dropna=False, sort=False)[list(measures)].mean()
    rows = []
    for key, group in per_unit.groupby(level=list(by), dropna=False, sort=False):
        labels = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        for measure in measures:
            mean, low, high = bootstrap(group[measure].to_numpy(), confidence=confidence)
            images = int(group[measure].notna().sum())
            rows.append({**labels, "measure": measure, "mean": mean, "low": low, "high": high, "images": images})
    return pd.DataFrame(rows)
