"""A map of path patching: layers by receivers."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from ..arguments import one_of
from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import NONE
from .canvas import grown, inches, titled
from .frames import frame_of, rows_of
from .maps import heat_map
from .marks import has_values

BEHIND = "output"
"""The column of receivers behind all layers."""


def path_patching(
    frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "logit_diff_change", control: str = NONE
) -> Axes:
    """How much each receiver carries, layer by layer; dots mark what survives the number of comparisons.

    Args:
        frame: what `nv.recipes.path_patching` returns.
        ax: where to draw; default a figure of its own, one column wide.
        measure: `logit_diff_change` or `restoration`.
        control: `"none"` for the measurement, or one of the frame's controls.

    Returns:
        The axes; `.figure` is the figure, `.images[0].get_array()` the numbers `[receiver, layer]`.

    Raises:
        SpecError: another frame, no such measure or control, several senders, or no number.
    """
    frame_of("path_patching", frame)
    rows = rows_of(frame, measure, "path_patching")
    control = one_of("control", control, tuple(dict.fromkeys(rows["control"])))
    drawn = rows[rows["control"] == control]
    senders = list(dict.fromkeys(drawn["sender"]))
    if len(senders) > 1:
        raise SpecError(f"frame= has several senders; draw one at a time: frame[frame['sender'] == {senders[0]!r}]")
    if not has_values(drawn):
        raise SpecError(f"there is nothing to draw: no {measure} of the control {control!r} is a number")
    ordered = drawn.assign(receiver=[_name(row) for row in drawn.itertuples()]).sort_values("layer", kind="stable")
    places = [BEHIND if pd.isna(layer) else str(layer) for layer in ordered["layer"]]
    receivers = {name: number for number, name in enumerate(dict.fromkeys(_name(row) for row in drawn.itertuples()))}
    ordered = ordered.assign(layer=places).sort_values(
        "receiver", key=lambda names: names.map(receivers), kind="stable"
    )
    axis = heat_map(ordered, ax, rows="receiver", columns="layer")
    height = inches(axis)[1]
    titled(axis, for_figure(f"from {senders[0]}"))
    if ax is None:
        grown(axis, height)
    return axis


def _name(row: object) -> str:
    """What a receiver is called beside its row."""
    head = getattr(row, "head", None)
    name = f"{getattr(row, 'receiver', '')} {getattr(row, 'site', '')}"
    return name if pd.isna(head) else f"{name} {head}"
