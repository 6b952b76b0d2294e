"""Tensors to tidy DataFrames, and what a table says about its own certainty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 2000


def bootstrap(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and percentile-bootstrap interval `(mean, low, high)`; NaN values are left out.

    With one value the interval is NaN: nothing is known about its spread.
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return float("nan"), float("nan"), float("nan")
    if len(known) == 1:
        return float(known[0]), float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(known), size=(RESAMPLES, len(known)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(known[draws].mean(1), [tail, 1 - tail])
    return float(known.mean()), float(low), float(high)


def summarise(
    frame: pd.DataFrame, by: Sequence[str], measures: Sequence[str], *, unit: str = "image", confidence: float = 0.95
) -> pd.DataFrame:
    """Means over images with bootstrap intervals: one row per group and measure.

    Several rows of one image are averaged first, so that the interval is over images. Columns:
    `by`, then `measure, mean, low, high, images`.
    """
    per_unit = frame.groupby([*by, unit], dropna=False, sort=False)[list(measures)].mean()
    rows = []
    for key, group in per_unit.groupby(level=list(by), dropna=False, sort=False):
        keys = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        for measure in measures:
            mean, low, high = bootstrap(group[measure].to_numpy(), confidence=confidence)
            count = int(group[measure].notna().sum())
            rows.append({**keys, "measure": measure, "mean": mean, "low": low, "high": high, "images": count})
    return pd.DataFrame(rows)
