"""Routes one below the other: what the model could do without each, and what it does with it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes

from ..errors import SpecError
from .dots import dot_table
from .frames import frame_of
from .quantities import Unit
from .series import drawn_of

SERIES: Mapping[tuple[str, str], str] = {
    ("needed", "cut"): "could: lost when cut alone",
    ("suffices", "only"): "could: kept when alone open",
    ("self_repair", "cut"): "could: lost only when all are cut",
    ("restoration", "swapped"): "does: other answer when swapped",
}
"""What the legend says of a measure, by measure and condition."""
UNIT = Unit("loss (of probability, or 1 - F1), or restoration", 0, 1, True)


def joint_routes(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What each route is worth: of what is lost when routes are cut, and of the way to the other answer.

    One row for each route and one for all of them. The legend says which points are of cuts (`could`) and which of
    swaps (`does`). Their controls are grey, with the same markers: as many random edges cut, a third picture swapped
    in.

    Args:
        frame: what `nv.recipes.joint_routes` returns.
        ax: where to draw; default a figure of its own, one column wide.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or one in which nothing was measured.
    """
    frame_of("joint_routes", frame)
    keys = [SERIES.get((str(row.measure), str(row.condition))) for row in frame.itertuples()]
    named = frame.assign(shown=keys)
    shown = named[named["shown"].notna() & named["mean"].notna() & ~named["route"].astype(str).str.contains("&")]
    if shown.empty:
        raise SpecError(
            "there is nothing to draw: frame= has no loss and no restoration of any route; write that of joint_routes"
        )
    order = {label: place for place, label in enumerate(SERIES.values())}
    routes = {route: place for place, route in enumerate(dict.fromkeys(shown["route"]))}
    shown = shown.sort_values("route", key=lambda names: names.map(routes), kind="stable")
    shown = shown.sort_values("shown", key=lambda names: names.map(order), kind="stable")
    return dot_table(drawn_of(shown, "route", "shown", unit=UNIT), ax, "route", "shown")
