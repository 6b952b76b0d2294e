"""What is drawn into axes: points and lines with intervals, levels, windows of layers.

Points are means over images; bars and bands are 95 % intervals. The end of an interval that is infinite is drawn as far
as anything else in the panel reaches, with an arrow head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .depths import Span
from .style import GREY, Style


def ends(frame: pd.DataFrame) -> np.ndarray:
    """Both ends of the intervals, `[2, row]`; an infinite one is drawn as far as anything else in the frame reaches."""
    numbers = frame[["mean", "low", "high"]].to_numpy(dtype=float)
    finite = numbers[np.isfinite(numbers)]
    return np.asarray(numbers[:, 1:].T if not len(finite) else np.clip(numbers[:, 1:].T, finite.min(), finite.max()))


def errors(frame: pd.DataFrame) -> np.ndarray:
    """Distances from the mean to both ends of the interval, `[2, row]`; 0 where there is no interval."""
    low, high = ends(frame)
    mean = frame["mean"].to_numpy(dtype=float)
    return np.asarray(np.nan_to_num(np.clip(np.stack([mean - low, high - mean]), 0, None)))


def has_values(frame: pd.DataFrame) -> bool:
    """Whether there is anything to draw: a mean that is a number."""
    return bool(np.isfinite(frame["mean"].to_numpy(dtype=float)).any())


def arrows(axis: Axes, frame: pd.DataFrame, places: Sequence[float], color: str, *, upright: bool) -> None:
    """Arrow heads at the ends of intervals that are infinite."""
    drawn = ends(frame)
    for number, (low, high) in enumerate(frame[["low", "high"]].to_numpy(dtype=float)):
        for end, at, marker in ((low, drawn[0, number], "v<"), (high, drawn[1, number], "^>")):
            if np.isinf(end) and np.isfinite(at):
                where = (places[number], at) if upright else (at, places[number])
                axis.plot(*where, marker=marker[0 if upright else 1], color=color, ms=4, ls="none", label="_arrow")


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


def show_at_least(axis: Axes, low: float, high: float) -> None:
    """Make the y axis show these values, beside all that is drawn."""
    if low < high:
        axis.update_datalim([(0, low), (0, high)], updatex=False)
        axis.autoscale_view(scalex=False)
