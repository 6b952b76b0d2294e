"""The figure of an ablation of image tokens: what is left of an answer without each set of tokens."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ..errors import SpecError
from .dots import dot_table
from .frames import frame_of, rows_of
from .series import drawn_of

NAMES = {
    "object": "the object's tokens",
    "random": "as many random tokens",
    "register-like": "as many of largest norm",
    "gradient": "as many of largest gradient",
}
"""What each row is called, by the column `tokens`."""
USUAL = ("logprob_change", "named", "box_iou")
"""The measures of which the first that a frame has is drawn."""
NOTHING = "nothing"
"""In the columns `tokens` and `how`: the run without an ablation."""


def ablation(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str | None = None) -> Axes:
    """What is left of an answer without each set of image tokens: points are means over images, bars their intervals.

    One row for each set of tokens and border, one marker for each thing that was written; controls are grey. The dashed
    line is the run without an ablation.

    Args:
        frame: what `nv.recipes.ablation` returns, of one form.
        ax: where to draw; default a figure of its own, one column wide.
        measure: which of its measures; default the first of `logprob_change`, `named`, `box_iou` that it has, or else
            its first one.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, a measure that it has not got, or several forms.
    """
    frame_of("ablation", frame)
    usual = next((name for name in USUAL if name in set(frame["measure"])), frame["measure"].iloc[0])
    chosen: Any = usual if measure is None else measure
    rows = rows_of(frame, chosen, "ablation")
    forms = list(dict.fromkeys(rows["form"]))
    if len(forms) > 1:
        raise SpecError(f"frame= has several forms; draw one at a time: frame[frame['form'] == {forms[0]!r}]")
    clean = rows.loc[rows["tokens"] == NOTHING, "mean"].dropna()
    level = ("no ablation", float(clean.iloc[0])) if len(clean) else None
    cut = rows[rows["tokens"] != NOTHING]
    if cut.empty:
        raise SpecError(f"there is nothing to draw: no tokens were ablated in the rows of {chosen}")
    several = cut["border"].nunique() > 1
    names = [_name(row.tokens, row.border if several else None) for row in cut.itertuples()]
    hows = [f"{how} written" for how in cut["how"]]
    return dot_table(drawn_of(cut.assign(row=names, written=hows), "row", "written"), ax, "row", "written", level=level)


def _name(tokens: Any, border: Any) -> str:
    name = NAMES.get(str(tokens), str(tokens))
    return name if border is None else f"{name}, border {border}"
