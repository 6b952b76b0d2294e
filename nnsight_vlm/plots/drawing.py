"""How every figure of the package looks: colours, panels, points with intervals.

Points are means over images; bars and bands are 95 % intervals; controls are grey. The colours are those of
Okabe and Ito, which people with colour-blindness can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..arguments import frame_given, spelled
from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import Form

BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#222222"
YELLOW = "#F0E442"
GREY, PALE = "#8C8C8C", "#D9D9D9"
COLORS = {
    "image": BLUE,
    "video": YELLOW,
    "query": ORANGE,
    "question": ORANGE,
    "generated": GREEN,
    "system": PINK,
    "last": GREEN,
    "markup": SKY,
    "other": RED,
}
"""The colour of each token group."""


class Style(NamedTuple):
    """How one kind of row is drawn, and what the legend says of it (None: it has no entry)."""

    color: str
    marker: str
    label: str | None


STYLES: Mapping[Form, Style] = {
    "block": Style(BLUE, "o", "route cut here"),
    "allow": Style(ORANGE, "s", "route open only here"),
}
ARROW = " → "


MEANS = ("measure", "control", "mean", "low", "high")
COLUMNS = {
    "ablation": (*MEANS, "tokens", "border", "how", "form"),
    "knockout_windows": (*MEANS, "route", "form", "window"),
    "attention_share": (*MEANS, "target", "source", "layer", "token"),
    "query_patching": (*MEANS, "group", "layer"),
    "patch_grounding": (*MEANS, "read_at", "layer"),
    "prompt_ablation": (*MEANS, "part", "access"),
    "nv.report.judge": ("claim", "control", "value", "low", "high", "threshold", "statement"),
}
"""The columns that are drawn, by what gives the frame."""


def spell_route(route: str) -> str:
    """A route as a figure shows it, with an arrow."""
    return for_figure(route.replace("->", ARROW))


def spell_part(part: str) -> str:
    """A part as the axis names it; the default parts of a short query are `"<number> <token>"`."""
    if part == "nothing":
        return "all words kept"
    if part == "blind":
        return "blind: no text sees the image"
    index, _, token = part.partition(" ")
    return f'without "{token}"' if index.isdigit() else f"without {part}"


def frame_of(maker: str, frame: Any) -> None:
    """Refuse to draw what is not the frame of a recipe.

    Raises:
        SpecError: naming the recipe; or there are no rows, so there is nothing to draw.
    """
    frame_given("frame", frame, () if isinstance(frame, pd.DataFrame) and frame.empty else COLUMNS[maker], maker)
    if frame.empty:
        raise SpecError(f"there is nothing to draw: frame= has no rows; write the frame of {maker}")


def rows_of(frame: pd.DataFrame, measure: str, maker: str) -> pd.DataFrame:
    """The rows of one measure, of the frame of a recipe.

    Raises:
        SpecError: there are none, so there is nothing to draw; or it is another frame.
    """
    frame_of(maker, frame)
    known = list(dict.fromkeys(frame["measure"]))
    if not isinstance(measure, str) or measure not in known:
        raise SpecError(
            f"there is nothing to draw: the frame has no measure {spelled(measure)} (it has {', '.join(known)}). "
            "Descriptions are compared only where one names an object"
        )
    return frame[frame["measure"] == measure]


def panels(
    columns: int, rows: int = 1, *, width: float = 2.6, height: float = 2.7, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `[row, column]`, as `plt.subplots` gives them; sizes are inches for one panel."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def ends(frame: pd.DataFrame) -> np.ndarray:
    """Both ends of the intervals, `[2, row]`; an infinite one is drawn as far as anything else in the frame reaches."""
    numbers = frame[["mean", "low", "high"]].to_numpy(dtype=float)
    finite = numbers[np.isfinite(numbers)]
    return np.asarray(numbers[:, 1:].T if not len(finite) else np.clip(numbers[:, 1:].T, finite.min(), finite.max()))


def errors(frame: pd.DataFrame) -> np.ndarray:
    """Distances from the mean to both ends of the interval, `[2, row]`; 0 where there is no interval."""
    low, high = ends(frame)
    return np.asarray(np.nan_to_num(np.clip(np.stack([frame["mean"] - low, high - frame["mean"]]), 0, None)))


def points(axis: Any, x: Sequence[float], frame: pd.DataFrame, style: Style, *, line: str = "none") -> None:
    """Means at these places, with vertical intervals; `line` is the style of a line through them."""
    axis.errorbar(
        x,
        frame["mean"],
        yerr=errors(frame),
        color=style.color,
        marker=style.marker,
        ms=4,
        lw=1.4,
        elinewidth=1.1,
        ls=line,
        label=style.label,
    )


def across(axis: Any, frame: pd.DataFrame, y: Sequence[float], style: Style) -> None:
    """Means at these heights, with horizontal intervals."""
    axis.errorbar(
        frame["mean"],
        y,
        xerr=errors(frame),
        color=style.color,
        marker=style.marker,
        ms=5,
        lw=0,
        elinewidth=1.3,
        label=style.label,
    )


def line(axis: Any, frame: pd.DataFrame, x: str, color: str, label: str | None = None, style: str = "-") -> None:
    """A line through means, its interval as a band; `x` is a column of whole numbers."""
    ordered = frame.assign(**{x: frame[x].astype(int)}).sort_values(x)
    axis.plot(ordered[x], ordered["mean"], style, color=color, lw=1.6, label=label)
    axis.fill_between(ordered[x], *ends(ordered), color=color, alpha=0.18, lw=0)


def level(axis: Any, frame: pd.DataFrame, color: str, label: str, style: str = "--") -> None:
    """A horizontal line at a mean, its interval as a band."""
    for mean, low, high in zip(frame["mean"], *ends(frame), strict=True):
        axis.axhline(mean, color=color, ls=style, lw=1, label=label, zorder=0)
        axis.axhspan(low, high, color=color, alpha=0.12, lw=0, zorder=0)


def legend(figure: Figure, axis: Any, columns: int = 4) -> None:
    """One legend beneath the figure, from the labels of one panel."""
    handles, labels = axis.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    figure.legend(
        by_label.values(), by_label.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
