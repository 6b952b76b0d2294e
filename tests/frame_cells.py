"""Cells of a page's tables from the rows of a recipe's frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def only(frame: pd.DataFrame, **wanted: Any) -> pd.Series:
    """The one row with these values in these columns."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    if len(frame) != 1:
        raise LookupError(f"{len(frame)} rows with {wanted}")
    return frame.iloc[0]


def estimate(row: Mapping[str, float] | pd.Series, digits: int = 2) -> str:
    """A mean with its interval: `0.53 [0.36, 0.71]`."""
    mean, low, high = (number(row[end], digits) for end in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def number(value: float, digits: int = 2) -> str:
    """A number without the sign of one that is rounded to 0."""
    return f"{round(value, digits) + 0:.{digits}f}"
