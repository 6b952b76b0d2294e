"""What is drawn into axes: points and lines with intervals, levels, windows of layers.

Points are means over images; bars and bands are 95 % intervals. An interval that is infinite, or far longer than
everything else in its panel, is cut: an arrow head stands at its end, and the legend says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .depths import Span
from .style import BEYOND, GREY, Style

IS_CUT = ["low_is_cut", "high_is_cut"]
"""The columns that `trimmed` adds: whether an interval goes on beyond what is drawn of it."""


def trimmed(frame: pd.DataFrame, least: float = 0.0, most: float = 0.0) -> pd.DataFrame:
    """The rows of one panel, with intervals that are cut where they would leave no room for the rest.

    All means are shown, and all intervals that reach no further beyond them than twice what the means lie apart, or
    than twice the usual length of an interval. Longer ones end at the furthest of the others.

    Args:
        frame: `mean, low, high`; NaN where there is none.
        least, most: values that the panel shows in any case; none where they are equal.

    Returns:
        The frame with other `low` and `high`, and the columns `low_is_cut` and `high_is_cut`.
    """
    mean, low, high = frame[["mean", "low", "high"]].to_numpy(dtype=float).T
    shown = mean[np.isfinite(mean)]
    if not len(shown):
        return frame.assign(low_is_cut=False, high_is_cut=False)
    shown = np.append(shown, [least, most]) if least < most else shown
    first, last = shown.min(), shown.max()
    lengths = np.abs(np.concatenate([mean - low, high - mean]))
    lengths = lengths[np.isfinite(lengths)]
    usual = float(np.median(lengths)) if len(lengths) else 0.0
    room = 2 * max(last - first, usual) or abs(first) or 1.0
    cuts = low < first - room, high > last + room
    edge = np.min([first - room / 8, *low[~cuts[0] & np.isfinite(low)]])
    other = np.max([last + room / 8, *high[~cuts[1] & np.isfinite(high)]])
    ends = {"low": np.where(cuts[0], edge, low), "high": np.where(cuts[1], other, high)}
    return frame.assign(**ends, **dict(zip(IS_CUT, cuts, strict=True)))


def ends(frame: pd.DataFrame) -> np.ndarray:
    """Both ends of the intervals as they are drawn, `[2, row]`."""
    cut = frame if set(IS_CUT) <= set(frame.columns) else trimmed(frame)
    return np.asarray(cut[["low", "high"]].to_numpy(dtype=float).T)


def errors(frame: pd.DataFrame) -> np.ndarray:
    """Distances from the mean to both ends of the interval, `[2, row]`; 0 where there is no interval."""
    low, high = ends(frame)
    mean = frame["mean"].to_numpy(dtype=float)
    return np.asarray(np.nan_to_num(np.clip(np.stack([mean - low, high - mean]), 0, None)))


def has_values(frame: pd.DataFrame) -> bool:
    """Whether there is anything to draw: a mean that is a number."""
    return bool(np.isfinite(frame["mean"].to_numpy(dtype=float)).any())


def arrows(axis: Axes, frame: pd.DataFrame, places: Sequence[float], color: str, *, upright: bool, **look: Any) -> None:
    """Arrow heads at the ends of intervals that go on; the first of a panel has the entry in the legend."""
    cut = frame if set(IS_CUT) <= set(frame.columns) else trimmed(frame)
    means = np.isfinite(cut["mean"].to_numpy(dtype=float))
    for is_cut, end, markers in zip(IS_CUT, ("low", "high"), ("v<", "^>"), strict=True):
        for number in map(int, np.flatnonzero(cut[is_cut].to_numpy(dtype=bool) & means)):
            at = float(cut[end].iloc[number])
            where = (places[number], at) if upright else (at, places[number])
            label = "_arrow" if any(line.get_label() == BEYOND for line in axis.lines) else BEYOND
            axis.plot(*where, marker=markers[0 if upright else 1], color=color, ms=4, ls="none", label=label, **look)


def across(axis: Axes, frame: pd.DataFrame, y: Sequence[float], style: Style) -> None:
    """Means at these heights, with horizontal intervals."""
    if not has_values(frame):
        return
    axis.errorbar(
        frame["mean"],
        y,
        xerr=errors(frame),
        color=style.color,
        marker=style.marker,
        fillstyle=style.fill,
        ms=4,
        lw=0,
        elinewidth=1.1,
        label=style.label,
    )
    arrows(axis, frame, y, style.color, upright=False)


def line(
    axis: Axes,
    spans: Sequence[Span],
    frame: pd.DataFrame,
    style: Style,
    *,
    width: float | None = None,
    is_bare: bool = False,
) -> None:
    """A line through means over layers: the interval as a band, or as bars where the layers are windows.

    A window is a bar at the height of its mean, from its first layer to its last.

    Args:
        axis: where to draw.
        spans: the layers of each row.
        frame: `mean, low, high`, one row for each.
        style: colour, marker, dashes and label.
        is_bare: leave intervals out.
        width: of the line in points; markers are as large as it is wide. Default, controls are thinner.
    """
    if not has_values(frame):
        return
    width = (0.9 if style.color == GREY else 1.3) if width is None else width
    order = np.argsort([span.centre for span in spans], kind="stable")
    spans, frame = [spans[number] for number in order], frame.iloc[order]
    x = np.asarray([span.centre for span in spans])
    means = frame["mean"].to_numpy(dtype=float)
    axis.plot(
        x,
        means,
        ls=style.dashes,
        color=style.color,
        marker=style.marker,
        fillstyle=style.fill,
        ms=2.4 * width,
        lw=width,
        label=style.label,
    )
    if is_bare:
        return
    if any(span.is_window for span in spans):
        if errors(frame).any():
            axis.errorbar(x, means, yerr=errors(frame), fmt="none", ecolor=style.color, elinewidth=0.9, capsize=2)
        for span, mean in zip(spans, means, strict=True):
            for first, last in span.runs:
                axis.plot([first - 0.4, last + 0.4], [mean] * 2, color=style.color, lw=3.5, alpha=0.35, label="_window",
                          solid_capstyle="butt")  # fmt: skip
    else:
        axis.fill_between(x, *ends(frame), color=style.color, alpha=0.1 if style.color == GREY else 0.18, lw=0)
    arrows(axis, frame, list(x), style.color, upright=True)


def level(axis: Axes, frame: pd.DataFrame, style: Style, place: int = 0) -> None:
    """A line at the height of a mean, over all layers; its interval is a bar beside the right end.

    Args:
        axis: where to draw.
        frame: one row, or none.
        style: colour, dashes and label.
        place: the number of the bar, from the left.
    """
    for number, (_, row) in enumerate(frame.iterrows()):
        if not np.isfinite(row["mean"]):
            continue
        axis.axhline(
            row["mean"],
            color=style.color,
            ls=style.dashes,
            lw=1,
            label=style.label if not number else "_level",
            zorder=1,
        )
        axis.errorbar(
            1.015 + 0.02 * place,
            row["mean"],
            yerr=errors(frame)[:, [number]],
            transform=axis.get_yaxis_transform(),
            fmt=style.marker,
            ms=2.5,
            color=style.color,
            elinewidth=1.1,
            clip_on=False,
        )
        beside = {"transform": axis.get_yaxis_transform(), "clip_on": False}
        arrows(axis, frame.iloc[[number]], [1.015 + 0.02 * place], style.color, upright=True, **beside)


def shown_across(axis: Axes, low: float, high: float) -> None:
    """Make the x axis show these values, beside all that is drawn."""
    if low < high:
        axis.update_datalim([(low, 0), (high, 0)], updatey=False)
        axis.autoscale_view(scaley=False)


def show_at_least(axis: Axes, low: float, high: float) -> None:
    """Make the y axis show these values, beside all that is drawn."""
    if low < high:
        axis.update_datalim([(0, low), (0, high)], updatex=False)
        axis.autoscale_view(scalex=False)
