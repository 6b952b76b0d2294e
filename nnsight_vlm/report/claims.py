"""The three claims of "What's in the Image?" as numbers, each with a criterion that is fixed in advance.

Kaduri, Bagon and Dekel 2024 (arXiv 2411.17491). A claim is a statistic of per-image measurements and a threshold. The
statistic gets an interval over images (`statistics.intervals`), and the interval a verdict (`statistics.Verdict`).
Several prompts about one picture are one image: each image counts once.

The thresholds follow from the claims' own words ("the greater part", "at least twice", "most of the words", "more
than") and from nobody's results. They are written down here so that they cannot be adapted to what a model gives.
Every claim has a control in which it should fail: the same statistic, on data from which the claim's subject was taken
out.

In the definitions, F1 is the agreement of a description's objects with those of the model's own description of the
same picture without a cut, whose own F1 is therefore 1.

1. *Query tokens hold a global summary.* `cut`: generated tokens cannot attend to the image in any layer; the query
   tokens can. `blind`: no text token can. What seeing the picture adds to F1 is `1 - blind`; the share of it that is
   left, `(cut - blind) / (1 - blind)`, is above 1/2: the greater part of the description comes through the query
   tokens. (Cutting `image->query` as well leaves the blind baseline, which is why it is subtracted.)
   Control: the query tokens of another picture.
2. *Image to text flows in the middle layers.* The layers are split into two halves of equal size, the middle half and
   the outer half (first and last quarter), and all text is cut off from the image in one or the other. The middle
   half's share of the loss, `(1 - F1 without middle) / (sum of both losses)`, is above 2/3: it does at least twice
   what as many early and late layers do.
   Control: a half of the layers drawn at random for every image, against the other half.
3. *Details are read from the image tokens of the object itself.* (a) The attention of the token that predicts an
   object word, mean over heads and over the middle half of the layers, peaks on a patch of that object for more than
   half of the words. Control: the peak compared with another object of the same picture. (b) Hiding the object's
   patches from the answer's tokens lowers the word's log-probability by more than hiding as many other patches (above
   0 nats). Attention is not causation, so (a) alone would not do. Control: a second draw of other patches in place of
   the object's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..statistics import Estimate, Means, interval, verdict
from ..studies.labels import NONE, OTHER_OBJECT, QUERY_OF_ANOTHER_IMAGE, RANDOM_LAYERS, RANDOM_PATCHES_AGAIN
from .measurements import Frames, hidden_patches, peak_hits, without_a_half, without_direct_access


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A number and the threshold above which a claim about it holds.

    Attributes:
        measured: what the number is.
        unit: of the number; empty for a share.
        threshold: the claim holds above it.
        statistic: the number, from the columns' means over images (one entry a resample).
        shares: whether the columns lie between 0 and 1.
        needs: what is missing where the measurements cannot be had.
    """

    measured: str
    unit: str = ""
    threshold: float
    statistic: Callable[[Means], np.ndarray]
    shares: bool = True
    needs: str = "a description that names objects"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that a criterion decides.

    Attributes:
        key: `1`, `2`, `3a`, `3b`; a control has the key of its claim.
        statement: what is claimed, or what the control is.
        criterion: the number and its threshold.
        measurements: the columns that the statistic takes, one row an image, from the per-image frames; empty where
            they cannot be had.
        control: whether this is a control, in which the claim should not hold.
    """

    key: str
    statement: str
    criterion: Criterion
    measurements: Callable[[Frames], pd.DataFrame]
    control: bool = False


# statistics: one number from the means over images ----------------------------------------------------


def _share_left(means: Means) -> np.ndarray:
    return _ratio(means["cut"] - means["blind"], 1 - means["blind"])


def _middle_share(means: Means) -> np.ndarray:
    return _ratio(1 - means["middle"], (1 - means["middle"]) + (1 - means["outer"]))


def _hit_rate(means: Means) -> np.ndarray:
    return means["hit"]


def _extra_loss(means: Means) -> np.ndarray:
    return means["random"] - means["hidden"]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is not above 0: then there is nothing to share out."""
    undefined = np.full_like(numerator, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 1e-9))


