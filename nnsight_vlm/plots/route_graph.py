"""The graph of what an attribution map holds: states along rows of groups, and heads that move from row to row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

from ..errors import SpecError
from .canvas import axes_of, grown, named, titled
from .lines import layer_axis
from .style import BLUE, GREY, ORANGE, SMALL

ALL, EDGE = "all", "edge"
"""The columns `head` and `source` of a state, and the site of what a head reads."""
THICKEST, THINNEST = 6.0, 0.6
"""Widths of lines in points, of the largest mean and at least."""
ABOVE = 0.6
"""How far above its row an arrow begins that begins nowhere, and a loop rises, in rows."""
SLANT = 0.35
"""How far an edge goes to the right from row to row, in layers."""


def draw_graph(rows: pd.DataFrame, ax: Axes | None) -> Axes:
    """The places and edges that survive, of the estimates without controls.

    Raises:
        SpecError: no comparison was made.
    """
    compared = int(rows["p"].notna().sum())
    if not compared:
        raise SpecError("there is nothing to draw: no comparison was made, which takes two pairs or more")
    axis, layered = axes_of(ax), rows[rows["layer"].notna()].astype({"layer": int})
    groups = list(dict.fromkeys(layered["group"]))
    height = {name: float(len(groups) - 1 - number) for number, name in enumerate(groups)}
    holds = layered[layered["survives"].astype(bool)]
    is_edge, is_state = holds["site"] == EDGE, holds["head"] == ALL
    for row in _with_widths(holds[is_state]):
        _state(axis, row, height[row.group])
    heads = _without_edge(holds[~is_edge & ~is_state], holds[is_edge])
    for row in _with_widths(_spread(pd.concat([holds[is_edge], heads]))):
        if row.site == EDGE:
            _edge(axis, row, height[row.source], height[row.group])
        else:
            _arrow(axis, row, height[row.group])
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


def _without_edge(heads: pd.DataFrame, edges: pd.DataFrame) -> pd.DataFrame:
    """The heads of which no edge is drawn."""
    keys = ["layer", "group", "head"]
    drawn = set(edges[keys].itertuples(index=False, name=None))
    is_drawn = [key in drawn for key in heads[keys].itertuples(index=False, name=None)]
    return heads[~np.array(is_drawn, dtype=bool)]


def _spread(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their places within a layer, from -0.5 to 0.5: arrows of one layer and row stand side by side."""
    beside = rows.groupby(["layer", "group"])["head"]
    return rows.assign(place=(beside.cumcount() + 1) / (beside.transform("size") + 1) - 0.5)


def _with_widths(rows: pd.DataFrame) -> Any:
    """The rows, each with its width and colour."""
    largest = max(float(rows["mean"].abs().max()), 1e-12) if len(rows) else 1.0
    widths = (THICKEST * rows["mean"].abs() / largest).clip(THINNEST)
    return rows.assign(width=widths, color=[BLUE if mean > 0 else ORANGE for mean in rows["mean"]]).itertuples()


def _state(axis: Axes, row: Any, y: float) -> None:
    ends = [row.layer - 0.5, row.layer + 0.5]
    axis.plot(ends, [y, y], color=row.color, lw=row.width, solid_capstyle="butt", zorder=2)


def _edge(axis: Axes, row: Any, above: float, y: float) -> None:
    """An arrow from the row that a head reads to that into which it writes; a loop where both are one."""
    x, is_loop = row.layer + row.place, above == y
    begin, bend = ((x - SLANT, y), -1.2) if is_loop else ((x - SLANT, above), 0.0)
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0}
    arrow = FancyArrowPatch(
        begin, (x, y), connectionstyle=f"arc3,rad={bend}", color=row.color, lw=row.width / 2, zorder=3, **style
    )
    arrow.set_gid(f"{row.source}->{row.group}, layer {row.layer}, head {row.head}")
    axis.add_patch(arrow)
    at = (x - SLANT / 2, y + 0.16) if is_loop else (x - SLANT / 4, y + (above - y) / 4)
    _number(axis, *at, row)


def _arrow(axis: Axes, row: Any, y: float) -> None:
    """An arrow into a row, of a head of which it is not known what it reads."""
    x = row.layer + row.place
    style = {"arrowstyle": "-|>", "color": row.color, "lw": row.width / 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (x, y + 0.04), (x, y + ABOVE), arrowprops=style, zorder=3)
    _number(axis, x, y + ABOVE + 0.02, row)


def _number(axis: Axes, x: float, y: float, row: Any) -> None:
    """The number of a head at its arrow, with a white edge where it lies upon the arrow."""
    look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": SMALL - 1, "color": row.color}
    text = axis.text(x, y, str(row.head), clip_on=True, zorder=4, **look)
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])
