"""The figure of an ablation of image tokens: what is left of an answer without each set of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from ..errors import SpecError
from ..studies.labels import NONE, OTHER_OBJECT, RANDOM_PATCHES, RANDOM_PATCHES_AGAIN
from .canvas import axes_of, legend_below, named
from .frames import rows_of
from .marks import across
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, SMALL, Style

ROWS = {
    ("object", NONE): ("the object's tokens", BLUE),
    ("object", OTHER_OBJECT): ("as many of other objects", GREY),
    ("random", RANDOM_PATCHES): ("as many random tokens", GREY),
    ("random", RANDOM_PATCHES_AGAIN): ("random tokens, again", GREY),
    ("register-like", NONE): ("as many of largest norm", ORANGE),
    ("gradient", NONE): ("as many of largest gradient", GREEN),
}
"""What each row is called, and its colour, by the columns `tokens` and `control`."""
MARKERS = {"mean": "o", "zero": "s", "resample": "D"}
AXES = {
    "logprob_change": "change of the answer's log-probability (nats)",
    "kept": "share of images whose answer is kept",
    "yes": "P(yes), of yes and no",
    "yes_change": "change of P(yes), of yes and no",
    "named": "share of objects that are still named",
    "box_iou": "IoU of the answered box with the object's",
    "box_hit": "share of boxes with an IoU of 0.5 or more",
}
"""What the axis says of a measure."""


def ablation(frame: pd.DataFrame, measure: str | None = None, ax: Axes | None = None) -> Axes:
    """What is left of an answer without each set of image tokens: points are means over images, bars their intervals.

    One row a set of tokens and border; one marker for each thing that was written. The dashed line is the run without
    an ablation. Where one interval is far longer than the means lie apart, the figure cuts it, and says so.

    Args:
        frame: what `nv.recipes.ablation` returns, of one form.
        measure: which of its measures; default the first of `logprob_change`, `named`, `box_iou` that it has.
        ax: where to draw; default a figure of its own, whose height follows the number of rows.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, a measure that it has not got, or several forms.
    """
    if measure is None and isinstance(frame, pd.DataFrame) and "measure" in frame:
        measure = next((name for name in ("logprob_change", "named", "box_iou") if name in set(frame["measure"])), "")
    rows = rows_of(frame, measure, "ablation")  # type: ignore[arg-type]
    if rows["form"].nunique() > 1:
        raise SpecError(f"the frame has the forms {', '.join(rows['form'].unique())}; draw one at a time")
    borders = sorted(set(rows.loc[rows["how"].isin(MARKERS), "border"]))
    lines = [(border, key) for border in borders for key in ROWS if len(_of(rows, border, key))]
    ax = axes_of(ax, 0.24 * len(lines) + 0.2)
    limits = _limits(rows)
    width = limits[1] - limits[0]
    hows = [how for how in MARKERS if how in set(rows["how"])]
    for place, (border, key) in enumerate(lines):
        for number, how in enumerate(hows):
            chosen = _of(rows, border, key).query("how == @how")
            height = -place + 0.16 * ((len(hows) - 1) / 2 - number)
            low, high = chosen["low"].clip(limits[0] - width), chosen["high"].clip(upper=limits[1] + width)
            across(
                ax, chosen.assign(low=low, high=high), [height] * len(chosen), Style(ROWS[key][1], MARKERS[how], None)
            )
    for clean in rows.loc[rows["tokens"] == "nothing", "mean"]:
        ax.axvline(clean, color=BLACK, ls="--", lw=1, zorder=0)
    _name(ax, lines, len(borders) > 1)
    ax.set_xlim(*limits)
    is_cut = bool((rows["low"] < limits[0]).any() or (rows["high"] > limits[1]).any())
    label = AXES.get(str(measure), str(measure).replace("_", " "))
    named(ax, label + "\n(intervals that reach the edge go on)" * is_cut)
    for how in hows:
        ax.plot([], [], color=GREY, marker=MARKERS[how], lw=0, ms=5, label=f"{how} written")
    ax.plot([], [], color=BLACK, ls="--", lw=1, label="no ablation")
    legend_below(ax)
    return ax


def _of(rows: pd.DataFrame, border: int, key: tuple[str, str]) -> pd.DataFrame:
    tokens, control = key
    return rows[(rows["border"] == border) & (rows["tokens"] == tokens) & (rows["control"] == control)]


def _name(ax: Axes, lines: Sequence[tuple[int, tuple[str, str]]], several: bool) -> None:
    """Names of the rows."""
    ends = [f", border {border}" if several else "" for border, _ in lines]
    names = [ROWS[key][0] + end for (_, key), end in zip(lines, ends, strict=True)]
    ax.set_yticks(range(0, -len(lines), -1), names, fontsize=SMALL)
    ax.set_ylim(-len(lines) + 0.4, 0.6)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """The ends of the axis: all means, and as much again on either side for intervals.

    Intervals of a mean that one image alone moves reach far, and would leave no room for the others.
    """
    low, high = float(rows["mean"].min()), float(rows["mean"].max())
    room = (high - low) or 1.0
    first, last = max(low - room, float(rows["low"].min())), min(high + room, float(rows["high"].max()))
    margin = 0.04 * (last - first) or 0.5
    return first - margin, last + margin
