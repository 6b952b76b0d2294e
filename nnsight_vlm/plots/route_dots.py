"""Routes one below the other: what the model could do without each, and what it does with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..arguments import frame_given, instance
from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import ANOTHER_IMAGE, NONE, RANDOM_EDGES

COLUMNS = ("route", "condition", "shows", "control", "measure", "mean", "low", "high", "images")


class _Series(NamedTuple):
    """One kind of point: which rows it shows, and how."""

    measure: str
    condition: str
    control: str
    color: str
    marker: str
    label: str


SERIES = (
    _Series("needed", "cut", NONE, "#0072B2", "o", "could: lost when cut alone"),
    _Series("suffices", "only", NONE, "#E69F00", "s", "could: kept when alone open"),
    _Series("self_repair", "cut", NONE, "#222222", "^", "could: lost only when all are cut"),
    _Series("restoration", "swapped", NONE, "#009E73", "D", "does: other answer when swapped"),
)
CONTROLS = {"needed": RANDOM_EDGES, "suffices": RANDOM_EDGES, "self_repair": RANDOM_EDGES}
CONTROLS |= {"restoration": ANOTHER_IMAGE}
GREY = "#8C8C8C"


def joint_routes(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What each route is worth: of what is lost when routes are cut, and of the way to the other answer.

    Points are means over images, bars 95 % intervals, and the grey points beside them their controls: as many random
    edges cut, a third picture swapped in. Filled points are of cuts (`could`) and of swaps (`does`) as the legend says.

    Args:
        frame: of `recipes.joint_routes`, means with intervals.
        ax: where to draw; default axes of a figure of its own.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or one in which nothing was measured.
    """
    given = frame_given("frame", frame, COLUMNS, "recipes.joint_routes")
    shown = given[given["measure"].isin(CONTROLS) & given["mean"].notna() & ~given["route"].str.contains("&")]
    if shown.empty:
        raise SpecError(
            "there is nothing to draw: frame= has no loss and no restoration of any route; write that of joint_routes"
        )
    routes = [route for route in dict.fromkeys(given["route"]) if route in set(shown["route"])]
    if ax is not None:
        instance("ax", ax, Axes, "ax=plt.gca()")
    axes = ax if ax is not None else _own_axes(len(routes))
    present = [series for series in SERIES if not _rows(shown, series).empty]
    for number, series in enumerate(present):
        offset = (number - (len(present) - 1) / 2) * 0.17
        _points(axes, routes, _rows(shown, series), offset, series.color, series.marker, series.label)
        control = series._replace(control=CONTROLS[series.measure])
        _points(axes, routes, _rows(shown, control), offset + 0.06, GREY, series.marker, None)
    axes.plot([], [], "o", color=GREY, ms=4, label="their controls")
    for place in (0, 1):
        axes.axvline(place, color="#D9D9D9", lw=1, zorder=0)
    axes.set_yticks(range(len(routes)), [for_figure(route.replace("->", " → ")) for route in routes])
    axes.set_ylim(len(routes) - 0.5, -0.5)
    axes.set_xlabel("loss (probability, or 1 - f1), or restoration")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, frameon=False, fontsize=8)
    return axes


def _rows(frame: pd.DataFrame, series: _Series) -> pd.DataFrame:
    """The rows that a series shows."""
    chosen: pd.DataFrame = frame[
        (frame["measure"] == series.measure)
        & (frame["condition"] == series.condition)
        & (frame["control"] == series.control)
    ]
    return chosen


def _points(
    axes: Axes, routes: list[str], rows: pd.DataFrame, offset: float, color: str, marker: str, label: str | None
) -> None:
    """Means with horizontal intervals; an interval that is not known or has no end is drawn as far as the axes go."""
    if rows.empty:
        return
    means = rows["mean"].to_numpy(dtype=float)
    ends: Any = rows[["low", "high"]].to_numpy(dtype=float).T
    reach = np.clip(np.nan_to_num(ends, nan=0.0, posinf=3.0, neginf=-3.0), -1.0, 2.0)
    reach = np.where(np.isnan(ends), means, reach)
    errors = np.clip(np.stack([means - reach[0], reach[1] - means]), 0, None)
    heights = [routes.index(route) + offset for route in rows["route"]]
    axes.errorbar(
        means, heights, xerr=errors, color=color, marker=marker, ms=5, lw=0, elinewidth=1.2, label=label, zorder=2
    )


def _own_axes(routes: int) -> Axes:
    return Figure(figsize=(5.6, 1.5 + 0.62 * routes), layout="constrained").subplots()
