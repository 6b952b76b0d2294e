"""Means over images of the rows that a recipe measured."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from ..arguments import frame_given, listed, refuse, text
from .intervals import means_with_ends
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
    groups = per_image.groupby(level=list(by), dropna=False, sort=False).ngroup().to_numpy()
    _, first = np.unique(groups, return_index=True)
    keys = list(zip(*(per_image.index.get_level_values(name)[first] for name in by), strict=True))
    found = [
        _estimates(
            per_image[measure].to_numpy(dtype=float), groups, confidence, None if shares is None else measure in shares
        )
        for measure in measures
    ]
    return pd.DataFrame(
        [
            {**dict(zip(by, key, strict=True)), "measure": measure, **numbers[group]}
            for group, key in enumerate(keys)
            for measure, numbers in zip(measures, found, strict=True)
        ]
    )


def _estimates(
    values: np.ndarray, groups: np.ndarray, confidence: float, share: bool | None
) -> list[dict[str, float | int]]:
    """`mean, low, high, images` of each group; groups of as many images are drawn again together.

    Args:
        values: one number an image and group, NaN where there is none.
        groups: the number of the group of each.
        confidence, share: see `bootstrap`.
    """
    present = np.flatnonzero(~np.isnan(values))
    present = present[np.argsort(groups[present], kind="stable")]
    images = np.bincount(groups[present], minlength=groups.max(initial=-1) + 1)
    starts = np.cumsum(images) - images
    table = np.full((len(images), 3), np.nan)
    for count in np.unique(images[images > 0]):
        alike = np.flatnonzero(images == count)
        samples = values[present[starts[alike][:, None] + np.arange(count)]]
        means, ends = means_with_ends(samples, confidence=confidence, share=share)
        table[alike] = np.stack([means, ends.low, ends.high], axis=1)
    return [
        {"mean": mean, "low": low, "high": high, "images": count}
        for (mean, low, high), count in zip(table.tolist(), images.tolist(), strict=True)
    ]
