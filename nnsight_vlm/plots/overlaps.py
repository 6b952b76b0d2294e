"""How much of a random control lies in the very tokens that it stands beside, in words for a legend."""

from __future__ import annotations

import pandas as pd

from ..studies.labels import RANDOM_POSITIONS


def overlap_said(frame: pd.DataFrame) -> str:
    """What share of random positions lies in the source itself, over the lines of a figure; empty where none does.

    A control that cuts much of the route itself cannot fail, which its line alone does not say.

    Args:
        frame: of a recipe; its measure `overlap` is read.

    >>> overlap_said(pd.DataFrame({"measure": "overlap", "control": RANDOM_POSITIONS, "mean": [0.5, 0.875]}))
    ', 50 to 88 % of the source itself'
    """
    shares = frame.loc[(frame["measure"] == "overlap") & (frame["control"] == RANDOM_POSITIONS), "mean"].dropna()
    if shares.empty or not shares.max() > 0:
        return ""
    low, high = (f"{100 * share:.0f}" for share in (shares.min(), shares.max()))
    return f", {low if low == high else f'{low} to {high}'} % of the source itself"
