"""Figures of attribution maps: heat maps of estimates, or what survives of them as a graph."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from ..arguments import flag, one_of
from ..errors import SpecError
from ..studies.labels import NONE
from .frames import rows_of
from .maps import heat_map
from .route_graph import ALL, draw_graph


def attribution_map(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "estimate",
    site: str | None = None,
    group: str | None = None,
    source: str | None = None,
    control: str = NONE,
    routes: bool = False,
) -> Axes:
    """What each place carries of another picture's answer, as a map; or what survives of it, as a graph.

    The map has layers by groups, or layers by the heads of one group; dots mark what holds among all comparisons. The
    graph (`routes=True`) has a row for each group, from the image to the last token, and shows only what holds: a line
    along a row where the group's state after that layer carries the answer, and an arrow with the head's number for
    what a head moves. Of a frame with the site `edge` the arrow leads from the row that the head reads to the row that
    it writes into, or, as a loop, back into the same row. A head whose output carries the answer, but of which no such
    edge holds, has a short arrow that begins nowhere. Lines and arrows are as thick as their mean is large, each on a
    scale of its own; blue moves the logits towards the other picture's answer, and orange away from it.

    Args:
        frame: what `nv.recipes.attribution_map` returns.
        ax: where to draw; default a figure of its own.
        measure: of the map, `estimate`, `estimate_restored`, `exact` or `exact_restored`.
        site: of the map; default the first of the frame.
        group: of a map of heads, where they write; default the last of the frame.
        source: of a map of the site `edge`, what the heads read; default the first that the group sees.
        control: of the map, `"none"` or a control of the frame.
        routes: draw the graph; then nothing else is chosen.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, no such measure, site, group, source or control, or `routes=True` of a frame in which
            no comparison was made.
    """
    rows = rows_of(frame, measure, "attribution_map")
    if flag("routes", routes):
        if (measure, site, group, source, control) != ("estimate", None, None, None, NONE):
            raise SpecError("routes=True draws the estimates of all sites and groups; leave the other arguments out")
        return draw_graph(rows[rows["control"] == NONE], ax)
    rows = rows[rows["control"] == one_of("control", control, tuple(dict.fromkeys(rows["control"])))]
    sites = tuple(dict.fromkeys(rows["site"]))
    chosen = sites[0] if site is None else one_of("site", site, sites)
    rows, by = rows[(rows["site"] == chosen) & rows["layer"].notna()], "group"
    if set(rows["head"]) - {ALL}:
        by, rows = "head", _of_one("group", group, rows, at=-1)
    elif group is not None:
        raise SpecError(f"group= chooses a map of heads, and the site {chosen!r} has one row a group; leave it out")
    if set(rows["source"]) - {ALL}:
        rows = _of_one("source", source, rows, at=0)
    elif source is not None:
        raise SpecError(f'source= chooses a map of edges, and the site {chosen!r} has none; write site="edge"')
    if rows.empty:
        raise SpecError(f"there is nothing to draw: the site {chosen!r} has no layers, or no {measure}")
    return heat_map(rows.astype({"layer": int}), ax, rows=by, columns="layer")


def _of_one(column: str, given: str | None, rows: pd.DataFrame, at: int) -> pd.DataFrame:
    """The rows of one value of a column, that at this place unless another is given."""
    known = tuple(dict.fromkeys(rows[column]))
    return rows[rows[column] == (known[at] if given is None else one_of(column, given, known))]
