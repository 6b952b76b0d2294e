"""The columns that the claims' statistics take, one row an image, from the rows of recipes.

Several prompts about one picture are one image. An image is the mean of its prompts, so that each image counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ..statistics import CLUSTER
from ..studies.labels import MIDDLE_HALF, OUTER_HALF, RANDOM_PATCHES, Control

Frames = Mapping[str, pd.DataFrame]
"""Recipes' per-image frames by recipe name."""


def condition(frame: pd.DataFrame | None, measure: str, **labels: str) -> pd.Series:
    """A measure in the rows with these labels, averaged within each prompt; empty where it was not measured.

    The index has the prompt's number, `image`, and before it its `cluster` in a frame that has one.
    """
    if frame is None or frame.empty or measure not in frame:
        return pd.Series(dtype=float)
    keys = [CLUSTER, "image"] if CLUSTER in frame else ["image"]
    chosen = np.logical_and.reduce([frame[column] == value for column, value in labels.items()])
    means: pd.Series = frame[chosen].groupby(keys)[measure].mean()
    return means


def _columns(**columns: pd.Series) -> pd.DataFrame:
    """The images of which all columns are known: the means of their prompts that have all."""
    if any(column.empty for column in columns.values()):
        return pd.DataFrame(columns=list(columns), dtype=float)
    prompts = pd.DataFrame(columns).astype(float).dropna()
    return prompts.groupby(level=0).mean()


def _f1(frames: Frames, **labels: str) -> pd.Series:
    return condition(frames.get("knockout_windows"), "f1", **labels)


def without_direct_access(control: Control) -> Callable[[Frames], pd.DataFrame]:
    """F1 with the direct route cut (`cut`) and without sight (`blind`)."""

    def measurements(frames: Frames) -> pd.DataFrame:
        cut = _f1(frames, route="image->generated", form="block", window="all", control=control)
        return _columns(cut=cut, blind=_f1(frames, form="blind"))

    return measurements


def without_a_half(control: Control) -> Callable[[Frames], pd.DataFrame]:
    """F1 without the middle and without the outer half of the layers."""

    def measurements(frames: Frames) -> pd.DataFrame:
        labels = {"route": "image->text", "form": "block", "control": control}
        middle, outer = (_f1(frames, window=half, **labels) for half in (MIDDLE_HALF, OUTER_HALF))
        return _columns(middle=middle, outer=outer)

    return measurements


def peak_hits(control: Control) -> Callable[[Frames], pd.DataFrame]:
    """The share of object words whose attention peaks on the object (`hit`)."""

    def measurements(frames: Frames) -> pd.DataFrame:
        labels = {"read_at": "predicting", "layer": MIDDLE_HALF, "control": control}
        return _columns(hit=condition(frames.get("patch_grounding"), "hit", **labels))

    return measurements


def hidden_patches(control: Control) -> Callable[[Frames], pd.DataFrame]:
    """Change of log-probability with the object's patches hidden (`hidden`), and with others (`random`)."""

    def measurements(frames: Frames) -> pd.DataFrame:
        frame = frames.get("patch_grounding")
        hidden, random = (condition(frame, "logprob_change", control=name) for name in (control, RANDOM_PATCHES))
        return _columns(hidden=hidden, random=random)

    return measurements
