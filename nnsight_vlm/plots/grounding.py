"""Figures of `patch_grounding`: whether generated words attend to the objects they name, and need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..studies.labels import NONE, OTHER_OBJECT, RANDOM_PATCHES, RANDOM_PATCHES_AGAIN
from .canvas import axes_of, chosen_panel, grown, legend_below, named, stacked
from .depths import spans_of
from .dots import name_rows
from .frames import frame_of
from .lines import layer_axis
from .marks import across, line, show_at_least
from .style import BLACK, BLUE, GREY, ORANGE, Style

LABELS: Mapping[str, str] = {
    "hit": "share of words whose attention peaks on their object",
    "iou": "IoU of as many best patches with the object's",
    "logprob_change": "change of the word's log-probability (nats)",
    "top_mass": "share of the attention to the image that is on the top patches",
}
"""The panels, by measure. The last is drawn where there are no masks of objects."""


@overload
def patch_grounding(frame: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes: ...
@overload
def patch_grounding(frame: pd.DataFrame, ax: None = None, *, measure: str | None = None) -> np.ndarray: ...
def patch_grounding(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str | None = None) -> Axes | np.ndarray:
    """Hits and IoU by layer against random patches and other objects, and what hiding the object's patches does.

    Without object masks there are neither, and the figure shows the attention on the best patches.

    Args:
        frame: what `nv.recipes.patch_grounding` returns.
        ax: where to draw one panel; default a figure of its own.
        measure: which panel: `hit`, `iou`, `logprob_change` or `top_mass`; default those that there are, without `ax`.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: another frame, no such measure, or several for one `ax`.
    """
    frame_of("patch_grounding", frame)
    there = [name for name in LABELS if name in set(frame["measure"])]
    usual = [name for name in there if name != "top_mass"] or there
    panels = chosen_panel("measure", measure, there if measure is not None else usual, ax)
    axes = stacked(len(panels)) if ax is None else np.asarray([axes_of(ax)])
    for axis, name in zip(axes, panels, strict=True):
        rows = frame[frame["measure"] == name]
        if name == "logprob_change":
            _hidden(axis, rows)
        else:
            chance = "equal attention" if name == "top_mass" else "random patches"
            _by_layer(axis, rows[rows["layer"].astype(str).str.isdigit()], chance)
            named(axis, y=LABELS[name])
    by_layer = [axis for axis, name in zip(axes, panels, strict=True) if name != "logprob_change"]
    if by_layer:
        legend_below(by_layer[-1], others=by_layer[:-1])
    if ax is None:
        grown(axes, 1.2)
        return axes
    return ax


def _by_layer(axis: Axes, rows: pd.DataFrame, chance: str) -> None:
    """One measure of the words' attention, and its controls; `chance` is what random patches are called."""
    for read_at, color, marker in (("predicting", BLUE, "o"), ("word", ORANGE, "s")):
        words = rows[(rows["control"] == NONE) & (rows["read_at"] == read_at)]
        place = "before the word" if read_at == "predicting" else "at the word"
        line(axis, spans_of(words["layer"]), words, Style(color, marker, f"read {place}"))
    controls = rows[rows["read_at"] == rows["read_at"].iloc[0]] if len(rows) else rows
    styles = {
        OTHER_OBJECT: Style(GREY, "^", "compared with another object", "--"),
        RANDOM_PATCHES: Style(GREY, "x", chance, ":"),
    }
    for control, style in styles.items():
        of_control = controls[controls["control"] == control]
        line(axis, spans_of(of_control["layer"]), of_control, style)
    show_at_least(axis, 0, 1)
    layer_axis(axis)
    named(axis, x="layer")


def _hidden(axis: Axes, cuts: pd.DataFrame) -> None:
    """What hiding patches does to the word, one row for each choice of patches."""
    names = {
        NONE: "the object's patches",
        RANDOM_PATCHES: "as many other patches",
        RANDOM_PATCHES_AGAIN: "others, drawn again",
    }
    for place, control in enumerate(names):
        rows = cuts[cuts["control"] == control]
        across(axis, rows, [-place] * len(rows), Style(BLUE if control == NONE else GREY, "o", None))
    axis.axvline(0, color=BLACK, lw=0.8, label="_zero")
    name_rows(axis, list(names.values()))
    left, right = axis.get_xlim()
    axis.set_xlim(min(left, -0.1), max(right, 0.1))
    named(axis, x=f"{LABELS['logprob_change']}, patches hidden from the answer in all layers")
