"""Any frame as lines over layers: recipes' means with intervals, and what a sweep gives."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..arguments import refuse
from .canvas import axes_of, grown, legend_below, named, say
from .depths import AXES, axis_column, spans_of
from .frames import any_frame, column_of
from .marks import has_values, line, show_at_least
from .series import drawn_of, series_of
from .style import GREY

FEW = 4
"""How many controls are drawn with their intervals; more of them would hide each other."""
THICK, THIN = 1.9, 1.0
"""The widths of the first and of the last of several lines, in points."""
HEIGHT = 1.8
"""Of a figure's panel in inches."""


def layer_lines(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    x: str | None = None,
    hue: str | None = None,
    value: str | None = None,
    baseline: str | None = None,
    label: str | None = None,
) -> Axes:
    """Lines over layers, with intervals as bands; for the frame of any recipe and of `nv.sweep`.

    Rows whose column `control` is not `"none"` are grey and dashed, with the marker of the line that they control;
    more than four such lines are drawn without their intervals.
    Layers may be windows (`"0:3"`, as a sweep spells `nv.window`, or `"0-2"`, as recipes do): these are drawn at their
    centre, with a bar from their first layer to their last, and their intervals as vertical bars.

    Args:
        frame: one row for each line and layer.
        ax: where to draw; default a figure of its own, one column wide.
        x: the column of the layers; default `layer`, `centre`, `layers` or `window`.
        hue: the column that tells lines apart; default one line.
        value: the column that is drawn; default `mean`, with the interval from `low` to `high`. In a frame of
            `nv.sweep` the default is the change of `logprob`, or of `metric`.
        baseline: a column that is subtracted, for example `clean_logit_diff` from `logit_diff`. Intervals are drawn of
            `mean` alone.
        label: what the y axis says; default what is known of the measure or the column.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, no such column, several rows for one place of a line, or layers that have no place on
            an axis (`"all"`, a fraction of the depth, layers counted from the end).
    """
    given = any_frame(frame)
    x = axis_column(given.columns) if x is None else column_of("x", x, given)
    if x is None:
        refuse("x", None, "column of layers", f"x= one of {', '.join(map(str, given.columns))}; usual are {AXES}")
    spans_of(given[x], x)
    drawn, unit = drawn_of(given, x, hue, value, baseline, label)
    axis = axes_of(ax)
    series = list(series_of(drawn, hue))
    is_crowded = sum(style.color == GREY for _, style in series) > FEW
    own = [style for _, style in series if style.color != GREY]
    for rows, style in series:
        width = None if style.color == GREY else thinner(own.index(style), len(own))
        line(axis, spans_of(rows[x], x), rows, style, width=width, is_bare=is_crowded and style.color == GREY)
    if not any(has_values(rows) for rows, _ in series):
        say(axis, "no value is a number")
    if unit.signed:
        axis.axhline(0, color=GREY, lw=0.6, zorder=0, label="_zero")
    show_at_least(axis, unit.low, unit.high)
    layer_axis(axis)
    named(axis, axis_name(given, x), unit.label)
    legend_below(axis)
    if ax is None:
        grown(axis, HEIGHT)
    return axis


def thinner(number: int, count: int) -> float:
    """The width of a line in points: each is thinner than those beneath, so that lines that are equal are all seen."""
    return THICK - (THICK - THIN) * number / (count - 1) if count > 1 else 1.3


def layer_axis(axis: Axes) -> None:
    """Ticks at whole layers."""
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def axis_name(frame: pd.DataFrame, column: str) -> str:
    """What the axis of layers is called: windows say how many layers they hold, where the frame does."""
    if column != "centre":
        is_window = any(span.is_window for span in spans_of(frame[column], column))
        return "layers (bars: windows)" if is_window else "layer"
    widths = sorted(set(frame["width"].astype(int))) if "width" in frame.columns else []
    if not widths:
        return "centre of a window of layers"
    size = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    return f"centre of a window of {size} layer{'s' * (widths != [1])}"
