"""Which numbers of a frame a paragraph tells, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..arguments import refuse, spelled
from ..errors import SpecError
from ..studies.labels import NONE, RANDOM_POSITIONS

MEANS = ("control", "measure", "mean", "low", "high", "images")
"""The columns that a frame of means ends in."""
MOST = 24
"""Most rows that `rows=` may choose: a paragraph is no table."""
OVERLAP = " of overlap "
OVERLAPS = (
    "Overlap is the share of a control's random positions that lie in the route's own source, where there are too few "
    "other tokens: the nearer it is to 1, the more the control cuts the route itself, and the less it says."
)
NATS = ("logprob_change", "other_change", "entropy")
"""Measures in nats; others have no unit."""
ROWS = 'rows={"route": "image->last", "measure": "f1"}, or True and False for each row of the frame'


class Told(NamedTuple):
    """A number in words, and the numbers beside it.

    Attributes:
        words: the number.
        beside: its controls.
    """

    words: str
    beside: list[str]


def chosen_rows(frame: pd.DataFrame, rows: Any) -> pd.DataFrame:
    """The rows that a user asks for.

    Args:
        frame: of means.
        rows: for some columns the value or values that are wanted, or a truth value for each row.

    Raises:
        SpecError: something else, a column that is not there, no rows or more than `MOST`.
    """
    if isinstance(rows, Mapping):
        mask = np.ones(len(frame), bool)
        for column, wanted in rows.items():
            if column not in frame.columns:
                known = ", ".join(map(str, frame.columns))
                raise SpecError(f"rows= names the column {spelled(column)}, and the frame has {known}; write {ROWS}")
            values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
            mask &= frame[column].isin(values).to_numpy()
    else:
        mask = np.asarray(rows) if isinstance(rows, (list, tuple, np.ndarray, pd.Series)) else np.empty(0)
        if mask.dtype != bool or mask.shape != (len(frame),):
            refuse("rows", rows, "choice of rows", ROWS)
    found = frame[mask]
    if not 0 < len(found) <= MOST:
        raise SpecError(f"rows= chooses {len(found)} of {len(frame)} rows; choose 1 to {MOST}, {ROWS}")
    return found


def told_rows(rows: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """Some rows of a frame in words."""
    labels = [column for column in rows.columns if column not in MEANS]
    lines = []
    for _, row in rows.iterrows():
        which = labels_of(row, labels)
        control = "" if row["control"] == NONE else f", control {control_of(row, frame)}"
        lines.append(f"{row['measure']} {number_of(row)} ({which}{control})")
    return lines


def labels_of(row: pd.Series, labels: list[str]) -> str:
    """What a row is of: `route image->last, window 0-4`; labels that are empty are left out."""
    values = {label: row[label] for label in labels if str(row[label]) not in ("", "nan", "None", "<NA>")}
    named = [
        f"{label} {int(value) if isinstance(value, float) and value.is_integer() else value}"
        for label, value in values.items()
    ]
    return ", ".join(named) or "all"


def control_of(row: pd.Series, frame: pd.DataFrame) -> str:
    """The name of a row's control; of random positions also how many of them lie in the source itself."""
    name = str(row["control"])
    if name != RANDOM_POSITIONS or row["measure"] == "overlap":
        return name
    keys = [column for column in frame.columns if column not in MEANS or column == "control"]
    same = (frame[keys].astype(str) == row[keys].astype(str)).all(axis=1) & (frame["measure"] == "overlap")
    overlap = frame.loc[same, "mean"].max()
    return f"{name}{OVERLAP}{digits(overlap)}" if overlap > 0 else name


def number_of(row: pd.Series) -> str:
    """A mean with its interval and how many images it is of: `0.52 [0.4, 0.63] over 24 images`."""
    unit = " nats" if row["measure"] in NATS else ""
    images = int(row["images"])
    ends = f"[{digits(row['low'])}, {digits(row['high'])}]"
    return f"{digits(row['mean'])} {ends}{unit} over {images} image{'' if images == 1 else 's'}"


def digits(number: float) -> str:
    """Three digits of a number.

    >>> digits(0.12345), digits(float("inf")), digits(float("nan"))
    ('0.123', '∞', 'unknown')
    """
    if math.isnan(number):
        return "unknown"
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    return f"{number:.3g}"
