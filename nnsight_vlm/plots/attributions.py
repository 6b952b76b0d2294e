"""Figures of attribution maps: heat maps of estimates, and what survives of them as a graph of states and heads."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from ..arguments import flag, one_of
from ..errors import SpecError
from ..studies.labels import NONE
from .canvas import axes_of, grown, named, titled
from .frames import rows_of
from .lines import layer_axis
from .maps import heat_map
from .style import BLUE, GREY, ORANGE, SMALL

THICKEST, THINNEST = 6.0, 0.6
"""Widths of lines in points, of the largest mean and at least."""
ABOVE = 0.6
"""How far above its row a head's arrow begins, in rows."""


def attribution_map(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "estimate",
    site: str | None = None,
    group: str | None = None,
    control: str = NONE,
    routes: bool = False,
) -> Axes:
    """What each place carries of another picture's answer, as a map; or what survives of it, as a graph.

    The map has layers by groups, or layers by the heads of one group; dots mark what holds among all comparisons. The
    graph (`routes=True`) has a row for each group, from the image to the last token, and shows only what holds: a line
    along a row where the group's state after that layer carries the answer, and an arrow into the row for each head
    whose output there carries it, with the head's number. Both are as thick as their mean is large, each on a scale of
    its own; blue moves the logits towards the other picture's answer, and orange away from it. Where a head reads is
    not part of the frame, so arrows begin nowhere.

    Args:
        frame: what `nv.recipes.attribution_map` returns.
        ax: where to draw; default a figure of its own.
        measure: of the map, `estimate`, `estimate_restored`, `exact` or `exact_restored`.
        site: of the map; default the first of the frame.
        group: of a map of heads; default the last of the frame.
        control: of the map, `"none"` or a control of the frame.
        routes: draw the graph; then nothing else is chosen.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, no such measure, site, group or control, or `routes=True` of a frame in which no
            comparison was made.
    """
    rows = rows_of(frame, measure, "attribution_map")
    if flag("routes", routes):
        if (measure, site, group, control) != ("estimate", None, None, NONE):
            raise SpecError("routes=True draws the estimates of all sites and groups; leave the other arguments out")
        return _graph(rows[rows["control"] == NONE], ax)
    rows = rows[rows["control"] == one_of("control", control, tuple(dict.fromkeys(rows["control"])))]
    sites = tuple(dict.fromkeys(rows["site"]))
    chosen = sites[0] if site is None else one_of("site", site, sites)
    rows, by = rows[(rows["site"] == chosen) & rows["layer"].notna()], "group"
    if set(rows["head"]) - {"all"}:
        groups, by = tuple(dict.fromkeys(rows["group"])), "head"
        of = groups[-1] if group is None else one_of("group", group, groups)
        rows = rows[rows["group"] == of]
    elif group is not None:
        raise SpecError(f"group= chooses a map of heads, and the site {chosen!r} has one row a group; leave it out")
    if rows.empty:
        raise SpecError(f"there is nothing to draw: the site {chosen!r} has no layers, or no {measure}")
    return heat_map(rows.astype({"layer": int}), ax, rows=by, columns="layer")


def _graph(rows: pd.DataFrame, ax: Axes | None) -> Axes:
    """Places that survive: states as lines along the row of their group, heads as arrows into it.

    Raises:
        SpecError: no comparison was made.
    """
    compared = int(rows["p"].notna().sum())
    if not compared:
        raise SpecError("there is nothing to draw: no comparison was made, which takes two pairs or more")
    axis, layered = axes_of(ax), rows[rows["layer"].notna()].astype({"layer": int})
    groups = list(dict.fromkeys(layered["group"]))
    height = {name: len(groups) - 1 - number for number, name in enumerate(groups)}
    for is_head, alike in layered[layered["survives"].astype(bool)].groupby(layered["head"] != "all"):
        largest = max(float(alike["mean"].abs().max()), 1e-12)
        beside = alike.groupby(["layer", "group"])["head"]
        places = (beside.cumcount() + 1) / (beside.transform("size") + 1) - 0.5
        for row, place in zip(alike.itertuples(), places, strict=True):
            width = max(THICKEST * abs(float(row.mean)) / largest, THINNEST)
            color = BLUE if row.mean > 0 else ORANGE
            if is_head:
                _arrow(axis, int(row.layer) + place, height[row.group], width, color, str(row.head))
            else:
                _state(axis, int(row.layer), height[row.group], width, color)
    for y in height.values():
        axis.axhline(y, color=GREY, lw=0.4, zorder=0)
    axis.set_yticks(list(height.values()), list(height))
    axis.set_ylim(-0.5, len(groups) - 1 + ABOVE + 0.35)
    axis.set_xlim(layered["layer"].min() - 0.7, layered["layer"].max() + 0.7)
    layer_axis(axis)
    named(axis, "layer")
    if ax is None:
        grown(axis, 0.6 * len(groups) + 0.4)
    titled(axis, f"{int(rows['survives'].sum())} of {compared} comparisons hold")
    return axis


def _state(axis: Axes, layer: int, y: float, width: float, color: str) -> None:
    axis.plot([layer - 0.5, layer + 0.5], [y, y], color=color, lw=width, solid_capstyle="butt", zorder=2)


def _arrow(axis: Axes, x: float, y: float, width: float, color: str, head: str) -> None:
    """An arrow into a row; those of one layer stand side by side."""
    style = {"arrowstyle": "-|>", "color": color, "lw": width / 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (x, y + 0.04), (x, y + ABOVE), arrowprops=style, zorder=3)
    axis.text(x, y + ABOVE + 0.02, head, ha="center", va="bottom", fontsize=SMALL - 1, color=color, clip_on=True)
