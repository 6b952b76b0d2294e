"""Figures of localisation heads: where each head looks, by layer and head, and what the chosen ones do together."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..arguments import flag, one_of
from ..errors import SpecError
from ..studies.labels import NONE
from .canvas import grown, inches, legend_below
from .dots import dot_table
from .frames import rows_of
from .maps import heat_map
from .series import drawn_of
from .style import SKY

EACH, HELD_OUT = "each", "held out"
LABELS = {
    "hit": "share of peaks on the object",
    "mass": "share of attention on the object",
    "iou": "IoU of as many best patches",
    "mask_iou": "IoU of patches above the mean",
    "attention": "attention to the image",
    "entropy": "spatial entropy (nats)",
    "selected": "share of pictures that select it",
    "other_change": "change of the other answer (nats)",
    "flipped": "share with the other answer first",
}


def heads(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str = "hit",
    split: str = HELD_OUT,
    sets: bool = False,
) -> Axes:
    """One measure of every head, as a map of layers and heads; or of the chosen heads together, as rows of dots.

    In the map, squares frame the heads that were chosen (on the pictures of calibration), and dots mark those that hold
    against chance among all. Measures of cuts and steering have no map: their rows are drawn, controls in grey.

    Args:
        frame: what `nv.recipes.heads` returns.
        ax: where to draw; default a figure of its own.
        measure: one of the frame's.
        split: of the map, `held out` or `calibration`.
        sets: draw the rows of the chosen heads together also where there is a map.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, no such measure, or nothing of it on this side of the split.
    """
    rows = rows_of(frame, measure, "heads")
    split, of_sets = one_of("split", split, (HELD_OUT, "calibration")), flag("sets", sets)
    is_single = rows["heads"] == EACH
    if of_sets or not is_single.any():
        return _dots(rows[~is_single], measure, ax)
    single = rows[is_single & (rows["split"] == split) & (rows["control"] == NONE)]
    if single.empty:
        raise SpecError(f"there is nothing to draw: frame= has no {measure} of single heads, {split}")
    return _map(single.astype({"layer": int, "head": int}), measure, ax)


def _map(single: pd.DataFrame, measure: str, ax: Axes | None) -> Axes:
    """Heads by layer, with frames around those that were chosen."""
    axis = heat_map(single, ax, rows="head", columns="layer", label=LABELS[measure])
    height, found = inches(axis)[1], single[single["rank"].notna()]
    layers, numbers = sorted(set(single["layer"])), sorted(set(single["head"]))
    for place, (layer, head) in enumerate(zip(found["layer"], found["head"], strict=True)):
        corner = layers.index(layer) - 0.5, numbers.index(head) - 0.5
        label = "_chosen" if place else "chosen on the pictures of calibration"
        axis.add_patch(Rectangle(corner, 1, 1, fc="none", ec=SKY, lw=1.6, label=label, clip_on=False, zorder=3))
    legend_below(axis)
    if ax is None:
        grown(axis, height)
    return axis


def _dots(rows: pd.DataFrame, measure: str, ax: Axes | None) -> Axes:
    """Rows of the chosen heads, and of all of them, with their controls."""
    if rows.empty:
        raise SpecError(f"there is nothing to draw: frame= has {measure} of single heads only; leave out sets=True")
    names = [f"{what}: {heads} heads" if heads else "no intervention" for what, heads in _kinds(rows)]
    drawn = drawn_of(rows.assign(row=names), "row", None, label=LABELS.get(measure))
    return dot_table(drawn, ax, "row")


def _kinds(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["what"].astype(str), rows["heads"].astype(str), strict=True))
