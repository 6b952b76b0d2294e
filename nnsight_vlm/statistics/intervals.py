"""Intervals of means, and of what follows from means, over few images of unknown distribution.

There is no interval for every distribution and every number of images. How often these hold the true value was
measured for 8, 24 and 100 images and many distributions; the tables are in docs/intervals.md. There are three kinds:

- *0 or 1* in every image: the exact interval of Clopper and Pearson (1934).
- *one number* in every image: that number. Where it is 0, no verdict follows from it (`verdicts`).
- *anything else*: the wider of Student's t and the studentised bootstrap (Hall 1988, Annals of Statistics 16), at each
  end. Student's t is right for symmetric and heavy-tailed numbers, the studentised bootstrap for skewed ones; scipy's
  BCa intervals cover less than either where images are few. Numbers between 0 and 1 get no wider an interval than as
  many 0s and 1s would, because none of their distributions spreads more.

Few images show little of a distribution's tail, so intervals of few images aim higher than they promise (`resampling`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..arguments import flag, frame_given, function, numbers, refuse, whole_number
from .resampling import STILL, Ends, Spread, checked_confidence, counts_of, error_of_mean, hull

AT_ONCE = 64
"""How many samples are drawn again in one array, which bounds its memory."""
EQUAL = 1e-9
"""Numbers that differ by less than this, beside their size, are one number."""

Means = Mapping[str, np.ndarray]
"""Column means by column name, one entry a resample."""


class Estimate(NamedTuple):
    """A number and its confidence interval.

    Attributes:
        value: the number, NaN where there were no data.
        low, high: ends of the interval. An infinite end says that the images put no bound there; both are NaN where
            nothing is known about the spread.
    """

    value: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))
"""The estimate of a number without data."""


# means ----------------------------------------------------------------------------------------------


def bootstrap(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, seed: int = 0, share: bool | None = None
) -> Estimate:
    """The mean and its interval; NaN values are left out.

    One value says nothing about its spread, and neither do infinite ones, so that their interval is NaN.

    Args:
        values: one number an image.
        confidence: of the interval, between 0 and 1.
        seed: of the resamples.
        share: whether the numbers mean shares, between 0 and 1; default, where all of them are 0 or 1.

    Raises:
        SpecError: values that are not one number each, or a confidence that is no number between 0 and 1.

    >>> bootstrap([2.0, 2.0, 2.0])
    Estimate(value=2.0, low=2.0, high=2.0)
    >>> mean, low, high = bootstrap([1.0] * 8)  # 8 of 8
    >>> mean, round(low, 3), high
    (1.0, 0.631, 1.0)
    """
    write = "one number for each image, as in [0.5, 1.0, 0.25]"
    present, seed = numbers("values", values, least=0, write=write), whole_number("seed", seed, least=0, kind="seed")
    share = None if share is None else flag("share", share)
    present = present[~np.isnan(present)]
    if len(present) == 0:
        return UNKNOWN
    means, ends = means_with_ends(present[None], confidence=confidence, seed=seed, share=share)
    return Estimate(float(means[0]), float(ends.low[0]), float(ends.high[0]))


def means_with_ends(
    samples: np.ndarray, *, confidence: float = 0.95, seed: int = 0, share: bool | None = None
) -> tuple[np.ndarray, Ends]:
    """What `bootstrap` gives of many samples of as many images, `[sample, image]` without NaN.

    Samples are drawn again `AT_ONCE` at a time, so that memory does not grow with their number.
    """
    means, unknown = samples.mean(1), np.full(len(samples), np.nan)
    low, high = unknown, unknown.copy()
    known = np.flatnonzero(np.isfinite(samples).all(1) & (samples.shape[1] > 1))
    for first in range(0, len(known), AT_ONCE):
        some = known[first : first + AT_ONCE]
        low[some], high[some] = mean_ends(samples[some], confidence=confidence, seed=seed, share=share)
    return means, Ends(low, high)


def mean_ends(samples: np.ndarray, *, confidence: float = 0.95, seed: int = 0, share: bool | None = None) -> Ends:
    """The interval of each sample's mean, as `bootstrap` gives it; `samples` is `[sample, image]` without NaN."""
    images, means = samples.shape[1], samples.mean(1)
    still = np.ptp(samples, axis=1) <= EQUAL * np.abs(samples).max(1)
    binary = np.isin(samples, (0.0, 1.0)).all(1) & (share is not False)
    low, high = means.copy(), means.copy()
    drawn = np.flatnonzero(~still & ~binary)
    if len(drawn):
        low[drawn], high[drawn] = _drawn_ends(samples[drawn], confidence, seed)
    if share:
        exact = share_ends(means[drawn] * images, images, confidence)
        low[drawn], high[drawn] = np.fmax(low[drawn], exact.low), np.fmin(high[drawn], exact.high)
    low[binary], high[binary] = share_ends(means[binary] * images, images, confidence)
    return Ends(low, high)


def _drawn_ends(samples: np.ndarray, confidence: float, seed: int) -> Ends:
    """Intervals of means whose images are drawn again."""
    images, means = samples.shape[1], samples.mean(1)
    deviations = samples - means[:, None]
    counts = counts_of(images, seed)
    moved = _over_draws(deviations, counts) / images
    variances = _over_draws(deviations**2, counts) / images - moved**2
    error = error_of_mean(deviations.var(1), images)
    return hull(Spread(means, error, moved, error_of_mean(variances, images)), images, confidence)


