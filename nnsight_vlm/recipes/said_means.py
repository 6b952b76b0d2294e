"""Means over images of what descriptions name, and how far two scorers of them agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..statistics import UNKNOWN, Estimate, Means, bootstrap, image_means, interval, summarise
from ..studies.labels import AGREEMENT, ANOTHER_IMAGE, BOTH_SCORERS, NONE, SHARES
from ..studies.words import agreement

BY = ["scorer", "control"]
OF_TEXTS = (*AGREEMENT, "hallucinated", "chair_i", "chair_s", "objects")
ABSENT = "absent"
"""The column with the number of named objects that are not there."""
CELLS = ("both", "first_only", "second_only", "neither")
"""The columns with the number of decisions of each kind."""


def scores_of(said: Sequence[str], truth: Sequence[str], *, counts: bool) -> dict[str, Any]:
    """What a description gets right, and what it names that is not there."""
    expected = truth if counts else tuple(dict.fromkeys(truth))
    absent = list((Counter(said) - Counter(expected)).elements())
    return {
        **agreement(said, expected),
        "hallucinated": len(absent) / len(said) if said else float("nan"),
        "chair_s": float(bool(absent)),
        "objects": float(len(said)),
        ABSENT: float(len(absent)),
        "said": ", ".join(said),
        "not_there": ", ".join(absent),
    }


def decisions(first: Collection[str], second: Collection[str], about: Sequence[str]) -> dict[str, float]:
    """How two scorers of one text decide on each name: how many of each kind, and the share that is alike."""
    pairs = [(name in first, name in second) for name in about]
    kinds = ((True, True), (True, False), (False, True), (False, False))
    cells = {cell: float(pairs.count(kind)) for cell, kind in zip(CELLS, kinds, strict=True)}
    alike = (cells["both"] + cells["neither"]) / len(pairs) if pairs else float("nan")
    return {**cells, "agree": alike}


def kappa(cells: Mapping[str, Any]) -> Any:
    """Cohen's kappa, from the numbers of decisions of each kind; NaN where chance alone decides all alike.

    >>> round(float(kappa({"both": 20.0, "first_only": 5.0, "second_only": 10.0, "neither": 15.0})), 3)
    0.4
    """
    both, first, second, neither = (np.asarray(cells[name], dtype=float) for name in CELLS)
    total = both + first + second + neither
    by_chance = ((both + first) * (both + second) + (neither + second) * (neither + first)) / total**2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ((both + neither) / total - by_chance) / (1 - by_chance)
    return np.where(by_chance < 1, found, np.nan)[()]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every description."""
    texts, judged = frame[frame["scorer"] != BOTH_SCORERS], frame[frame["scorer"] == BOTH_SCORERS]
    alone = summarise(texts, BY, [name for name in OF_TEXTS if name != "chair_i"], shares=SHARES)
    parts = [alone, _of_all(texts, "chair_i", [ABSENT, "objects"], _share)]
    if len(judged):
        parts += [summarise(judged, BY, ["agree"], shares=SHARES), _of_all(judged, "kappa", CELLS, kappa)]
    tidy = pd.concat(parts, ignore_index=True)
    tidy = tidy[tidy["images"] > 0]
    order = {
        "scorer": list(dict.fromkeys(frame["scorer"])),
        "control": [NONE, ANOTHER_IMAGE],
        "measure": [*OF_TEXTS, "agree", "kappa"],
    }
    tidy = tidy.sort_values(list(order), key=lambda column: column.map(order[str(column.name)].index), kind="stable")
    return tidy.reset_index(drop=True)


def _share(means: Mapping[str, Any]) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(means[ABSENT]) / np.asarray(means["objects"])


def _of_all(
    frame: pd.DataFrame, measure: str, columns: Sequence[str], statistic: Callable[[Means], np.ndarray]
) -> pd.DataFrame:
    """A number of all images together, such as a share of all named objects, with its interval."""
    rows = []
    for key, images in image_means(frame, columns, BY).groupby(level=BY, dropna=False, sort=False):
        group = images[images["objects"] > 0] if measure == "chair_i" else images
        found = interval(group.reset_index(drop=True), statistic) if len(group) else UNKNOWN
        if measure == "chair_i":
            found = _of_shares(group, found)
        elif found.value == 1:  # no image shows how far the scorers might differ
            found = found._replace(low=float("nan"), high=float("nan"))
        least = 0.0 if measure == "chair_i" else -1.0
        low, high = (float(np.clip(end, least, 1.0)) for end in (found.low, found.high))
        ends = {"mean": found.value, "low": low, "high": high, "images": len(group)}
        rows.append({**dict(zip(BY, key, strict=True)), "measure": measure, **ends})
    return pd.DataFrame(rows)


def _of_shares(group: pd.DataFrame, found: Estimate) -> Estimate:
    """The interval of a share of all named objects, no wider than what images of bounded numbers leave possible.

    Where all or none of the named objects are there, resamples show no spread, and it is that of the images' shares.
    """
    if found.value in (0.0, 1.0):
        shares = bootstrap((group[ABSENT] / group["objects"]).to_numpy(), share=True)
        return found._replace(low=shares.low, high=shares.high)
    if not len(group):
        return found
    most = float(group["objects"].max())
    bounded, scale = bootstrap((group[ABSENT] / most).to_numpy(), share=True), most / float(group["objects"].mean())
    low, high = np.fmax(found.low, bounded.low * scale), np.fmin(found.high, bounded.high * scale)
    return found._replace(low=float(low), high=float(high))
