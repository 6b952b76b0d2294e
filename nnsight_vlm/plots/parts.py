"""Figures of rows with an interval each: parts of the prompt dropped, and the claims of a report."""

from __future__ import annotations

from typing import overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..showing import for_figure
from ..studies.labels import NONE, RANDOM_POSITIONS, AgreementMeasure
from .canvas import axes_of, broken, chosen_panel, drawn_panels, grown, legend_below, named, panels_of, say
from .dots import name_rows, row_inches
from .frames import frame_of, rows_of
from .marks import across, ends, has_values, shown_across, trimmed
from .quantities import UNITS, Unit
from .style import BLACK, BLUE, COLUMN, GREY, ORANGE, SMALL, Style, spell_name


def prompt_ablation(frame: pd.DataFrame, ax: Axes | None = None, *, measure: AgreementMeasure = "f1") -> Axes:
    """A description with parts of the prompt dropped, with and without direct access to the image.

    Args:
        frame: what `nv.recipes.prompt_ablation` returns.
        ax: where to draw; default a figure of its own, one column wide.
        measure: which measure of the descriptions.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or no such measure.
    """
    scores = trimmed(rows_of(frame, measure, "prompt_ablation"), 0, 1)
    parts = list(dict.fromkeys(scores["part"]))
    names = [spell_part(part) for part in parts]
    height = row_inches(names, 2) * len(parts)
    axis = axes_of(ax, height)
    control_label: str | None = "as many random tokens dropped"
    looks = (("direct", BLUE, "o", "generated tokens see the image"), ("none", ORANGE, "s", "they do not see it"))
    for shift, (access, color, marker, label) in zip((0.27, -0.1), looks, strict=True):
        for control, style in (
            (NONE, Style(color, marker, label)),
            (RANDOM_POSITIONS, Style(GREY, marker, control_label)),
        ):
            rows = scores[(scores["access"] == access) & (scores["control"] == control)]
            down = 0.0 if control == NONE else 0.17
            across(axis, rows, [-parts.index(part) + shift - down for part in rows["part"]], style)
            if control != NONE and has_values(rows):
                control_label = None
    name_rows(axis, names)
    shown_across(axis, 0, 1)
    named(axis, x=(UNITS.get(measure) or Unit(for_figure(measure), 0, 1, False)).label)
    legend_below(axis)
    if ax is None:
        grown(axis, height)
    return axis


def spell_part(part: str) -> str:
    """A part as the axis names it; the default parts of a short query are `"<number> <token>"`."""
    if part == "nothing":
        return "all words kept"
    if part == "blind":
        return "blind: no text sees the image"
    index, _, token = part.partition(" ")
    return for_figure(f'without "{token}"' if index.isdigit() else f"without {part}")


@overload
def claims(frame: pd.DataFrame, ax: Axes, *, claim: str | None = None) -> Axes: ...
@overload
def claims(frame: pd.DataFrame, ax: None = None, *, claim: str | None = None) -> np.ndarray: ...
def claims(frame: pd.DataFrame, ax: Axes | None = None, *, claim: str | None = None) -> Axes | np.ndarray:
    """Every claim's number with interval and threshold (dashed); its control in grey beneath it.

    Args:
        frame: what `nv.report.judge` returns.
        ax: where to draw one panel; default a figure of its own.
        claim: which panel, `"1"` for instance; default all of them, without `ax`.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: another frame, no such claim, or several for one `ax`.
    """
    frame_of("nv.report.judge", frame)
    panels = chosen_panel("claim", claim, list(dict.fromkeys(frame["claim"])), ax)
    axes = panels_of(len(panels), ax, 0.75)
    for axis, key in zip(axes, panels, strict=True):
        _claim(axis, key, frame[frame["claim"] == key].rename(columns={"value": "mean"}).reset_index(drop=True))
    return drawn_panels(axes, ax, 0.75)


def _claim(axis: Axes, key: str, rows: pd.DataFrame) -> None:
    """One claim and its controls, each in a row beneath its own words."""
    unit, threshold = rows["unit"][0], float(rows["threshold"][0])
    rows = trimmed(rows, min(threshold, 0), threshold if unit else max(threshold, 1))
    axis.axvline(threshold, color=BLACK, lw=1, ls="--", label="_threshold")
    for place, row in rows.iterrows():
        number, color = int(str(place)), GREY if row["control"] else BLUE
        across(axis, rows.iloc[[number]], [-number], Style(color, "o", "_claim"))
        if row["control"]:
            words = for_figure(f"control: {row['statement']}")
            at = axis.get_yaxis_transform()
            box = {"fc": "white", "ec": "none", "pad": 0.8}
            axis.text(0.01, -number + 0.36, words, transform=at, fontsize=SMALL, color="#555555", va="center", bbox=box)
    if not has_values(rows):
        say(axis, "not measured")
    axis.set_yticks([])
    axis.set_ylim(-len(rows) + 0.7, 0.35)
    if not unit:
        low, high = ends(rows)
        axis.set_xlim(np.nanmin([-0.05, *low - 0.02]), np.nanmax([1.05, *high + 0.02]))
    axis.set_title(broken(for_figure(f"{key}. {rows['statement'][0]}"), COLUMN), fontsize=SMALL, loc="left")
    named(axis, x=spell_name(rows["measured"][0] + (f", {unit}" if unit else ""), 100) + f" (dashed: {threshold:.2g})")
    legend_below(axis)
