"""A map of path patching: layers by receivers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..arguments import frame_given, instance, spelled
from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import NONE

COLUMNS = ("sender", "receiver", "site", "layer", "head", "control", "measure", "mean", "survives")
LABELS = {"logit_diff_change": "change of the logit difference", "restoration": "restoration"}


def path_patching(
    frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "logit_diff_change", control: str = NONE
) -> Axes:
    """How much each receiver carries, layer by layer; dots mark what survives the number of comparisons.

    Args:
        frame: of `recipes.path_patching`, means with intervals, of one sender.
        ax: where to draw; default axes of a figure of its own.
        measure: `logit_diff_change` or `restoration`.
        control: the rows of this control in place of the measurement.

    Returns:
        The axes; `.figure` is the figure, `.images[0].get_array()` the numbers `[receiver, layer]`.

    Raises:
        SpecError: another frame, no rows of this measure and control, or receivers without layers alone.
    """
    given = frame_given("frame", frame, COLUMNS, "recipes.path_patching")
    shown = given[(given["measure"] == measure) & (given["control"] == control) & given["layer"].notna()]
    if shown.empty:
        raise SpecError(
            f"there is nothing to draw: frame= has no rows of measure={spelled(measure)} and "
            f"control={spelled(control)} with a layer"
        )
    if shown["sender"].nunique() > 1:
        raise SpecError("frame= has several senders; draw one at a time, frame[frame['sender'] == name]")
    names = [_name(row) for row in shown.itertuples()]
    receivers, layers = list(dict.fromkeys(names)), sorted(set(map(int, shown["layer"])))
    cells = np.full((len(receivers), len(layers)), np.nan)
    if ax is not None:
        instance("ax", ax, Axes, "ax=plt.gca()")
    axes = ax if ax is not None else _own_axes(len(receivers), len(layers))
    for name, row in zip(names, shown.itertuples(), strict=True):
        place = receivers.index(name), layers.index(int(row.layer))
        cells[place] = row.mean
        if row.survives:
            axes.plot(place[1], place[0], "o", color="#222222", markeredgecolor="white", ms=4, mew=0.6)
    limit = max(float(np.nanmax(np.abs(cells), initial=0.0)), 1e-9)
    axes.set_facecolor("#D9D9D9")  # of layers in which a receiver was not measured
    drawn = axes.imshow(cells, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(range(len(receivers)), [for_figure(name) for name in receivers])
    axes.set_xlabel("layer of the receiver")
    axes.set_title(for_figure(f"from {shown['sender'].iloc[0]}"), fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    figure = axes.get_figure()
    if figure is not None:
        bar = figure.colorbar(drawn, ax=axes)
        bar.set_label(LABELS.get(measure, for_figure(measure)), fontsize=8)
        bar.ax.tick_params(labelsize=8)
    return axes


def _name(row: object) -> str:
    """What a receiver is called beside its row."""
    head = getattr(row, "head", None)
    named = f"{getattr(row, 'receiver', '')} {getattr(row, 'site', '')}"
    return named if pd.isna(head) else f"{named} {head}"


def _own_axes(rows: int, columns: int) -> Axes:
    size = (max(3.6, 1.9 + 0.38 * columns), max(2.0, 1.0 + 0.25 * rows))
    return Figure(figsize=size, layout="constrained").subplots()
