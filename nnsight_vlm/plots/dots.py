"""Any frame as a table of dots: a row for each name, a dot with its interval for each kind of measurement."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .canvas import axes_of, broken, grown, legend_below, named, say
from .frames import any_frame, column_of
from .marks import across, has_values
from .series import drawn_of, names_in, series_of
from .style import GREY, SMALL, spell_name

NAME_INCHES = 1.1
"""The width of the names of rows, which are broken into lines."""
ROW = 0.3
"""Inches for a row at least."""


def dot_rows(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    rows: str,
    hue: str | None = None,
    value: str | None = None,
    baseline: str | None = None,
    label: str | None = None,
) -> Axes:
    """Rows of dots with horizontal intervals; for the frame of any recipe and of `nv.sweep`.

    Rows of the frame whose column `control` is not `"none"` are grey dots, with the marker of what they control.

    Args:
        frame: one row for each dot.
        ax: where to draw; default a figure of its own, one column wide.
        rows: the column whose values are the rows, from the top.
        hue: the column that tells dots in one row apart; default one dot, and its controls.
        value, baseline, label: see `layer_lines`; `label` is the name of the x axis.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, no such column, or several rows for one dot.
    """
    given = any_frame(frame)
    names = names_in(given, column_of("rows", rows, given))
    drawn, unit = drawn_of(given, rows, hue, value, baseline, label)
    series = [each for each in series_of(drawn, hue) if len(each.rows)]
    shown = [spell_name(name) for name in names]
    height = row_inches(shown, len(series)) * len(names)
    axis = axes_of(ax, height)
    step = 0.8 / max(len(series), 1)
    for number, (chosen, style) in enumerate(series):
        shift = 0.4 - step * (number + 0.5)
        across(axis, chosen, [shift - names.index(name) for name in chosen[rows]], style)
    if not any(has_values(chosen) for chosen, _ in series):
        say(axis, "no value is a number")
    name_rows(axis, shown)
    axis.update_datalim([(unit.low, 0), (unit.high, 0)], updatey=False)
    axis.autoscale_view(scaley=False)
    if unit.signed:
        axis.axvline(0, color=GREY, lw=0.6, zorder=0, label="_zero")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
    named(axis, x=unit.label)
    legend_below(axis)
    if ax is None:
        grown(axis, height)
    return axis


def row_inches(names: Sequence[str], dots: int) -> float:
    """How tall rows are that hold these names and so many dots."""
    lines = max(len(broken(name, NAME_INCHES).split("\n")) for name in names)
    return max(ROW, 0.12 * dots + 0.1, 0.13 * lines)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Write the names of rows at 0, -1, -2 and so on, and draw a thin line between neighbours."""
    axis.set_yticks(range(0, -len(names), -1), [broken(name, NAME_INCHES) for name in names], fontsize=SMALL)
    axis.tick_params(axis="y", length=0)
    for edge in range(1, len(names)):
        axis.axhline(0.5 - edge, color=GREY, lw=0.3, zorder=0, label="_edge")
    axis.set_ylim(-len(names) + 0.5, 0.5)
