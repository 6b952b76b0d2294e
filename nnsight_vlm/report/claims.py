"""The three claims of "What's in the Image?" as numbers, each with a criterion fixed in advance.

Kaduri, Bagon and Dekel 2024 (arXiv 2411.17491). A claim is a statistic of per-image measurements
and a threshold that follows from the claim's own words. The statistic is bootstrapped over images:

- *holds*: the whole interval lies above the threshold;
- *does not hold*: the whole interval lies below it;
- *not decided at this sample size*: anything else, and always with fewer than `FEWEST` images.

The thresholds are readings of the claims' own words ("the greater part", "at least twice", "most of the
words", "more than") and not of anyone's results: they stand here so that they cannot follow what a model
gives. Every claim has a control in which it should fail: the same statistic, on data from which the claim's
subject was taken out.

The definitions, with F1 the agreement of a description's objects with those of the same model's own,
un-cut description of the same picture (1 for the un-cut one itself):

1. *Query tokens hold a global summary.* `cut`: generated tokens cannot see the image, in any layer
   (the query tokens can). `blind`: no text token can. The share of what sight adds that is left,
   `(cut - blind) / (1 - blind)`, is above 1/2: the greater part of the description comes through the
   query tokens. That cutting `image->query` too destroys it is what subtracting the blind row says.
   Control: the query tokens of another picture.
2. *Image to text flows in the middle layers.* The layers are split into two halves of equal size, the
   middle half and the outer one (first and last quarter), and all text is cut off from the image in
   one or the other. The middle half's share of the damage, `(1 - F1 without middle) / (sum of both)`,
   is above 2/3: it does at least twice what as many early and late layers do.
   Control: a half of the layers drawn at random for every image, against its complement.
3. *Details are read from the image tokens of the object itself.* (a) The attention of the token that
   predicts an object word, averaged over heads and the middle half of the layers, peaks on a patch of
   that object for more than half of the words. Control: the peak held against another object of
   the same picture. (b) Hiding the object's patches from the answer's tokens lowers the word's
   log-probability by more than hiding as many other patches (above 0 nats): attention is not
   causation, so (a) alone would not do. Control: a second draw of other patches in the object's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..recipes.routes import ANOTHER_QUERY
from ..recipes.word_patches import MIDDLE
from ..recipes.work import NONE
from ..statistics import RESAMPLES

FEWEST = 8
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided at this sample size"

Frames = Mapping[str, pd.DataFrame]
Means = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that a number decides.

    Attributes:
        key: `1`, `2`, `3a`, `3b`; a control has the key of its claim.
        statement: what is claimed, or what the control is.
        measured: what the number is.
        unit: of the number.
        threshold: the claim holds above it.
        rows: columns of one row an image, from the per-image frames; empty where they cannot be had.
        statistic: the number, from the columns' means over images (arrays over resamples).
        control: whether this is a control, in which the claim should not hold.
        needs: what is missing where `rows` is empty.
    """

    key: str
    statement: str
    measured: str
    unit: str = ""
    threshold: float
    rows: Callable[[Frames], pd.DataFrame]
    statistic: Callable[[Means], np.ndarray]
    control: bool = False
    needs: str = "a description that names objects"


def condition(frame: pd.DataFrame | None, measure: str, **labels: str) -> pd.Series:
    """A measure of one condition, averaged within each image; empty where it was not measured."""
    if frame is None or frame.empty or measure not in frame:
        return pd.Series(dtype=float)
    chosen = np.logical_and.reduce([frame[name] == value for name, value in labels.items()])
    found: pd.Series = frame[chosen].groupby("image")[measure].mean()
    return found


