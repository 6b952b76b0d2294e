"""Means over images of what descriptions name, and how far two scorers of them agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ..statistics import Estimate, image_means, interval, summarise
from ..studies.labels import AGREEMENT, BOTH_SCORERS, NONE, SHARES

BY = ["scorer", "control"]
OF_TEXTS = (*AGREEMENT, "hallucinated", "chair_i", "chair_s", "objects")
ABSENT = "absent"
"""The column with the number of named objects that are not there."""
CELLS = ("both", "first_only", "second_only", "neither")
"""The columns with the number of decisions of each kind."""


def decisions(first: Collection[str], second: Collection[str], about: Sequence[str]) -> dict[str, float]:
    """How two scorers of one text decide on each name: how many of each kind, and the share that is alike."""
    pairs = [(name in first, name in second) for name in about]
    kinds = ((True, True), (True, False), (False, True), (False, False))
    cells = {cell: float(pairs.count(kind)) for cell, kind in zip(CELLS, kinds, strict=True)}
    alike = (cells["both"] + cells["neither"]) / len(pairs) if pairs else float("nan")
    return {**cells, "agree": alike}


def kappa(cells: Mapping[str, Any]) -> Any:
    """Cohen's kappa, from the numbers of decisions of each kind; NaN where chance alone decides all alike.

    >>> float(kappa({"both": 20.0, "first_only": 5.0, "second_only": 10.0, "neither": 15.0}))
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
    parts = [
        summarise(texts, BY, [name for name in OF_TEXTS if name != "chair_i"], shares=SHARES),
        _of_all(texts, "chair_i", [ABSENT, "objects"], _share, least=0.0),
    ]
    if len(judged):
        parts.append(summarise(judged, BY, ["agree"], shares=SHARES))
        parts.append(_of_all(judged, "kappa", CELLS, kappa, least=-1.0))
    tidy = pd.concat(parts, ignore_index=True)
    scorers, measures = list(dict.fromkeys(frame["scorer"])), [*OF_TEXTS, "agree", "kappa"]
    places = [
        (scorers.index(row.scorer), _control_place(row.control), measures.index(row.measure))
        for row in tidy.itertuples()
    ]
    order = sorted(range(len(tidy)), key=places.__getitem__)
    tidy = tidy.iloc[order]
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _control_place(control: Any) -> int:
    """The measurement comes before its control."""
    return int(control != NONE)


def _share(means: Mapping[str, Any]) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(means[ABSENT]) / np.asarray(means["objects"])


def _of_all(frame: pd.DataFrame, measure: str, columns: Sequence[str], statistic: Any, *, least: float) -> pd.DataFrame:
    """A number of all images together, such as a share of all named objects, with its interval."""
    rows = []
    means = image_means(frame, columns, BY)
    for key, group in means.groupby(level=BY, dropna=False, sort=False):
        found: Estimate = interval(group.reset_index(drop=True), partial(statistic))
        low, high = (float(np.clip(end, least, 1.0)) for end in (found.low, found.high))
        ends = {"mean": found.value, "low": low, "high": high, "images": len(group)}
        rows.append({**dict(zip(BY, key, strict=True)), "measure": measure, **ends})
    return pd.DataFrame(rows)
