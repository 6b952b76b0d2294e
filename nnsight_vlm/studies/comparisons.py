"""Many comparisons in one table: which of them are more than chance, and how many were made.

A map of 32 layers and 32 heads makes 1024 comparisons. At a level of 0.05, some 50 of them look real where nothing is.
Here each comparison gets its p-value from a test over images, and the false discovery rate of the whole table is held
(Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57).

The test flips signs: if a measurement and its control differ by chance alone, then in every image the difference is as
likely to have the opposite sign. It is exact for symmetric differences and assumes no distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..arguments import flag, frame_given, listed, number, text, whole_number
from ..errors import SpecError
from ..statistics import image_means
from .labels import NONE

LEVEL = 0.05
"""The false discovery rate that is held, unless told otherwise: of the comparisons that survive, the share expected to
be chance."""
FLIPS = 9999
"""How many random assignments of signs are tried; where there are fewer in all (up to 13 images), each of them is."""
FEWEST = 2
"""Fewest images of a test; one image has no p-value below 1."""
AT_ONCE = 256
"""How many comparisons are tested in one array, which bounds its memory."""


def with_comparisons(
    tidy: pd.DataFrame,
    rows: pd.DataFrame,
    by: Sequence[str],
    measures: Sequence[str],
    *,
    against: str | None = None,
    paired: bool = True,
    level: float = LEVEL,
    seed: int = 0,
) -> pd.DataFrame:
    """A recipe's means with a p-value for each comparison, and whether it survives the number of comparisons.

    A comparison is one measure of one group with `control` "none". All comparisons of the table are corrected
    together, so `survives` follows from the column `p` alone. Images are clusters, where the rows have them, and count
    once each; images without a value (NaN) in the measurement or the control are left out.

    Args:
        tidy: means with intervals, as `summarise(rows, by, measures)` gives them.
        rows: the rows of every image behind them, with `image`, the columns of `by` and `measures`.
        by: the columns that tell groups apart; `control` is one of them.
        measures: which measures are tested; others in `tidy` get no p-value.
        against: the control (a word of the column `control`) that each measurement is compared with, image by image;
            None compares with 0.
        paired: whether the control has the same other columns of `by` as the measurement; False compares with the mean
            over all rows of the control in that image.
        level: the false discovery rate that is held among the comparisons that survive.
        seed: of the random signs.

    Returns:
        `tidy` with the columns `p` (two-sided; NaN for controls, for measures that are not tested, where the control
        has no row, and with fewer than two images) and `survives` (False where `p` is NaN).
        `attrs["comparisons"]` is how many p-values there are, `attrs["level"]` and `attrs["against"]` what was asked.

    Raises:
        SpecError: a column or a control that the frames have not got, or a level that does not lie between 0 and 1.
    """
    write = 'names of columns, ["layer", "control"]'
    by, measures = listed("by", by, write, kind=str), listed("measures", measures, write, kind=str)
    frame_given("tidy", tidy, [*by, "control", "measure"])
    frame_given("rows", rows, [*by, "control", *measures])
    level = number("level", level, above=0, below=1, kind="false discovery rate", write="level=0.05")
    seed, paired = whole_number("seed", seed, least=0, kind="seed"), flag("paired", paired)
    if "control" not in by:
        raise SpecError(f'by={list(by)!r} tells no control apart; write by=[..., "control"]')
    if against is not None and text("against", against) not in set(rows["control"]):
        known = ", ".join(map(repr, dict.fromkeys(rows["control"])))
        raise SpecError(f"there are no rows of the control against={against!r}; the frame has {known}")
    differences = _differences(rows, by, measures, against, paired)
    tests = dict(zip(differences.index, p_values(differences.to_numpy(dtype=float), seed=seed), strict=True))
    found = [tests.get(key, np.nan) for key in tidy[[*by, "measure"]].itertuples(index=False, name=None)]
    compared = tidy.assign(p=np.asarray(found, dtype=float))
    compared["survives"] = survivors(compared["p"].to_numpy(), level=level)
    compared.attrs.update(comparisons=int(compared["p"].notna().sum()), level=level, against=against)
    return compared


def _differences(
    rows: pd.DataFrame, by: Sequence[str], measures: Sequence[str], against: str | None, paired: bool
) -> pd.DataFrame:
    """Measurement less control: one row for each comparison (`by` and the measure), one column for each image."""
    means = image_means(rows, measures, by)
    unit = means.index.names[-1]
    long = means.reset_index().melt([*by, unit], list(measures), var_name="measure")
    measured, control = long[long["control"] == NONE], long[long["control"] == against]
    if against is not None:
        keys = [*(name for name in by if name != "control"), "measure", unit] if paired else ["measure", unit]
        baseline = control.groupby(keys, dropna=False, sort=False)["value"].mean().rename("baseline").reset_index()
        measured = measured.merge(baseline, on=keys, how="left")
        measured = measured.assign(value=measured["value"] - measured["baseline"])
    if measured.empty:
        return pd.DataFrame(index=pd.Index([], dtype=object))
    table = measured.assign(key=list(measured[[*by, "measure"]].itertuples(index=False, name=None)))
    return table.pivot(index="key", columns=unit, values="value").reindex(dict.fromkeys(table["key"]))


def p_values(differences: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Two-sided p-values of the hypothesis that differences are as often above 0 as below, by flipping their signs.

    Args:
        differences: `[comparison, image]`; NaN where an image has none.
        seed: of the random signs, which all comparisons of as many images share.

    Returns:
        `[comparison]`; NaN with fewer than two images. With n images no value lies below `2 ** (1 - n)`.

    >>> p_values(np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [0.125, 1.0]
    """
    found, present = np.full(len(differences), np.nan), np.isfinite(differences)
    for images in np.unique(present, axis=0) if len(differences) else ():
        same = np.flatnonzero((present == images).all(1))
        for first in range(0, len(same), AT_ONCE) if images.sum() >= FEWEST else ():
            some = same[first : first + AT_ONCE]
            found[some] = _flipped(differences[np.ix_(some, np.flatnonzero(images))], seed)
    return found


def _flipped(differences: np.ndarray, seed: int) -> np.ndarray:
    from scipy.stats import permutation_test

    return np.asarray(
        permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            axis=-1,
            n_resamples=FLIPS,
            batch=AT_ONCE,
            random_state=np.random.default_rng(seed),
        ).pvalue
    )


def survivors(p: np.ndarray, *, level: float = LEVEL) -> np.ndarray:
    """Which p-values survive Benjamini and Hochberg's correction for their number; NaN is no comparison.

    >>> survivors(np.array([0.01, 0.04, np.nan, 0.9])).tolist()
    [True, False, False, False]
    """
    from scipy.stats import false_discovery_control

    kept, tested = np.zeros(len(p), dtype=bool), ~np.isnan(p)
    if tested.any():
        kept[tested] = false_discovery_control(p[tested]) <= level
    return kept
