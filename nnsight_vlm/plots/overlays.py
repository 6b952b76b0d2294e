"""Maps over pictures: which patches a word attends to, and what each patch is worth to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..arguments import frame_given, instance, listed, numbers, refuse, text
from ..grids import Grid
from ..prompts.pictures import as_rgb
from ..showing import for_figure
from .drawing import BLACK, PALE, STYLES, panels

ASKED_FOR = "asked for"
"""In the column `layers` of an answer's scores: the layers that the user gave. All other values are windows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """A map over a picture.

    Attributes:
        image: the picture.
        heat: a value for each of its pixels, `[height, width]`; NaN where no patch covers the pixel.
        peak: pixel `(x, y)`, the centre of the patch with the largest value.
        title: what the map shows; drawn as its characters, not as a formula.
    """

    image: Image.Image
    heat: np.ndarray
    peak: tuple[float, float]
    title: str

    def __post_init__(self) -> None:
        instance("image", self.image, Image.Image, "image=prompt.image()")
        text("title", self.title)
        if not isinstance(self.heat, np.ndarray) or self.heat.ndim != 2 or self.heat.dtype.kind not in "biuf":
            refuse("heat", self.heat, "map", "heat=grid.heatmap(values), numbers [height, width]")
        if len(numbers("peak", self.peak)) != 2:
            refuse("peak", self.peak, "pixel", "peak=(x, y)")

    @classmethod
    def of(cls, image: Image.Image, grid: Grid, values: Sequence[float] | np.ndarray, *, title: str) -> Overlay:
        """A map from one value for each patch, `[patch]`."""
        instance("grid", grid, Grid, "grid=prompt.grid()")
        heat = grid.heatmap(values)
        if not np.isfinite(np.asarray(values, dtype=float)).any():
            refuse("values", values, "map", "numbers, of which one at least is no NaN")
        x0, y0, x1, y1 = grid.boxes[int(np.nanargmax(values))]
        return cls(image=image, heat=heat, peak=((x0 + x1) / 2, (y0 + y1) / 2), title=title)


def draw_overlay(axis: Any, overlay: Overlay, *, label: str | None = None, figure: Figure | None = None) -> None:
    """Draw a map over its picture, with a circle at the peak; with `label` and `figure` also a colour scale."""
    instance("axis", axis, Axes, "axis=figure.subplots()")
    instance("overlay", overlay, Overlay, "Overlay.of(image, grid, values, title=...)")
    if label is not None or figure is not None:
        text("label", label, "label= and figure= together")
        instance("figure", figure, Figure, "label= and figure= together, figure=matplotlib.figure.Figure()")
    axis.imshow(as_rgb(overlay.image).convert("L"), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    heat = axis.imshow(overlay.heat, cmap="inferno", alpha=0.55)
    axis.plot(*overlay.peak, marker="o", ms=9, mfc="none", mec="white", mew=1.8)
    axis.set_title(for_figure(overlay.title), fontsize=8)
    axis.axis("off")
    if label and figure is not None:
        figure.colorbar(heat, ax=axis, shrink=0.8).set_label(for_figure(label), fontsize=8)


def draw_overlays(pictures: Sequence[Sequence[Overlay]]) -> Figure:
    """One line for each picture: as it is, then the maps of its words, each with a scale of its own."""
    write = "pictures=[[overlay, ...], ...], a list of maps for each picture"
    lines = listed("pictures", pictures, write)
    pictures = [listed(f"pictures[{number}]", maps, write, kind=Overlay) for number, maps in enumerate(lines)]
    if not pictures or not all(pictures):
        refuse("pictures", lines, "list of lists with one map or more", write)
    columns = 1 + max(map(len, pictures))
    figure, axes = panels(columns, len(pictures), width=1.7, height=1.85)
    for axis in axes.flat:
        axis.axis("off")
    for (first, *others), maps in zip(axes, pictures, strict=True):
        first.imshow(as_rgb(maps[0].image), interpolation="nearest")
        for axis, overlay in zip(others, maps, strict=False):
            draw_overlay(axis, overlay)
    return figure


def answer_map(picture: Image.Image, overlay: Overlay | None, scores: pd.DataFrame | None, *, title: str) -> Figure:
    """One question under knockouts: the picture, what each patch is worth, and the score by window of layers.

    Args:
        picture: what the question is about.
        overlay: log-probability lost when a patch is hidden, in nats; None for no such panel.
        scores: `layers, form, logprob_change`, one row a cut; None for no such panel.
        title: of the figure.
    """
    instance("picture", picture, Image.Image, "picture=prompt.image()")
    text("title", title)
    if overlay is not None:
        instance("overlay", overlay, Overlay, "Overlay.of(image, grid, values, title=...)")
    if scores is not None:
        frame_given("scores", scores, ("layers", "form", "logprob_change"))
    columns = 1 + (overlay is not None) + (scores is not None)
    figure, axes = panels(columns, width=3.2, height=2.9)
    axes[0, 0].imshow(as_rgb(picture), interpolation="nearest")
    axes[0, 0].axis("off")
    if overlay is not None:
        draw_overlay(axes[0, 1], overlay, label="log-probability lost (nats)", figure=figure)
    if scores is not None:
        _window_lines(axes[0, -1], scores)
    figure.suptitle(for_figure(title), fontsize=10)
    return figure


def _window_lines(axis: Any, scores: pd.DataFrame) -> None:
    windows = list(dict.fromkeys(layers for layers in scores["layers"] if layers != ASKED_FOR))
    for form, style in STYLES.items():
        rows = scores[(scores["form"] == form) & scores["layers"].isin(windows)]
        axis.plot(
            [windows.index(layers) for layers in rows["layers"]],
            rows["logprob_change"],
            color=style.color,
            marker=style.marker,
            ms=4,
            lw=1.4,
            label=style.label,
        )
    for value in scores.loc[scores["layers"] == ASKED_FOR, "logprob_change"]:
        axis.axhline(value, color=BLACK, ls="--", lw=1, label="cut in the layers asked for")
    axis.axhline(0, color=PALE, lw=0.8, zorder=0)
    axis.set_xticks(range(len(windows)), [for_figure(window) for window in windows])
    axis.set_xlabel("layers", fontsize=8)
    axis.set_ylabel("change of log-probability (nats)", fontsize=8)
    axis.legend(frameon=False, fontsize=7)
