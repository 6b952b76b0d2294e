"""Figures of `patch_grounding`: whether generated words attend to the objects they name, and need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..showing import for_figure
from ..studies.labels import NONE, OBJECT_PATCHES, OTHER_OBJECT, RANDOM_PATCHES, RANDOM_PATCHES_AGAIN
from .canvas import chosen_panel, drawn_panels, legend_below, named, panels_of
from .depths import spans_of
from .dots import name_rows
from .frames import frame_of
from .lines import layer_axis
from .marks import across, line, show_at_least, shown_across, trimmed
from .quantities import NATS
from .style import BLACK, BLUE, GREY, ORANGE, Style

LABELS: Mapping[str, str] = {
    "hit": "share of words whose attention peaks on their object",
    "iou": "IoU of as many best patches with the object's",
    "logprob_change": "change of the word's log-probability (nats)",
    "ablation_change": "change of the word's log-probability (nats)",
    "sink_mass": "share of the attention to the image that is on sinks",
    "top_mass": "share of the attention to the image that is on the top patches",
}
"""The panels, by measure. The last is drawn where there are no masks of objects."""
PLACES: Mapping[str, str] = {"predicting": "before the word", "word": "at the word"}
"""Where a map was read."""
KINDS = ("of", "quantity", "head", "map")
"""The columns that tell kinds of maps apart, in frames of which more than one was asked for."""
HIDDEN: Mapping[str, str] = {
    NONE: "the object's patches",
    RANDOM_PATCHES: "as many other patches",
    RANDOM_PATCHES_AGAIN: "others, drawn again",
}
ABLATED: Mapping[str, str] = {
    NONE: "the map's best patches",
    OBJECT_PATCHES: "the object's patches",
    RANDOM_PATCHES: "as many other patches",
}


@overload
def patch_grounding(frame: pd.DataFrame, ax: Axes, *, measure: str | None = None) -> Axes: ...
@overload
def patch_grounding(frame: pd.DataFrame, ax: None = None, *, measure: str | None = None) -> np.ndarray: ...
def patch_grounding(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str | None = None) -> Axes | np.ndarray:
    """Hits and IoU by layer against random patches and other objects, and what hiding or ablating patches does.

    Without object masks there are neither, and the figure shows the attention on the best patches. Of a frame with
    several kinds of maps (columns `of`, `quantity`, `head`, `map`) the first of each is drawn, which for heads is the
    mean, and the title says which; to see another, give its rows: `frame[frame["map"] == "without sinks"]`. Single
    heads are drawn by `heat_map`.

    Args:
        frame: what `nv.recipes.patch_grounding` returns.
        ax: where to draw one panel; default a figure of its own.
        measure: which panel: `hit`, `iou`, `logprob_change`, `ablation_change`, `sink_mass` or `top_mass`; default
            those that there are, without `ax`.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: another frame, no such measure, or several for one `ax`.
    """
    frame_of("patch_grounding", frame)
    there = [name for name in LABELS if name in set(frame["measure"])]
    usual = [name for name in there if name != "top_mass"] or there
    panels = chosen_panel("measure", measure, there if measure is not None else usual, ax)
    axes = panels_of(len(panels), ax)
    for axis, name in zip(axes, panels, strict=True):
        rows, kind = _first_kind(frame[frame["measure"] == name])
        if name == "logprob_change":
            rows = trimmed(rows, -NATS, NATS)
            _taken_away(axis, rows, HIDDEN, f"{LABELS[name]}, patches hidden from the answer in all layers")
        elif name == "ablation_change":
            read_at = rows["read_at"].iloc[0]
            label = f"{LABELS[name]}, image features ablated; map read {PLACES[read_at]}"
            _taken_away(axis, trimmed(rows[rows["read_at"] == read_at], -NATS, NATS), ABLATED, label)
        else:
            chance = "equal attention" if name in ("top_mass", "sink_mass") else "random patches"
            _by_layer(axis, trimmed(rows[rows["layer"].astype(str).str.isdigit()], 0, 1), chance)
            named(axis, y=LABELS[name])
        if axis is axes[0] and kind:
            axis.set_title(for_figure(kind), fontsize=7, loc="right")
    by_layer = [
        axis for axis, name in zip(axes, panels, strict=True) if name not in ("logprob_change", "ablation_change")
    ]
    if by_layer:
        legend_below(by_layer[-1], others=by_layer[:-1])
    return drawn_panels(axes, ax, 1.2)


def _first_kind(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the first kind of map, of heads the mean, and what it is called; empty where there is one alone."""
    said = []
    for column in KINDS:
        kinds = [kind for kind in dict.fromkeys(rows[column]) if kind] if column in rows else []
        if kinds:
            chosen = "mean" if column == "head" and "mean" in kinds else kinds[0]
            rows = rows[rows[column] == chosen]
            said.append(f"head {chosen}" if column == "head" else str(chosen))
    return rows, f"maps: {', '.join(said)}" if said else ""


def _by_layer(axis: Axes, rows: pd.DataFrame, chance: str) -> None:
    """One measure of the words' attention, and its controls; `chance` is what random patches are called."""
    for read_at, color, marker in (("predicting", BLUE, "o"), ("word", ORANGE, "s")):
        words = rows[(rows["control"] == NONE) & (rows["read_at"] == read_at)]
        line(axis, spans_of(words["layer"]), words, Style(color, marker, f"read {PLACES[read_at]}"))
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


def _taken_away(axis: Axes, rows: pd.DataFrame, names: Mapping[str, str], label: str) -> None:
    """What a word loses without patches, one row for each choice of patches."""
    there = [control for control in names if control in set(rows["control"])]
    for place, control in enumerate(there):
        of_control = rows[rows["control"] == control]
        across(axis, of_control, [-place] * len(of_control), Style(BLUE if control == NONE else GREY, "o", None))
    axis.axvline(0, color=BLACK, lw=0.8, label="_zero")
    name_rows(axis, [names[control] for control in there])
    shown_across(axis, -NATS, NATS)
    named(axis, x=label)
    legend_below(axis)
