"""Figures of states that are written into another run: maps of layers and places, and routes by depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import one_of, refuse
from ..errors import SpecError
from ..studies.labels import NONE
from .frames import frame_of, rows_of
from .lines import layer_lines
from .maps import heat_map

ROUTES = ("total", "direct", "text-mediated", "text rows", "last row")
PERCENT_UNIT = "text-mediated (per cent)"


def patching_map(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "restoration",
    control: str = NONE,
    group: str | None = None,
) -> Axes:
    """Another picture's answer, by layer and by group, position or head; dots mark what holds among all comparisons.

    Args:
        frame: what `nv.recipes.patching_map` returns.
        ax: where to draw; default a figure of its own.
        measure: the number of each cell.
        control: `"none"` for the measurement, or one of the frame's controls.
        group: of a map of heads, the group at which they were patched; default the first of the frame.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or no such measure, control or group.
    """
    return _map(frame, "patching_map", ax, measure, control, group)


def causal_trace(
    frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "restoration", control: str = NONE
) -> Axes:
    """What clean states bring back of the answer, by layer and by group or position; see `patching_map`.

    Args:
        frame: what `nv.recipes.causal_trace` returns.
        ax: where to draw; default a figure of its own.
        measure: the number of each cell.
        control: `"none"` for the measurement, or one of the frame's controls.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or no such measure or control.
    """
    return _map(frame, "causal_trace", ax, measure, control, None)


def pair_routes(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "restoration") -> Axes:
    """What comes over each route of a changed picture's effect, by cut; or the per cent that is text-mediated.

    Intervals of few images may be far wider than what is drawn: the axis follows the means.

    Args:
        frame: what `nv.recipes.pair_routes` returns.
        ax: where to draw; default a figure of its own.
        measure: `restoration` or another measure of all routes; `percent` or `percent_logit_diff` of one.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or no such measure.
    """
    rows = rows_of(frame, measure, "pair_routes")
    drawn = rows[rows["control"] == NONE]
    if measure.startswith("percent"):
        axes = layer_lines(drawn, ax, x="cut", label=PERCENT_UNIT)
        _follow_means(axes, drawn, 100)
    else:
        order = [route for route in ROUTES if route in set(drawn["route"])]
        ordered = drawn.assign(route=pd.Categorical(drawn["route"], order)).sort_values(["route", "cut"])
        axes = layer_lines(ordered.assign(route=ordered["route"].astype(str)), ax, x="cut", hue="route")
        if measure in ("restoration", "logit_diff_restored"):
            _follow_means(axes, drawn, 1)
    axes.set_xlabel("first layer that is changed")
    return axes


def _follow_means(axes: Axes, rows: pd.DataFrame, whole: float) -> None:
    """Show all means, nothing and the whole, and a quarter more on either side."""
    means = rows["mean"].to_numpy(dtype=float)
    means = means[np.isfinite(means)]
    axes.set_ylim(min([0, *means]) - whole / 4, max([whole, *means]) + whole / 4)


def _map(frame: Any, maker: str, ax: Axes | None, measure: str, control: str, group: str | None) -> Axes:
    """One measure and one control of a map."""
    frame_of(maker, frame)
    if not {"group", "position"} & set(frame.columns):
        refuse("frame", list(map(str, frame.columns)), "map of groups, positions or heads", f"the frame of {maker}")
    rows = rows_of(frame, measure, maker)
    control = one_of("control", control, tuple(dict.fromkeys(rows["control"])))
    drawn, places = rows[rows["control"] == control], next(n for n in ("head", "position", "group") if n in rows)
    if places == "head":
        groups = tuple(dict.fromkeys(drawn.loc[drawn["head"] != "all", "group"]))
        chosen = groups[0] if group is None else one_of("group", group, groups)
        drawn = drawn[drawn["group"] == chosen]
    elif group is not None:
        raise SpecError(f"group= chooses a map of heads, and this frame has one row a {places}; leave it out")
    if not np.isfinite(drawn["mean"].to_numpy(dtype=float)).any():
        raise SpecError(f"there is nothing to draw: no {measure} of the control {control!r} is a number")
    if places == "position":
        drawn = drawn.assign(place=drawn["position"].map(_place)).sort_values("place", kind="stable")
    return heat_map(drawn.drop(columns="place", errors="ignore"), ax, rows=places, columns="layer")


def _place(label: str) -> tuple[int, int]:
    """Where a position's row stands: image tokens as they come, text tokens in their order, groups below."""
    first, _, rest = label.partition(" ")
    is_text = first.removeprefix("-").isdigit() and bool(rest)
    return (1, int(first)) if is_text else (0 if rest else 2, 0)
