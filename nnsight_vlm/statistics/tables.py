"""Means over images of the rows that a recipe measured."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from ..arguments import frame_given, listed, refuse, text
from .intervals import bootstrap
from .resampling import checked_confidence

CLUSTER = "cluster"
"""The column that tells images apart where several prompts are about one; see `summarise`."""
BY = 'names of columns, ["layer"]'


def image_means(
    frame: pd.DataFrame, measures: Sequence[str], by: Sequence[str] = (), *, unit: str = "image"
) -> pd.DataFrame:
    """One row for each group and image, which is the mean of its prompts, which are the means of their rows.

    Args:
        frame: rows with the columns of `by`, `unit` and `measures`, and `cluster` where several prompts are one image.
        measures: the columns to average; NaN values are left out.
        by: the columns whose values make a group.
        unit: the column that tells prompts apart.

    Returns:
        The measures, with the columns of `by` and then `cluster` (or `unit`, in a frame without clusters) as index.
    """
    by, measures = listed("by", by, BY, kind=str), listed("measures", measures, BY, kind=str)
    frame_given("frame", frame, [*by, text("unit", unit, 'unit="image"'), *measures])
    if not measures:
        refuse("measures", measures, "list of columns", BY)
    for measure in measures:
        if frame[measure].dtype.kind not in "biuf":
            refuse("measures", [measure], "column of numbers", "names of columns that hold numbers")
    units = [CLUSTER, unit] if CLUSTER in frame else [unit]
    means = frame.groupby([*by, *units], dropna=False, sort=False)[list(measures)].mean()
    if len(units) == 1:
        return means
    return means.groupby(level=[*by, CLUSTER], dropna=False, sort=False).mean()


def summarise(
    frame: pd.DataFrame,
    by: Sequence[str],
    measures: Sequence[str],
    *,
    unit: str = "image",
    confidence: float = 0.95,
    shares: Collection[str] | None = None,
) -> pd.DataFrame:
    """Means over images with intervals: one row for each group and measure.

    What is estimated is the mean over the images of which those measured are a sample. An image is the mean of its
    prompts, and a prompt the mean of its rows: every image counts once, however many prompts are about it, and in it
    every prompt counts once, however many rows it gave. Images are told apart by the column `cluster`; in a frame
    without one, every prompt is an image.

    Args:
        frame: the rows of all images, with the columns of `by`, `unit` and `measures`.
        by: the columns whose values make a group.
        measures: the columns to average.
        unit: the column that tells prompts apart.
        confidence: of the intervals, at least.
        shares: the measures that lie between 0 and 1; default, those all of whose values are 0 or 1.

    Returns:
        The columns of `by`, then `measure, mean, low, high, images`; `images` counts those that have the measure.
    """
    by, measures = listed("by", by, BY, kind=str), listed("measures", measures, BY, kind=str)
    if not by:
        refuse("by", by, "list of columns", BY)
    shares = None if shares is None else listed("shares", shares, BY, kind=str)
    checked_confidence(confidence)
    per_image = image_means(frame, measures, by, unit=unit)
    rows = []
    for key, group in per_image.groupby(level=list(by), dropna=False, sort=False):
        labels = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        for measure in measures:
            share = None if shares is None else measure in shares
            mean, low, high = bootstrap(group[measure].to_numpy(), confidence=confidence, share=share)
            images = int(group[measure].notna().sum())
            rows.append({**labels, "measure": measure, "mean": mean, "low": low, "high": high, "images": images})
    return pd.DataFrame(rows)
