"""How every figure of the package looks: colours, panels, points with intervals.

Points are means over images, bars and bands 95 % bootstrap intervals; controls are grey. Colours are
those of Okabe and Ito, which people with colour-blindness can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#222222"
GREY, PALE = "#8C8C8C", "#D9D9D9"
COLORS = {
    "image": BLUE,
    "query": ORANGE,
    "generated": GREEN,
    "system": PINK,
    "last": GREEN,
    "markup": SKY,
    "other": RED,
}
STYLES = {"block": (BLUE, "o", "route cut here"), "allow": (ORANGE, "s", "route open only here")}
ARROW = " → "


def panels(
    columns: int, rows: int = 1, *, width: float = 2.6, height: float = 2.7, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `[row, column]`; sizes in inches a panel."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def errors(frame: pd.DataFrame) -> np.ndarray:
    """Distances from mean to both ends of the interval, `[2, row]`; 0 where there is none."""
    low, high = frame["mean"] - frame["low"], frame["high"] - frame["mean"]
    return np.asarray(np.nan_to_num(np.clip(np.stack([low, high]), 0, None)))


def points(
    axis: Any,
    places: Any,
    frame: pd.DataFrame,
    color: str,
    marker: str = "o",
    label: str | None = None,
    line: str = "none",
) -> None:
    """Means with vertical intervals."""
    axis.errorbar(
        places,
        frame["mean"],
        yerr=errors(frame),
        color=color,
        marker=marker,
        ms=4,
        lw=1.4,
        elinewidth=1.1,
        ls=line,
        label=label,
    )


def across(
    axis: Any, frame: pd.DataFrame, places: Sequence[float], color: str, marker: str = "o", label: str | None = None
) -> None:
    """Means with horizontal intervals."""
    axis.errorbar(
        frame["mean"], places, xerr=errors(frame), color=color, marker=marker, ms=5, lw=0, elinewidth=1.3, label=label
    )


def line(axis: Any, frame: pd.DataFrame, x: str, color: str, label: str | None = None, style: str = "-") -> None:
    """A line through means, its interval as a band; `x` is a column of whole numbers."""
    ordered = frame.assign(**{x: frame[x].astype(int)}).sort_values(x)
    axis.plot(ordered[x], ordered["mean"], style, color=color, lw=1.6, label=label)
    axis.fill_between(ordered[x], ordered["low"], ordered["high"], color=color, alpha=0.18, lw=0)


def level(axis: Any, frame: pd.DataFrame, color: str, label: str, style: str = "--") -> None:
    """A horizontal line at a mean, with its interval as a band."""
    for _, row in frame.iterrows():
        axis.axhline(row["mean"], color=color, ls=style, lw=1, label=label, zorder=0)
        axis.axhspan(row["low"], row["high"], color=color, alpha=0.12, lw=0, zorder=0)


def legend(figure: Figure, axis: Any, columns: int = 4) -> None:
    """One legend for the figure, beneath it, from the labels of one panel."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
