"""Maps over pictures: where a word looked, what a patch is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ..grids import Grid
from .drawing import BLACK, PALE, STYLES, panels


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """A map over a picture.

    Attributes:
        image: the picture.
        heat: `[height, width]` values at its pixels, NaN where no patch saw them.
        peak: pixel `(x, y)` of the strongest patch's middle.
        title: what the map shows.
    """

    image: Image.Image
    heat: np.ndarray
    peak: tuple[float, float]
    title: str

    @classmethod
    def of(cls, image: Image.Image, grid: Grid, values: Sequence[float] | np.ndarray, *, title: str) -> Overlay:
        """From one value a patch."""
        x0, y0, x1, y1 = grid.boxes[int(np.argmax(values))]
        return cls(image=image, heat=grid.heatmap(values), peak=((x0 + x1) / 2, (y0 + y1) / 2), title=title)


def draw_overlay(axis: Any, overlay: Overlay, *, label: str | None = None, figure: Figure | None = None) -> None:
    """A map over its picture, the peak marked; with `label` and `figure` also a colour scale."""
    axis.imshow(overlay.image.convert("L"), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    shown = axis.imshow(overlay.heat, cmap="inferno", alpha=0.55)
    axis.plot(*overlay.peak, marker="o", ms=9, mfc="none", mec="white", mew=1.8)
    axis.set_title(overlay.title, fontsize=8)
    axis.axis("off")
    if label and figure is not None:
        figure.colorbar(shown, ax=axis, shrink=0.8).set_label(label, fontsize=8)


def draw_overlays(rows: Sequence[Sequence[Overlay]]) -> Figure:
    """One picture a row: as it is, then the maps of its words; each map has its own scale, circles mark peaks."""
    columns = 1 + max(map(len, rows))
    figure, axes = panels(columns, len(rows), width=1.7, height=1.85)
    for axis in axes.flat:
        axis.axis("off")
    for line, row in zip(axes, rows, strict=True):
        line[0].imshow(row[0].image, interpolation="nearest")
        for axis, overlay in zip(line[1:], row, strict=False):
            draw_overlay(axis, overlay)
    return figure


def answer_map(picture: Image.Image, overlay: Overlay | None, table: pd.DataFrame | None, *, title: str) -> Figure:
    """One question under knockouts: the picture, what each patch is worth, and windows of layers."""
    columns = 1 + (overlay is not None) + (table is not None)
    figure, axes = panels(columns, width=3.2, height=2.9)
    axes[0, 0].imshow(picture, interpolation="nearest")
    axes[0, 0].axis("off")
    if overlay is not None:
        draw_overlay(axes[0, 1], overlay, label="log-probability lost (nats)", figure=figure)
    if table is not None:
        _answer_lines(axes[0, -1], table)
    figure.suptitle(title, fontsize=10)
    return figure


def _answer_lines(axis: Any, table: pd.DataFrame) -> None:
    windows = list(dict.fromkeys(name for name in table["layers"] if name != "asked for"))
    for form, (color, marker, label) in STYLES.items():
        rows = table[(table["form"] == form) & table["layers"].isin(windows)]
        axis.plot(
            [windows.index(name) for name in rows["layers"]],
            rows["logprob_change"],
            color=color,
            marker=marker,
            ms=4,
            lw=1.4,
            label=label,
        )
    for value in table.loc[table["layers"] == "asked for", "logprob_change"]:
        axis.axhline(value, color=BLACK, ls="--", lw=1, label="cut in the layers asked for")
    axis.axhline(0, color=PALE, lw=0.8, zorder=0)
    axis.set_xticks(range(len(windows)), windows)
    axis.set_xlabel("layers", fontsize=8)
    axis.set_ylabel("change of log-probability (nats)", fontsize=8)
    axis.legend(frameon=False, fontsize=7)
