"""Any frame as lines over layers: recipes' means with intervals, and what a sweep gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..arguments import refuse, text
from ..recipes.labels import NONE
from .canvas import axes_of, grown, legend_below, named, say
from .depths import AXES, axis_column, spans_of
from .frames import any_frame, column_of, numbers_of, refuse_several
from .marks import has_values, line, show_at_least
from .quantities import quantity_of
from .style import BLUE, DASHES, GREY, Style, line_styles, spell_name


class _Line(NamedTuple):
    """One line of a figure: its rows, and how it looks."""

    rows: pd.DataFrame
    style: Style


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

    Rows whose column `control` is not `"none"` are grey and dashed, with the marker of the line that they control.
    Layers may be windows (`"0-2"`, as `nv.window` is spelled in a sweep): these are drawn at their centre, with a bar
    from their first layer to their last, and their intervals as vertical bars.

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
    hue = None if hue is None else column_of("hue", hue, given)
    if label is not None:
        text("label", label)
    drawn = quantity_of(given, value, baseline, label)
    spans_of(given[x], x)
    keys = [*([] if hue is None else [hue]), *(["control"] if "control" in given.columns else []), x]
    refuse_several(given, keys, "one line and place")
    has_interval = baseline is None and value in (None, "mean") and {"mean", "low", "high"} <= set(given.columns)
    shown = given.assign(mean=drawn.numbers) if has_interval else given.assign(
        mean=drawn.numbers, low=drawn.numbers, high=drawn.numbers
    )  # fmt: skip
    shown = shown.assign(low=numbers_of(shown, "low"), high=numbers_of(shown, "high"))
    axis = axes_of(ax)
    lines = list(_lines(shown, hue))
    for rows, style in lines:
        line(axis, spans_of(rows[x], x), rows, style)
    if not any(has_values(rows) for rows, _ in lines):
        say(axis, "no value is a number")
    if drawn.unit.signed:
        axis.axhline(0, color=GREY, lw=0.6, zorder=0, label="_zero")
    show_at_least(axis, drawn.unit.low, drawn.unit.high)
    layer_axis(axis)
    named(axis, axis_name(given, x), drawn.unit.label)
    legend_below(axis)
    if ax is None:
        grown(axis, 1.8)
    return axis


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


def _lines(frame: pd.DataFrame, hue: str | None) -> Iterator[_Line]:
    """The lines, and behind them those of their controls; a control has one entry in the legend."""
    names = [None] if hue is None else list(dict.fromkeys(frame[hue]))
    control = frame["control"] if "control" in frame.columns else pd.Series(NONE, index=frame.index)
    controls = [name for name in dict.fromkeys(control) if name != NONE]
    styles = [Style(BLUE, "o", None)] if hue is None else list(line_styles(names))
    labelled = set[object]()
    for name, style in zip(names, styles, strict=True):
        own = pd.Series(True, index=frame.index) if hue is None else frame[hue] == name
        measured = style._replace(label="measurement") if hue is None and controls else style
        yield _Line(frame[own & (control == NONE)], measured)
        for number, of_control in enumerate(controls):
            rows = frame[own & (control == of_control)]
            label = "_control" if of_control in labelled else f"control: {spell_name(of_control)}"
            if has_values(rows):
                labelled.add(of_control)
            yield _Line(rows, Style(GREY, style.marker, label, DASHES[number % len(DASHES)]))