def _over_draws(samples: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum of each sample over each draw, `[sample, resample]`.

    One product a sample: in one of all samples the last digits of each would depend on the others.
    """
    return np.asarray((samples[:, None, :] @ counts.T)[:, 0])


def share_ends(hits: np.ndarray, images: int, confidence: float) -> Ends:
    """The interval of Clopper and Pearson for each share; hits that are no whole number are rounded outwards."""
    from scipy.special import betaincinv

    tail = (1 - checked_confidence(confidence)) / 2
    fewest, most = np.floor(hits + EQUAL), np.ceil(hits - EQUAL)
    low = np.where(fewest > 0, betaincinv(np.maximum(fewest, 1), images - fewest + 1, tail), 0.0)
    high = np.where(most < images, betaincinv(most + 1, np.maximum(images - most, 1), 1 - tail), 1.0)
    return Ends(low, high)


# what follows from means ------------------------------------------------------------------------------


def interval(
    rows: pd.DataFrame,
    statistic: Callable[[Means], np.ndarray],
    seed: int = 0,
    *,
    confidence: float = 0.95,
    shares: bool = False,
) -> Estimate:
    """A statistic of column means and its interval.

    Args:
        rows: one row an image, numbers in every column.
        statistic: the number, from the column means; computed for all resamples at once. A smooth function.
        seed: of the resamples.
        confidence: of the interval.
        shares: whether all columns mean shares, between 0 and 1. Then the interval is no wider than what the
            intervals of the columns leave possible, if the statistic goes one way with each of them.

    Returns:
        The estimate. Its interval is NaN for one image, and where the statistic of any resample is NaN or infinite:
        a ratio of whose denominator some resample has nothing.

    Raises:
        SpecError: see `bootstrap`.

    >>> interval(pd.DataFrame({"hit": [1.0, 1.0], "size": [2.0, 2.0]}), lambda means: means["hit"] / means["size"])
    Estimate(value=0.5, low=0.5, high=0.5)
    """
    frame_given("rows", rows)
    function("statistic", statistic, 'statistic=lambda means: means["hit"]')
    seed, shares = whole_number("seed", seed, least=0, kind="seed"), flag("shares", shares)
    checked_confidence(confidence)
    if rows.empty:
        return UNKNOWN
    if not all(kind.kind in "biuf" for kind in rows.dtypes):
        refuse("rows", rows, "frame of numbers", "rows[[...]] with columns of numbers only, one row an image")
    values = rows.to_numpy(dtype=float)

    def of_means(means: np.ndarray) -> np.ndarray:
        return np.asarray(statistic(dict(zip(rows.columns, means.T, strict=True))), dtype=float)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # resamples may have none of a denominator
        value = float(of_means(values.mean(0)[None])[0])
        if len(values) < 2 or not np.isfinite(values).all():
            return Estimate(value, float("nan"), float("nan"))
        spread = _linearised(values, of_means, counts_of(len(values), seed))
        if not np.isfinite(spread.moved).all() or np.isnan(spread.errors).any():
            return Estimate(value, float("nan"), float("nan"))
        low, high = (float(end[0]) for end in hull(spread, len(values), confidence))
        if shares:
            least, most = _possible(values, of_means, confidence)
            exact = spread.error[0] == 0 or (values.shape[1] == 1 and np.isin(values, (0.0, 1.0)).all())
            low, high = (least, most) if exact else (max(low, least), min(high, most))
    return Estimate(value, low, high)


def _linearised(values: np.ndarray, of_means: Callable[[np.ndarray], np.ndarray], counts: np.ndarray) -> Spread:
    """A statistic of one sample `[image, column]`; standard errors follow from its slope in each column mean."""
    images, columns = values.shape
    centre = values.mean(0)
    deviations = values - centre
    means = np.vstack([centre[None], centre + counts @ deviations / images])  # the sample first, then the resamples
    weights = np.vstack([np.ones((1, images)), counts]) / images
    steps = 1e-6 * np.maximum(np.abs(values).max(0), 1e-6)
    slopes = [(of_means(means + step) - of_means(means - step)) / (2 * step.sum()) for step in np.diag(steps)]
    variances, apart = np.zeros(len(means)), 0.0
    for one, other in combinations_with_replacement(range(columns), 2):
        together = weights @ (deviations[:, one] * deviations[:, other])
        together = together - (means - centre)[:, one] * (means - centre)[:, other]
        variances += (1 if one == other else 2) * slopes[one] * slopes[other] * together
        apart += abs(slopes[one] * slopes[other] * together)[0]
    results, errors = of_means(means), error_of_mean(variances, images)
    still = errors[0] <= STILL * (apart / images) ** 0.5
    return Spread(
        value=results[:1],
        error=np.where(still, 0.0, errors[:1]),
        moved=(results[1:] - results[0])[None],
        errors=errors[None, 1:],
    )


def _possible(
    values: np.ndarray, of_means: Callable[[np.ndarray], np.ndarray], confidence: float
) -> tuple[float, float]:
    """The least and the greatest value of a statistic where each column's mean, a share, lies in its own interval."""
    each = 1 - (1 - confidence) / values.shape[1]  # so that all of them hold at once
    ends = mean_ends(values.T, confidence=each, share=True)
    corners = of_means(np.array(list(product(*zip(ends.low, ends.high, strict=True)))))
    if np.isnan(corners).any():
        return -np.inf, np.inf
    return float(corners.min()), float(corners.max())