OBJECTS = "boxes or masks of objects, and a description that names one of them"

# the claims -------------------------------------------------------------------------------------------

SUMMARY = Criterion(
    measured="with image->generated cut, share kept of the F1 that a description gains by seeing the image",
    threshold=0.5,
    statistic=_share_left,
)
DEPTH = Criterion(
    measured="the half's share of the F1 lost, image->text cut in it or in the other half",
    threshold=2 / 3,
    statistic=_middle_share,
    needs="a description that names objects, of a decoder that holds the question",
)
HIT = Criterion(
    measured="share of object words whose attention peaks on the object",
    threshold=0.5,
    statistic=_hit_rate,
    needs=OBJECTS,
)
HIDDEN = Criterion(
    measured="log-probability lost beyond hiding as many random patches",
    unit="nats",
    threshold=0.0,
    statistic=_extra_loss,
    shares=False,
    needs=OBJECTS,
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="1",
        statement="The query tokens hold a global summary of the image",
        criterion=SUMMARY,
        measurements=without_direct_access(NONE),
    ),
    Claim(
        key="1",
        statement="query tokens of another image",
        criterion=SUMMARY,
        measurements=without_direct_access(QUERY_OF_ANOTHER_IMAGE),
        control=True,
    ),
    Claim(
        key="2",
        statement="Image-to-text flow happens in the middle layers",
        criterion=DEPTH,
        measurements=without_a_half(NONE),
    ),
    Claim(
        key="2",
        statement="a random half of the layers",
        criterion=DEPTH,
        measurements=without_a_half(RANDOM_LAYERS),
        control=True,
    ),
    Claim(
        key="3a",
        statement="Object words look at their object's patches",
        criterion=HIT,
        measurements=peak_hits(NONE),
    ),
    Claim(
        key="3a",
        statement="the peak held against another object",
        criterion=HIT,
        measurements=peak_hits(OTHER_OBJECT),
        control=True,
    ),
    Claim(
        key="3b",
        statement="Object words need their object's patches",
        criterion=HIDDEN,
        measurements=hidden_patches(NONE),
    ),
    Claim(
        key="3b",
        statement="other patches, drawn again",
        criterion=HIDDEN,
        measurements=hidden_patches(RANDOM_PATCHES_AGAIN),
        control=True,
    ),
)
"""The three claims of the paper with their controls, in the order of the report."""


def judge(frames: Frames, claims: Sequence[Claim] = CLAIMS, *, seed: int = 0) -> pd.DataFrame:
    """Every claim's number, interval and verdict, from per-image frames.

    Args:
        frames: what `knockout_windows` and `patch_grounding` return with `per_image=True`, by these names.
        claims: the claims to decide.
        seed: of the bootstrap.

    Returns:
        `claim, control, statement, measured, unit, value, low, high, threshold, images, verdict`. Where a claim's
        measurements cannot be had, `verdict` says what they need; where every image gave 0, that they did.
    """
    return pd.DataFrame([_decided(claim, claim.measurements(frames), seed) for claim in claims])


def _decided(claim: Claim, rows: pd.DataFrame, seed: int) -> dict[str, object]:
    criterion = claim.criterion
    estimate = interval(rows, criterion.statistic, seed, shares=criterion.shares)
    return {
        "claim": claim.key,
        "control": claim.control,
        "statement": claim.statement,
        "measured": criterion.measured,
        "unit": criterion.unit,
        **estimate._asdict(),
        "threshold": criterion.threshold,
        "images": len(rows),
        "verdict": _in_words(claim, estimate, len(rows)),
    }


def _in_words(claim: Claim, estimate: Estimate, images: int) -> str:
    """The verdict; or why there is none, where there are no measurements or every image gave 0."""
    if not images:
        return f"needs {claim.criterion.needs}"
    if not estimate.low == estimate.high == 0:
        return verdict(estimate, claim.criterion.threshold, images)
    return f"{'the control' if claim.control else 'it'} changed nothing in any of the {images} images"
