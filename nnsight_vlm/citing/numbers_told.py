"""Which numbers of a frame a paragraph tells, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..arguments import refuse, spelled
from ..errors import SpecError
from ..studies.labels import NONE
from ..studies.registry import Recipe

MEANS = ("control", "measure", "mean", "low", "high", "images")
"""The columns that a frame of means ends in."""
MOST = 24
"""Most rows that `rows=` may choose: a paragraph is no table."""
CONTROLS = 2
"""Most controls that are told beside a number that was chosen by default."""
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


def rows_of_main(frame: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """The means of the recipe's main measure: the first of those that it names, or that the frame has."""
    counted = frame[frame["mean"].notna()].reset_index(drop=True)
    present = list(dict.fromkeys(counted["measure"]))
    main = next((name for name in (*recipe.measures, *present) if name in present), None)
    return counted[counted["measure"] == main]


def told_by_default(rows: pd.DataFrame) -> tuple[str, list[Told]]:
    """The greatest and the least mean of one measure, with their controls.

    Rows that have a control with the same labels come before others: a number says little without one.

    Returns:
        An introduction, and the numbers; no numbers where no row has a mean.
    """
    main = "" if rows.empty else rows["measure"].iloc[0]
    labels = [column for column in rows.columns if column not in MEANS]
    keys = pd.Series([labels_of(row, labels) for _, row in rows.iterrows()], index=rows.index, dtype=object)
    controls = rows[rows["control"] != NONE]
    own = rows[rows["control"] == NONE]
    matched = own[keys[own.index].isin(set(keys[controls.index]))]
    among = matched if len(matched) else own
    if among.empty:
        return "", []
    ends = dict.fromkeys((among["mean"].idxmax(), among["mean"].idxmin()))
    told = []
    for index, end in zip(ends, ("the greatest", "the least"), strict=False):
        row = among.loc[index]
        beside = controls[keys[controls.index] == keys[index]][:CONTROLS]
        words = f"{end if len(among) > 1 else 'it'} was {number_of(row)} ({keys[index]})"
        told.append(Told(words, [f"{number_of(other)} for {other['control']}" for _, other in beside.iterrows()]))
    kind = " with a matched control" if len(matched) else ""
    many = f"{len(among)} means of {main}{kind}" if len(among) > 1 else f"one mean of {main}{kind}"
    return f"The frame has {many}", told


def told_rows(frame: pd.DataFrame) -> list[str]:
    """Every row in words."""
    labels = [column for column in frame.columns if column not in MEANS]
    lines = []
    for _, row in frame.iterrows():
        which = labels_of(row, labels)
        control = "" if row["control"] == NONE else f", control {row['control']}"
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