def _together(**columns: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(columns).astype(float).dropna()


def _f1(frames: Frames, **labels: str) -> pd.Series:
    return condition(frames.get("knockout_windows"), "f1", **labels)


def _summary_rows(control: str) -> Callable[[Frames], pd.DataFrame]:
    def rows(frames: Frames) -> pd.DataFrame:
        cut = _f1(frames, route="image->generated", form="block", window="all", control=control)
        return _together(cut=cut, blind=_f1(frames, form="blind"))

    return rows


def _depth_rows(control: str) -> Callable[[Frames], pd.DataFrame]:
    def rows(frames: Frames) -> pd.DataFrame:
        labels = {"route": "image->text", "form": "block", "control": control}
        return _together(
            middle=_f1(frames, window="middle half", **labels), outer=_f1(frames, window="outer half", **labels)
        )

    return rows


def _hit_rows(control: str) -> Callable[[Frames], pd.DataFrame]:
    def rows(frames: Frames) -> pd.DataFrame:
        labels = {"read_at": "predicting", "layer": MIDDLE, "control": control}
        return _together(hit=condition(frames.get("patch_grounding"), "hit", **labels))

    return rows


def _cut_rows(control: str) -> Callable[[Frames], pd.DataFrame]:
    def rows(frames: Frames) -> pd.DataFrame:
        frame = frames.get("patch_grounding")
        here, other = (condition(frame, "logprob_change", control=name) for name in (control, "random patches"))
        return _together(here=here, other=other)

    return rows


def _left_over(means: Means) -> np.ndarray:
    return _ratio(means["cut"] - means["blind"], 1 - means["blind"])


def _middle_share(means: Means) -> np.ndarray:
    return _ratio(1 - means["middle"], (1 - means["middle"]) + (1 - means["outer"]))


def _hits(means: Means) -> np.ndarray:
    return means["hit"]


def _extra_loss(means: Means) -> np.ndarray:
    return means["other"] - means["here"]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to share out."""
    return np.asarray(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 1e-9))


SUMMARY: dict[str, Any] = {
    "measured": "share of what sight adds to F1 that is left, image->generated cut",
    "threshold": 0.5,
    "statistic": _left_over,
}
DEPTH: dict[str, Any] = {
    "needs": "a description that names objects, of a decoder that holds the question",
    "measured": "the half's share of the F1 lost, image->text cut in it or in the other half",
    "threshold": 2 / 3,
    "statistic": _middle_share,
}
HIT: dict[str, Any] = {
    "measured": "share of object words whose attention peaks on the object",
    "threshold": 0.5,
    "statistic": _hits,
}
CUT: dict[str, Any] = {
    "measured": "log-probability lost beyond hiding as many random patches",
    "unit": "nats",
    "threshold": 0.0,
    "statistic": _extra_loss,
}
MASKS = "object masks"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="1", statement="The query tokens hold a global summary of the image", rows=_summary_rows(NONE), **SUMMARY
    ),
    Claim(
        key="1", statement="query tokens of another image", rows=_summary_rows(ANOTHER_QUERY), control=True, **SUMMARY
    ),
    Claim(key="2", statement="Image-to-text flow happens in the middle layers", rows=_depth_rows(NONE), **DEPTH),
    Claim(key="2", statement="a random half of the layers", rows=_depth_rows("random layers"), control=True, **DEPTH),
    Claim(key="3a", statement="Object words look at their object's patches", rows=_hit_rows(NONE), needs=MASKS, **HIT),
    Claim(
        key="3a",
        statement="the peak held against another object",
        rows=_hit_rows("other object"),
        needs=MASKS,
        control=True,
        **HIT,
    ),
    Claim(key="3b", statement="Object words need their object's patches", rows=_cut_rows(NONE), needs=MASKS, **CUT),
    Claim(
        key="3b",
        statement="other patches, drawn again",
        rows=_cut_rows("random patches, again"),
        needs=MASKS,
        control=True,
        **CUT,
    ),
)


def judge(frames: Frames, claims: Sequence[Claim] = CLAIMS, *, seed: int = 0) -> pd.DataFrame:
    """Every claim's number, interval and verdict, from the per-image frames.

    Returns:
        `claim, control, statement, measured, unit, value, low, high, threshold, images, verdict`.
        Where a claim's measurements cannot be had, `verdict` says what they need.
    """
    return pd.DataFrame([_judged(claim, claim.rows(frames), seed) for claim in claims])


def _judged(claim: Claim, rows: pd.DataFrame, seed: int) -> dict[str, object]:
    value, low, high = interval(rows, claim.statistic, seed)
    told = {"claim": claim.key, "control": claim.control, "statement": claim.statement, "measured": claim.measured}
    told |= {"unit": claim.unit, "value": value, "low": low, "high": high, "threshold": claim.threshold}
    return {
        **told,
        "images": len(rows),
        "verdict": verdict(low, high, claim.threshold, len(rows)) if len(rows) else f"needs {claim.needs}",
    }


def interval(rows: pd.DataFrame, statistic: Callable[[Means], np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """A statistic of column means and its 95 % percentile-bootstrap interval over the rows (images)."""
    if rows.empty:
        return float("nan"), float("nan"), float("nan")
    values = rows.to_numpy(dtype=float)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    everything, resampled = values.mean(0)[None], values[draws].mean(1)
    whole, spread = (statistic(dict(zip(rows.columns, means.T, strict=True))) for means in (everything, resampled))
    if len(values) < 2 or np.isnan(spread).any():
        return float(whole[0]), float("nan"), float("nan")
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(whole[0]), float(low), float(high)


def verdict(low: float, high: float, threshold: float, images: int) -> str:
    """What an interval says about `value > threshold`, in words."""
    if images >= FEWEST and low > threshold:
        return HOLDS
    if images >= FEWEST and high < threshold:
        return FAILS
    return OPEN
