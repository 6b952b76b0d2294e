"""Which numbers are told of a frame where nobody chose: the greatest and the least, beside their controls."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..studies.labels import NONE
from ..studies.registry import Recipe
from .layer_windows import all_layers_of, random_layers_of, windows_of
from .numbers_told import MEANS, Told, control_of, labels_of, number_of

CONTROLS = 2
"""Most controls that are told beside a number."""


def rows_of_main(frame: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """The means of the recipe's main measure: the first of those that it names, or that the frame has."""
    counted = frame[frame["mean"].notna()].reset_index(drop=True)
    present = list(dict.fromkeys(counted["measure"]))
    main = next((name for name in (*recipe.measures, *present) if name in present), None)
    return counted[counted["measure"] == main]


def told_by_default(rows: pd.DataFrame, frame: pd.DataFrame) -> tuple[str, list[Told]]:
    """The greatest and the least mean of one measure, with their controls.

    Where layers were cut in windows, these are told, and beside them their routes in all layers. Else rows that have a
    control with the same labels come before others: a number says little without one.

    Args:
        rows: of the measure.
        frame: whose rows they are.

    Returns:
        An introduction, and the numbers; no numbers where no row has a mean.
    """
    windows, matched = windows_of(rows), _matched(rows)
    if len(windows):
        ends = _ends(windows)
        whole = pd.concat([all_layers_of(rows, row) for _, _, row in ends])
        whole = whole[~whole.index.duplicated()]
        told = [_told(f"{end} was", row, random_layers_of(rows, row), frame) for end, _, row in ends]
        told += [_told("in all layers it was", row, matched[index], frame) for index, row in whole.iterrows()]
        return f"The frame has {_means(windows)} in windows of layers", told
    own = rows[rows["control"] == NONE]
    has_control = [len(matched[index]) > 0 for index in own.index]
    among = own[has_control] if any(has_control) else own
    if among.empty:
        return "", []
    kind = " with a matched control" if any(has_control) else ""
    many = len(among) > 1
    told = [_told(f"{end if many else 'it'} was", row, matched[index], frame) for end, index, row in _ends(among)]
    return f"The frame has {_means(among)}{kind}", told


def _means(rows: pd.DataFrame) -> str:
    main = rows["measure"].iloc[0]
    return f"{len(rows)} means of {main}" if len(rows) > 1 else f"one mean of {main}"


def _ends(rows: pd.DataFrame) -> list[tuple[str, int, pd.Series]]:
    """The greatest and the least; of one row, this."""
    indices = dict.fromkeys((rows["mean"].idxmax(), rows["mean"].idxmin()))
    return [(end, index, rows.loc[index]) for index, end in zip(indices, ("the greatest", "the least"), strict=False)]


def _matched(rows: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """For each row the controls that have its labels."""
    keys = [labels_of(row, _labels(rows)) for _, row in rows.iterrows()]
    is_control = (rows["control"] != NONE).tolist()
    places = dict[str, list[int]]()
    for place, (key, control) in enumerate(zip(keys, is_control, strict=True)):
        places.setdefault(key, []).extend([place] if control else [])
    return {index: rows.iloc[places[key]] for index, key in zip(rows.index, keys, strict=True)}


def _labels(rows: pd.DataFrame) -> list[str]:
    return [column for column in rows.columns if column not in MEANS]


def _told(begin: str, row: pd.Series, controls: pd.DataFrame, frame: pd.DataFrame) -> Told:
    words = f"{begin} {number_of(row)} ({labels_of(row, _labels(frame))})"
    beside = [f"{number_of(each)} for {control_of(each, frame)}" for _, each in controls[:CONTROLS].iterrows()]
    return Told(words, beside)
