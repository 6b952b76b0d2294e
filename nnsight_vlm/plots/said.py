"""The figure of what descriptions name: scores against the pictures' objects, and how far two scorers agree."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from ..errors import SpecError
from .dots import dot_rows
from .frames import frame_of

ROWS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "hallucinated": "named, not there (mean of pictures)",
    "chair_i": "named, not there (CHAIR-i)",
    "chair_s": "descriptions with one (CHAIR-s)",
    "agree": "both scorers decide alike",
    "kappa": "Cohen's kappa of both",
}
"""What each measure is called, from the top; the number of named objects is no share and is not drawn."""


def object_score(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Precision, recall, F1 and CHAIR by scorer, and how far the scorers agree; the objects of another picture in grey.

    Points are means over images, bars 95 % intervals.

    Args:
        frame: what `nv.recipes.object_score` returns, means with intervals.
        ax: where to draw; default a figure of its own, one column wide.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or one without these measures.
    """
    frame_of("object_score", frame)
    drawn = frame[frame["measure"].isin(list(ROWS))]
    if drawn.empty:
        raise SpecError("there is nothing to draw: frame= has no score; write the frame of recipes.object_score")
    order = list(ROWS)
    drawn = drawn.sort_values("measure", key=lambda column: column.map(order.index), kind="stable")
    drawn = drawn.assign(measure=drawn["measure"].map(ROWS))
    axis = dot_rows(drawn, ax, rows="measure", hue="scorer", label="share of 1 (kappa: 0 is chance)")
    axis.set_xlim(min(-0.03, axis.get_xlim()[0]), 1.03)
    return axis
