"""Figures of `knockout_windows`: routes of attention cut in windows of layers, and in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import text
from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import (
    NONE,
    QUERY_OF_ANOTHER_IMAGE,
    RANDOM_LAYERS,
    RANDOM_POSITIONS,
    AgreementMeasure,
)
from .canvas import axes_of, chosen_panel, drawn_panels, grown, legend_below, named, panels_of, say, titled
from .depths import spans_of
from .dots import name_rows, row_inches
from .frames import rows_of
from .lines import layer_axis
from .marks import across, has_values, level, line, show_at_least, shown_across, trimmed
from .overlaps import overlap_said
from .quantities import UNITS, Unit
from .style import BLACK, BLUE, FORM_STYLES, GREY, Style, spell_name

BLIND = "blind: image cut from all text"
JOINT = "image->text"
SAME = 1e-3
"""Differences that no figure shows: routes that differ by less are one panel."""


@overload
def knockout_windows(
    frame: pd.DataFrame,
    ax: Axes,
    *,
    measure: AgreementMeasure = "f1",
    route: str | None = None,
    label: str | None = None,
) -> Axes: ...
@overload
def knockout_windows(
    frame: pd.DataFrame,
    ax: None = None,
    *,
    measure: AgreementMeasure = "f1",
    route: str | None = None,
    label: str | None = None,
) -> np.ndarray: ...
def knockout_windows(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: AgreementMeasure = "f1",
    route: str | None = None,
    label: str | None = None,
) -> Axes | np.ndarray:
    """A description under cuts in windows of layers: one panel for each route, with block and allow forms.

    A window is drawn at its centre, with a bar from its first layer to its last. Controls and baselines are lines
    across, with their intervals beside the right end. Routes with the same numbers share a panel, whose title says so.

    Args:
        frame: what `nv.recipes.knockout_windows` returns.
        ax: where to draw one panel; default a figure of its own.
        measure: which measure of the descriptions.
        route: which panel; default all of them, without `ax`.
        label: what the y axis says.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: another frame, no such route or measure, no cuts in windows, or several routes for one `ax`.
    """
    rows = rows_of(frame, measure, "knockout_windows")
    unit = UNITS.get(measure) or Unit(for_figure(measure), 0, 1, False)
    if label is not None:
        unit = unit._replace(label=for_figure(text("label", label), longest=200))
    return _windows(rows, ax, route, unit)


@overload
def answer_windows(frame: pd.DataFrame, ax: Axes, *, route: str | None = None) -> Axes: ...
@overload
def answer_windows(frame: pd.DataFrame, ax: None = None, *, route: str | None = None) -> np.ndarray: ...
def answer_windows(frame: pd.DataFrame, ax: Axes | None = None, *, route: str | None = None) -> Axes | np.ndarray:
    """An answer's log-probability under cuts in windows of layers: one panel for each route.

    The y axis reaches from -0.1 to 0.1 nats at least, so that what changes nothing looks like it.

    Args:
        frame: what `nv.recipes.knockout_windows` returns with `answers=`.
        ax, route: see `knockout_windows`.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: see `knockout_windows`.
    """
    return _windows(rows_of(frame, "logprob_change", "knockout_windows"), ax, route, UNITS["logprob_change"])


def _windows(chosen: pd.DataFrame, ax: Axes | None, route: str | None, unit: Unit) -> Axes | np.ndarray:
    """One measure by window of layers, with the blind baseline.

    Raises:
        SpecError: no route was cut in a window.
    """
    in_windows = chosen[chosen["window"].astype(str).str[:1].str.isdigit()]
    routes = [str(name) for name in dict.fromkeys(in_windows["route"])]
    if not routes:
        raise SpecError("there is nothing to draw: no route was cut in a window of layers; write windows=4, say")
    alike = {name: [name] for name in routes} if route is not None else _alike(chosen, routes)
    panels = chosen_panel("route", route, alike, ax)
    axes = panels_of(len(panels), ax, sharex=True)
    for axis, name in zip(axes, panels, strict=True):
        rows = trimmed(chosen[(chosen["route"] == name) | (chosen["form"] == "blind")], unit.low, unit.high)
        blind = rows[rows["form"] == "blind"]
        _window_panel(axis, rows[rows["form"] != "blind"], unit)
        level(axis, blind, Style(BLACK, "D", BLIND, ":"), place=2)
        titled(axis, _title(alike[name]))
        named(axis, y=unit.label)
    named(axes[-1], x="layer (bars: windows; right of the panel: intervals of the levels)")
    legend_below(axes[-1], others=axes[:-1])
    return drawn_panels(axes, ax, 1.2)


def _title(routes: Sequence[str]) -> str:
    shown = ", ".join(map(spell_name, routes))
    return shown if len(routes) == 1 else f"{shown}: the same numbers"


def _alike(rows: pd.DataFrame, routes: Sequence[str]) -> dict[str, list[str]]:
    """Routes by the first one that has the same numbers under every cut in windows of layers.

    Where a question is answered at once, `image->text` closes what `image->query` does: all tokens behind the image.
    """
    groups: dict[str, list[str]] = {}
    numbers = {route: _numbers(rows[rows["route"] == route]) for route in routes}
    for route in routes:
        first = next((other for other in groups if _same(numbers[other], numbers[route])), route)
        groups.setdefault(first, []).append(route)
    return groups


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """What is drawn of a route, by cut."""
    cuts = rows[rows["form"].isin(list(FORM_STYLES)) & rows["control"].isin([NONE, RANDOM_LAYERS])]
    cuts = cuts[cuts["window"].astype(str).str.match(r"\d|any")]
    return cuts.set_index(["form", "window", "control"])[["mean", "low", "high"]].astype(float).sort_index()


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return one.index.equals(other.index) and np.allclose(one, other, rtol=SAME, atol=SAME, equal_nan=True)


def _window_panel(axis: Axes, rows: pd.DataFrame, unit: Unit) -> None:
    """One route: its cuts by window, and the level of cuts in as many random layers."""
    for place, (form, style) in enumerate(FORM_STYLES.items()):
        of_form = rows[rows["form"] == form]
        cuts = of_form[(of_form["control"] == NONE) & of_form["window"].astype(str).str[:1].str.isdigit()]
        line(axis, spans_of(cuts["window"], "window"), cuts, style, width=1.9 if form == "block" else 1.1)
        control = of_form[(of_form["control"] == RANDOM_LAYERS) & of_form["window"].astype(str).str.startswith("any")]
        words = "cut in as many random layers" if form == "block" else "open in as many random layers only"
        level(axis, control, Style(GREY, style.marker, words, "--" if form == "block" else "-."), place)
    if not has_values(rows):
        say(axis, "no value is a number")
    show_at_least(axis, unit.low, unit.high)
    layer_axis(axis)


ROUTE_STYLES: Mapping[str, Style] = {
    NONE: Style(BLUE, "o", "route cut in all layers"),
    RANDOM_POSITIONS: Style(GREY, "D", "as many random edges cut"),
    QUERY_OF_ANOTHER_IMAGE: Style(GREY, "X", "route cut, query tokens of another image"),
}


def knockout_routes(frame: pd.DataFrame, ax: Axes | None = None, *, measure: AgreementMeasure = "f1") -> Axes:
    """What is left of a description when a route is cut in all layers, beside its controls.

    The joint route `image->text` is the row of the blind baseline.

    Args:
        frame: what `nv.recipes.knockout_windows` returns.
        ax: where to draw; default a figure of its own, one column wide.
        measure: which measure of the descriptions.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or no such measure.
    """
    scores = rows_of(frame, measure, "knockout_windows")
    scores = trimmed(scores[scores["window"].isin(["all", ""])], 0, 1)
    routes = [route for route in dict.fromkeys(scores["route"]) if route and route != JOINT]
    baselines = {"clean": "un-cut", "blind": "blind: no text sees the image"}
    names = [*baselines.values(), *map(spell_name, routes)]
    height = row_inches(names, 2) * len(names)
    axis = axes_of(ax, height)
    for number, form in enumerate(baselines):
        rows = scores[scores["form"] == form]
        across(axis, rows, [-number] * len(rows), Style(BLACK, "s", None))
    random = ROUTE_STYLES[RANDOM_POSITIONS]
    said = f"{random.label}{overlap_said(frame[frame['route'].isin(routes)])}"
    styles = {**ROUTE_STYLES, RANDOM_POSITIONS: random._replace(label=said)}
    for shift, (control, style) in zip((0.2, 0.0, -0.2), styles.items(), strict=True):
        rows = scores[(scores["control"] == control) & scores["route"].isin(routes) & (scores["form"] == "block")]
        across(axis, rows, [shift - len(baselines) - routes.index(route) for route in rows["route"]], style)
    name_rows(axis, names)
    shown_across(axis, 0, 1)
    named(axis, x=(UNITS.get(measure) or Unit(for_figure(measure), 0, 1, False)).label)
    legend_below(axis)
    if ax is None:
        grown(axis, height)
    return axis
