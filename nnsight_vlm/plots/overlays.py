"""Maps over pictures: which patches a word attends to, and what each patch is worth to an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from ..arguments import flag, instance, listed, number, numbers, refuse, text
from ..grids import Grid
from ..prompts.pictures import as_rgb
from ..showing import for_figure
from .canvas import OwnFigure, axes_of, broken, inches
from .quantities import Unit
from .scales import ColorScale, color_bar, color_scale, dress_bar
from .style import COLUMN, SMALL

OPACITY, PALENESS = 0.7, 1.0
"""How much of a map hides the picture; and how much of a picture's shades is left behind a map."""
IN_A_LINE = 3
"""How many pictures stand side by side."""
GAP, MARGIN, LINE, BAR = 0.1, 0.07, 0.125, 0.6
"""Inches between pictures, above and below their texts, of one line of text, and of a colour scale."""
ALONE = 2.4
"""How wide a map is in a figure of its own, beside its colour scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """A map over a picture.

    Attributes:
        image: the picture.
        heat: a value for each of its pixels, `[height, width]`; NaN where no patch covers the pixel.
        peak: pixel `(x, y)`, the centre of the patch with the largest value; of signed values, the one farthest from 0.
        title: what the map shows; drawn as its characters, not as a formula.
        label: what the values are, with their unit; written at the colour scale.
        note: what the peak means, written under the map.
        signed: whether values on both sides of 0 mean opposite things. Their scale is white at 0.
        least: the colour scale reaches as far as this at least, so that what is next to nothing looks like it.
        limit: how far it reaches, in place of what follows from the values.
    """

    image: Image.Image
    heat: np.ndarray
    peak: tuple[float, float]
    title: str
    label: str = "value"
    note: str = ""
    signed: bool = False
    least: float = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        instance("image", self.image, Image.Image, "image=prompt.image()")
        for name in ("title", "label", "note"):
            text(name, getattr(self, name))
        if not isinstance(self.heat, np.ndarray) or self.heat.ndim != 2 or self.heat.dtype.kind not in "biuf":
            refuse("heat", self.heat, "map", "heat=grid.heatmap(values), numbers [height, width]")
        if len(numbers("peak", self.peak)) != 2:
            refuse("peak", self.peak, "pixel", "peak=(x, y)")
        flag("signed", self.signed)
        number("least", self.least, least=0)
        if self.limit is not None:
            number("limit", self.limit, above=0)

    @classmethod
    def of(
        cls,
        image: Image.Image,
        grid: Grid,
        values: Sequence[float] | np.ndarray,
        *,
        title: str,
        label: str = "value",
        note: str | None = None,
        signed: bool = False,
        least: float = 0.0,
        limit: float | None = None,
    ) -> Overlay:
        """A map from one value for each patch, `[patch]`; its scale reaches as far as the largest of them.

        Args:
            image: the picture.
            grid: its patches.
            values: a number for each.
            title, label, signed, least, limit: see `Overlay`.
            note: what the peak means; default its value.
        """
        instance("grid", grid, Grid, "grid=prompt.grid()")
        heat, by_patch = grid.heatmap(values), numbers("values", values)
        finite = np.where(np.isfinite(by_patch), by_patch, np.nan)
        if np.isnan(finite).all():
            refuse("values", values, "map", "numbers, of which one at least is finite")
        signed, least = flag("signed", signed), number("least", least, least=0)
        best = int(np.nanargmax(np.abs(finite) if signed else finite))
        x0, y0, x1, y1 = grid.boxes[best]
        if note is None:
            note = f"peak: patch with the largest {'change' if signed else 'value'}, {finite[best]:.3g}"
        return cls(
            image=image,
            heat=heat,
            peak=((x0 + x1) / 2, (y0 + y1) / 2),
            title=title,
            label=label,
            note=note,
            signed=signed,
            least=max(least, float(np.nanmax(np.abs(finite)))),
            limit=limit,
        )

    @property
    def scale(self) -> ColorScale:
        """The colour of each value."""
        unit = Unit(for_figure(self.label), -self.least if self.signed else 0.0, self.least, self.signed)
        return color_scale(self.heat.astype(float), unit, self.limit)


def draw_overlay(overlay: Overlay, ax: Axes | None = None) -> Axes:
    """Draw a map over its picture: a circle at the peak, what that means beneath, and a colour scale with its range.

    Args:
        overlay: the map.
        ax: where to draw; default a figure of its own, one column wide. The colour scale is an inset of these axes.

    Returns:
        The axes; `.figure` is the figure.
    """
    instance("overlay", overlay, Overlay, "Overlay.of(image, grid, values, title=...)")
    axis = map_axes(ax, overlay.image.size, title_of(overlay, ALONE), note_of(overlay, ALONE))
    draw_map(axis, overlay)
    color_bar(axis, overlay.scale, alpha=OPACITY)
    return axis


def map_axes(ax: Axes | None, size: tuple[int, int], title: str, note: str) -> Axes:
    """The axes that were given, or those of a figure of one map with room for its texts and its colour scale."""
    if ax is not None:
        return axes_of(ax)
    width, height = size
    tall = ALONE * min(height / width, 2.0)
    return Sheet(text_inches(title) + tall + text_inches(note)).axes(GAP, text_inches(title), ALONE, tall)


def title_of(overlay: Overlay, width: float) -> str:
    """The title of a map of this width, in lines."""
    return broken(for_figure(overlay.title), width + GAP)


def note_of(overlay: Overlay, width: float) -> str:
    """The note of a map of this width, in lines."""
    return broken(for_figure(overlay.note, longest=120), width + GAP)


def text_inches(*texts: str) -> float:
    """How tall the tallest of some texts is, with its margins."""
    return MARGIN + max((LINE * len(text.split("\n")) for text in texts if text), default=0.0)


def draw_map(axis: Axes, overlay: Overlay) -> None:
    """The map without its scale."""
    faded(axis, overlay.image)
    scale = overlay.scale
    heat = np.ma.masked_invalid(overlay.heat.astype(float))
    axis.imshow(heat, cmap=scale.colors, norm=scale.norm, alpha=OPACITY, interpolation="nearest")
    peaked(axis, overlay.peak)
    axis.set_title(title_of(overlay, inches(axis)[0]), fontsize=SMALL, pad=3)
    noted(axis, note_of(overlay, inches(axis)[0]))


def faded(axis: Axes, picture: Image.Image) -> None:
    """A picture in pale shades of grey, on which colours of a map can be read."""
    shades = np.asarray(as_rgb(picture).convert("L"), dtype=float)
    axis.imshow(255 - PALENESS * (255 - shades), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.axis("off")


def peaked(axis: Axes, peak: tuple[float, float]) -> None:
    """A circle, black on white, so that it is seen on every colour."""
    for size, color in ((3.0, "white"), (1.2, "black")):
        axis.plot(*peak, marker="o", ms=8, mfc="none", mec=color, mew=size, ls="none", label="_peak")


def noted(axis: Axes, note: str) -> None:
    """What a map's peak means, in lines beneath the map."""
    figure: Any = axis.figure
    below = axis.transAxes + ScaledTranslation(0, -MARGIN / 2, figure.dpi_scale_trans)
    axis.text(0.5, 0, note, transform=below, fontsize=SMALL, ha="center", va="top")


