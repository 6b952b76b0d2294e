"""Which numbers of cuts in windows of layers are told: those of the windows, beside as many layers drawn at random.

In such a frame the controls that carry a row's own labels are of cuts in all layers alone. A window's control is
labelled by its size: `any 3` for windows of 3 layers.
"""

from __future__ import annotations

import re

import pandas as pd

from ..studies.labels import NONE, RANDOM_LAYERS

ALL = "all"
SPELLED = re.compile(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", re.ASCII)


def windows_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The measurements in windows of layers, of the frame's first form; none where a frame has no such windows."""
    if not {"route", "form", "window", "layers"} <= set(rows.columns):
        return rows[:0]
    is_window = rows["window"].astype(str).str[:1].str.isdigit() & (rows["control"] == NONE)
    windows = rows[is_window]
    return windows if windows.empty else windows[windows["form"] == windows["form"].iloc[0]]


def all_layers_of(rows: pd.DataFrame, window: pd.Series) -> pd.DataFrame:
    """The measurement of a window's route, in the same form, in all layers."""
    same = (rows["route"] == window["route"]) & (rows["form"] == window["form"])
    return rows[same & (rows["window"] == ALL) & (rows["control"] == NONE)]


def random_layers_of(rows: pd.DataFrame, window: pd.Series) -> pd.DataFrame:
    """The control of a window: its route in as many random layers."""
    same = (rows["route"] == window["route"]) & (rows["form"] == window["form"])
    sized = rows["window"] == f"any {layers_in(str(window['layers']))}"
    return rows[same & sized & (rows["control"] == RANDOM_LAYERS)]


def layers_in(spelled: str) -> int:
    """How many layers a spelling names; 0 where it is none.

    >>> layers_in("0-1,7-9"), layers_in("4"), layers_in("")
    (5, 1, 0)
    """
    if not SPELLED.fullmatch(spelled):
        return 0
    ends = [part.partition("-") for part in spelled.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)
