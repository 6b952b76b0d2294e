"""Any frame as a map: layers by groups, positions, heads or whatever else tells rows apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..arguments import number, refuse, text
from ..errors import SpecError
from ..showing import for_figure
from .canvas import POINTS, axes_of, figure_of, grown, inches, laid_out, legend_below, named, thinned
from .depths import AXES, axis_column, span_of
from .frames import any_frame, column_of, refuse_several
from .quantities import quantity_of
from .scales import color_bar, color_scale
from .series import names_in
from .style import COLORS, GREY, LARGE, PALE, SMALL, spell_name

ROWS = ("group", "edge", "source", "head", "position")
"""The columns that tell the rows of a map apart unless another is named, in the order in which they are looked for."""
NAME_LETTERS = 24
"""Longer names of rows end in `...`."""


def heat_map(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    rows: str | None = None,
    columns: str | None = None,
    value: str | None = None,
    baseline: str | None = None,
    limit: float | None = None,
    label: str | None = None,
) -> Axes:
    """A map of one number for each row and column; for the frame of any recipe and of `nv.sweep`.

    Signed values (changes, differences, whatever has negative values) have a diverging scale that is white at 0 and
    reaches equally far on both sides; all others a scale from 0. The scale's range is written beside it. It is never
    smaller than what is worth looking at: 0.1 nats for a change of log-probability, 1 for shares and restoration.
    Cells without a finite number are grey and hatched, and the legend says so. Where the frame has a column `survives`,
    a dot marks the cells that hold among all comparisons.

    Args:
        frame: one row for each cell; those of one control and one measure.
        ax: where to draw; default a figure of its own, one column wide. The colour scale is an inset of these axes.
        rows: the column whose values are rows; default `group`, `edge`, `source`, `head` or `position`.
        columns: the column whose values are columns; default `layer`, `centre`, `layers` or `window`.
        value, baseline, label: see `layer_lines`; `label` is written at the colour scale.
        limit: the largest value of the scale. Values beyond have the colour of the end, and the scale says so.

    Returns:
        The axes; `.figure` is the figure, `.images[0].get_array()` the numbers `[row, column]`.

    Raises:
        SpecError: another frame, no such column, or several rows for one cell.
    """
    given = any_frame(frame)
    rows = _usual("rows", rows, given, next((name for name in ROWS if name in given.columns), None), ROWS)
    columns = _usual("columns", columns, given, axis_column(given.columns), AXES)
    if rows == columns:
        raise SpecError(f"rows= and columns= both name {rows!r}; a map needs two columns of the frame")
    limit = None if limit is None else number("limit", limit, above=0)
    if label is not None:
        text("label", label)
    drawn = quantity_of(given, value, baseline, label)
    refuse_several(given, [rows, columns], "one cell")
    _refuse_controls(given)
    down, along = _in_order(given[rows]), _in_order(given[columns])
    cells = np.full((len(down), len(along)), np.nan)
    places = zip(given[rows], given[columns], drawn.numbers, strict=True)
    for row, column, cell in places:
        cells[down.index(row), along.index(column)] = cell
    height = min(max(0.17 * len(down), 1.3), 3.5)
    axis = axes_of(ax, height)
    if ax is None:
        grown(axis, height)
    _draw(axis, cells, color_scale(cells, drawn.unit, limit))
    if "survives" in given.columns:
        kept = given[given["survives"] == True]  # noqa: E712  (missing where nothing was compared)
        _dot(axis, [along.index(each) for each in kept[columns]], [down.index(each) for each in kept[rows]])
    named(axis, for_figure(columns), for_figure(rows))
    _tick(axis, [_name(each) for each in down], [_name(each) for each in along])
    legend_below(axis)
    if ax is None:
        grown(axis, height)
    return axis


def _usual(name: str, given: Any, frame: pd.DataFrame, usual: str | None, known: Sequence[str]) -> str:
    if given is None and usual is None:
        refuse(
            name, None, "column of the frame", f"{name}= one of {', '.join(map(str, frame.columns))}; usual: {known}"
        )
    return column_of(name, usual if given is None else given, frame)


def _refuse_controls(frame: pd.DataFrame) -> None:
    """Refuse a map whose cells come from a measurement and from controls, or from different measures."""
    for column in ("control", "measure"):
        found = list(dict.fromkeys(frame[column].astype(str))) if column in frame.columns else []
        if len(found) > 1:
            raise SpecError(
                f"a map shows one {column}, and frame= has {', '.join(found)}; write "
                f"frame[frame[{column!r}] == {found[0]!r}]"
            )


def _in_order(cells: pd.Series) -> list[Any]:
    """The values of a column in the order of an axis: numbers, layers and token groups by theirs, others as they come.

    A missing value is no row and no column of its own, so it is refused.
    """
    found = names_in(cells.to_frame(), str(cells.name))
    if set(found) <= set(COLORS):
        return sorted(found, key=list(COLORS).index)
    if cells.dtype.kind in "iuf":
        return sorted(found)
    try:
        return sorted(found, key=lambda cell: span_of(cell).centre)
    except SpecError:
        return found


def _name(cell: Any) -> str:
    is_whole = isinstance(cell, float) and cell.is_integer()
    return spell_name(int(cell) if is_whole else cell, NAME_LETTERS)


def _draw(axis: Axes, cells: np.ndarray, scale: Any) -> None:
    """The cells, hatched where there is no number, and their scale."""
    axis.imshow(np.ma.masked_invalid(cells), cmap=scale.colors, norm=scale.norm, aspect="auto", interpolation="nearest")
    if not np.isfinite(cells).all():
        height, width = cells.shape
        behind = Rectangle((-0.5, -0.5), width, height, fc=PALE, ec=GREY, hatch="////", lw=0, zorder=-1)
        behind.set_label("hatched: no finite value")
        axis.add_patch(behind)
    color_bar(axis, scale)


def _dot(axis: Axes, across: Sequence[int], down: Sequence[int]) -> None:
    """Dots, white in black so that they are seen on every colour; none where nothing survives."""
    if across:
        label = "holds among all comparisons"
        axis.plot(across, down, "o", ms=3, mfc="white", mec="black", mew=0.6, ls="none", label=label)


def _tick(axis: Axes, down: Sequence[str], along: Sequence[str]) -> None:
    """Names of rows and columns, as many as fit."""
    thinned(axis.yaxis, range(len(down)), down, inches(axis)[1] * POINTS, LARGE + 1)
    laid_out(figure_of(axis))
    longest = max(map(len, along)) * 0.62 * SMALL + 5
    thinned(axis.xaxis, range(len(along)), along, inches(axis)[0] * POINTS, longest)
    axis.spines[:].set_visible(False)