def draw_overlays(pictures: Sequence[Sequence[Overlay]]) -> np.ndarray:
    """Each picture as it is, then its maps, three in a line; all maps of one label share a scale.

    Args:
        pictures: a list of maps for each picture.

    Returns:
        Axes `[line, place]` of a figure of its own; places that are left over are empty.
    """
    write = "pictures=[[overlay, ...], ...], a list of maps for each picture"
    lines = listed("pictures", pictures, write)
    given = [listed(f"pictures[{line}]", maps, write, kind=Overlay) for line, maps in enumerate(lines)]
    if not given or not all(given):
        refuse("pictures", lines, "list of lists with one map or more", write)
    every = [overlay for maps in given for overlay in maps]
    shared = [shared_scale(maps, every) for maps in given]
    rows = [row for maps in shared for row in _in_lines([maps[0].image, *maps])]
    side = (COLUMN - GAP * (IN_A_LINE - 1)) / IN_A_LINE
    above = [text_inches(*(title_of(cell, side) for cell in row if isinstance(cell, Overlay))) for row in rows]
    below = [text_inches(*(note_of(cell, side) for cell in row if isinstance(cell, Overlay))) for row in rows]
    tall = [side * max(_aspect(cell) for cell in row) for row in rows]
    bars = {overlay.label: overlay.scale for maps in shared for overlay in maps}
    sheet = Sheet(sum(above) + sum(tall) + sum(below) + BAR * len(bars))
    axes = np.empty((len(rows), IN_A_LINE), dtype=object)
    for line, row in enumerate(rows):
        for place in range(IN_A_LINE):
            axes[line, place] = axis = sheet.axes(place * (side + GAP), above[line], side, tall[line])
            cell = row[place] if place < len(row) else None
            if isinstance(cell, Overlay):
                draw_map(axis, cell)
            elif cell is not None:
                axis.imshow(as_rgb(cell), interpolation="nearest")
            axis.axis("off")
        sheet.down(above[line] + tall[line] + below[line])
    for scale in bars.values():
        sheet.bar(scale)
    return axes


class Sheet:
    """A figure of the package's own whose parts have places in inches, filled from the top.

    Args:
        height: of the figure in inches.
    """

    def __init__(self, height: float) -> None:
        self.figure = OwnFigure(figsize=(COLUMN, height))
        self.height, self.top = height, 0.0

    def down(self, inches: float) -> None:
        """Go on so many inches further down."""
        self.top += inches

    def axes(self, left: float, below: float, width: float, height: float) -> Axes:
        """Axes whose upper edge lies so many inches below what is filled."""
        bottom = self.height - self.top - below - height
        box = (left / COLUMN, bottom / self.height, width / COLUMN, height / self.height)
        made: Axes = self.figure.add_axes(box)
        return made

    def bar(self, scale: ColorScale) -> None:
        """A colour scale over the width of the figure, with its range."""
        place = self.axes(0.3, 0.08, COLUMN - 0.6, 0.1)
        mappable = ScalarMappable(scale.norm, scale.colors)
        made = self.figure.colorbar(mappable, cax=place, orientation="horizontal", alpha=OPACITY, extend=scale.extend)
        dress_bar(made, scale, COLUMN - 0.3)
        self.down(BAR)


def _in_lines(cells: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(cells), IN_A_LINE):
        yield cells[start : start + IN_A_LINE]


def _aspect(cell: Image.Image | Overlay) -> float:
    """Height by width of a picture, within what a line of pictures can hold."""
    width, height = (cell.image if isinstance(cell, Overlay) else cell).size
    return min(height / width, 2.0)


def shared_scale(maps: Sequence[Overlay], others: Sequence[Overlay]) -> list[Overlay]:
    """Maps whose scales reach as far as those of all maps with the same label; limits that were given stay."""
    reach = {label: max(each.scale.high for each in others if each.label == label) for label in {m.label for m in maps}}
    return [each if each.limit is not None else replace(each, limit=reach[each.label]) for each in maps]
